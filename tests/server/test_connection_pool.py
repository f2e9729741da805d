"""Whole connections for one holder: checkouts, queues, raw replies, and what goes wrong."""

import asyncio
import contextlib
import gc
import logging
import random
import ssl
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import emcache
import emcache.connection_pool
from emcache import ConnectionPool, MemcachedHostAddress
from support.calls import outcomes, until, within
from support.isolated import run_silent
from support.memcached import Memcached, free_port, memcached
from support.oracle import END, item, reply_to, value_of
from support.proxy import slow_proxy
from support.sasl import sasl_memcached
from support.scripted import hold, scripted

LOOPS = ["asyncio", "uvloop"]
both_loops = pytest.mark.parametrize("loop", LOOPS)
STORED = bytearray(b"STORED")
NOTHING = ([], [], [], [], bytearray(b""))


@contextlib.asynccontextmanager
async def pool_of(server, **options):
    """One connection, if not said otherwise, that is never purged."""
    options = {"max_connections": 1, "purge_unused_connections_after": None} | options
    pool = ConnectionPool(server.address, **options, **getattr(server, "login", {}))
    try:
        yield pool
    finally:
        await pool.close()


class Watched:
    """A script that answers, and remembers what came on which connection."""

    def __init__(self, answers=reply_to):
        self.answers = answers
        self.heard: list[list[list[bytes]]] = []
        self.open = 0
        self.most_open = 0

    @property
    def commands(self):
        return [words for heard in self.heard for words in heard]

    async def __call__(self, connection):
        heard: list[list[bytes]] = []
        self.heard.append(heard)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while (words := (await connection.command())[0]) != [b""]:
                heard.append(words)
                await self.reply(connection, words)
        finally:
            self.open -= 1

    async def reply(self, connection, words):
        await connection.send(self.answers(words))


class Gated(Watched):
    """Answers only while the gate is open."""

    def __init__(self, answers=reply_to):
        super().__init__(answers)
        self.gate = asyncio.Event()

    async def reply(self, connection, words):
        await self.gate.wait()
        await super().reply(connection, words)


class Closing(Watched):
    """Closes the connection at the command `die`'s key, and answers others."""

    async def reply(self, connection, words):
        if b"die" in words:
            connection.close()
        else:
            await super().reply(connection, words)


async def values(pool, *keys):
    async with pool.create_connection_context() as connection:
        return (await connection.fetch_command(b"get", keys))[1]


async def right(pool, rounds=3):
    """Whoever holds a connection next gets answers to its own questions."""
    for number in range(rounds):
        keys = [b"right:%d:%d" % (number, n) for n in range(3)]
        assert await values(pool, *keys) == [value_of(key) for key in keys]


async def whole(pool, connections=1):
    """Nothing is checked out, nothing is under way, and no connection was lost."""
    await until(lambda: pool.metrics().connections_checked_out == 0)
    await until(lambda: pool.metrics().requests_in_flight == 0)
    assert pool.total_connections == connections
    assert pool.metrics().connections_created == connections
    assert pool.metrics().connections_closed == 0


async def enter(pool, entered=None):
    async with pool.create_connection_context() as connection:
        if entered is not None:
            entered.append(asyncio.current_task())
        return connection


# -- how it is made ------------------------------------------------------------------------------


class TestConstruction:
    def test_names(self):
        assert emcache.ConnectionPool is emcache.connection_pool.ConnectionPool
        assert "ConnectionPool" in emcache.__all__

    @within(20)
    async def test_as_it_is_used(self, server, key):
        port = server.port
        exptime, value = 60, b"value"
        key = k1 = key.decode()
        k2 = key + ":missing"
        pool = ConnectionPool(
            address=MemcachedHostAddress("127.0.0.1", port),
            max_connections=10,
            min_connections=1,
            purge_unused_connections_after=60.0,
            on_healthy_status_change_cb=lambda status: print(f"Pool health status: {status}"),  # noqa: T201
            connection_timeout=10.0,
            ssl=False,
            ssl_verify=False,
            ssl_extra_ca=None,
            username=None,
            password=None,
        )
        async with pool.create_connection_context() as connection:
            await connection.storage_command(
                b"set", key.encode("utf-8"), value, flags=0, exptime=exptime, noreply=0, cas=None
            )
        async with pool.create_connection_context() as connection:
            found = await connection.fetch_command(b"get", [k1.encode("utf-8"), k2.encode("utf-8")])
        assert found[1] == [b"value"]
        async with pool.create_connection_context() as connection:
            found = await connection.fetch_command(b"get", [k2.encode("utf-8")])
        assert found[1] == []
        await pool.close()

    @within(20)
    async def test_by_position_as_in_1_3(self, server, key):
        told = []
        pool = ConnectionPool(
            server.address, 4, 2, 60.0, 5.0, told.append, False, True, None, None, None
        )
        async with pool.create_connection_context() as connection:
            assert await connection.storage_command(b"set", key, b"v", 0, 0, False, None) == STORED
        await until(lambda: pool.total_connections == 2)
        assert (
            repr(pool) == f"<emcache.ConnectionPool open node=127.0.0.1:{server.port} min=2 max=4>"
        )
        await pool.close()
        assert repr(pool).startswith("<emcache.ConnectionPool closed ")
        assert told == []

    @within(20)
    async def test_from_synchronous_code_in_a_loop(self, server, key):
        loop = asyncio.get_running_loop()
        made = loop.create_future()
        loop.call_soon(lambda: made.set_result(ConnectionPool(server.address)))

        def plain():
            return ConnectionPool(server.address)

        for pool in (await made, plain()):
            async with pool.create_connection_context() as connection:
                assert await connection.storage_command(b"set", key, b"v") == STORED
            await pool.close()

    def test_without_a_loop(self, server):
        with pytest.raises(RuntimeError, match="loop"):
            ConnectionPool(server.address)
        gc.collect()

    @pytest.mark.parametrize(
        "options",
        [
            {"max_connections": 0},
            {"max_connections": -1},
            {"max_connections": 2**64},
            {"max_connections": 1.0},
            {"max_connections": True},
            {"max_connections": None},
            {"min_connections": -1},
            {"min_connections": 3, "max_connections": 2},
            {"min_connections": "1"},
            {"username": "user"},
            {"password": "password"},
            {"purge_unused_connections_after": -1},
            {"purge_unused_connections_after": float("nan")},
            {"purge_unused_connections_after": "1"},
            {"connection_timeout": -0.5},
            {"connection_timeout": b"1"},
            {"timeout": -1},
            {"timeout": "1"},
            {"ssl": ssl.create_default_context()},
            {"ssl": True, "ssl_extra_ca": "/no/such/file"},
            {"ssl": True, "ssl_extra_ca": b"no PEM"},
            {"ssl": True, "ssl_keyfile": b""},
            {"ssl": True, "ssl_min_version": "TLSv1.1"},
            {"ssl": True, "ssl_server_hostname": "no host"},
            {"ssl_server_hostname": "localhost"},
            {"auth": "sasl"},
            {"username": "user", "password": "password", "auth": "plain"},
            {"username": "us er", "password": "password"},
            {"username": "flush_all", "password": "0"},
            {"username": "user", "password": "pass\r\nword"},
            {"username": "user", "password": b"password"},
        ],
        ids=" ".join,
    )
    async def test_bad_options_are_refused_as_by_create_client(self, server, options):
        with pytest.raises((ValueError, TypeError, OSError)) as of_client:
            await emcache.create_client([server.address], **options)
        with pytest.raises(of_client.type) as of_pool:
            ConnectionPool(server.address, **options)
        assert of_pool.type is of_client.type

    @pytest.mark.parametrize(
        "address",
        [
            None,
            ("127.0.0.1", 11211),
            MemcachedHostAddress("", 11211),
            MemcachedHostAddress("a b", 11211),
            MemcachedHostAddress(None, 11211),
            MemcachedHostAddress("127.0.0.1:11211", 11211),
            MemcachedHostAddress("[::1]", 11211),
            MemcachedHostAddress("[localhost]", 11211),
            MemcachedHostAddress("127.0.0.1", 0),
            MemcachedHostAddress("127.0.0.1", 65536),
            MemcachedHostAddress("127.0.0.1", "11211"),
            emcache.MemcachedUnixSocketPath(""),
            emcache.MemcachedUnixSocketPath("a\0b"),
            emcache.MemcachedUnixSocketPath(None),
        ],
        ids=repr,
    )
    async def test_bad_addresses_are_refused_as_by_create_client(self, address):
        with pytest.raises((ValueError, TypeError)) as of_client:
            await emcache.create_client([address])
        with pytest.raises(of_client.type) as of_pool:
            ConnectionPool(address)
        assert str(of_pool.value) == str(of_client.value)

    @within(20)
    async def test_unix_socket(self):
        with memcached(unix=True) as server:
            async with pool_of(server) as pool:
                async with pool.create_connection_context() as connection:
                    assert await connection.storage_command(b"set", b"k", b"v") == STORED
                assert await values(pool, b"k") == [b"v"]


# -- commands ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_server():
    """For commands that change the whole server."""
    with memcached() as running:
        yield running


@pytest.fixture(scope="module")
def sasl_server():
    with sasl_memcached() as running:
        yield running


@pytest.fixture(params=["text", "sasl"])
def either(request):
    """The session's server, or one that speaks the binary protocol."""
    return request.getfixturevalue({"text": "server", "sasl": "sasl_server"}[request.param])


@pytest.fixture(params=["text", "sasl"])
def own(request):
    return request.getfixturevalue({"text": "own_server", "sasl": "sasl_server"}[request.param])


@contextlib.asynccontextmanager
async def checked_out(server, **options):
    async with pool_of(server, **options) as pool, pool.create_connection_context() as connection:
        yield connection


def is_reply(reply, text):
    return type(reply) is bytearray and reply == text


