"""Retrieval lines that every server takes, also where the network cuts them into segments.

memcached closes the connection for a `gat` line of more than 1,024 or 2,048 bytes, and memcached
1.6.12 answers ERROR to a `get` line of more than 1,024, if the line is incomplete at the first
read. On loopback it never is.
"""

import asyncio
import contextlib

import pytest

import emcache
from emcache.testing import FaultProxy
from support.calls import within
from support.scripted import scripted

MAX_LINE = 1000
SEGMENT = 1448
"""What a TCP segment holds on an Ethernet."""


def value_of(key):
    return b"value of " + key


@contextlib.contextmanager
def segmented(server):
    """A network that delivers the requests segment by segment."""
    with FaultProxy(server) as proxy:
        proxy.requests.split, proxy.requests.delay = SEGMENT, 0.001
        yield proxy


@contextlib.asynccontextmanager
async def recorded():
    """A server without items, and the lines that it is sent."""
    lines: list[bytes] = []

    async def script(connection):
        while line := await connection.line():
            lines.append(line)
            await connection.send(b"END\r\n")

    async with scripted(script) as server:
        yield server, lines


def keys_of(lines):
    for line in lines:
        verb, *words = line.split(b" ")
        yield from words[verb.startswith(b"gat") :]


MANY = {
    "get": lambda client, keys: client.get_many(keys),
    "gets": lambda client, keys: client.gets_many(keys),
    "gat": lambda client, keys: client.gat_many(-(2**31), keys),
    "gats": lambda client, keys: client.gats_many(-(2**31), keys),
}
ONE = {
    "get": lambda client, key: client.get(key),
    "gets": lambda client, key: client.gets(key),
    "gat": lambda client, key: client.gat(2**31 - 1, key),
    "gats": lambda client, key: client.gats(2**31 - 1, key),
}


@within(20)
@pytest.mark.parametrize("length", [3, 31, 40, 249, 250])
@pytest.mark.parametrize("verb", MANY)
async def test_calls_with_many_keys(verb, length):
    keys = [b"%0*d" % (length, number) for number in range(500)]
    async with recorded() as (server, lines), emcache.create_client([server.address]) as client:
        assert await MANY[verb](client, keys) == {}
        assert list(keys_of(lines)) == keys
        partial = await client.get_many(keys, on_error="partial")
        assert (dict(partial), partial.errors) == ({}, {})
    assert max(map(len, lines)) + len(b"\r\n") <= MAX_LINE
    if length < 50:
        assert max(map(len, lines)) > MAX_LINE - 2 - 50 - len(b"gats -2147483648")


@within(20)
@pytest.mark.parametrize("max_keys", [32, 1000])
@pytest.mark.parametrize("length", [3, 40, 250])
@pytest.mark.parametrize("verb", ONE)
async def test_calls_that_share_lines(verb, length, max_keys):
    keys = [b"%0*d" % (length, number) for number in range(500)]
    async with recorded() as (server, lines):
        options = {"autobatching_max_keys": max_keys, "max_connections": 1}
        async with emcache.create_client([server.address], **options) as client:
            await client.get(b"first")
            lines.clear()
            assert await asyncio.gather(*(ONE[verb](client, key) for key in keys)) == [None] * 500
    assert sorted(keys_of(lines)) == sorted(keys)
    assert max(map(len, lines)) + len(b"\r\n") <= MAX_LINE


@within(20)
@pytest.mark.parametrize("length", [3, 40, 250])
async def test_commands_of_a_checked_out_connection(length):
    keys = [b"%0*d" % (length, number) for number in range(500)]
    async with recorded() as (server, lines):
        pool = emcache.ConnectionPool(server.address)
        async with pool.create_connection_context() as connection:
            nothing = ([], [], [], [], b"")
            for verb in (b"get", b"gets"):
                assert await connection.fetch_command(verb, keys) == nothing
            for verb in (b"gat", b"gats"):
                assert await connection.get_and_touch_command(verb, -(2**31), keys) == nothing
        await pool.close()
    assert list(keys_of(lines)) == keys * 4
    assert max(map(len, lines)) + len(b"\r\n") <= MAX_LINE


@within(60)
@pytest.mark.parametrize(
    ("verb", "count"), [("gat", 200), ("gats", 200), ("get", 1000), ("gets", 1000)]
)
async def test_many_keys_through_segments(server, key, verb, count):
    keys = [b"%s:%0*d" % (key, 39 - len(key), number) for number in range(count)]
    call = {
        "get": lambda client: client.get_many(keys),
        "gets": lambda client: client.gets_many(keys),
        "gat": lambda client: client.gat_many(60, keys),
        "gats": lambda client: client.gats_many(60, keys),
    }[verb]
    with segmented(server) as proxy:
        async with emcache.create_client([proxy.address], timeout=30) as client:
            await client.set_many({key: value_of(key) for key in keys})
            await client.gat(60, key)
            found = await asyncio.gather(*(call(client) for _ in range(3)))
            metrics = client.cluster_managment().connection_pool_metrics()[proxy.address]
            assert (metrics.connections_closed, metrics.requests_retried) == (0, 0)
        for items in found:
            assert {key: item.value for key, item in items.items()} == {
                key: value_of(key) for key in keys
            }


