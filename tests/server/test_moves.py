"""A node that is replaced under its name: where it is dialled, and what serves meanwhile."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import textwrap

import pytest

import emcache
from emcache.discovery import CallableDiscovery, DiscoveredNode, Topology
from support.calls import outcomes, within
from support.scripted import hold, scripted

SOON = 0.05
"""An interval."""
NAME = "localhost"
NAMED = "127.0.0.1"
"""Where the name leads, whatever the list says."""


class Place:
    """The list of one node, and where that is."""

    def __init__(self, port: int, ip: str) -> None:
        self.address = emcache.MemcachedHostAddress(NAME, port)
        self.ip = ip

    def discover(self) -> Topology:
        return Topology((DiscoveredNode(self.address, self.ip),))

    def client(self, **options):
        defaults = {"autodiscovery_poll_interval": SOON, "max_connections": 1, "timeout": 2.0}
        discovery = CallableDiscovery(self.discover)
        return emcache.create_client([], autodiscovery=discovery, **(defaults | options))


def answering(name: bytes, login: bytes = b"STORED\r\n", after: float = 0.0):
    """A server all of whose values are its name."""

    async def serve(connection):
        while line := await connection.line():
            command, *words = line.split(b" ")
            if command == b"set":
                await connection.line()
                await asyncio.sleep(after)
                await connection.send(login)
            elif words == [b"emcache:probe"]:
                await connection.send(b"END\r\n")
            else:
                key, size = words[0], len(name)
                await connection.send(b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, size, name))

    return serve


async def value(client) -> bytes:
    return (await client.get(b"where")).value


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def served_by(client, name: bytes, seconds: float = 10.0) -> set[bytes]:
    """Call until this server answers, and no call may fail; who answered before."""
    before = set()
    async with asyncio.timeout(seconds):
        while (found := await value(client)) != name:
            before.add(found)
            await asyncio.sleep(0.01)
    return before


def connections(client) -> int:
    [metrics] = client.cluster_managment().connection_pool_metrics().values()
    return metrics.cur_connections


def failures(client) -> int:
    [metrics] = client.cluster_managment().connection_pool_metrics().values()
    return metrics.connections_created_with_error


@contextlib.contextmanager
def swallowing(host: str, port: int):
    """A place that answers no SYN, as a machine does that is gone or not there yet."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((host, port))
        yield


@within(20)
async def test_of_a_node_that_died_before():
    async with scripted(answering(b"new"), host="127.0.0.2") as new:
        place = Place(new.port, "127.0.0.3")
        async with place.client() as client:
            management = client.cluster_managment()
            await until(lambda: management.unhealthy_nodes() == [place.address])
            place.ip = "127.0.0.2"
            await until(lambda: management.healthy_nodes() == [place.address], seconds=4)
            assert await value(client) == b"new"


@within(20)
async def test_while_a_dial_to_the_old_place_is_under_way():
    async with (
        scripted(answering(b"old", after=0.5), host="127.0.0.3") as old,
        scripted(answering(b"new"), host="127.0.0.2", port=old.port),
    ):
        place = Place(old.port, "127.0.0.3")
        async with place.client(username="user", password="secret") as client:
            await until(lambda: old.accepted)
            place.ip = "127.0.0.2"
            await asyncio.sleep(0.8)
            assert await value(client) == b"new"


@pytest.mark.parametrize("maximum", [1, 2])
@within(20)
async def test_to_a_place_that_is_not_up_yet(maximum):
    """It refuses, and the name leads to the old one for ever."""
    async with scripted(answering(b"old")) as old:
        place = Place(old.port, NAMED)
        async with place.client(max_connections=maximum) as client:
            assert await value(client) == b"old"
            place.ip = "127.0.0.2"
            await until(lambda: failures(client) >= 2)
            assert await value(client) == b"old"
            async with scripted(answering(b"new"), host="127.0.0.2", port=old.port):
                assert await served_by(client, b"new") <= {b"old"}
                await until(lambda: connections(client) == 1)
                assert old.accepted <= maximum


@pytest.mark.parametrize("maximum", [1, 2])
@within(20)
async def test_to_a_place_that_swallows(maximum):
    async with scripted(answering(b"old")) as old:
        place = Place(old.port, NAMED)
        options = {"max_connections": maximum, "connection_timeout": 0.4}
        async with place.client(**options) as client:
            assert await value(client) == b"old"
            with swallowing("127.0.0.2", old.port):
                place.ip = "127.0.0.2"
                while failures(client) < 2:
                    assert await value(client) == b"old"
                    assert connections(client) <= maximum
                    await asyncio.sleep(0.01)
                # And to another before it answers.
                async with scripted(answering(b"third"), host="127.0.0.4", port=old.port):
                    place.ip = "127.0.0.4"
                    await served_by(client, b"third")
                    await until(lambda: connections(client) == 1)


