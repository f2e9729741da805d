"""Arguments that memcached would misread: refused before a byte is sent.

A header that the server rejects makes it run the value as commands, so each of these is a way to
flush somebody's cache. The proof is the server's: its own counters, and a canary that survives.
"""

import asyncio
import contextlib

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import emcache
from support.memcached import memcached

CANARY = b"canary"
EVIL = b"flush_all"
COUNTERS = ("cmd_get", "cmd_set", "cmd_touch", "cmd_flush", "cmd_meta")

BAD_KEYS = {
    "empty": b"",
    "251 bytes": b"k" * 251,
    "64 KiB": b"k" * 65536,
    "space": b"a b",
    "leading space": b" a",
    "trailing space": b"a ",
    "CRLF": b"a\r\nflush_all\r\nb",
    "trailing CRLF": b"a\r\n",
    "LF": b"a\nflush_all",
    "CR": b"a\rflush_all",
    "NUL": b"a\0b",
    "DEL": b"a\x7fb",
    "tab": b"a\tb",
    "VT": b"a\x0bb",
    "FF": b"a\x0cb",
    "ESC": b"a\x1bb",
    "0x1f": b"a\x1fb",
    "noreply": b"a 0 0 9 noreply",
    "fake header": b"a 0 0 0\r\n\r\nset canary",
}
NO_KEYS = {
    "str": "key",
    "str UTF-8": "schlüssel",
    "str surrogate": "\udc80",
    "bytearray": bytearray(b"key"),
    "memoryview": memoryview(b"key"),
    "None": None,
    "int": 1,
    "list": [b"key"],
}

BY_KEY = {
    "get": lambda client, key: client.get(key),
    "gets": lambda client, key: client.gets(key, return_flags=True),
    "gat": lambda client, key: client.gat(1, key),
    "gats": lambda client, key: client.gats(1, key),
    "get_many": lambda client, key: client.get_many([key]),
    "get_many last": lambda client, key: client.get_many([CANARY, key]),
    "gets_many": lambda client, key: client.gets_many([key, CANARY]),
    "gat_many": lambda client, key: client.gat_many(1, [CANARY, key]),
    "gats_many": lambda client, key: client.gats_many(1, [key, CANARY]),
    "set": lambda client, key: client.set(key, EVIL),
    "add": lambda client, key: client.add(key, EVIL),
    "replace": lambda client, key: client.replace(key, EVIL),
    "append": lambda client, key: client.append(key, EVIL),
    "prepend": lambda client, key: client.prepend(key, EVIL),
    "cas": lambda client, key: client.cas(key, EVIL, 1),
    "increment": lambda client, key: client.increment(key, 1),
    "decrement": lambda client, key: client.decrement(key, 1),
    "touch": lambda client, key: client.touch(key, 1),
    "delete": lambda client, key: client.delete(key),
}
BY_KEY_NOREPLY = {
    f"{name} noreply": call
    for name, call in {
        "set": lambda client, key: client.set(key, EVIL, noreply=True),
        "add": lambda client, key: client.add(key, EVIL, noreply=True),
        "replace": lambda client, key: client.replace(key, EVIL, noreply=True),
        "append": lambda client, key: client.append(key, EVIL, noreply=True),
        "prepend": lambda client, key: client.prepend(key, EVIL, noreply=True),
        "cas": lambda client, key: client.cas(key, EVIL, 1, noreply=True),
        "increment": lambda client, key: client.increment(key, 1, noreply=True),
        "decrement": lambda client, key: client.decrement(key, 1, noreply=True),
        "touch": lambda client, key: client.touch(key, 1, noreply=True),
        "delete": lambda client, key: client.delete(key, noreply=True),
    }.items()
}

by_key = pytest.mark.parametrize(
    "call", [*BY_KEY.values(), *BY_KEY_NOREPLY.values()], ids=[*BY_KEY, *BY_KEY_NOREPLY]
)

