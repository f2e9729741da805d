"""Clients that exit handlers of the interpreter make and use."""

import os
import subprocess
import sys

import pytest

from support.memcached import memcached

both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])

AT_EXIT = """
import asyncio, atexit, sys, time

def finish():
    run(main("at exit"))
    print("the end")

# Before the package is imported: then it is called after what the package does at exit.
atexit.register(finish)

import emcache
if sys.argv[1] == "uvloop":
    import uvloop
    base = uvloop.Loop
else:
    base = asyncio.SelectorEventLoop
slowness = float(sys.argv[3])

class Loop(base):
    def call_soon_threadsafe(self, *args, **options):
        handle = super().call_soon_threadsafe(*args, **options)
        if slowness:
            time.sleep(slowness)
        return handle

class Lingering:
    def __del__(self, sleep=time.sleep):
        sleep(3 * slowness)

# Among the last things to go.
sys.lingering = Lingering()

def run(main):
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)

async def main(when):
    address = emcache.MemcachedHostAddress("127.0.0.1", int(sys.argv[2]))
    async with asyncio.timeout(10), emcache.create_client([address], timeout=5) as client:
        await client.set(b"exit", when.encode())
        print((await client.get(b"exit")).value.decode())

run(main("before"))
"""


def run_at_exit(kind, loop, slowness=0.0):
    with memcached() as server:
        program = [sys.executable, "-X", "dev", "-W", "error", "-c", AT_EXIT]
        done = subprocess.run(
            [*program, loop, str(server.port), str(slowness)],
            env=os.environ | {"EMCACHE_DRIVER": kind},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.stdout.split("\n") == ["before", "at exit", "the end", ""], done.stderr
    assert (done.stderr, done.returncode) == ("", 0)


@both_loops
@pytest.mark.parametrize("kind", ["loop", "thread"])
def test_a_client_of_an_exit_handler_that_runs_last(loop, kind):
    run_at_exit(kind, loop)


@both_loops
def test_nobody_calls_the_loop_of_an_exit_handler_after_it(loop):
    """A helper that is still at it, when the interpreter ends, would be ended with it: an abort."""
    run_at_exit("thread", loop, slowness=0.05)
