"""What goes over the wire for each kind of time: the same from every layer."""

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from aiocache.serializers import StringSerializer

import emcache
from emcache.contrib.aiocache import EmcacheCache as AiocacheCache
from emcache.contrib.django import EmcacheCache as DjangoCache
from support.cli import invoke
from support.scripted import Connection, scripted

GONE_BY = 30 * 86400 + 1
STORAGE = (b"set", b"add", b"replace", b"append", b"prepend", b"cas")


def exptime_in(words: list[bytes]) -> int | None:
    """The exptime of a command; None if it has none."""
    match words[0]:
        case b"gat" | b"gats":
            return int(words[1])
        case b"touch":
            return int(words[2])
        case b"ma":
            # Of two, memcached takes the last.
            return next(int(word[1:]) for word in words[2:] if word.startswith(b"N"))
        case word if word in STORAGE:
            return int(words[3])
    return None


def answer_to(words: list[bytes]) -> bytes:
    match words[0]:
        case b"get" | b"gets" | b"gat" | b"gats":
            return b"END\r\n"
        case b"touch":
            return b"TOUCHED\r\n"
        case b"version":
            return b"VERSION 1.6.18\r\n"
        case b"mn":
            return b"MN\r\n"
        case b"ma":
            return b"VA 1\r\n1\r\n"
        case _:
            return b"STORED\r\n"


class Times:
    """Exptimes in the order in which they came."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def script(self, connection: Connection) -> None:
        while True:
            words, _ = await connection.command()
            if words == [b""]:
                return
            if (exptime := exptime_in(words)) is not None:
                self.seen.append(exptime)
            await connection.send(answer_to(words))


CALLS = {
    "set": lambda c, exptime: c.set(b"k", b"1", exptime=exptime),
    "add": lambda c, exptime: c.add(b"k", b"1", exptime=exptime),
    "replace": lambda c, exptime: c.replace(b"k", b"1", exptime=exptime),
    "cas": lambda c, exptime: c.cas(b"k", b"1", 7, exptime=exptime),
    "set of a large value": lambda c, exptime: c.set(b"k", bytes(100_000), exptime=exptime),
    "set noreply": lambda c, exptime: c.set(b"k", b"1", exptime=exptime, noreply=True),
    "touch": lambda c, exptime: c.touch(b"k", exptime),
    "gat": lambda c, exptime: c.gat(exptime, b"k"),
    "gats": lambda c, exptime: c.gats(exptime, b"k"),
    "gat_many": lambda c, exptime: c.gat_many(exptime, [b"k"]),
    "gats_many": lambda c, exptime: c.gats_many(exptime, [b"k"]),
    "gat_many partial": lambda c, exptime: c.gat_many(exptime, [b"k"], on_error="partial"),
    "gats_many partial": lambda c, exptime: c.gats_many(exptime, [b"k"], on_error="partial"),
    "set_many": lambda c, exptime: c.set_many({b"k": b"1"}, exptime=exptime),
    "set_many of a large value": lambda c, exptime: c.set_many(
        {b"k": bytes(100_000)}, exptime=exptime
    ),
    "add_many": lambda c, exptime: c.add_many({b"k": b"1"}, exptime=exptime),
    "touch_many": lambda c, exptime: c.touch_many([b"k"], exptime),
    "increment": lambda c, exptime: c.increment(b"k", 1, initial=1, exptime=exptime),
    "decrement": lambda c, exptime: c.decrement(b"k", 1, initial=1, exptime=exptime),
}


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("name", CALLS)
async def test_a_time_gone_by_is_no_negative_number(name):
    """Twemproxy hangs up on a minus sign, and yrmcds answers it twice."""
    times = Times()
    past = [-1, -(2**31), timedelta(0), timedelta(-1), now(), now() - timedelta(days=9)]
    async with scripted(times.script) as peer, emcache.create_client([peer.address]) as client:
        for exptime in past:
            await CALLS[name](client, exptime)
        await client.touch(b"k", 60)  # `noreply` is written by now
    assert times.seen == [GONE_BY] * len(past) + [60]


@pytest.mark.parametrize("name", CALLS)
async def test_a_near_moment_counts_from_now(name):
    """So that only the server's clock counts, which may differ from ours."""
    times = Times()
    async with scripted(times.script) as peer, emcache.create_client([peer.address]) as client:
        await CALLS[name](client, now() + timedelta(minutes=60))
        await CALLS[name](client, now() + timedelta(days=30))
        await client.touch(b"k", 60)
    hour, month, _ = times.seen
    assert 3600 - 60 <= hour <= 3600
    assert 30 * 86400 - 60 <= month <= 30 * 86400