U32 = (0, 2**32 - 1)
I32 = (-(2**31), 2**31 - 1)
U64 = (0, 2**64 - 1)
# Each number of each method: its range, and the call with it.
BY_NUMBER = {
    "set flags": (U32, lambda client, node, n: client.set(CANARY, EVIL, flags=n)),
    "add flags": (U32, lambda client, node, n: client.add(b"new", EVIL, flags=n)),
    "replace flags": (U32, lambda client, node, n: client.replace(CANARY, EVIL, flags=n)),
    "cas flags": (U32, lambda client, node, n: client.cas(CANARY, EVIL, 1, flags=n)),
    "set exptime": (I32, lambda client, node, n: client.set(CANARY, EVIL, exptime=n)),
    "add exptime": (I32, lambda client, node, n: client.add(b"new", EVIL, exptime=n)),
    "replace exptime": (I32, lambda client, node, n: client.replace(CANARY, EVIL, exptime=n)),
    "cas exptime": (I32, lambda client, node, n: client.cas(CANARY, EVIL, 1, exptime=n)),
    "touch exptime": (I32, lambda client, node, n: client.touch(CANARY, n)),
    "gat exptime": (I32, lambda client, node, n: client.gat(n, CANARY)),
    "gats exptime": (I32, lambda client, node, n: client.gats(n, CANARY)),
    "gat_many exptime": (I32, lambda client, node, n: client.gat_many(n, [CANARY])),
    "gats_many exptime": (I32, lambda client, node, n: client.gats_many(n, [CANARY])),
    "cas token": (U64, lambda client, node, n: client.cas(CANARY, EVIL, n)),
    "increment value": (U64, lambda client, node, n: client.increment(CANARY, n)),
    "decrement value": (U64, lambda client, node, n: client.decrement(CANARY, n)),
    "flush_all delay": (U32, lambda client, node, n: client.flush_all(node, n)),
    "verbosity level": (U32, lambda client, node, n: client.verbosity(node, n)),
    "cache_memlimit value": (U32, lambda client, node, n: client.cache_memlimit(node, n)),
}
NO_NUMBERS = {
    "True": True,
    "False": False,
    "float": 1.0,
    "None": None,
    "str": "1",
    "bytes": b"1",
    "injection": "0 0 9\r\nflush_all\r\n",
    "list": [1],
}


@pytest.fixture(scope="module")
def own_server():
    """A server that nobody else talks to, so that its counters are ours."""
    with memcached() as running:
        assert running.command(b"set %s 0 0 1\r\n7\r\n" % CANARY) == b"STORED\r\n"
        yield running


@pytest_asyncio.fixture
async def client(own_server):
    # One connection: what was sent before `version` has been read when that is answered.
    async with emcache.create_client([own_server.address], max_connections=1) as running:
        await running.version(own_server.address)
        yield running


@contextlib.asynccontextmanager
async def nothing_sent(server, client):
    """Fails if anything but our own `version` and `stats` reached the server in the block."""
    before = server.stats()
    yield
    await client.version(server.address)
    after = server.stats()
    sent = int(after["bytes_read"]) - int(before["bytes_read"])
    assert sent == len(b"version\r\n") + len(b"stats\r\n")
    assert [after[name] for name in COUNTERS] == [before[name] for name in COUNTERS]
    assert server.command(b"get %s\r\n" % CANARY) == b"VALUE canary 0 1\r\n7\r\nEND\r\n"
    assert client._core.noreply_errors == 0


async def test_nothing_sent_notices(own_server, client):
    """The proof proves something: a single get in the block is seen."""
    with pytest.raises(AssertionError):
        async with nothing_sent(own_server, client):
            await client.get(b"k")


class TestKeys:
    @pytest.mark.parametrize(
        "call", (BY_KEY | BY_KEY_NOREPLY).values(), ids=BY_KEY | BY_KEY_NOREPLY
    )
    async def test_bad_key(self, own_server, client, call):
        async with nothing_sent(own_server, client):
            for name, key in BAD_KEYS.items():
                with pytest.raises(ValueError, match="key") as raised:
                    await call(client, key)
                assert type(raised.value) is emcache.InvalidKeyError, name

    @pytest.mark.parametrize(
        "call", (BY_KEY | BY_KEY_NOREPLY).values(), ids=BY_KEY | BY_KEY_NOREPLY
    )
    async def test_no_key(self, own_server, client, call):
        async with nothing_sent(own_server, client):
            for key in NO_KEYS.values():
                with pytest.raises(TypeError, match="key"):
                    await call(client, key)

    @pytest.mark.parametrize("keys", [1, True, object()], ids=["int", "bool", "object"])
    @pytest.mark.parametrize("name", ["get_many", "gets_many"])
    async def test_keys_that_are_no_iterable(self, own_server, client, name, keys):
        async with nothing_sent(own_server, client):
            with pytest.raises(TypeError):
                await getattr(client, name)(keys)

    async def test_keys_that_are_one_key(self, own_server, client):
        async with nothing_sent(own_server, client):
            for keys in (b"key", "key", bytearray(b"key")):
                with pytest.raises(TypeError):
                    await client.get_many(keys)

    async def test_bad_calls_at_once_do_not_disturb_good_ones(self, client):
        calls = [BY_KEY[name](client, key) for name in BY_KEY for key in BAD_KEYS.values()]
        good = [client.get(CANARY) for _ in calls]
        mixed = [call for pair in zip(calls, good, strict=True) for call in pair]
        results = await asyncio.gather(*mixed, return_exceptions=True)
        assert {type(result) for result in results[::2]} == {emcache.InvalidKeyError}
        assert {result.value for result in results[1::2]} == {b"7"}


