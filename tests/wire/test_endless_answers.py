"""Answers that do not end: the call fails, and what was kept of them is bounded."""

import asyncio
import contextlib

import pytest

import emcache
from support.calls import within
from support.discovery import until
from support.scripted import scripted

MOST = 60 * 1024 * 1024
"""More than is read of an answer before it is given up."""
LINES = {
    "short": b"STAT a 1\r\n" * 2000,
    "long": b"STAT %b %b\r\n" % (b"n" * 900, b"v" * 900) * 20,
    "without a value": b"STAT pid\r\n" * 2000,
    "items": b"ITEM key [5 b; 0 s]\r\n" * 2000,
    "prefixes": b"PREFIX p get 1 hit 1 set 1 del 0\r\n" * 2000,
}


class Endless:
    """Answers the first command that begins so with lines, for as long as anybody reads."""

    def __init__(self, command, lines):
        self.command = command
        self.lines = lines
        self.sent = 0
        self.ended = 0

    async def __call__(self, connection):
        while line := await connection.line():
            if not line.startswith(self.command):
                await connection.send(b"END\r\n")
                continue
            try:
                while self.sent < 4 * MOST:
                    await connection.send(self.lines)
                    self.sent += len(self.lines)
            finally:
                self.ended += 1


@contextlib.asynccontextmanager
async def asked(script):
    async with (
        scripted(script) as server,
        emcache.create_client([server.address], timeout=90) as client,
    ):
        yield client, server.address


async def refused(call):
    with pytest.raises(emcache.ProtocolError, match="reply to stats is too long"):
        await call


@within(100)
@pytest.mark.parametrize("lines", LINES)
async def test_statistics(lines):
    script = Endless(b"stats", LINES[lines])
    async with asked(script) as (client, node):
        await refused(client.stats(node))
        assert script.sent < MOST
        assert await client.get(b"key") is None
        await until(lambda: script.ended == 1)


@within(100)
@pytest.mark.parametrize("args", [("conns",), ("detail", "dump"), ("cachedump", "1", "0")], ids=str)
async def test_statistics_of_a_kind(args):
    script = Endless(b"stats", LINES["short"])
    async with asked(script) as (client, node):
        await refused(client.stats(node, *args))
    assert script.sent < MOST


@within(100)
async def test_statistics_on_a_checked_out_connection():
    script = Endless(b"stats", LINES["short"])
    async with scripted(script) as server:
        pool = emcache.ConnectionPool(server.address, timeout=90)
        async with pool.create_connection_context() as connection:
            await refused(connection.stats_command())
            assert connection.closed()
        await pool.close()
    assert script.sent < MOST


@within(100)
async def test_statistics_that_nobody_waits_for():
    """The answer is dropped as it comes, and its connection ends all the same."""
    script = Endless(b"stats", LINES["short"])
    async with asked(script) as (client, node):
        call = asyncio.ensure_future(client.stats(node))
        await until(lambda: script.sent > 0)
        call.cancel()
        await until(lambda: script.ended == 1, 80)
    assert script.sent < MOST


@within(60)
async def test_a_list_of_nodes():
    async def script(connection):
        while await connection.line():
            await connection.send(b"CONFIG cluster 0 1000000000\r\n1\n")
            while True:
                await connection.send(b"localhost|127.0.0.1|11211 " * 1000)

    async with scripted(script) as server:
        pool = emcache.ConnectionPool(server.address, timeout=50)
        async with pool.create_connection_context() as connection:
            with pytest.raises(emcache.ProtocolError):
                await connection.config_command()
        await pool.close()


@within(60)
@pytest.mark.parametrize("start", [b"", b"VERSION ", b"ERROR ", b"SERVER_ERROR ", b"STAT "])
async def test_a_line(start):
    async def script(connection):
        while await connection.line():
            await connection.send(start)
            while True:
                await connection.send(b"x" * 1000)

    calls = [
        lambda client, node: client.get(b"key"),
        lambda client, node: client.set(b"key", b"value"),
        lambda client, node: client.version(node),
        lambda client, node: client.stats(node),
    ]
    async with scripted(script) as server:
        for call in calls:
            options = {"timeout": 50, "max_connections": 1}
            async with emcache.create_client([server.address], **options) as client:
                with pytest.raises(emcache.ProtocolError):
                    await call(client, server.address)


@within(60)
@pytest.mark.parametrize("answer", [b"x" * 1000, b"CLIENT_ERROR " + b"x" * 1000])
async def test_the_answer_to_a_login(answer):
    async def script(connection):
        await connection.line()
        while True:
            await connection.send(answer)

    async with scripted(script) as server:
        options = {"timeout": 20, "username": "user", "password": "secret"}
        async with emcache.create_client([server.address], **options) as client:
            with pytest.raises(emcache.EmcacheError) as raised:
                await client.get(b"key")
            assert not isinstance(raised.value, emcache.OperationTimeoutError)