@pytest.mark.parametrize("login", [b"", b"CLIENT_ERROR authentication failure\r\n"])
@within(20)
async def test_to_a_place_that_does_not_let_in(login):
    """Or never answers. The old one serves until it ends, and only then calls fail for it."""
    credentials = {"username": "user", "password": "secret"}
    async with contextlib.AsyncExitStack() as stack:
        old_open = await stack.enter_async_context(contextlib.AsyncExitStack())
        old = await old_open.enter_async_context(scripted(answering(b"old")))
        script = answering(b"new", login=login) if login else hold
        await stack.enter_async_context(scripted(script, host="127.0.0.2", port=old.port))
        place = Place(old.port, NAMED)
        options = credentials | {"connection_timeout": 0.3}
        client = await stack.enter_async_context(place.client(**options))
        assert await value(client) == b"old"
        place.ip = "127.0.0.2"
        while failures(client) < 3:
            assert await value(client) == b"old"
            await asyncio.sleep(0.01)
        await old_open.aclose()
        wanted = emcache.AuthenticationError if login else emcache.NodeUnavailableError
        async with asyncio.timeout(8):
            while [type(error) for error in await outcomes(client.get(b"k"))] != [wanted]:
                await asyncio.sleep(0.01)


@within(20)
async def test_a_client_that_is_closed_meanwhile():
    async with (
        scripted(answering(b"old")) as old,
        scripted(hold, host="127.0.0.2", port=old.port) as new,
    ):
        place = Place(old.port, NAMED)
        async with place.client() as client:
            assert await value(client) == b"old"
            place.ip = "127.0.0.2"
            await until(lambda: new.accepted)
        accepted = new.accepted
        await asyncio.sleep(0.3)
        assert new.accepted == accepted


@within(30)
async def test_under_load_with_one_connection():
    """Back and forth: nothing fails, and there is one connection too many at most."""
    async with (
        scripted(answering(b"a")) as first,
        scripted(answering(b"b"), host="127.0.0.2", port=first.port),
    ):
        place = Place(first.port, NAMED)
        async with place.client() as client:
            over = asyncio.Event()

            async def load():
                while not over.is_set():
                    await value(client)
                    assert connections(client) <= 2

            tasks = [asyncio.create_task(load()) for _ in range(8)]
            for _ in range(2):
                for place.ip, name in (("127.0.0.2", b"b"), (NAMED, b"a")):
                    await served_by(client, name)
            over.set()
            await asyncio.gather(*tasks)


SLOW_DNS = """
import asyncio, contextlib, fcntl, os, socket, struct, subprocess, sys
import emcache
from emcache.discovery import CallableDiscovery, DiscoveredNode, Topology

# In a network of its own: its loopback is down, and nobody holds the port of DNS.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("127.0.0.1", 53))

async def serve(reader, writer):
    while await reader.readline():
        writer.write(b"END\\r\\n")
    # Python 3.12 waits for it at the end.
    writer.close()

async def main():
    async with await asyncio.start_server(serve, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        node = emcache.MemcachedHostAddress("cache1.slow.example", port)
        list_ = Topology((DiscoveredNode(node, "127.0.0.2"),))
        async with emcache.create_client(
            [], autodiscovery=CallableDiscovery(lambda: list_), timeout=2.5, connection_timeout=2
        ) as client:
            assert await client.get(b"k") is None
    print("answered")

asyncio.run(main())
# The resolver's thread still waits.
sys.stdout.flush()
os._exit(0)
"""


def test_a_known_address_needs_no_answer_of_dns(tmp_path):
    unshare = [shutil.which("unshare") or "unshare", "--map-root-user", "--mount", "--net"]
    with contextlib.suppress(OSError):
        if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode == 0:
            (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            program = [sys.executable, "-c", textwrap.dedent(SLOW_DNS), tmp_path / "resolv.conf"]
            done = subprocess.run(
                [*unshare, *program], check=False, capture_output=True, text=True, timeout=25
            )
            assert "answered" in done.stdout, done.stderr
            return
    pytest.skip("no namespaces here, so DNS cannot be made slow")