class TestReplies:
    """As emcache 1.3.3 gives them, seen by running it."""

    @within(20)
    async def test_storage(self, either, key):
        other = key + b":other"
        async with checked_out(either) as connection:

            async def store(*args):
                return bytes(await connection.storage_command(*args))

            assert await store(b"set", key, b"b", 7, 0, False, None) == b"STORED"
            assert await store(b"add", key, b"x", 0, 0, False, None) == b"NOT_STORED"
            assert await store(b"add", other, b"x", 0, 0, False, None) == b"STORED"
            assert await store(b"replace", other, b"y", 0, 0, False, None) == b"STORED"
            assert await store(b"append", key, b"c", 0, 0, False, None) == b"STORED"
            assert await store(b"prepend", key, b"a", 0, 0, False, None) == b"STORED"
            keys, contents, flags, cas, error = await connection.fetch_command(b"gets", [key])
            assert (keys, contents, flags, error) == ([key], [b"abc"], [7], b"")
            assert await store(b"cas", key, b"d", 2**32 - 1, 0, False, cas[0]) == b"STORED"
            assert await store(b"cas", key, b"e", 0, 0, False, cas[0]) == b"EXISTS"
            found = await connection.fetch_command(b"get", (key, other))
            assert found == ([key, other], [b"d", b"y"], [2**32 - 1, 0], [None, None], b"")
            for gone in (key, other):
                assert await connection.delete_command(gone, False) == b"DELETED"
            assert await store(b"replace", key, b"x", 0, 0, False, None) == b"NOT_STORED"
            assert await store(b"append", key, b"x", 0, 0, False, None) == b"NOT_STORED"
            assert await store(b"prepend", key, b"x", 0, 0, False, None) == b"NOT_STORED"
            assert await store(b"cas", key, b"x", 0, 0, False, 1) == b"NOT_FOUND"
            assert await store(b"cas", key, b"x", 0, 0, False, 0) == b"NOT_FOUND"

    @within(20)
    @pytest.mark.parametrize("value", [b"", b"a\r\nEND\r\n", bytearray(b"v"), memoryview(b"v")])
    async def test_any_value(self, either, key, value):
        async with checked_out(either) as connection:
            assert is_reply(await connection.storage_command(b"set", key, value), b"STORED")
            (found,) = (await connection.fetch_command(b"get", [key]))[1]
            assert type(found) is bytes
            assert found == bytes(value)

    @within(20)
    async def test_the_five_parts_of_a_retrieval(self, either, key):
        missing = key + b":missing"
        async with checked_out(either) as connection:
            await connection.storage_command(b"set", key, b"v", 5, 0, False, None)
            gets = await connection.fetch_command(b"gets", [key, missing, key])
            (token, again) = gets[3]
            assert type(token) is int
            assert token == again
            assert gets == ([key, key], [b"v", b"v"], [5, 5], [token, token], b"")
            assert [type(part) for part in gets] == [list, list, list, list, bytearray]
            hit = ([key], [b"v"], [5], [None], b"")
            with_cas = ([key], [b"v"], [5], [token], b"")
            assert await connection.fetch_command(b"get", [missing, key]) == hit
            assert await connection.get_and_touch_command(b"gat", 60, [key, missing]) == hit
            assert await connection.get_and_touch_command(b"gats", 60, [key]) == with_cas
            for miss in (
                await connection.fetch_command(b"get", [missing]),
                await connection.fetch_command(b"gets", [missing]),
                await connection.get_and_touch_command(b"gat", 0, [missing]),
                await connection.get_and_touch_command(b"gats", 0, [missing]),
            ):
                assert miss == NOTHING
            # It was touched indeed: -1 is at once.
            assert await connection.get_and_touch_command(b"gat", -1, [key]) == hit
            assert await connection.fetch_command(b"get", [key]) == NOTHING

    @within(20)
    async def test_keys_may_come_from_any_iterable(self, either, key):
        async with checked_out(either) as connection:
            await connection.storage_command(b"set", key, b"v")
            for keys in ([key], (key,), {key: 1}, iter([key])):
                assert (await connection.fetch_command(b"get", keys))[1] == [b"v"]

    @within(20)
    async def test_numbers(self, either, key):
        async with checked_out(either) as connection:
            await connection.storage_command(b"set", key, b"10")
            count = connection.incr_decr_command
            assert is_reply(await count(b"incr", key, 5, False), b"15")
            assert is_reply(await count(b"decr", key, 6, False), b"9")
            assert is_reply(await count(b"decr", key, 100, False), b"0")
            assert is_reply(await count(b"incr", key, 2**64 - 1, False), b"18446744073709551615")
            assert is_reply(await count(b"incr", key + b":missing", 1, False), b"NOT_FOUND")
            await connection.storage_command(b"set", key, b"abc")
            refused = await count(b"incr", key, 1, False)
            assert is_reply(
                refused, b"CLIENT_ERROR cannot increment or decrement non-numeric value"
            )
            assert not connection.closed()

    @within(20)
    async def test_touch_and_delete(self, either, key):
        async with checked_out(either) as connection:
            await connection.storage_command(b"set", key, b"v")
            assert is_reply(await connection.touch_command(key, 60, False), b"TOUCHED")
            assert is_reply(await connection.delete_command(key, False), b"DELETED")
            assert is_reply(await connection.touch_command(key, 60, False), b"NOT_FOUND")
            assert is_reply(await connection.delete_command(key, False), b"NOT_FOUND")

    @within(20)
    async def test_of_the_server(self, own):
        async with checked_out(own) as connection:
            version = await connection.version_command()
            assert type(version) is bytearray
            assert version.startswith(b"VERSION 1.")
            if not own.login:  # memcached has neither in the binary protocol
                assert is_reply(await connection.verbosity_command(0, False), b"OK")
                assert is_reply(await connection.cache_memlimit_command(64, False), b"OK")
                small = await connection.cache_memlimit_command(1, False)
                assert is_reply(small, b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m")
            await connection.storage_command(b"set", b"k", b"v")
            assert is_reply(await connection.flush_all_command(100, False), b"OK")
            assert (await connection.fetch_command(b"get", [b"k"]))[1] == [b"v"]
            assert is_reply(await connection.flush_all_command(0, False), b"OK")
            assert await connection.fetch_command(b"get", [b"k"]) == NOTHING

    @within(20)
    async def test_stats(self, own):
        async with checked_out(own) as connection:
            lines = (await connection.stats_command()).split(b"\r\n")
            assert lines.pop() == b"END"
            assert all(line.startswith(b"STAT ") for line in lines)
            pid = b"STAT pid %d" % own.process.pid
            assert pid in lines
            settings = await connection.stats_command("settings")
            assert b"STAT maxbytes " in settings
            sizes = await connection.stats_command("sizes")
            assert is_reply(sizes, b"STAT sizes_status disabled\r\nEND")
            assert is_reply(await connection.stats_command("detail", "on"), b"OK")
            await connection.fetch_command(b"get", [b"prefix:k"])
            dump = await connection.stats_command("detail", "dump")
            assert dump.startswith(b"PREFIX prefix get 1 ")
            assert dump.endswith(b"\r\nEND")
            assert is_reply(await connection.stats_command("detail", "off"), b"OK")
            assert is_reply(await connection.stats_command("reset"), b"RESET")
            unknown = await connection.stats_command("detail", "nonsense")
            assert unknown.startswith(b"CLIENT_ERROR ")
            assert not connection.closed()

    @within(20)
    async def test_noreply(self, own):
        async with checked_out(own) as connection:

            async def content(key):
                return b"".join((await connection.fetch_command(b"get", [key]))[1])

            store = connection.storage_command
            for args, left in (
                ((b"set", b"nr", b"b"), b"b"),
                ((b"add", b"nr", b"x"), b"b"),
                ((b"append", b"nr", b"c"), b"bc"),
                ((b"prepend", b"nr", b"a"), b"abc"),
                ((b"replace", b"nr", b"1"), b"1"),
            ):
                for noreply in (True, 1):
                    assert await store(b"set", b"nr:other", b"", 0, 0, noreply, None) is None
                assert await store(*args, 0, 0, True, None) is None
                assert await content(b"nr") == left
            token = (await connection.fetch_command(b"gets", [b"nr"]))[3][0]
            assert await store(b"cas", b"nr", b"5", 0, 0, True, token) is None
            assert await connection.incr_decr_command(b"incr", b"nr", 3, True) is None
            assert await connection.incr_decr_command(b"decr", b"nr", 1, True) is None
            assert await content(b"nr") == b"7"
            assert await connection.incr_decr_command(b"incr", b"nr:missing", 3, True) is None
            assert await connection.touch_command(b"nr", 60, True) is None
            assert await connection.verbosity_command(0, True) is None
            if not own.login:
                assert await connection.cache_memlimit_command(64, True) is None
                assert await connection.cache_memlimit_command(1, True) is None
            assert await content(b"nr") == b"7"
            assert await connection.delete_command(b"nr", True) is None
            assert await content(b"nr") == b""
            await store(b"set", b"nr", b"v")
            assert await connection.flush_all_command(0, True) is None
            assert await content(b"nr") == b""

    @within(20)
    async def test_what_nobody_waits_for_is_not_lost(self, either, key):
        """The connection is given back, and the pool closed, right after it."""
        keys = [key + b":%d" % number for number in range(300)]
        async with pool_of(either) as pool, pool.create_connection_context() as connection:
            for each in keys:
                await connection.storage_command(b"set", each, each, noreply=True)
        async with pool_of(either) as pool:
            # It reads them when it comes to it.
            async with asyncio.timeout(2):
                while await values(pool, *keys) != keys:
                    await asyncio.sleep(0.01)

    @within(20)
    @pytest.mark.parametrize("count", [1, 300])
    async def test_what_nobody_waits_for_is_not_lost_with_a_dropped_pool(self, server, key, count):
        """As those use it who make a pool for each call."""
        keys = [key + b":%d" % number for number in range(count)]

        async def once():
            pool = ConnectionPool(server.address)
            async with pool.create_connection_context() as connection:
                for each in keys:
                    await connection.storage_command(b"set", each, each, noreply=True)

        with pytest.warns(ResourceWarning, match="unclosed"):
            await once()
        async with pool_of(server) as pool:
            async with asyncio.timeout(2):
                while await values(pool, *keys) != keys:
                    await asyncio.sleep(0.01)

    @within(20)
    async def test_autodiscovery_of_a_plain_server(self, server):
        async with checked_out(server) as connection:
            assert await connection.autodiscovery() == (False, -1, [])
            assert (await connection.version_command()).startswith(b"VERSION ")

    @within(20)
    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            (
                b"CONFIG cluster 0 %d\r\n%b\r\nEND\r\n"
                % (len(nodes := b"12\na.example|10.0.0.1|11211 b.example||11212\n"), nodes),
                (True, 12, [("a.example", "10.0.0.1", 11211), ("b.example", "", 11212)]),
            ),
            (
                b"CONFIG cluster 0 %d\r\n%b\r\nEND\r\n"
                % (len(nodes := b"1\nhost|10.0.0.1|11211\n\r\n"), nodes),
                (True, 1, [("host", "10.0.0.1", 11211)]),
            ),
            (b"CONFIG cluster 0 2\r\n1\n\r\nEND\r\n", (True, 1, [])),
            (b"END\r\n", (False, -1, [])),
            (b"ERROR\r\n", (False, -1, [])),
            (b"CLIENT_ERROR no\r\n", (False, -1, [])),
            (b"SERVER_ERROR no config\r\n", (False, -1, [])),
            (b"CONFIG cluster 0 5\r\nhello\r\nEND\r\n", (False, -1, [])),
            (b"CONFIG cluster 0 4\r\n1\na|\r\nEND\r\n", (False, -1, [])),
            (b"CONFIG cluster 0 2\r\n\xff\n\r\nEND\r\n", (False, -1, [])),
        ],
    )
    @pytest.mark.parametrize("pieces", ["whole", "bytes"])
    async def test_autodiscovery(self, reply, expected, pieces):
        async def script(connection):
            while await connection.line() == b"config get cluster":
                sent = [reply] if pieces == "whole" else [bytes([byte]) for byte in reply]
                await connection.send(*sent)
            await connection.send(b"VERSION 1\r\n")

        async with scripted(script) as server, checked_out(server) as connection:
            assert await connection.autodiscovery() == expected
            assert await connection.autodiscovery() == expected
            assert is_reply(await connection.version_command(), b"VERSION 1")

    @within(20)
    async def test_auth(self):
        heard = []

        async def script(connection):
            words, credentials = await connection.command()
            if words == [b""]:
                # The connection that took the place of the refused one.
                return
            heard.append((words, credentials))
            if credentials == b"user pass word":
                await connection.send(b"STORED\r\n")
                heard.append(await connection.line())
                await connection.send(b"VERSION 1\r\n")
            else:
                await connection.send(b"CLIENT_ERROR authentication failure\r\n")

        async with scripted(script) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                assert is_reply(await connection.auth_command("user", "pass word"), b"STORED")
                assert is_reply(await connection.version_command(), b"VERSION 1")
                connection.close()
            async with pool.create_connection_context() as connection:
                refused = await connection.auth_command("user", "w")
                assert is_reply(refused, b"CLIENT_ERROR authentication failure")
        assert heard == [
            ([b"set", b"_", b"_", b"_", b"14"], b"user pass word"),
            b"version",
            ([b"set", b"_", b"_", b"_", b"6"], b"user w"),
        ]

    @within(20)
    async def test_auth_of_a_server_that_wants_none(self, server):
        async with pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                # 1.3.3 adds the answer to the value, which the server takes for a command.
                refused = await connection.auth_command("user", "password")
                assert is_reply(refused, b"CLIENT_ERROR bad command line format")
                await until(connection.closed)
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.version_command()
            async with pool.create_connection_context() as connection:
                assert (await connection.version_command()).startswith(b"VERSION ")

    @within(20)
    async def test_two_tasks_on_one_connection(self, either, key):
        """Not what a checkout is for, but each gets its own."""
        keys = [key + b":%d" % number for number in range(50)]
        async with checked_out(either) as connection:
            await asyncio.gather(
                *(connection.storage_command(b"set", each, value_of(each)) for each in keys)
            )
            found = await asyncio.gather(
                *(connection.fetch_command(b"get", [each]) for each in keys),
                connection.version_command(),
            )
            assert found.pop().startswith(b"VERSION ")
            assert [parts[1] for parts in found] == [[value_of(each)] for each in keys]


