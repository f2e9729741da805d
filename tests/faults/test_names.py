"""Names while the DNS server does not answer: how many lookups are under way, and how it ends.

A library that is loaded before libc's makes `getaddrinfo` wait for names below `silent.test` until
a file is there.
"""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections import Counter

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef int (*lookup)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(
    const char *name, const char *port, const struct addrinfo *hints, struct addrinfo **found
) {
    lookup real = (lookup)dlsym(RTLD_NEXT, "getaddrinfo");
    if (!name || !strstr(name, ".silent.test")) return real(name, port, hints, found);
    dprintf(2, "begun %s\n", name);
    while (access(getenv("ANSWERS"), F_OK)) usleep(1000);
    dprintf(2, "ended %s\n", name);
    return real("127.0.0.1", port, hints, found);
}
"""

PRELUDE = """
import asyncio, logging, os, socket, sys, threading
import emcache

# Without it the program prints that its nodes are unhealthy.
logging.getLogger("emcache").addHandler(logging.NullHandler())
NAMES = [f"n{i}.silent.test" for i in range(3)]
ANSWERS = os.environ["ANSWERS"]
PORT = int(os.environ["PORT"])

def node(name):
    return emcache.MemcachedHostAddress(name, PORT)

def create(names=NAMES, **options):
    options = {"timeout": 0.2, "connection_timeout": 0.3} | options
    return emcache.create_client([node(name) for name in names], **options)

async def use(client, rounds):
    for i in range(rounds):
        await asyncio.gather(client.get(b"k%d" % i), asyncio.sleep(0.1), return_exceptions=True)

def answer():
    open(ANSWERS, "w").close()
"""


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """The library, compiled once."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("silent")
    source, library = folder / "silent.c", folder / "silent.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def run(silent, server, tmp_path):
    """Run a program, and give what it printed and how many lookups of each name it began."""

    def run(program, seconds=60):
        variables = {
            "LD_PRELOAD": str(silent),
            "ANSWERS": str(tmp_path / "answers"),
            "PORT": str(server.port),
        }
        ended = subprocess.run(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        lines = ended.stderr.splitlines()
        others = [line for line in lines if not line.startswith(("begun ", "ended "))]
        assert (ended.returncode, others) == (0, []), ended.stderr
        begun = Counter(line.split()[1] for line in lines if line.startswith("begun "))
        return ended.stdout.split(), begun

    return run


ONCE = Counter(f"n{i}.silent.test" for i in range(3))


def test_connects_that_give_up_leave_one_lookup_of_each_name(run):
    _, begun = run(
        """
        async def main():
            async with create() as client, create() as other:
                await asyncio.gather(use(client, 30), use(other, 30))

        asyncio.run(main())
        """
    )
    assert begun == ONCE


def test_loops_that_follow_each_other_and_threads_share_lookups(run):
    _, begun = run(
        """
        async def main():
            async with create(min_connections=2) as client:
                await use(client, 8)

        for _ in range(3):
            asyncio.run(main())
        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        """
    )
    assert begun == ONCE


def test_an_answer_that_comes_late_is_used(run):
    printed, begun = run(
        """
        async def main():
            async with create(NAMES[:1]) as client:
                await use(client, 15)
                answer()
                async with asyncio.timeout(20):
                    while True:
                        try:
                            print(await client.get(b"no-such-key"))
                            return
                        except emcache.EmcacheError:
                            await asyncio.sleep(0.01)

        asyncio.run(main())
        """
    )
    assert printed == ["None"]
    assert begun == Counter(["n0.silent.test"])


@pytest.mark.driver_independent
def test_discovery_by_name(run):
    _, begun = run(
        """
        async def discover(discovery):
            for _ in range(5):
                try:
                    async with asyncio.timeout(0.05):
                        await discovery.discover()
                except TimeoutError:
                    pass

        async def main():
            await asyncio.gather(*(discover(emcache.DnsDiscovery(n, PORT)) for n in NAMES * 3))

        for _ in range(2):
            asyncio.run(main())
        """
    )
    assert begun == ONCE


@pytest.mark.driver_independent
def test_discovery_by_a_name_that_is_answered_late(run):
    printed, _ = run(
        """
        async def main():
            discovery = emcache.DnsDiscovery(NAMES[0], PORT, family=socket.AF_INET)
            first = asyncio.ensure_future(discovery.discover())
            done, _ = await asyncio.wait([first], timeout=0.05)
            assert not done
            first.cancel()
            others = [asyncio.ensure_future(discovery.discover()) for _ in range(2)]
            await asyncio.sleep(0)
            answer()
            for topology in await asyncio.gather(*others):
                print(*(node.address.address for node in topology.nodes))

        asyncio.run(main())
        """
    )
    assert printed == ["127.0.0.1", "127.0.0.1"]


def test_a_child_of_a_fork_looks_up_by_itself(run):
    """The lookups that the parent has under way have no threads in the child."""
    printed, begun = run(
        """
        async def main():
            async with create(NAMES[:1]) as client:
                await use(client, 3)

        async def child():
            answer()
            async with create(NAMES[:1], timeout=20, connection_timeout=20) as client:
                return await client.get(b"no-such-key")

        asyncio.run(main())
        # Python 3.12 and later warn of a fork beside other threads.
        import warnings
        warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)
        if not (pid := os.fork()):
            print(asyncio.run(child()), flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert printed == ["None"]
    assert begun == Counter({"n0.silent.test": 2})


@pytest.mark.parametrize("words", ["ping", "doctor", "keys", "get k"])
@pytest.mark.driver_independent
def test_the_command_line_ends_at_its_timeout(run, words):
    began = time.monotonic()
    printed, begun = run(
        f"""
        import contextlib, io
        from emcache.cli import main
        words = [*"{words}".split(), "-s", f"{{NAMES[0]}}:{{PORT}}", "--timeout", "0.5"]
        out, err = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
        print(code)
        """
    )
    assert time.monotonic() - began < 30
    assert printed != ["0"]
    assert set(begun.values()) <= {1, 2}