@within(60)
@pytest.mark.parametrize("verb", ["get", "gats"])
async def test_tasks_that_share_lines_through_segments(server, key, verb):
    keys = [b"%s:%0*d" % (key, 39 - len(key), number) for number in range(256)]
    call = {"get": lambda client, key: client.get(key), "gats": lambda c, key: c.gats(60, key)}[
        verb
    ]
    with segmented(server) as proxy:
        options = {"timeout": 30, "max_connections": 1, "autobatching_max_keys": 256}
        async with emcache.create_client([proxy.address], **options) as client:
            await client.set_many({key: value_of(key) for key in keys})
            await client.gat(60, key)
            for _ in range(3):
                items = await asyncio.gather(*(call(client, key) for key in keys))
                assert [item.value for item in items] == [value_of(key) for key in keys]
        # That it knows `gat` was learnt on one more connection.
        assert proxy.accepted == 2


class Versioned:
    """A server without items that says its version, and the lines that it is sent."""

    def __init__(self, version):
        self.version = version
        self.lines = []
        self.asked = 0
        self.connections = []

    async def __call__(self, connection):
        self.connections.append(connection)
        while line := await connection.line():
            if line != b"version":
                self.lines.append(line)
                await connection.send(b"END\r\n")
                continue
            self.asked += 1
            if self.version is None:
                return
            await connection.send(self.version + b"\r\n")

    async def longest(self, client, verb):
        """The longest line of the last of a few calls with many keys."""
        keys = [b"%040d" % number for number in range(500)]
        for _ in range(10):
            self.lines.clear()
            assert await MANY[verb](client, keys) == {}
            assert list(keys_of(self.lines)) == keys
            await asyncio.sleep(0.01)
        return max(map(len, self.lines)) + len(b"\r\n")


@within(20)
@pytest.mark.parametrize("version", [b"VERSION 1.6.13", b"VERSION 1.6.18", b"VERSION 1.6.45"])
async def test_longer_lines_to_servers_that_take_them(version):
    server = Versioned(version)
    async with scripted(server) as running, emcache.create_client([running.address]) as client:
        await client.get(b"first")
        for verb in ("get", "gets"):
            assert 7 * MAX_LINE < await server.longest(client, verb) <= 8192
        for verb in ("gat", "gats"):
            assert await server.longest(client, verb) <= MAX_LINE
        keys = [b"%040d" % number for number in range(500)]
        server.lines.clear()
        await asyncio.gather(*(client.get(key) for key in keys))
        assert max(map(len, server.lines)) + len(b"\r\n") <= MAX_LINE
        assert server.asked == 1


@within(20)
@pytest.mark.parametrize(
    "version",
    [
        b"VERSION 1.6.12",
        b"VERSION 1.5.16",
        b"VERSION yrmcds version 1.1.9",
        b"VERSION mcrouter",
        b"ERROR",
        b"SERVER_ERROR backend failure",
        b"END",
        None,
    ],
)
async def test_no_longer_lines_to_others(version):
    server = Versioned(version)
    async with scripted(server) as running, emcache.create_client([running.address]) as client:
        await client.get(b"first")
        for verb in MANY:
            assert await server.longest(client, verb) <= MAX_LINE
        assert server.asked == 1
        metrics = client.cluster_managment().connection_pool_metrics()[running.address]
        assert (metrics.connections_closed, metrics.requests_retried) == (0, 0)
        assert client.cluster_managment().unhealthy_nodes() == []


@within(20)
async def test_a_server_that_is_replaced_is_asked_again():
    server = Versioned(b"VERSION 1.6.18")
    async with scripted(server) as running, emcache.create_client([running.address]) as client:
        await client.get(b"first")
        assert await server.longest(client, "get") > 7 * MAX_LINE
        server.version = b"VERSION 1.6.12"
        for connection in server.connections:
            connection.close()
        await asyncio.sleep(0.1)
        await client.get(b"first")
        assert await server.longest(client, "get") <= MAX_LINE
        assert server.asked == 2


@within(20)
async def test_short_calls_ask_for_no_version():
    server = Versioned(b"VERSION 1.6.18")
    async with scripted(server) as running, emcache.create_client([running.address]) as client:
        keys = [b"%010d" % number for number in range(80)]
        assert await client.get_many(keys) == {}
        assert await client.gat_many(60, keys * 10) == {}
        # The first gat is sent on a connection of its own: a proxy may not know it.
        assert (server.asked, running.accepted) == (0, 2)