class TestManyKeys:
    KEYS = [b"many:%05d:%s" % (number, b"x" * (number % 40)) for number in range(5000)]

    @within(30)
    async def test_thousands(self, own):
        there = [key for number, key in enumerate(self.KEYS) if number % 3]
        async with checked_out(own) as connection:
            for key in there:
                await connection.storage_command(b"set", key, key, 3, 0, True, None)
            got = await connection.fetch_command(b"get", self.KEYS)
            assert got == (there, there, [3] * len(there), [None] * len(there), b"")
            got = await connection.get_and_touch_command(b"gats", 0, iter(self.KEYS))
            assert got[:3] == (there, there, [3] * len(there))
            assert len(set(got[3])) == len(there)
            await connection.flush_all_command(0, False)
            assert await connection.fetch_command(b"gets", self.KEYS) == NOTHING

    @within(20)
    @pytest.mark.parametrize("length", [1, 249, 250])
    async def test_lines_that_every_server_takes(self, length):
        watched = Watched()
        keys = [b"%0*d" % (length, n % 10) for n in range(9000 if length == 1 else 300)]
        async with scripted(watched) as server, checked_out(server) as connection:
            assert (await connection.fetch_command(b"get", keys))[0] == keys
            got = await connection.get_and_touch_command(b"gats", -(2**31), keys)
            assert got[1] == [value_of(key) for key in keys]
        assert max(len(b" ".join(words)) for words in watched.commands) <= 1000 - 2

    @within(20)
    async def test_an_error_among_them(self):
        bad = self.KEYS[2000]

        def answers(words):
            return b"SERVER_ERROR busy\r\n" if bad in words else reply_to(words)

        async with scripted(Watched(answers)) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                with pytest.raises(emcache.ConnectionFailedError, match="error in the reply"):
                    await connection.fetch_command(b"get", self.KEYS)
                assert connection.closed()
            assert await values(pool, b"k") == [value_of(b"k")]

    @within(20)
    async def test_a_lost_connection_among_them(self, caplog):
        keys = [*self.KEYS[:2000], b"die", *self.KEYS[2000:]]
        async with scripted(Closing()) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.fetch_command(b"get", keys)
            await right(pool)
        gc.collect()
        assert caplog.records == []


# -- validation ----------------------------------------------------------------------------------

BAD_KEYS = [b"", b"a b", b"a\r\nflush_all\r\n", b"a\n", b"a\0", b"k" * 251, b"a\x7f"]
NO_KEYS = ["key", bytearray(b"key"), None, 1]
BY_KEY = {
    "get": lambda c, key: c.fetch_command(b"get", [key]),
    "gets": lambda c, key: c.fetch_command(b"gets", [b"good", key]),
    "gat": lambda c, key: c.get_and_touch_command(b"gat", 1, [key, b"good"]),
    "gats": lambda c, key: c.get_and_touch_command(b"gats", 1, [key]),
    "set": lambda c, key: c.storage_command(b"set", key, b"flush_all", 0, 0, False, None),
    "set noreply": lambda c, key: c.storage_command(b"set", key, b"flush_all", 0, 0, True, None),
    "add": lambda c, key: c.storage_command(b"add", key, b"flush_all"),
    "replace": lambda c, key: c.storage_command(b"replace", key, b"flush_all"),
    "append": lambda c, key: c.storage_command(b"append", key, b"flush_all"),
    "prepend": lambda c, key: c.storage_command(b"prepend", key, b"flush_all"),
    "cas": lambda c, key: c.storage_command(b"cas", key, b"flush_all", 0, 0, False, 1),
    "incr": lambda c, key: c.incr_decr_command(b"incr", key, 1, False),
    "decr": lambda c, key: c.incr_decr_command(b"decr", key, 1, True),
    "touch": lambda c, key: c.touch_command(key, 1, False),
    "touch noreply": lambda c, key: c.touch_command(key, 1, True),
    "delete": lambda c, key: c.delete_command(key, False),
    "delete noreply": lambda c, key: c.delete_command(key, True),
}
U32 = (0, 2**32 - 1)
I32 = (-(2**31), 2**31 - 1)
U64 = (0, 2**64 - 1)
BY_NUMBER = {
    "flags": (U32, lambda c, n: c.storage_command(b"set", b"k", b"v", n, 0, False, None)),
    "exptime": (I32, lambda c, n: c.storage_command(b"set", b"k", b"v", 0, n, True, None)),
    "cas": (U64, lambda c, n: c.storage_command(b"cas", b"k", b"v", 0, 0, False, n)),
    "incr": (U64, lambda c, n: c.incr_decr_command(b"incr", b"k", n, False)),
    "decr": (U64, lambda c, n: c.incr_decr_command(b"decr", b"k", n, True)),
    "touch": (I32, lambda c, n: c.touch_command(b"k", n, False)),
    "gat": (I32, lambda c, n: c.get_and_touch_command(b"gat", n, [b"k"])),
    "gats": (I32, lambda c, n: c.get_and_touch_command(b"gats", n, [b"k"])),
    "flush_all": (U32, lambda c, n: c.flush_all_command(n, False)),
    "verbosity": (U32, lambda c, n: c.verbosity_command(n, False)),
    "cache_memlimit": (U32, lambda c, n: c.cache_memlimit_command(n, True)),
}
NO_COMMANDS = [
    b"",
    b"GET",
    b"get ",
    b"get k\r\nflush_all",
    b"flush_all",
    b"version",
    "get",
    "set",
    None,
    1,
]
BY_COMMAND = {
    "fetch": lambda c, name: c.fetch_command(name, [b"k"]),
    "get_and_touch": lambda c, name: c.get_and_touch_command(name, 0, [b"k"]),
    "storage": lambda c, name: c.storage_command(name, b"k", b"v", 0, 0, False, None),
    "incr_decr": lambda c, name: c.incr_decr_command(name, b"k", 1, False),
}
# Commands of one method that are none of another's.
OF_OTHERS = {
    "fetch": [b"gat", b"gats", b"set", b"incr"],
    "get_and_touch": [b"get", b"gets", b"touch"],
    "storage": [b"get", b"gets", b"incr", b"meta"],
    "incr_decr": [b"get", b"set", b"touch"],
}