def is_good(key: bytes) -> bool:
    return 1 <= len(key) <= 250 and all(byte > 0x20 and byte != 0x7F for byte in key)


FORBIDDEN = st.sampled_from([*range(0x21), 0x7F])
ONE_FORBIDDEN = st.builds(
    lambda before, byte, after: before + bytes([byte]) + after,
    st.binary(max_size=125),
    FORBIDDEN,
    st.binary(max_size=125),
)
GOOD = st.lists(
    st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100)]), min_size=1, max_size=250
).map(bytes)


class TestGeneratedKeys:
    """Driven from outside of the loop, as hypothesis calls the test many times."""

    @pytest.fixture
    def runner(self):
        with asyncio.Runner() as runner:
            yield runner

    @pytest.fixture
    def driven(self, own_server, runner):
        async def create():
            return await emcache.create_client([own_server.address], max_connections=1)

        client = runner.run(create())
        yield client
        runner.run(client.close())

    def test_bad(self, own_server, runner, driven):
        calls = [*BY_KEY.values(), *BY_KEY_NOREPLY.values()]
        bad_keys = ONE_FORBIDDEN | st.binary(min_size=251, max_size=400)

        @settings(max_examples=300, deadline=None, database=None, derandomize=True)
        @given(key=bad_keys, call=st.sampled_from(calls))
        def check(key, call):
            with pytest.raises(emcache.InvalidKeyError):
                runner.run(call(driven, key))

        async def proven():
            async with nothing_sent(own_server, driven):
                pass

        before = own_server.stats()
        check()
        runner.run(proven())
        after = own_server.stats()
        # The canary was asked for once, by the proof.
        assert int(after["cmd_get"]) - int(before["cmd_get"]) == 1
        assert [after[name] for name in COUNTERS[1:]] == [before[name] for name in COUNTERS[1:]]

    def test_good(self, runner, driven):
        async def round_trip(key):
            await driven.set(key, key)
            assert await driven.get(key) == emcache.Item(key, None, None)
            assert await driven.get_many([key]) == {key: emcache.Item(key, None, None)}
            await driven.delete(key)

        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(key=GOOD.filter(lambda key: key != CANARY))
        def check(key):
            assert is_good(key)
            runner.run(round_trip(key))

        check()

    def test_any(self, runner, driven):
        """Whatever the bytes, they are either refused or a key."""

        async def attempt(key):
            try:
                return await driven.get(key) is None
            except emcache.InvalidKeyError:
                return None

        @settings(max_examples=300, deadline=None, database=None, derandomize=True)
        @given(key=st.binary(max_size=260).filter(lambda key: key != CANARY))
        def check(key):
            assert runner.run(attempt(key)) is (True if is_good(key) else None)

        check()


class TestNumbers:
    @pytest.mark.parametrize(("limits", "call"), BY_NUMBER.values(), ids=BY_NUMBER)
    async def test_out_of_range(self, own_server, client, limits, call):
        low, high = limits
        bad = {
            low - 1,
            high + 1,
            -(2**63) - 1,
            2**64,
            -(10**20),
            10**20,
            2**127,
            -(2**128),
            10**400,
        }
        async with nothing_sent(own_server, client):
            for number in [*sorted(bad), 10**400]:
                with pytest.raises(ValueError, match=f"between {low} and {high}"):
                    await call(client, own_server.address, number)

    @pytest.mark.parametrize(("limits", "call"), BY_NUMBER.values(), ids=BY_NUMBER)
    async def test_no_integer(self, own_server, client, limits, call):
        async with nothing_sent(own_server, client):
            for number in NO_NUMBERS.values():
                with pytest.raises(TypeError):
                    await call(client, own_server.address, number)

    async def test_unhelpful_int_subclass(self, own_server, client):
        class Evil(int):
            def __str__(self):
                return "0 0 9\r\nflush_all\r\n"

            __repr__ = __format__ = __str__

        assert await client.cas(CANARY, EVIL, Evil(0), noreply=True) is None
        await client.touch(CANARY, Evil(0))
        await client.version(own_server.address)
        assert client._core.noreply_errors == 0
        assert (await client.get(CANARY)).value == b"7"

    @pytest.mark.parametrize("noreply", [False, True], ids=["reply", "noreply"])
    async def test_noreply_is_checked_too(self, own_server, client, noreply):
        node = own_server.address
        async with nothing_sent(own_server, client):
            for call in (
                client.set(CANARY, EVIL, flags=-1, noreply=noreply),
                client.set(CANARY, EVIL, exptime=10**20, noreply=noreply),
                client.cas(CANARY, EVIL, 2**64, noreply=noreply),
                client.increment(CANARY, -1, noreply=noreply),
                client.decrement(CANARY, -1, noreply=noreply),
                client.touch(CANARY, 2**31, noreply=noreply),
                client.flush_all(node, -1, noreply=noreply),
                client.verbosity(node, -1, noreply=noreply),
                client.cache_memlimit(node, -1, noreply=noreply),
            ):
                with pytest.raises(ValueError, match="between"):
                    await call