async def test_checked_out_connections():
    times = Times()
    async with scripted(times.script) as peer:
        pool = emcache.ConnectionPool(peer.address)
        try:
            async with pool.create_connection_context() as connection:
                for exptime in (-1, now() - timedelta(1), now() + timedelta(seconds=3600)):
                    await connection.storage_command(b"set", b"k", b"1", 0, exptime)
                    await connection.touch_command(b"k", exptime)
                    await connection.get_and_touch_command(b"gats", exptime, [b"k"])
        finally:
            await pool.close()
    assert times.seen[:6] == [GONE_BY] * 6
    assert all(3540 <= seconds <= 3600 for seconds in times.seen[6:])
    assert len(times.seen) == 9


class _Recorder(socketserver.StreamRequestHandler):
    """A server in a thread, for the layers that have loops of their own."""

    def handle(self) -> None:
        for line in self.rfile:
            words = line.split()
            if words[0] in STORAGE:
                self.rfile.read(int(words[4]) + 2)
            if (exptime := exptime_in(words)) is not None:
                self.server.seen.append(exptime)
            self.wfile.write(answer_to(words))


@pytest.fixture
def recorder() -> Iterator[socketserver.ThreadingTCPServer]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Recorder) as server:
        server.daemon_threads = True
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def _through_each_layer(port: int, duration: timedelta) -> None:
    async with emcache.create_client([emcache.MemcachedHostAddress("127.0.0.1", port)]) as client:
        await client.set(b"k", b"1", exptime=duration)
        cache = emcache.Cache(client)
        await cache.set("k", 1, ttl=duration)
        await cache.touch("k", duration)
        await cache.get_or_set("k", lambda: asyncio.sleep(0, 1), ttl=duration, lease=None)
        pool_of = emcache.ConnectionPool(emcache.MemcachedHostAddress("127.0.0.1", port))
        async with pool_of.create_connection_context() as connection:
            await connection.touch_command(b"k", duration)
        await pool_of.close()
    django = DjangoCache(f"127.0.0.1:{port}", {})
    await django.aset("k", 1, timeout=duration)
    await django.aset("k", 1, timeout=duration.total_seconds())
    await django.atouch("k", timeout=duration)
    await django.aclose()
    aiocache = AiocacheCache("127.0.0.1", port, serializer=StringSerializer())
    await aiocache.set("k", "1", ttl=duration)
    await aiocache.expire("k", duration.total_seconds())
    await aiocache.close()


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (timedelta(microseconds=1), 1),
        (timedelta(seconds=0.3), 1),
        (timedelta(seconds=300), 300),
        (timedelta(seconds=300, microseconds=1), 301),
        (timedelta(days=30), 30 * 86400),
        (timedelta(days=30, microseconds=1), 1_800_000_000 + 30 * 86400 + 1),
        (timedelta(days=31), 1_800_000_000 + 31 * 86400 + 1),
        (timedelta(days=31, seconds=0.5), 1_800_000_000 + 31 * 86400 + 1),
        (timedelta(days=31, seconds=0.6), 1_800_000_000 + 31 * 86400 + 2),
        (timedelta(days=9999), 2**31 - 1),
    ],
)
def test_every_layer_sends_the_same(recorder, monkeypatch, duration, seconds):
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.5)
    asyncio.run(_through_each_layer(recorder.server_address[1], duration))
    assert recorder.seen == [seconds] * 10


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300", 300),
        ("5m", 300),
        ("30d", 2592000),
        ("31d", 1_802_678_401),
        ("0d", 0),
        ("-1", GONE_BY),
    ],
)
def test_the_command_line_sends_the_same(recorder, monkeypatch, text, seconds):
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.5)
    server = f"127.0.0.1:{recorder.server_address[1]}"
    result = invoke("set", "-s", server, "--exptime", text, "k", "v")
    assert result.exit_code == 0, result.output
    assert recorder.seen == [seconds]