class TestValidation:
    """Nothing of a refused command reaches the server."""

    @contextlib.asynccontextmanager
    async def connection(self):
        watched = Watched()
        async with scripted(watched) as server, checked_out(server) as connection:
            yield connection
            # All that was sent before it has been read when it is answered.
            await connection.version_command()
            assert watched.commands == [[b"version"]]
            assert not connection.closed()

    @within(20)
    @pytest.mark.parametrize("call", BY_KEY.values(), ids=BY_KEY)
    async def test_bad_key(self, call):
        async with self.connection() as connection:
            for key in BAD_KEYS:
                with pytest.raises(emcache.InvalidKeyError):
                    await call(connection, key)
            for key in NO_KEYS:
                with pytest.raises(TypeError):
                    await call(connection, key)

    @within(20)
    @pytest.mark.parametrize("position", [0, 2500, 4999])
    async def test_bad_key_among_thousands(self, position):
        keys = list(TestManyKeys.KEYS)
        async with self.connection() as connection:
            for bad, error in ((b"a b", ValueError), (b"", ValueError), ("str", TypeError)):
                keys[position] = bad
                with pytest.raises(error):
                    await connection.fetch_command(b"get", keys)
                with pytest.raises(error):
                    await connection.get_and_touch_command(b"gat", 1, keys)
            keys[position] = 1
            with pytest.raises(TypeError):
                await connection.fetch_command(b"get", keys)

    @within(20)
    async def test_no_keys(self):
        async with self.connection() as connection:
            for keys, error in (
                ([], ValueError),
                (iter([]), ValueError),
                (b"key", TypeError),
                ("key", TypeError),
                (None, TypeError),
                (1, TypeError),
            ):
                with pytest.raises(error):
                    await connection.fetch_command(b"get", keys)
                with pytest.raises(error):
                    await connection.get_and_touch_command(b"gat", 0, keys)

    @within(20)
    @pytest.mark.parametrize(("limits", "call"), BY_NUMBER.values(), ids=BY_NUMBER)
    async def test_bad_number(self, limits, call):
        low, high = limits
        async with self.connection() as connection:
            for number in (low - 1, high + 1, 2**64, -(2**63) - 1, 10**400):
                with pytest.raises(ValueError, match=f"between {low} and {high}"):
                    await call(connection, number)
            for number in (None, True, 1.0, "1", b"1", "0 0 9\r\nflush_all\r\n"):
                with pytest.raises(TypeError):
                    await call(connection, number)

    @within(20)
    @pytest.mark.parametrize("name", BY_COMMAND)
    async def test_unknown_command(self, name):
        async with self.connection() as connection:
            for command in NO_COMMANDS + OF_OTHERS[name]:
                with pytest.raises((ValueError, TypeError)):
                    await BY_COMMAND[name](connection, command)

    @within(20)
    async def test_cas_and_its_token_go_together(self):
        async with self.connection() as connection:
            with pytest.raises((ValueError, TypeError)):
                await connection.storage_command(b"cas", b"k", b"v", 0, 0, False, None)
            with pytest.raises((ValueError, TypeError)):
                await connection.storage_command(b"cas", b"k", b"v")
            for command in (b"set", b"add", b"replace", b"append", b"prepend"):
                with pytest.raises(ValueError):
                    await connection.storage_command(command, b"k", b"v", 0, 0, False, 5)

    @within(20)
    @pytest.mark.parametrize("value", ["str", None, 1, [b"v"]], ids=repr)
    async def test_no_value(self, value):
        async with self.connection() as connection:
            with pytest.raises(TypeError):
                await connection.storage_command(b"set", b"k", value, 0, 0, False, None)

    @within(20)
    async def test_stats_arguments(self):
        async with self.connection() as connection:
            for args in (
                ("x\r\nflush_all",),
                ("settings\n",),
                ("a\tb",),
                ("a\0",),
                ("é",),
                ("\udc80",),
                ("a" * 251,),
                ("a", "", "b"),
                ("settings", "x\r\nflush_all\r\n"),
            ):
                with pytest.raises(ValueError):
                    await connection.stats_command(*args)
            for arg in (b"settings", 1, None):
                with pytest.raises(TypeError):
                    await connection.stats_command(arg)

    @within(20)
    @pytest.mark.parametrize(
        ("user", "password"),
        [
            ("user\r\nflush_all", "password"),
            ("user", "password\r\nflush_all"),
            ("user\nflush_all", "password"),
            (b"user", b"password"),
            (None, None),
            ("\udc80", "password"),
        ],
        ids=ascii,
    )
    async def test_credentials(self, user, password):
        """A server that wants no login takes the line with them for a command."""
        async with self.connection() as connection:
            with pytest.raises((ValueError, TypeError)):
                await connection.auth_command(user, password)


# -- checkouts -----------------------------------------------------------------------------------