class TestStatsArguments:
    @pytest.mark.parametrize(
        "args",
        [
            ("x\r\nflush_all",),
            ("settings\n",),
            ("a\tb",),
            ("a\0",),
            ("é",),
            ("\udc80",),
            ("a\x7f",),
            ("a" * 251,),
            ("a", "", "b"),
            (" ",),
            ("settings", "x\r\nflush_all\r\n"),
        ],
        ids=ascii,
    )
    async def test_bad_word(self, own_server, client, args):
        async with nothing_sent(own_server, client):
            with pytest.raises(ValueError):
                await client.stats(own_server.address, *args)

    @pytest.mark.parametrize("arg", [b"settings", 1, None, ["settings"]], ids=repr)
    async def test_no_word(self, own_server, client, arg):
        async with nothing_sent(own_server, client):
            with pytest.raises(TypeError):
                await client.stats(own_server.address, arg)


BY_NODE = {
    "flush_all": lambda client, node: client.flush_all(node),
    "flush_all noreply": lambda client, node: client.flush_all(node, 1, noreply=True),
    "version": lambda client, node: client.version(node),
    "stats": lambda client, node: client.stats(node),
    "stats args": lambda client, node: client.stats(node, "settings"),
    "verbosity": lambda client, node: client.verbosity(node, 0),
    "cache_memlimit": lambda client, node: client.cache_memlimit(node, 64),
}


class TestClosed:
    """As under 1.3: a closed client says so before it looks at any argument."""

    @pytest_asyncio.fixture
    async def closed(self, own_server):
        client = await emcache.create_client([own_server.address])
        await client.close()
        return client

    async def check(self, call):
        with pytest.raises(RuntimeError) as raised:
            await call
        assert type(raised.value) is emcache.ClientClosedError
        assert str(raised.value) == "Emcache client is closed"

    @pytest.mark.parametrize(
        "call", (BY_KEY | BY_KEY_NOREPLY).values(), ids=BY_KEY | BY_KEY_NOREPLY
    )
    async def test_any_key(self, closed, call):
        for key in (b"good", b"", b"a b", "str", None):
            await self.check(call(closed, key))

    @pytest.mark.parametrize("name", ["get_many", "gets_many"])
    @pytest.mark.parametrize("keys", [[], None, 1, [b""]], ids=str)
    async def test_any_keys(self, closed, name, keys):
        await self.check(getattr(closed, name)(keys))

    @pytest.mark.parametrize("name", ["gat_many", "gats_many"])
    async def test_no_keys_and_bad_exptime(self, closed, name):
        await self.check(getattr(closed, name)("x", []))

    @pytest.mark.parametrize("number", [0, -(2**70), "x", None], ids=str)
    @pytest.mark.parametrize("call", [call for _, call in BY_NUMBER.values()], ids=BY_NUMBER)
    async def test_any_number(self, own_server, closed, call, number):
        await self.check(call(closed, own_server.address, number))

    @pytest.mark.parametrize("value", ["str", None, 1], ids=str)
    @pytest.mark.parametrize("verb", ["set", "add", "replace", "append", "prepend"])
    async def test_any_value(self, closed, verb, value):
        await self.check(getattr(closed, verb)(b"key", value))

    @pytest.mark.parametrize("known", [True, False], ids=["known node", "unknown node"])
    @pytest.mark.parametrize("call", BY_NODE.values(), ids=BY_NODE)
    async def test_any_node(self, own_server, closed, call, known):
        await self.check(call(closed, own_server.address if known else "unknown"))

    async def test_any_stats_argument(self, own_server, closed):
        for arg in ("x\r\nflush_all", b"settings", 1):
            await self.check(closed.stats(own_server.address, arg))

    async def test_nothing_is_sent(self, own_server, client, closed):
        async with nothing_sent(own_server, client):
            for call in BY_KEY.values():
                await self.check(call(closed, b"key"))