class TestCheckouts:
    @within(20)
    @pytest.mark.parametrize(("low", "high"), [(0, 5), (1, 5), (3, 5), (5, 5)])
    async def test_the_minimum_is_opened_at_once(self, low, high):
        watched = Watched()
        async with scripted(watched) as server:
            async with pool_of(server, min_connections=low, max_connections=high) as pool:
                await until(lambda: pool.total_connections == low)
                await until(lambda: watched.open == low)
                await right(pool)
                assert watched.most_open == pool.total_connections == max(low, 1)
            await until(lambda: watched.open == 0)

    @within(30)
    async def test_never_more_than_the_maximum(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server, max_connections=5) as pool:

            async def work(name):
                for number in range(10):
                    key = b"%d:%d" % (name, number)
                    async with pool.create_connection_context() as connection:
                        assert pool.metrics().connections_checked_out <= 5
                        for _ in range(2):
                            found = await connection.fetch_command(b"get", [key])
                            assert found[1] == [value_of(key)]

            await asyncio.gather(*(work(name) for name in range(40)))
            assert watched.most_open <= 5
            assert server.accepted == watched.most_open == pool.total_connections
            await whole(pool, pool.total_connections)

    @within(20)
    async def test_as_many_as_the_maximum_are_held_at_once(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server, max_connections=5) as pool:
            async with contextlib.AsyncExitStack() as stack:
                for number in range(5):
                    assert pool.metrics().connections_checked_out == number
                    await stack.enter_async_context(pool.create_connection_context())
                assert pool.metrics().connections_checked_out == 5
                await until(lambda: watched.open == 5)
                waiter = asyncio.create_task(enter(pool))
                await asyncio.sleep(0.05)
                assert not waiter.done()
            await waiter
            assert server.accepted == 5
            await whole(pool, 5)

    @within(20)
    async def test_a_connection_is_its_holders_alone(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server, max_connections=3) as pool:

            async def work(name):
                for number in range(5):
                    async with pool.create_connection_context() as connection:
                        for part in range(4):
                            key = b"%d:%d" % (name, number)
                            found = await connection.fetch_command(b"get", [key])
                            assert found[1] == [value_of(key)]
                            await asyncio.sleep(0.001 if part == 1 else 0)

            await asyncio.gather(*(work(name) for name in range(12)))
        for heard in watched.heard:
            keys = [words[1] for words in heard]
            # Four in a row of each holder.
            assert keys == [key for key in keys[::4] for _ in range(4)]
        assert len(watched.commands) == 12 * 5 * 4

    @within(20)
    async def test_first_come_first_served(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            order = []

            async def work(name):
                async with pool.create_connection_context() as connection:
                    order.append(name)
                    await connection.version_command()

            async with pool.create_connection_context():
                tasks = []
                for name in range(50):
                    tasks.append(asyncio.create_task(work(name)))
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            assert order == list(range(50))

    @within(20)
    async def test_first_come_first_served_but_those_who_went_away(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            entered = []
            async with pool.create_connection_context():
                tasks = [asyncio.create_task(enter(pool, entered)) for _ in range(50)]
                await asyncio.sleep(0.01)
                for task in tasks[::3]:
                    task.cancel()
            results = await outcomes(*tasks)
            assert {type(result) for result in results[::3]} == {asyncio.CancelledError}
            assert entered == [task for n, task in enumerate(tasks) if n % 3]
            await right(pool)
            await whole(pool)

    @within(20)
    async def test_the_same_connection_again(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server, max_connections=10) as pool:
            await right(pool, 20)
            assert server.accepted == 1
            await whole(pool)

    @within(20)
    async def test_the_same_connection_after_a_while(self):
        """It is looked at first, as the server may have closed it; that is no need for another."""
        async with scripted(Watched()) as server, pool_of(server, max_connections=10) as pool:
            await right(pool)
            await asyncio.sleep(1)
            await right(pool)
            await asyncio.sleep(0.05)
            assert server.accepted == 1
            await whole(pool)

    @within(20)
    async def test_a_connection_that_was_closed_while_nobody_held_it(self):
        """Servers close idle connections: the next holder gets one that works."""

        class OneCommandEach(Watched):
            async def reply(self, connection, words):
                await super().reply(connection, words)
                connection.close()

        async with scripted(OneCommandEach()) as server, pool_of(server) as pool:
            for number in range(3):
                await right(pool, 1)
                await until(lambda done=number: pool.metrics().connections_closed > done)

    @within(20)
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
    async def test_an_exception_in_the_context(self, error):
        async with scripted(Watched()) as server, pool_of(server) as pool:

            async def fail():
                async with pool.create_connection_context() as connection:
                    await connection.version_command()
                    raise error

            for _ in range(5):
                with pytest.raises(error):
                    await fail()
                assert pool.metrics().connections_checked_out == 0
                await right(pool)
            await whole(pool)

    @within(20)
    async def test_entering_a_context_twice(self):
        async with scripted(Watched()) as server, pool_of(server, max_connections=2) as pool:
            context = pool.create_connection_context()
            async with context as connection:
                with pytest.raises(RuntimeError):
                    await context.__aenter__()
                await connection.version_command()
            with pytest.raises(RuntimeError):
                await context.__aenter__()
            await whole(pool)

    @within(20)
    async def test_entering_a_context_twice_at_once(self):
        """The second would take the first's connection from under its hands."""
        async with scripted(Watched()) as server, pool_of(server, max_connections=2) as pool:
            context = pool.create_connection_context()
            results = await outcomes(context.__aenter__(), context.__aenter__())
            assert [type(result) for result in results].count(RuntimeError) == 1
            await context.__aexit__(None, None, None)
            del results
            gc.collect()
            await until(lambda: pool.metrics().connections_checked_out == 0)

    @within(20)
    async def test_a_context_that_is_never_entered(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            context = pool.create_connection_context()
            await context.__aexit__(None, None, None)
            await right(pool)
            await whole(pool)

    @within(20)
    async def test_a_connection_that_is_dropped_without_leaving(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            for _ in range(3):
                context = pool.create_connection_context()
                connection = await context.__aenter__()
                await connection.version_command()
                assert pool.metrics().connections_checked_out == 1
                waiter = asyncio.create_task(enter(pool))
                await asyncio.sleep(0)
                del context, connection
                await waiter
                await right(pool)
            await whole(pool)

    @within(20)
    async def test_use_after_leaving(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                assert not connection.closed()
            assert connection.closed()
            calls = [call(connection, b"k") for call in BY_KEY.values()]
            calls += [call(connection, 1) for _, call in BY_NUMBER.values()]
            calls += [
                connection.version_command(),
                connection.stats_command(),
                connection.autodiscovery(),
                connection.auth_command("user", "password"),
            ]
            for call in calls:
                with pytest.raises(RuntimeError, match="returned to its pool"):
                    await call
            # It is not the former holder's to close, nor to give back once more.
            async with pool.create_connection_context() as next_connection:
                connection.close()
                assert not next_connection.closed()
                await next_connection.version_command()
            assert watched.commands == [[b"version"]]
            await whole(pool)

    @within(20)
    async def test_leaving_with_commands_under_way(self):
        gated = Gated()
        async with scripted(gated) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                tasks = [
                    asyncio.create_task(connection.fetch_command(b"get", [b"k%d" % n]))
                    for n in range(5)
                ]
                await until(lambda: gated.commands)
            following = asyncio.create_task(values(pool, b"next"))
            await asyncio.sleep(0.01)
            gated.gate.set()
            assert await following == [value_of(b"next")]
            found = await asyncio.gather(*tasks)
            assert [parts[1] for parts in found] == [[value_of(b"k%d" % n)] for n in range(5)]
            await whole(pool)


UNDER_WAY = {
    "get": lambda c: c.fetch_command(b"get", [b"a", b"b"]),
    "gats": lambda c: c.get_and_touch_command(b"gats", 0, [b"a"]),
    "thousands": lambda c: c.fetch_command(b"get", TestManyKeys.KEYS),
    "set": lambda c: c.storage_command(b"set", b"a", b"END\r\n", 0, 0, False, None),
    "incr": lambda c: c.incr_decr_command(b"incr", b"a", 1, False),
    "touch": lambda c: c.touch_command(b"a", 0, False),
    "delete": lambda c: c.delete_command(b"a", False),
    "version": lambda c: c.version_command(),
    "stats": lambda c: c.stats_command(),
    "flush_all": lambda c: c.flush_all_command(0, False),
}


class TestCancellation:
    @within(20)
    async def test_while_waiting(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                for delay in (0, 0.01):
                    waiter = asyncio.create_task(enter(pool))
                    await asyncio.sleep(delay)
                    waiter.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiter
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await enter(pool)
                await connection.version_command()
            await right(pool)
            await whole(pool)

    @within(20)
    async def test_before_the_first_connection(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            # An eager task would begin one iteration earlier and find a connection under uvloop.
            waiter = asyncio.Task(enter(pool))
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await right(pool)
            await whole(pool)

    @within(20)
    @pytest.mark.parametrize("others", [0, 1], ids=["alone", "another waits"])
    async def test_in_the_iteration_of_the_grant(self, others):
        """Whatever comes first, the cancellation or the connection, it is given back."""
        async with scripted(Watched()) as server, pool_of(server) as pool:
            granted = 0
            for steps in range(8):
                for pause in (0, 0.0005):
                    entered: list[object] = []
                    async with pool.create_connection_context():
                        tasks = [
                            asyncio.create_task(enter(pool, entered)) for _ in range(others + 1)
                        ]
                        await asyncio.sleep(0.001)
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    if pause:
                        await asyncio.sleep(pause)
                    tasks[0].cancel()
                    results = await outcomes(*tasks)
                    granted += not isinstance(results[0], asyncio.CancelledError)
                    assert not any(isinstance(result, Exception) for result in results)
                    await right(pool, 1)
            del results, tasks, entered
            await whole(pool)
            assert granted < 16

    @within(20)
    async def test_by_who_leaves(self):
        """The waiter is cancelled by the very step that gives it the connection."""
        async with scripted(Watched()) as server, pool_of(server) as pool:
            for after in (False, True):
                async with pool.create_connection_context():
                    waiter = asyncio.create_task(enter(pool))
                    await asyncio.sleep(0.001)
                    if not after:
                        waiter.cancel()
                if after:
                    waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
                await right(pool)
            await whole(pool)

    @within(20)
    @pytest.mark.parametrize("call", UNDER_WAY.values(), ids=UNDER_WAY)
    async def test_of_a_command_under_way(self, call):
        gated = Gated()
        async with scripted(gated) as server, pool_of(server) as pool:

            async def work():
                async with pool.create_connection_context() as connection:
                    await call(connection)

            task = asyncio.create_task(work())
            await until(lambda: gated.commands)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.metrics().connections_checked_out == 0
            following = [asyncio.create_task(values(pool, b"next:%d" % n)) for n in range(3)]
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in following)
            gated.gate.set()
            assert await asyncio.gather(*following) == [
                [value_of(b"next:%d" % n)] for n in range(3)
            ]
            await whole(pool)

    @within(20)
    async def test_in_the_iteration_of_the_reply(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:

            async def work():
                async with pool.create_connection_context() as connection:
                    await connection.fetch_command(b"get", [b"a"])

            for steps in range(25):
                task = asyncio.create_task(work())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await outcomes(task)
                await right(pool, 1)
            await whole(pool)

    @within(20)
    async def test_another_connection_for_who_comes_next(self):
        """Where there may be more, nobody waits behind an answer that does not come."""
        gated = Gated()
        async with scripted(gated) as server, pool_of(server, max_connections=2) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), pool.create_connection_context() as connection:
                    await connection.version_command()
            async with asyncio.timeout(10), pool.create_connection_context():
                await until(lambda: server.accepted == 2)
                gated.gate.set()
            await until(lambda: pool.metrics().requests_in_flight == 0)
            await right(pool)
            await whole(pool, 2)


class TestAllAtOnce:
    """Holders that finish, fail, are cancelled or time out, on a network that takes its time."""

    @within(40)
    @pytest.mark.parametrize("seed", range(3))
    async def test_chaos(self, server, key, seed):
        rng = random.Random(seed)
        keys = [key + b":%d" % number for number in range(50)]

        async def hold_one(pool, how):
            async with pool.create_connection_context() as connection:
                for _ in range(rng.randrange(1, 4)):
                    some = rng.sample(keys, rng.randrange(1, 5))
                    match how:
                        case "several":
                            both = await asyncio.gather(
                                connection.fetch_command(b"get", some),
                                connection.get_and_touch_command(b"gat", 0, some),
                            )
                            assert both[0] == both[1]
                        case "count":
                            counted = await connection.incr_decr_command(b"incr", some[0], 1, False)
                            assert counted.startswith(b"CLIENT_ERROR cannot increment")
                        case "noreply":
                            await connection.storage_command(
                                b"set", some[0], value_of(some[0]), noreply=True
                            )
                    found = await connection.fetch_command(b"get", some)
                    assert found[0] == some
                    assert found[1] == [value_of(each) for each in some]
                if how == "error":
                    raise KeyError
                if how == "close":
                    connection.close()

        async def impatient(pool):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.random() * 0.1):
                    await hold_one(pool, "several")

        async with (
            slow_proxy(server.port, rng, 0.0) as proxy,
            pool_of(proxy, max_connections=3) as pool,
        ):
            async with pool.create_connection_context() as connection:
                for each in keys:
                    await connection.storage_command(b"set", each, value_of(each))
            proxy.longest = 0.003
            ways = ["plain", "several", "count", "noreply", "error", "close", "cancel", "late"]
            tasks = []
            for _ in range(150):
                how = rng.choice(ways)
                call = impatient(pool) if how == "late" else hold_one(pool, how)
                tasks.append((how, asyncio.create_task(call)))
                if how == "cancel":
                    delay = rng.random() * 0.3
                    asyncio.get_running_loop().call_later(delay, tasks[-1][1].cancel)
                if rng.random() < 0.2:
                    await asyncio.sleep(0.005)
            for (how, _), result in zip(
                tasks, await outcomes(*(task for _, task in tasks)), strict=True
            ):
                wanted = {"error": KeyError, "cancel": asyncio.CancelledError}.get(how)
                assert result is None or type(result) is wanted, (how, result)
            assert pool.metrics().connections_checked_out == 0
            assert pool.metrics().requests_queued == 0
            await until(lambda: pool.metrics().requests_in_flight == 0)
            metrics = pool.metrics()
            assert metrics.connections_closed == sum(how == "close" for how, _ in tasks)
            assert metrics.cur_connections <= 3
            await until(lambda: proxy.accepted == metrics.connections_created)
            await hold_one(pool, "plain")


# -- trouble -------------------------------------------------------------------------------------


class TestServerErrors:
    @within(20)
    @pytest.mark.parametrize(
        "line", [b"SERVER_ERROR out of memory", b"ERROR", b"CLIENT_ERROR bad"], ids=bytes.decode
    )
    async def test_as_replies(self, line):
        def answers(words):
            return reply_to(words) if b"good" in words else line + b"\r\n"

        async with scripted(Watched(answers)) as server, pool_of(server) as pool:
            calls = {
                "delete": lambda c: c.delete_command(b"k", False),
                "incr": lambda c: c.incr_decr_command(b"incr", b"k", 1, False),
                "touch": lambda c: c.touch_command(b"k", 0, False),
                "flush_all": lambda c: c.flush_all_command(0, False),
                "version": lambda c: c.version_command(),
                "stats": lambda c: c.stats_command(),
                "verbosity": lambda c: c.verbosity_command(1, False),
                "cache_memlimit": lambda c: c.cache_memlimit_command(64, False),
            }
            if line.startswith(b"SERVER_ERROR"):
                # Of another kind the value may have been taken for commands: see below.
                calls["set"] = lambda c: c.storage_command(b"set", b"k", b"v")
            async with pool.create_connection_context() as connection:
                for call in calls.values():
                    assert is_reply(await call(connection), line)
                got = await connection.get_and_touch_command(b"gats", 0, [b"k"])
                assert got == ([], [], [], [], line)
                assert not connection.closed()
                got = await connection.fetch_command(b"get", [b"k", b"l"])
                assert got == ([], [], [], [], line)
                assert type(got[4]) is bytearray
                # A proxy may go on after the error line, so nobody knows where the answer ends.
                await until(connection.closed)
            assert await values(pool, b"good") == [value_of(b"good")]

    @within(20)
    async def test_after_some_items(self):
        def answers(words):
            return item(b"a") + b"SERVER_ERROR out of memory\r\n"

        async with scripted(Watched(answers)) as server, checked_out(server) as connection:
            got = await connection.fetch_command(b"get", [b"a", b"b"])
            assert got == ([b"a"], [value_of(b"a")], [0], [None], b"SERVER_ERROR out of memory")

    @within(20)
    @pytest.mark.parametrize("line", [b"CLIENT_ERROR bad command line format", b"ERROR"])
    async def test_a_storage_command_refused_by_its_head(self, line):
        def answers(words):
            # Twice: for the head, and for the value taken for a command.
            return (line + b"\r\n") * 2 if words[0] == b"set" else reply_to(words)

        async with scripted(Watched(answers)) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                assert is_reply(await connection.storage_command(b"set", b"k", b"v"), line)
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.fetch_command(b"get", [b"k"])
            await right(pool)


class TestConnectionLoss:
    @within(20)
    @pytest.mark.parametrize(
        "call",
        [
            lambda c: c.fetch_command(b"get", [b"die"]),
            lambda c: c.storage_command(b"set", b"die", b"v"),
            lambda c: c.delete_command(b"die", False),
            lambda c: c.incr_decr_command(b"incr", b"die", 1, False),
            lambda c: c.stats_command("die"),
        ],
        ids=["get", "set", "delete", "incr", "stats"],
    )
    async def test_before_the_reply(self, call):
        closing = Closing()
        async with scripted(closing) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                await connection.version_command()
                with pytest.raises(emcache.ConnectionFailedError) as caught:
                    await call(connection)
                assert caught.value.node == f"127.0.0.1:{server.port}"
                assert isinstance(caught.value, ConnectionError)
                assert isinstance(caught.value, TimeoutError)
                assert connection.closed()
                # It does not come back for its holder, and a get is not asked again elsewhere.
                await until(lambda: server.accepted == 2)
                for again in (call, UNDER_WAY["get"], UNDER_WAY["set"], UNDER_WAY["version"]):
                    with pytest.raises(emcache.ConnectionFailedError):
                        await again(connection)
                assert connection.closed()
                connection.close()
            await right(pool)
            assert len(closing.heard[0]) == 2
            assert pool.total_connections == 1
            assert pool.metrics().connections_checked_out == 0
            assert pool.metrics().connections_closed == 1

    @within(20)
    @pytest.mark.parametrize("how", ["close", "reset"])
    async def test_while_idle(self, how):
        ended = asyncio.Event()

        class Ending(Watched):
            async def reply(self, connection, words):
                await super().reply(connection, words)
                if connection.number == 0:
                    await ended.wait()
                    getattr(connection, how)()

        async with scripted(Ending()) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                await connection.version_command()
                ended.set()
                await until(connection.closed)
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.version_command()
            await right(pool)

    @within(20)
    async def test_in_the_middle_of_a_reply(self):
        async def script(connection):
            if connection.number > 0:
                await Watched()(connection)
                return
            await connection.command()
            await connection.send(item(b"a") + b"VALUE b 0 100\r\nshort")

        async with scripted(script) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.fetch_command(b"get", [b"a", b"b"])
            await right(pool)

    @within(20)
    @pytest.mark.parametrize(
        "reply", [b"nonsense\r\n", b"STORED\r\n", item(b"foreign") + END], ids=["", "wrong", "key"]
    )
    async def test_what_is_no_reply(self, reply):
        async def script(connection):
            if connection.number > 0:
                await Watched()(connection)
                return
            await connection.command()
            await connection.send(reply)
            await hold(connection)

        async with scripted(script) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                with pytest.raises(emcache.ProtocolError):
                    await connection.fetch_command(b"get", [b"a"])
                assert connection.closed()
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.version_command()
            await right(pool)

    @within(20)
    async def test_the_others_go_on(self):
        closing = Closing()
        async with scripted(closing) as server, pool_of(server, max_connections=2) as pool:
            async with pool.create_connection_context() as healthy:
                for _ in range(5):
                    async with pool.create_connection_context() as dying:
                        with pytest.raises(emcache.ConnectionFailedError):
                            await dying.delete_command(b"die", False)
                    found = await healthy.fetch_command(b"get", [b"a"])
                    assert found[1] == [value_of(b"a")]
            assert closing.most_open <= 2
            await right(pool)

    @within(20)
    async def test_who_waits_gets_the_next_one(self):
        async with (
            scripted(Closing()) as server,
            pool_of(server) as pool,
            pool.create_connection_context() as connection,
        ):
            waiting = asyncio.create_task(values(pool, b"a"))
            await asyncio.sleep(0)
            with pytest.raises(emcache.ConnectionFailedError):
                await connection.delete_command(b"die", False)
            # Not only when the holder has left.
            assert await waiting == [value_of(b"a")]


class TestClosingAConnection:
    @within(20)
    async def test_close(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                await connection.version_command()
                connection.close()
                assert connection.closed()
                connection.close()
                for call in (UNDER_WAY["get"], UNDER_WAY["set"], UNDER_WAY["stats"]):
                    with pytest.raises(emcache.ConnectionFailedError):
                        await call(connection)
                await until(lambda: server.accepted == 2)
                await until(lambda: watched.open == 1)
            await right(pool)
            assert len(watched.heard[0]) == 1
            assert pool.metrics().connections_closed == 1
            assert pool.metrics().connections_checked_out == 0
            assert pool.total_connections == 1

    @within(20)
    async def test_close_with_a_command_under_way(self):
        gated = Gated()
        async with scripted(gated) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                tasks = [asyncio.create_task(call(connection)) for call in UNDER_WAY.values()]
                await until(lambda: gated.commands)
                connection.close()
                results = await outcomes(*tasks)
                assert {type(result) for result in results} == {emcache.ConnectionFailedError}
            gated.gate.set()
            await right(pool)

    @within(20)
    async def test_close_again_and_again(self):
        """A holder's wish, and no sign of a bad node."""
        told = []
        async with (
            scripted(Watched()) as server,
            pool_of(server, on_healthy_status_change_cb=told.append) as pool,
        ):
            for _ in range(20):
                async with pool.create_connection_context() as connection:
                    connection.close()
            await right(pool)
            assert pool.metrics().connections_closed == 20
        assert told == []


class TestClosingThePool:
    @within(20)
    async def test_twice(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server, max_connections=2) as pool:
            await right(pool)
            await pool.close()
            await pool.close()
            await asyncio.gather(pool.close(), pool.close())
            await until(lambda: watched.open == 0)
            unused = ConnectionPool(server.address)
            await unused.close()

    @within(20)
    async def test_entering_after_it(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            context = pool.create_connection_context()
            await pool.close()
            for late in (context, pool.create_connection_context()):
                with pytest.raises(emcache.ClientClosedError) as caught:
                    await late.__aenter__()
                assert isinstance(caught.value, RuntimeError)

    @within(20)
    async def test_with_a_context_open(self):
        watched = Watched()
        async with scripted(watched) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                await connection.version_command()
                await pool.close()
                await until(lambda: watched.open == 0)
                assert connection.closed()
                for call in UNDER_WAY.values():
                    with pytest.raises(emcache.ClientClosedError):
                        await call(connection)
                connection.close()
            assert connection.closed()
            assert watched.commands == [[b"version"]]

    @within(20)
    async def test_with_waiters_and_commands_under_way(self):
        gated = Gated()
        async with (
            scripted(gated) as server,
            pool_of(server) as pool,
            pool.create_connection_context() as connection,
        ):
            calls = [asyncio.create_task(call(connection)) for call in UNDER_WAY.values()]
            waiters = [asyncio.create_task(enter(pool)) for _ in range(10)]
            await until(lambda: gated.commands)
            waiters[3].cancel()
            await pool.close()
            results = await outcomes(*calls, *waiters)
            assert isinstance(results.pop(len(calls) + 3), asyncio.CancelledError)
            assert {type(result) for result in results} == {emcache.ClientClosedError}

    @within(20)
    async def test_before_the_first_connection(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            # An eager task would begin one iteration earlier and find a connection under uvloop.
            waiter = asyncio.Task(enter(pool))
            await asyncio.sleep(0)
            await pool.close()
            with pytest.raises(emcache.ClientClosedError):
                await waiter

    @within(20)
    async def test_its_metrics_can_be_read(self):
        """As under 1.3: who reports them need not know whether it is closed."""
        async with scripted(Watched()) as server, pool_of(server) as pool:
            await right(pool)
            await pool.close()
            assert pool.total_connections == 0
            assert pool.metrics().connections_created == 1
            assert pool.metrics().connections_closed == 1


# -- health --------------------------------------------------------------------------------------


def at_port(port):
    """A server that is started late, or again."""
    return Memcached(port=port)


class TestHealth:
    @within(30)
    async def test_a_node_that_comes_late_and_goes_and_comes_back(self):
        loop = asyncio.get_running_loop()
        told = []

        def tell(healthy):
            assert asyncio.get_running_loop() is loop
            told.append(healthy)

        port = free_port()
        pool = ConnectionPool(
            MemcachedHostAddress("127.0.0.1", port), on_healthy_status_change_cb=tell
        )
        await until(lambda: told)
        assert told == [False]
        assert pool.metrics().connections_created_with_error >= 3
        assert pool.total_connections == 0
        with at_port(port):
            await until(lambda: len(told) > 1)
            assert told == [False, True]
            async with pool.create_connection_context() as connection:
                assert await connection.storage_command(b"set", b"k", b"v") == STORED
        await until(lambda: len(told) > 2)
        failed = pool.metrics().connections_created_with_error
        await until(lambda: pool.metrics().connections_created_with_error > failed + 1)
        with at_port(port):
            await until(lambda: len(told) > 3)
            assert await values(pool, b"k") == []
            assert told == [False, True, False, True]
        await pool.close()

    @within(30)
    async def test_a_bound_method(self):
        class Listener:
            def __init__(self):
                self.told = []

            def changed(self, healthy):
                # The pool may be looked at, and used, from here.
                assert self.pool.total_connections == self.pool.metrics().cur_connections
                self.told.append(healthy)
                self.task = asyncio.ensure_future(self.use())

            async def use(self):
                with contextlib.suppress(emcache.NodeUnavailableError):
                    await enter(self.pool)

        listener = Listener()
        port = free_port()
        listener.pool = pool = ConnectionPool(
            MemcachedHostAddress("127.0.0.1", port),
            on_healthy_status_change_cb=listener.changed,
        )
        await until(lambda: listener.told == [False])
        await listener.task
        with at_port(port):
            await until(lambda: listener.told == [False, True])
            await listener.task
            await pool.close()

    @within(30)
    async def test_an_exception_in_it(self, caplog):
        caplog.set_level(logging.ERROR)
        told = []

        def tell(healthy):
            told.append(healthy)
            raise ValueError("not my day")

        port = free_port()
        address = MemcachedHostAddress("127.0.0.1", port)
        pool = ConnectionPool(address, on_healthy_status_change_cb=tell)
        with pytest.raises(emcache.NodeUnavailableError):
            await enter(pool)
        await until(lambda: told == [False])
        with at_port(port):
            await until(lambda: told == [False, True])
            async with pool.create_connection_context() as connection:
                await connection.version_command()
        await pool.close()
        records = [record for record in caplog.records if "not my day" in str(record.exc_info)]
        assert [record.name for record in records] == ["emcache.connection_pool"] * 2
        assert f"127.0.0.1:{port}" in records[0].getMessage()

    @within(30)
    @pytest.mark.parametrize("low", [0, 1])
    async def test_who_waits_for_a_dead_node_is_told(self, low):
        address = MemcachedHostAddress("127.0.0.1", free_port())
        pool = ConnectionPool(address, max_connections=2, min_connections=low)
        results = await outcomes(*(enter(pool) for _ in range(20)))
        assert {type(result) for result in results} == {emcache.NodeUnavailableError}
        assert isinstance(results[0], ConnectionError)
        assert isinstance(results[0], TimeoutError)
        assert results[0].node == f"127.0.0.1:{address.port}"
        # From now on at once.
        with pytest.raises(emcache.NodeUnavailableError):
            async with asyncio.timeout(0.5):
                await enter(pool)
        assert pool.metrics().connections_checked_out == 0
        await pool.close()

    @within(20)
    async def test_nobody_is_told_of_a_pool_that_is_gone(self):
        told = []
        address = MemcachedHostAddress("127.0.0.1", free_port())
        closed = ConnectionPool(address, on_healthy_status_change_cb=told.append)
        await closed.close()
        dropped = [ConnectionPool(address, on_healthy_status_change_cb=told.append)]
        with pytest.warns(ResourceWarning, match="unclosed"):
            dropped.clear()
        # Longer than it takes to find out.
        other = ConnectionPool(address)
        with pytest.raises(emcache.NodeUnavailableError):
            await enter(other)
        await other.close()
        assert told == []


class TestTimeout:
    @within(20)
    async def test_for_a_connection(self):
        async with scripted(Watched()) as server, pool_of(server, timeout=0.1) as pool:
            async with pool.create_connection_context() as connection:
                results = await outcomes(*(enter(pool) for _ in range(5)))
                assert {type(result) for result in results} == {emcache.OperationTimeoutError}
                assert isinstance(results[0], TimeoutError)
                assert not isinstance(results[0], ConnectionError)
                assert pool.metrics().requests_timed_out == 5
                await connection.version_command()
            await right(pool)
            await whole(pool)

    @within(20)
    async def test_for_a_reply(self):
        gated = Gated()
        async with scripted(gated) as server, pool_of(server, timeout=0.5) as pool:
            async with pool.create_connection_context() as connection:
                # Not each second of a holder's counts, but each wait.
                with pytest.raises(emcache.OperationTimeoutError):
                    await connection.fetch_command(b"get", [b"a"])
                assert not connection.closed()
                gated.gate.set()
                found = await connection.fetch_command(b"get", [b"b"])
                assert found[1] == [value_of(b"b")]
            await right(pool)
            await whole(pool)

    @within(20)
    async def test_a_checkout_may_be_held_for_longer(self):
        async with scripted(Watched()) as server, pool_of(server, timeout=0.1) as pool:
            async with pool.create_connection_context() as connection:
                await asyncio.sleep(0.3)
                await connection.version_command()
            await whole(pool)

    @within(20)
    async def test_none_by_default(self):
        gated = Gated()
        async with scripted(gated) as server, pool_of(server) as pool:
            async with pool.create_connection_context() as connection:
                task = asyncio.create_task(connection.version_command())
                waiter = asyncio.create_task(enter(pool))
                # Longer than a client's default.
                await asyncio.sleep(1.1)
                assert not task.done()
                assert not waiter.done()
                gated.gate.set()
                await task
            await waiter


# -- purge and metrics ---------------------------------------------------------------------------


async def grown(pool, connections):
    """Have so many connections opened."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(connections):
            await stack.enter_async_context(pool.create_connection_context())
    assert pool.total_connections == connections


class TestPurge:
    @within(20)
    @pytest.mark.parametrize("low", [0, 1, 2])
    async def test_down_to_the_minimum(self, low):
        watched = Watched()
        options = {"max_connections": 4, "purge_unused_connections_after": 0.05}
        async with (
            scripted(watched) as server,
            pool_of(server, min_connections=low, **options) as pool,
        ):
            await grown(pool, 4)
            await until(lambda: pool.total_connections == low)
            await until(lambda: watched.open == low)
            await asyncio.sleep(0.2)
            assert pool.total_connections == low
            metrics = pool.metrics()
            assert metrics.connections_purged == metrics.connections_closed == 4 - low
            await right(pool)

    @within(20)
    async def test_never_a_checked_out_one(self):
        watched = Watched()
        options = {"max_connections": 3, "purge_unused_connections_after": 0.05}
        async with scripted(watched) as server, pool_of(server, **options) as pool:
            async with contextlib.AsyncExitStack() as stack:
                contexts = [pool.create_connection_context() for _ in range(3)]
                held = [await stack.enter_async_context(context) for context in contexts]
                await asyncio.sleep(0.3)
                assert pool.total_connections == watched.open == 3
                for connection in held:
                    await connection.version_command()
            await until(lambda: pool.total_connections == 1)
            await right(pool)

    @within(20)
    async def test_none_at_all(self):
        async with scripted(Watched()) as server, pool_of(server, max_connections=3) as pool:
            await grown(pool, 3)
            await asyncio.sleep(0.3)
            await whole(pool, 3)


class TestMetrics:
    @within(20)
    async def test_of_a_new_pool(self):
        async with scripted(Watched()) as server, pool_of(server, min_connections=0) as pool:
            metrics = pool.metrics()
            assert type(metrics) is emcache.ConnectionPoolMetrics
            latencies = {field for field in vars(metrics) if field.startswith("create_connection_")}
            assert all(
                value is None if field in latencies else value == 0
                for field, value in vars(metrics).items()
            ), metrics
            assert len(latencies) == 4
            assert pool.total_connections == 0

    @within(20)
    async def test_of_a_known_sequence(self):
        def answers(words):
            return b"SERVER_ERROR no\r\n" if b"bad" in words else reply_to(words)

        gated = Gated(answers)
        gated.gate.set()
        async with scripted(gated) as server, pool_of(server, max_connections=2) as pool:
            await until(lambda: pool.total_connections == 1)

            def seen(*names):
                return [getattr(pool.metrics(), name) for name in names]

            async with pool.create_connection_context() as connection:
                assert seen("connections_checked_out", "operations_waited") == [1, 0]
                # 3 that are answered well, 2 that are not; a miss and a NOT_FOUND are answers.
                await connection.fetch_command(b"get", [b"a"])
                await connection.storage_command(b"set", b"a", b"v")
                await connection.storage_command(b"set", b"a", b"v", noreply=True)
                await connection.fetch_command(b"get", [b"bad"])
                await connection.delete_command(b"bad", False)
                names = ("operations_executed", "operations_executed_with_error")
                assert seen(*names) == [3, 2]
                written = b"get a\r\n" + b"set a 0 0 1\r\nv\r\n" * 2 + b"get bad\r\ndelete bad\r\n"
                read = item(b"a") + END + b"STORED\r\n" * 2 + b"SERVER_ERROR no\r\n" * 2
                assert seen("bytes_written", "bytes_read") == [len(written), len(read)]
                gated.gate.clear()
                calls = [asyncio.create_task(connection.version_command()) for _ in range(3)]
                await asyncio.sleep(0.01)
                assert seen("requests_in_flight", "requests_abandoned") == [3, 0]
                calls[1].cancel()
                await asyncio.sleep(0)
                assert seen("requests_in_flight", "requests_abandoned") == [3, 1]
                gated.gate.set()
                await asyncio.wait(calls)
                await until(lambda: seen("requests_in_flight", "requests_abandoned") == [0, 0])
                # That nobody waited for the answer does not make it an error.
                assert seen(*names) == [6, 2]
                async with pool.create_connection_context() as other:
                    # There was no free one.
                    assert seen("connections_checked_out", "operations_waited") == [2, 1]
                    other.close()
                    with pytest.raises(emcache.ConnectionFailedError):
                        await other.version_command()
                    assert seen(*names) == [6, 3]
            metrics = pool.metrics()
            assert metrics.connections_checked_out == 0
            assert metrics.cur_connections == pool.total_connections == 1
            assert metrics.connections_created == 2
            assert metrics.connections_closed == 1
            assert metrics.connections_purged == metrics.connections_created_with_error == 0
            assert metrics.requests_retried == metrics.requests_timed_out == 0
            assert metrics.requests_queued == 0
            # Whoever was lost does not take its bytes along.
            assert metrics.bytes_written == len(written) + 3 * len(b"version\r\n")
            assert 0 < metrics.create_connection_p50 <= metrics.create_connection_upper < 20
            assert 0 < metrics.create_connection_avg <= metrics.create_connection_upper
            assert metrics.create_connection_p99 == metrics.create_connection_upper

    @within(20)
    async def test_of_those_who_wait_for_a_connection(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            async with pool.create_connection_context():
                before = pool.metrics().operations_waited
                waiters = [asyncio.create_task(enter(pool)) for _ in range(3)]
                await asyncio.sleep(0.01)
                assert pool.metrics().operations_waited == before + 3
                assert pool.metrics().requests_queued == 3
                waiters.pop().cancel()
                await asyncio.sleep(0.01)
                assert pool.metrics().requests_queued == 2
            await asyncio.gather(*waiters)
            assert pool.metrics().requests_queued == 0


# -- lifecycle -----------------------------------------------------------------------------------

PRELUDE = """
from emcache import ConnectionPool, MemcachedHostAddress

def pool_of(**options):
    return ConnectionPool(MemcachedHostAddress("127.0.0.1", port), **options)

async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

async def get(pool, key=b"k"):
    async with pool.create_connection_context() as connection:
        return await connection.fetch_command(b"get", [key])
"""


def run(program, loop, port, **options):
    return run_silent(PRELUDE + program, loop, port, **options)


THROWAWAY = """
async def once(key, value, exptime=60):
    pool = ConnectionPool(
        address=MemcachedHostAddress("127.0.0.1", port),
        max_connections=10,
        min_connections=1,
        purge_unused_connections_after=60.0,
        on_healthy_status_change_cb=lambda status: print(f"Pool health status: {status}"),
        connection_timeout=10.0,
        ssl=False,
        ssl_verify=False,
        ssl_extra_ca=None,
        username=None,
        password=None,
    )
    async with pool.create_connection_context() as connection:
        await connection.storage_command(
            b"set", key.encode("utf-8"), value, flags=0, exptime=exptime, noreply=0, cas=None
        )
    async with pool.create_connection_context() as connection:
        values = await connection.fetch_command(b"get", [key.encode("utf-8")])
    assert values[1] == [value]

async def at_the_server(pool):
    async with pool.create_connection_context() as connection:
        stats = bytes(await connection.stats_command()).split(b"\\r\\n")
    return int(dict(line.split()[1:3] for line in stats[:-1])[b"curr_connections"])

async def main():
    watcher = pool_of(max_connections=1)
    for number in range(500):
        await once(f"k{number}", b"%d" % number)
    # The server may not have seen the last off yet.
    await asyncio.sleep(0.2)
    at_first = await at_the_server(watcher)
    memory = resident()
    before = descriptors(), threads()
    for number in range(5000):
        await once(f"k{number % 100}", b"%d" % number)
    grown = resident() - memory
    assert grown < 20e6, grown
    # Helpers of the thread live for a second after their last work.
    await until(lambda: (descriptors(), threads()) <= before)
    async with asyncio.timeout(20):
        while await at_the_server(watcher) > at_first:
            await asyncio.sleep(0.01)
    await watcher.close()

run(main())
"""


def test_five_thousand_pools_that_nobody_closes_leave_nothing():
    """Under both loops at the same time: each waits for its own server most of the time."""

    def use(loop):
        with memcached() as server:
            assert run(THROWAWAY, loop, server.port, warnings="ignore") == ""

    with ThreadPoolExecutor(len(LOOPS)) as threads:
        list(threads.map(use, LOOPS))


@both_loops
def test_waiters_who_went_away_are_forgotten(server, loop):
    """Also while somebody before them waits on: else a pool that is too small fills memory."""
    run(
        """
async def give_up(pool, number):
    for _ in range(number // 100):
        waiters = [asyncio.create_task(get(pool)) for _ in range(100)]
        await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)

async def main():
    asyncio.get_running_loop().set_debug(False)
    pool = pool_of(max_connections=1)
    async with pool.create_connection_context():
        patient = asyncio.create_task(get(pool))
        await asyncio.sleep(0.01)
        await give_up(pool, 40_000)
        grown = []
        for _ in range(3):
            before = resident()
            await give_up(pool, 30_000)
            grown.append(resident() - before)
            # For the thread driver's, which lags behind on a busy machine.
            await asyncio.sleep(0.5)
    await patient
    await pool.close()
    # Half of what they cost when they are kept, and that is each time: a thread lags behind once.
    assert min(grown) < 4e6, grown

run(main())
""",
        loop,
        server.port,
    )


class TestDropped:
    @within(20)
    async def test_it_warns_and_disconnects(self):
        watched = Watched()
        async with scripted(watched) as server:
            pool = ConnectionPool(server.address, min_connections=2)
            await right(pool)
            await until(lambda: watched.open == 2)
            box = [pool]
            del pool
            with pytest.warns(ResourceWarning, match=f"unclosed.*127.0.0.1:{server.port}"):
                box.clear()
            await until(lambda: watched.open == 0)

    @within(20)
    async def test_not_while_a_connection_of_it_is_held(self):
        watched = Watched()
        async with scripted(watched) as server:
            context = ConnectionPool(server.address).create_connection_context()
            box = [await context.__aenter__()]
            del context
            gc.collect()
            for _ in range(3):
                await box[0].version_command()
            with pytest.warns(ResourceWarning, match="unclosed"):
                box.clear()
            await until(lambda: watched.open == 0)

    @within(20)
    async def test_while_somebody_waits(self):
        watched = Watched()
        async with scripted(watched) as server:
            pool = ConnectionPool(server.address, max_connections=1)
            async with pool.create_connection_context():
                waiter = asyncio.create_task(enter(pool))
                await asyncio.sleep(0)
                del pool
            box = [await waiter]
            del waiter
            # The iteration in which it was waited for knows it too.
            await asyncio.sleep(0)
            assert box[0].closed()
            # The connection that was returned is the last that knows the pool.
            with pytest.warns(ResourceWarning, match="unclosed"):
                box.clear()
            await until(lambda: watched.open == 0)

    @within(20)
    async def test_on_another_thread_with_a_connection_held(self):
        watched = Watched()
        async with scripted(watched) as server:
            pool = ConnectionPool(server.address)
            context = pool.create_connection_context()
            connection = await context.__aenter__()
            await connection.version_command()
            pool.itself = connection  # a cycle, which only a collection finds
            box = [pool, context, connection]
            del pool, context, connection

            def drop():
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    box.clear()
                    gc.collect()
                box.extend(str(warning.message) for warning in caught)

            # Another collection, on the loop's thread, would take it away.
            gc.disable()
            try:
                await asyncio.to_thread(drop)
            finally:
                gc.enable()
            assert any("unclosed" in message for message in box), box
            await until(lambda: watched.open == 0)
            # The loop's driver is as good as before.
            async with pool_of(server) as other:
                await right(other)

    @within(20)
    async def test_only_the_connection_on_another_thread(self):
        async with scripted(Watched()) as server, pool_of(server) as pool:
            context = pool.create_connection_context()
            box = [context, await context.__aenter__()]
            del context
            waiter = asyncio.create_task(enter(pool))
            await asyncio.sleep(0)
            thread = threading.Thread(target=box.clear)
            thread.start()
            await waiter
            thread.join()
            await right(pool)
            await whole(pool)

    @within(20)
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    async def test_where_warnings_are_errors(self):
        watched = Watched()
        async with scripted(watched) as server:
            pool = ConnectionPool(server.address)
            await right(pool)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                del pool
                gc.collect()
            await until(lambda: watched.open == 0)


@both_loops
def test_loops_that_are_closed_with_a_connection_held_leave_nothing(server, loop):
    run(
        """
async def main(kept):
    pool = pool_of(max_connections=1)
    context = pool.create_connection_context()
    connection = await context.__aenter__()
    await connection.version_command()
    waiting = asyncio.create_task(get(pool))
    await asyncio.sleep(0)
    kept += [pool, context, connection]

async def late(connection):
    try:
        await connection.version_command()
    except RuntimeError:
        pass
    else:
        raise AssertionError("no RuntimeError")

def round():
    kept = []
    run(main(kept))
    run(late(kept[2]))
    del kept
    gc.collect()

round()
before = descriptors()
for _ in range(20):
    round()
assert descriptors() == before, (descriptors(), before)
""",
        loop,
        server.port,
        warnings="ignore",
    )


@both_loops
def test_alive_at_exit_with_a_connection_held(server, loop):
    run(
        """
async def main():
    global pool, context, connection
    pool = pool_of(max_connections=1)
    context = pool.create_connection_context()
    connection = await context.__aenter__()
    await connection.version_command()

run(main())
""",
        loop,
        server.port,
        warnings="ignore",
    )


@both_loops
def test_a_pool_used_from_another_loop_or_thread(server, loop):
    run(
        """
async def refused(call):
    try:
        await asyncio.wait_for(call, 5)
    except RuntimeError as error:
        assert "loop" in str(error), error
    else:
        raise AssertionError("no RuntimeError")

async def use(pool, connection):
    await refused(pool.create_connection_context().__aenter__())
    await refused(connection.version_command())
    await refused(connection.fetch_command(b"get", [b"k"]))
    await refused(connection.storage_command(b"set", b"k", b"v", noreply=True))
    await refused(pool.close())

def foreign(pool, connection):
    try:
        run(use(pool, connection))
    except BaseException as error:
        errors.append(error)

errors = []

async def main():
    pool = pool_of(max_connections=1)
    async with pool.create_connection_context() as connection:
        await connection.storage_command(b"set", b"k", b"v")
        await asyncio.to_thread(foreign, pool, connection)
        assert not errors, errors
        assert (await connection.fetch_command(b"get", [b"k"]))[1] == [b"v"]
        return pool, connection

async def after(pool, connection):
    assert (await get(pool))[1] == [b"v"]
    await pool.close()

first, second = new_loop(), new_loop()
async def held():
    pool = pool_of(max_connections=1)
    context = pool.create_connection_context()
    return pool, await context.__aenter__(), context

pool, connection = first.run_until_complete(main())
first.run_until_complete(after(pool, connection))
pool, connection, context = first.run_until_complete(held())
second.run_until_complete(use(pool, connection))
first.run_until_complete(connection.version_command())
first.run_until_complete(context.__aexit__(None, None, None))
first.run_until_complete(after(pool, connection))
first.close()
second.close()
""",
        loop,
        server.port,
    )


CHILDREN = {
    "ends at once": "",
    "drops them": """
del pool, context, connection
gc.collect()
""",
    "uses them": """
async def refused():
    calls = [connection.version_command(), connection.fetch_command(b"get", [b"k"])]
    for call in (*calls, pool.create_connection_context().__aenter__()):
        try:
            await asyncio.wait_for(call, 5)
        except RuntimeError:
            continue
        raise AssertionError("no RuntimeError")
    await context.__aexit__(None, None, None)
run(refused())
""",
    "has a pool of its own": """
async def own():
    mine = pool_of()
    async with mine.create_connection_context() as connection:
        assert (await connection.fetch_command(b"get", [b"fork"]))[1] == [b"v"]
    await mine.close()
run(own())
""",
}


@both_loops
@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_child_process_leaves_its_parent_alone(server, loop, child):
    run_silent(
        PRELUDE
        + """
async def held():
    pool = pool_of(max_connections=1)
    context = pool.create_connection_context()
    connection = await context.__aenter__()
    await connection.storage_command(b"set", b"fork", b"v")
    return pool, context, connection

loop = new_loop()
pool, context, connection = loop.run_until_complete(held())
pid = os.fork()
if pid == 0:
    exec(sys.argv[3])
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0

async def again():
    async with asyncio.timeout(10):
        for _ in range(10):
            assert (await connection.fetch_command(b"get", [b"fork"]))[1] == [b"v"]
        await context.__aexit__(None, None, None)
        for _ in range(10):
            assert (await get(pool, b"fork"))[1] == [b"v"]
    assert pool.metrics().connections_created == 1, pool.metrics()
    await pool.close()

loop.run_until_complete(again())
loop.close()
""",
        loop,
        server.port,
        child,
        warnings="ignore",
    )


@both_loops
def test_a_thousand_loops_with_a_pool_each_leave_nothing(server, loop):
    run(
        """
async def main():
    pool = pool_of()
    await get(pool)
    await pool.close()

run(main())
before = descriptors()
for _ in range(300):
    run(main())
assert descriptors() == before, (descriptors(), before)
""",
        loop,
        server.port,
    )
