"""Every command with every option against a real server: TCP, a unix socket, and SASL."""

import array
import asyncio
import contextlib
import enum
import time

import pytest
import pytest_asyncio

import emcache
from support.memcached import memcached
from support.sasl import sasl_memcached

MIB = 2**20
TOO_LARGE = b"x" * 2 * MIB
NOT_STORED = emcache.NotStoredStorageCommandError
NOT_FOUND = emcache.NotFoundCommandError


@pytest.fixture(scope="module")
def unix_server():
    with memcached(unix=True) as running:
        yield running


@pytest.fixture(scope="module")
def sasl_server():
    """A server that speaks the binary protocol, and only that."""
    with sasl_memcached("-t", "2", "-m", "256", "-c", "2048") as running:
        yield running


@pytest.fixture(params=["tcp", "unix", "sasl"])
def node(request):
    """The server of the test."""
    servers = {"tcp": "server", "unix": "unix_server", "sasl": "sasl_server"}
    return request.getfixturevalue(servers[request.param])


def client_of(node, **options):
    return emcache.create_client([node.address], timeout=10.0, **node.login, **options)


@pytest_asyncio.fixture(params=[True, False], ids=["merged", "single"])
async def client(request, node):
    async with client_of(node, autobatching=request.param) as running:
        yield running


@pytest_asyncio.fixture
async def one_connection(node):
    """A client whose commands are done in the order given, noreply or not."""
    async with client_of(node, max_connections=1) as running:
        yield running


@pytest.fixture(scope="module", params=[memcached, sasl_memcached], ids=["text", "sasl"])
def own_server(request):
    """For commands that change the whole server."""
    with request.param() as running:
        yield running


@pytest_asyncio.fixture
async def own(own_server):
    async with client_of(own_server, max_connections=1) as running:
        yield running


async def outcome(call):
    """What a call returned, or the class of what it raised."""
    try:
        return await call
    except emcache.EmcacheError as error:
        return type(error)


async def value_in(client, key) -> bytes | None:
    item = await client.get(key)
    return None if item is None else item.value


async def until(condition, limit: float = 5.0) -> None:
    deadline = time.monotonic() + limit
    while not await condition():
        assert time.monotonic() < deadline, "did not come true"
        await asyncio.sleep(0.05)


STORE = {
    "set": lambda client, key, value, **options: client.set(key, value, **options),
    "add": lambda client, key, value, **options: client.add(key, value, **options),
    "replace": lambda client, key, value, **options: client.replace(key, value, **options),
}
EXTEND = {
    "append": lambda client, key, value, **options: client.append(key, value, **options),
    "prepend": lambda client, key, value, **options: client.prepend(key, value, **options),
}

RETRIEVE = {
    "get": lambda client, key, flags: client.get(key, flags),
    "gets": lambda client, key, flags: client.gets(key, flags),
    "gat": lambda client, key, flags: client.gat(0, key, flags),
    "gats": lambda client, key, flags: client.gats(0, key, flags),
    "get_many": lambda client, key, flags: client.get_many([key], flags),
    "gets_many": lambda client, key, flags: client.gets_many([key], flags),
    "gat_many": lambda client, key, flags: client.gat_many(0, [key], flags),
    "gats_many": lambda client, key, flags: client.gats_many(0, [key], flags),
}


class TestRetrieval:
    @pytest.mark.parametrize("return_flags", [False, True], ids=["plain", "flags"])
    @pytest.mark.parametrize("name", RETRIEVE)
    async def test_hit(self, client, key, name, return_flags):
        await client.set(key, b"value", flags=77)
        found = await RETRIEVE[name](client, key, return_flags)
        item = found[key] if name.endswith("_many") else found
        assert type(item) is emcache.Item
        assert type(item.value) is bytes
        assert item.value == b"value"
        assert item.flags == (77 if return_flags else None)
        if "gets" in name or "gats" in name:
            assert type(item.cas) is int
            assert 0 < item.cas < 2**64
        else:
            assert item.cas is None

    @pytest.mark.parametrize("name", RETRIEVE)
    async def test_miss(self, client, key, name):
        found = await RETRIEVE[name](client, key, True)
        assert found == ({} if name.endswith("_many") else None)

    @pytest.mark.parametrize(
        "name", [b"k", b"k" * 250, bytes({*range(0x21, 0x7F), *range(0x80, 0x100)}), b"get", b"END"]
    )
    async def test_any_good_key(self, client, name):
        await client.set(name, b"value")
        assert await value_in(client, name) == b"value"
        assert (await client.get_many([name])).keys() == {name}
        await client.delete(name)

    async def test_utf_8_key(self, client, key):
        name = key + "schlüssel:é:鍵".encode()
        await client.set(name, b"value")
        assert await value_in(client, name) == b"value"


# verb, what the key holds, what the call does, what the key holds then
CONDITIONS = [
    ("set", None, None, b"new"),
    ("set", b"old", None, b"new"),
    ("add", None, None, b"new"),
    ("add", b"old", NOT_STORED, b"old"),
    ("replace", None, NOT_STORED, None),
    ("replace", b"old", None, b"new"),
    ("append", None, NOT_STORED, None),
    ("append", b"old", None, b"oldnew"),
    ("prepend", None, NOT_STORED, None),
    ("prepend", b"old", None, b"newold"),
]
FLAGS = [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**31 - 1, 2**31, 2**32 - 1]


class TestStorage:
    @pytest.mark.parametrize(
        ("verb", "before", "result", "after"),
        CONDITIONS,
        ids=[f"{verb} {'hit' if before else 'miss'}" for verb, before, *_ in CONDITIONS],
    )
    async def test_conditions(self, client, key, verb, before, result, after):
        if before is not None:
            await client.set(key, before)
        assert await outcome((STORE | EXTEND)[verb](client, key, b"new")) is result
        assert await value_in(client, key) == after

    @pytest.mark.parametrize(
        ("verb", "before", "result", "after"),
        CONDITIONS,
        ids=[f"{verb} {'hit' if before else 'miss'}" for verb, before, *_ in CONDITIONS],
    )
    async def test_noreply(self, one_connection, key, verb, before, result, after):
        if before is not None:
            await one_connection.set(key, before)
        assert await (STORE | EXTEND)[verb](one_connection, key, b"new", noreply=True) is None
        assert await value_in(one_connection, key) == after

    async def test_arguments_by_keyword(self, client, key):
        await client.set(key=key, value=b"2", flags=1, exptime=100, noreply=False)
        await client.replace(key=key, value=b"2", flags=2, exptime=0, noreply=False)
        await client.append(key=key, value=b"3", noreply=False)
        await client.prepend(key=key, value=b"1", noreply=False)
        item = await client.gets(key=key, return_flags=True)
        assert (item.value, item.flags) == (b"123", 2)
        await client.cas(key=key, value=b"7", cas=item.cas, flags=3, exptime=0, noreply=False)
        assert await client.increment(key=key, value=2, noreply=False) == 9
        assert await client.decrement(key=key, value=1, noreply=False) == 8
        await client.touch(key=key, exptime=0, noreply=False)
        assert await client.gat(exptime=0, key=key, return_flags=True) == emcache.Item(
            b"8", 3, None
        )
        assert (await client.gats_many(exptime=0, keys=[key], return_flags=True))[key].flags == 3
        await client.delete(key=key, noreply=False)
        assert await client.get(key=key, return_flags=False) is None

    @pytest.mark.parametrize("verb", STORE)
    async def test_flags(self, client, key, verb):
        for flags in FLAGS:
            with contextlib.suppress(NOT_FOUND):
                await client.delete(key)
            if verb == "replace":
                await client.set(key, b"", flags=5)
            await STORE[verb](client, key, b"value", flags=flags)
            assert (await client.get(key, return_flags=True)).flags == flags

    @pytest.mark.parametrize("verb", EXTEND)
    async def test_flags_stay(self, client, key, verb):
        await client.set(key, b"a", flags=2**32 - 1)
        await EXTEND[verb](client, key, b"b")
        assert (await client.get(key, return_flags=True)).flags == 2**32 - 1

    async def test_flags_of_an_enum(self, client, key):
        class Kind(enum.IntFlag):
            JSON = 2
            ZIPPED = 8

        await client.set(key, b"value", flags=Kind.JSON | Kind.ZIPPED)
        assert (await client.get(key, return_flags=True)).flags == 10

    async def test_delete(self, client, key):
        assert await outcome(client.delete(key)) is NOT_FOUND
        await client.set(key, b"value")
        assert await client.delete(key) is None
        assert await client.get(key) is None

    async def test_delete_noreply(self, one_connection, key):
        assert await one_connection.delete(key, noreply=True) is None
        await one_connection.set(key, b"value")
        assert await one_connection.delete(key, noreply=True) is None
        assert await one_connection.get(key) is None

    async def test_a_refused_condition_names_its_node_and_command(self, client, key):
        calls = {"delete": client.delete(key), "replace": client.replace(key, b"secret")}
        for command, call in calls.items():
            with pytest.raises(emcache.CommandError) as raised:
                await call
            error = raised.value
            assert error.command == command
            assert str(error.node) in str(error)
            assert str(error).endswith(f"({command})")
            assert "secret" not in str(error)


class TestCas:
    async def test_right_token(self, client, key):
        await client.set(key, b"old", flags=1)
        token = (await client.gets(key)).cas
        assert await client.cas(key, b"new", token, flags=2**32 - 1) is None
        item = await client.gets(key, return_flags=True)
        assert (item.value, item.flags) == (b"new", 2**32 - 1)
        assert item.cas != token
        assert await outcome(client.cas(key, b"newer", token)) is NOT_STORED
        assert await value_in(client, key) == b"new"

    @pytest.mark.parametrize("retrieve", ["gets", "gats", "gets_many", "gats_many"])
    async def test_token_of(self, client, key, retrieve):
        await client.set(key, b"old")
        found = await RETRIEVE[retrieve](client, key, False)
        item = found[key] if retrieve.endswith("_many") else found
        await client.cas(key, b"new", item.cas)
        assert await value_in(client, key) == b"new"

    @pytest.mark.parametrize("token", [0, 1, 2**32, 2**63, 2**64 - 1])
    async def test_wrong_token(self, client, key, token):
        """0 too: 1.3.3 left it out, and the server then ran the value as a command."""
        await client.set(key, b"old")
        assert await outcome(client.cas(key, b"flush_all", token)) is NOT_STORED
        assert await value_in(client, key) == b"old"

    @pytest.mark.parametrize("token", [0, 1, 2**64 - 1])
    async def test_miss(self, client, key, token):
        assert await outcome(client.cas(key, b"new", token)) is emcache.StorageCommandError
        assert await client.get(key) is None

    async def test_noreply(self, one_connection, key):
        await one_connection.set(key, b"old")
        token = (await one_connection.gets(key)).cas
        assert await one_connection.cas(key, b"no", token + 1, noreply=True) is None
        assert await value_in(one_connection, key) == b"old"
        assert await one_connection.cas(key, b"new", token, noreply=True) is None
        assert await value_in(one_connection, key) == b"new"


NOW = int(time.time())
# name: (exptime, whether the item is there right afterwards)
EXPTIMES = {
    "never": (0, True),
    "soon": (100, True),
    "30 days": (2592000, True),
    "a date": (NOW + 100_000, True),
    "the last date": (2**31 - 1, True),
    "minus one": (-1, False),
    "the lowest": (-(2**31), False),
    "more than 30 days is a date in 1970": (2592001, False),
    "a date gone by": (NOW - 1000, False),
}


class TestExptime:
    @pytest.mark.parametrize("exptime", EXPTIMES.values(), ids=EXPTIMES)
    @pytest.mark.parametrize("verb", [*STORE, "cas", "touch", "gat", "gats_many"])
    async def test_exptime(self, client, key, verb, exptime):
        seconds, there = exptime
        if verb != "add":
            await client.set(key, b"old")
        match verb:
            case "cas":
                await client.cas(key, b"new", (await client.gets(key)).cas, exptime=seconds)
            case "touch":
                assert await client.touch(key, seconds) is None
            case "gat":
                assert (await client.gat(seconds, key)).value == b"old"
            case "gats_many":
                assert (await client.gats_many(seconds, [key]))[key].value == b"old"
            case _:
                await STORE[verb](client, key, b"new", exptime=seconds)
        assert (await client.get(key) is not None) is there

    async def test_one_second(self, server, unix_server, sasl_server, key):
        """All kinds of clients at the same time: the server takes a second."""
        async with contextlib.AsyncExitStack() as clients:
            pending = []
            for node in (server, unix_server, sasl_server):
                for merged in (True, False):
                    client = await clients.enter_async_context(client_of(node, autobatching=merged))
                    prefix = b"%s:%d" % (key, len(pending))
                    pending.append(await self.expiring(client, prefix))
            for expired in pending:
                await until(expired)

    async def expiring(self, client, key):
        names = [b"%s:%d" % (key, n) for n in range(8)]
        keep = b"%s:keep" % key
        for name in [keep, *names[2:]]:
            await client.set(name, b"value")
        await client.set(names[0], b"value", exptime=1)
        await client.add(names[1], b"value", exptime=1)
        await client.replace(names[2], b"value", exptime=1)
        await client.cas(names[3], b"value", (await client.gets(names[3])).cas, exptime=1)
        await client.touch(names[4], 1)
        await client.gat(1, names[5])
        await client.gats(1, names[6])
        await client.gat_many(1, names[7:])

        async def expired():
            return (await client.get_many([keep, *names])).keys() == {keep}

        return expired

    @pytest.mark.parametrize(
        "extend",
        [
            lambda client, key: client.touch(key, 0),
            lambda client, key: client.gat(0, key),
            lambda client, key: client.gats(0, key),
            lambda client, key: client.gat_many(0, [key]),
        ],
        ids=["touch", "gat", "gats", "gat_many"],
    )
    async def test_can_be_taken_back(self, node, client, key, extend):
        await client.set(key, b"value", exptime=100)
        await extend(client, key)
        if node.login:
            pytest.skip("the server speaks no meta protocol: see test_one_second_taken_back")
        # The server's own word (mg: t is the time to live), as waiting would take 100 s.
        with node.connect() as sock:
            sock.sendall(b"mg %s t\r\n" % key)
            assert sock.recv(100) == b"HD t-1\r\n"

    async def test_one_second_taken_back(self, sasl_server, key):
        async with client_of(sasl_server) as client:
            names = [b"%s:%d" % (key, n) for n in range(4)]
            for name in [*names, key]:
                # Not 1: all of this is to be done before it is over.
                await client.set(name, b"value", exptime=3)
            await client.touch(names[0], 0)
            await client.gat(0, names[1])
            await client.gats(0, names[2])
            await client.gat_many(0, names[3:])

            async def over():
                return await client.get(key) is None

            await until(over, 20.0)
            assert (await client.get_many(names)).keys() == set(names)

    async def test_touch_of_a_miss(self, client, key):
        assert await outcome(client.touch(key, 10)) is NOT_FOUND

    async def test_touch_noreply(self, one_connection, key):
        assert await one_connection.touch(key, 10, noreply=True) is None
        await one_connection.set(key, b"value")
        assert await one_connection.touch(key, -1, noreply=True) is None
        assert await one_connection.get(key) is None


# verb, before, delta, result and value afterwards
ARITHMETIC = [
    ("increment", b"10", 5, 15, b"15"),
    ("increment", b"10", 0, 10, b"10"),
    ("increment", b"99", 1, 100, b"100"),
    ("increment", b"0", 2**64 - 1, 2**64 - 1, b"18446744073709551615"),
    ("increment", b"18446744073709551615", 1, 0, b"0" + b" " * 19),
    ("increment", b"18446744073709551615", 2**64 - 1, 2**64 - 2, b"18446744073709551614"),
    ("decrement", b"15", 5, 10, b"10"),
    ("decrement", b"15", 0, 15, b"15"),
    ("decrement", b"100", 1, 99, b"99 "),
    ("decrement", b"5", 6, 0, b"0"),
    ("decrement", b"5", 2**64 - 1, 0, b"0"),
    ("decrement", b"18446744073709551615", 1, 2**64 - 2, b"18446744073709551614"),
]
NO_NUMBERS = [b"", b"abc", b"-1", b"1.5", b"1x", b"18446744073709551616", b"9" * 30]


class TestArithmetic:
    @pytest.mark.parametrize(
        ("verb", "before", "delta", "result", "after"),
        ARITHMETIC,
        ids=[f"{verb} {before.decode()} by {delta}" for verb, before, delta, *_ in ARITHMETIC],
    )
    async def test_result(self, client, key, verb, before, delta, result, after):
        await client.set(key, before, flags=9)
        number = await getattr(client, verb)(key, delta)
        assert type(number) is int
        assert number == result
        assert await client.get(key, return_flags=True) == emcache.Item(after, 9, None)

    @pytest.mark.parametrize("verb", ["increment", "decrement"])
    async def test_noreply(self, one_connection, key, verb):
        assert await getattr(one_connection, verb)(key, 1, noreply=True) is None
        await one_connection.set(key, b"10")
        assert await getattr(one_connection, verb)(key, 1, noreply=True) is None
        assert int(await value_in(one_connection, key)) == {"increment": 11, "decrement": 9}[verb]

    @pytest.mark.parametrize("verb", ["increment", "decrement"])
    async def test_miss(self, client, key, verb):
        assert await outcome(getattr(client, verb)(key, 1)) is NOT_FOUND

    @pytest.mark.parametrize("before", NO_NUMBERS, ids=lambda value: value.decode() or "empty")
    @pytest.mark.parametrize("verb", ["increment", "decrement"])
    async def test_no_number(self, client, key, verb, before):
        await client.set(key, before)
        for handler in (emcache.CommandError, ValueError, emcache.ArithmeticCommandError):
            with pytest.raises(handler):
                await getattr(client, verb)(key, 1)
        assert await value_in(client, key) == before

    async def test_concurrent(self, client, key):
        await client.set(key, b"0")
        numbers = await asyncio.gather(*(client.increment(key, 1) for _ in range(100)))
        assert sorted(numbers) == list(range(1, 101))


PATTERNS = {
    "END": b"END\r\n",
    "VALUE": b"VALUE x 0 1\r\n",
    "CRLF": b"\r\n",
    "NUL": b"\0",
    "all bytes": bytes(range(256)),
    "meta": b"EN\r\nHD\r\nVA 1\r\n",
    "replies": b"STORED\r\nERROR\r\nSERVER_ERROR x\r\n",
}
SIZES = [
    *(0, 1, 2, 4, 5, 6, 7, 13, 14, 500, 2047, 2048, 2049, 4096, 16383, 16384, 16385),
    *(65535, 65536, 65537, 131072, 524288, MIB - 512),
]


class TestValues:
    @pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
    async def test_any_bytes_of_any_size(self, client, key, pattern):
        names = [b"%s:%d" % (key, size) for size in SIZES]
        values = {
            name: (pattern * (size // len(pattern) + 1))[-size:] if size else b""
            for name, size in zip(names, SIZES, strict=True)
        }
        await asyncio.gather(*(client.set(name, value) for name, value in values.items()))
        for name, value in values.items():
            assert await value_in(client, name) == value
        found = await client.get_many(names)
        assert {name: item.value for name, item in found.items()} == values
        await asyncio.gather(*(client.delete(name) for name in names))

    @pytest.mark.parametrize("verb", EXTEND)
    async def test_extending_by_nothing(self, client, key, verb):
        await client.set(key, b"value")
        await EXTEND[verb](client, key, b"")
        assert await value_in(client, key) == b"value"

    async def test_extending_to_control_bytes(self, client, key):
        await client.set(key, b"\r")
        await client.append(key, b"\nEND")
        await client.prepend(key, b"\0")
        assert await value_in(client, key) == b"\0\r\nEND"

    @pytest.mark.parametrize(
        ("value", "stored"),
        [
            (bytearray(b"abc\r\n"), b"abc\r\n"),
            (memoryview(b"abcdef"), b"abcdef"),
            (memoryview(b"abcdef")[::2], b"ace"),
            (memoryview(b"abcdef")[::-1], b"fedcba"),
            (memoryview(bytearray(b"abcdef"))[2:4], b"cd"),
            (memoryview(b"abcdefgh").cast("H")[1:3], b"cdef"),
            (memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
            (array.array("B", [1, 2, 3]), b"\1\2\3"),
            (bytearray(), b""),
            (memoryview(b""), b""),
            (type("Bytes", (bytes,), {})(b"abc"), b"abc"),
        ],
        ids=[
            *("bytearray", "view", "every second", "backwards", "slice", "words", "two dimensions"),
            *("array", "empty bytearray", "empty view", "subclass of bytes"),
        ],
    )
    async def test_bytes_like(self, client, key, value, stored):
        await client.set(key, value)
        assert await value_in(client, key) == stored
        await client.append(key, value)
        await client.prepend(key, value)
        assert await value_in(client, key) == stored * 3
        await client.cas(key, value, (await client.gets(key)).cas)
        assert await value_in(client, key) == stored

    @pytest.mark.parametrize("view", [bytearray, memoryview], ids=["bytearray", "memoryview"])
    @pytest.mark.parametrize("noreply", [False, True], ids=["reply", "noreply"])
    async def test_mutated_after_the_call_was_made(self, one_connection, key, view, noreply):
        buffer = bytearray(b"a" * 500_000)
        value = buffer if view is bytearray else memoryview(buffer)
        call = asyncio.ensure_future(one_connection.set(key, value, noreply=noreply))
        await asyncio.sleep(0)
        buffer[:] = b"b" * len(buffer)
        if view is bytearray:
            buffer.clear()
        await call
        assert await value_in(one_connection, key) == b"a" * 500_000

    @pytest.mark.parametrize(
        "value", ["str", 1, None, 1.5, [1], object()], ids=lambda value: type(value).__name__
    )
    @pytest.mark.parametrize("verb", STORE | EXTEND)
    async def test_not_bytes_like(self, client, key, verb, value):
        await client.set(key, b"old")
        with pytest.raises(TypeError, match="value"):
            await (STORE | EXTEND)[verb](client, key, value)
        with pytest.raises(TypeError, match="value"):
            await client.cas(key, value, 1)
        assert await value_in(client, key) == b"old"


def largest_value(node, key: bytes) -> int:
    """The size of the largest value that the server takes, asked without the client."""

    low, high = MIB // 2, MIB
    with node.connect() as sock, sock.makefile("rb") as answers:
        while high - low > 1:
            size = (low + high) // 2
            sock.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key, size, b"x" * size))
            low, high = (size, high) if answers.readline() == b"STORED\r\n" else (low, size)
    return low


class TestTooLarge:
    @pytest.mark.parametrize("verb", [*STORE, "cas"])
    async def test_is_refused_and_work_goes_on(self, client, key, verb):
        other = key + b":other"
        await client.set(other, b"other")
        call = STORE.get(verb)
        if verb != "add":
            await client.set(key, b"old")
        if verb == "cas":
            token = (await client.gets(key)).cas
            call = lambda client, key, value: client.cas(key, value, token)  # noqa: E731
        with pytest.raises(emcache.StorageCommandError, match="too large") as raised:
            await call(client, key, TOO_LARGE)
        assert type(raised.value) is emcache.StorageCommandError
        # The server drops what the key had for `set` only.
        kept = {"set": None, "add": None, "replace": b"old", "cas": b"old"}
        assert await value_in(client, key) == kept[verb]
        assert await value_in(client, other) == b"other"
        await client.set(key, b"new")
        assert await value_in(client, key) == b"new"

    @pytest.mark.parametrize("verb", EXTEND)
    async def test_extending(self, client, key, verb):
        await client.set(key, b"old")
        assert await outcome(EXTEND[verb](client, key, TOO_LARGE)) is emcache.StorageCommandError
        await client.set(key, b"x" * (MIB - 1024))
        result = await outcome(EXTEND[verb](client, key, b"x" * MIB))
        assert issubclass(result, emcache.StorageCommandError)
        await client.set(key, b"new")
        assert await value_in(client, key) == b"new"

    async def test_among_others(self, client, key):
        names = [b"%s:%d" % (key, n) for n in range(30)]
        values = [TOO_LARGE if n % 5 == 0 else b"%d" % n for n in range(30)]
        results = await asyncio.gather(
            *(outcome(client.set(k, value)) for k, value in zip(names, values, strict=True))
        )
        refused = emcache.StorageCommandError
        assert results == [refused if n % 5 == 0 else None for n in range(30)]
        found = await client.get_many(names)
        assert {k: item.value for k, item in found.items()} == {
            names[n]: b"%d" % n for n in range(30) if n % 5
        }

    async def test_limit(self, server, key):
        async with emcache.create_client([server.address], timeout=10.0) as client:
            size = largest_value(server, key)
            await client.set(key, b"a" * size)
            assert await value_in(client, key) == b"a" * size
            refused = await outcome(client.set(key, b"a" * (size + 1)))
            assert refused is emcache.StorageCommandError


# The value before, and a command without a reply that the server answers with an error.
FAILING = {
    "set": (b"old", lambda client, key: client.set(key, TOO_LARGE, noreply=True)),
    "add": (None, lambda client, key: client.add(key, TOO_LARGE, noreply=True)),
    "replace": (b"old", lambda client, key: client.replace(key, TOO_LARGE, noreply=True)),
    "append": (b"old", lambda client, key: client.append(key, TOO_LARGE, noreply=True)),
    "prepend": (b"old", lambda client, key: client.prepend(key, TOO_LARGE, noreply=True)),
    "cas": (b"old", lambda client, key: client.cas(key, TOO_LARGE, 1, noreply=True)),
    "increment": (b"abc", lambda client, key: client.increment(key, 1, noreply=True)),
    "decrement": (b"abc", lambda client, key: client.decrement(key, 1, noreply=True)),
}
# The server's answer is no error: nothing to count.
UNMET = {
    "add": lambda client, key: client.add(key, b"", noreply=True),
    "replace": lambda client, key: client.replace(key + b":none", b"", noreply=True),
    "append": lambda client, key: client.append(key + b":none", b"", noreply=True),
    "prepend": lambda client, key: client.prepend(key + b":none", b"", noreply=True),
    "cas": lambda client, key: client.cas(key, b"", 1, noreply=True),
    "delete": lambda client, key: client.delete(key + b":none", noreply=True),
    "touch": lambda client, key: client.touch(key + b":none", 1, noreply=True),
    "increment": lambda client, key: client.increment(key + b":none", 1, noreply=True),
}


class TestNoreplyErrors:
    @pytest.mark.parametrize("name", FAILING)
    async def test_is_counted_and_not_given_to_the_next(self, node, one_connection, key, name):
        before, command = FAILING[name]
        other = key + b":other"
        await one_connection.set(other, b"other")
        for repeat in range(1, 4):
            if before is not None:
                await one_connection.set(key, before)
            assert await command(one_connection, key) is None
            found = await asyncio.gather(*(one_connection.get(other) for _ in range(5)))
            assert [item.value for item in found] == [b"other"] * 5
            assert await one_connection.version(node.address)
            assert one_connection._core.noreply_errors == repeat

    @pytest.mark.parametrize("command", UNMET.values(), ids=UNMET)
    async def test_unmet_condition_is_no_error(self, node, one_connection, key, command):
        await one_connection.set(key, b"value")
        assert await command(one_connection, key) is None
        assert await value_in(one_connection, key) == b"value"
        assert one_connection._core.noreply_errors == 0

    async def test_many_mixed(self, client, key):
        """More than may be unanswered, on all connections, with bad ones between."""
        names = [b"%s:%d" % (key, n) for n in range(50)]
        await asyncio.gather(*(client.set(name, name) for name in names))
        await client.set(key, b"no number")
        bad = 0
        for n in range(20_000):
            name = names[n % 50]
            if n % 7 == 0:
                await client.increment(key, 1, noreply=True)
                bad += 1
            else:
                await client.set(name, name, noreply=True)
            if n % 100 == 0:
                assert await value_in(client, name) == name
        found = await client.get_many(names)
        assert {name: item.value for name, item in found.items()} == {name: name for name in names}

        async def all_counted():
            return client._core.noreply_errors == bad

        await until(all_counted)

    async def test_of_a_node_command(self, own_server, own):
        if own_server.login:
            pytest.skip("the binary protocol has no cache_memlimit")
        node = own_server.address
        assert await own.cache_memlimit(node, 1, noreply=True) is None
        assert await own.version(node) == own_server.stats()["version"]
        assert own._core.noreply_errors == 1


class TestNodeCommands:
    async def test_version(self, node, client):
        version = await client.version(node.address)
        assert type(version) is str
        assert version == node.stats()["version"]

    async def test_stats(self, node, client):
        stats = await client.stats(node.address)
        assert stats["pid"] == str(node.process.pid)
        assert stats.keys() == node.stats().keys()
        assert {type(text) for pair in stats.items() for text in pair} == {str}

    @pytest.mark.parametrize(
        ("args", "name"),
        [
            (("settings",), "maxbytes"),
            (("slabs",), "active_slabs"),
            (("sizes",), "sizes_status"),
            (("items",), "items:"),
            (("settings", "of", "all"), "maxbytes"),
            (("slabs", "x"), "active_slabs"),
            (("conns",), "state"),
            (("detail", "dump"), None),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
    )
    async def test_stats_of(self, node, client, key, args, name):
        if node.login and args == ("conns",):
            pytest.skip("memcached has no such statistics in the binary protocol")
        await client.set(key, b"value")
        stats = await client.stats(node.address, *args)
        assert name is None or any(name in found for found in stats)

    async def test_large_stats(self, own_server, own):
        for size in range(100, 200_000, 5_000):
            await own.set(b"large:%d" % size, b"x" * size)
        stats = await own.stats(own_server.address, "slabs")
        assert len(stats) > 200

    @pytest.mark.parametrize(
        "args",
        [
            ("unknown",),
            ("reset",),
            ("detail", "on"),
            ("detail", "off"),
            # Words that only begin as those that are known.
            ("settingsfoo",),
            ("resetting",),
            ("details",),
            ("detail", "onward"),
            ("detail", "dumped"),
            ("detail",),
        ],
        ids=" ".join,
    )
    async def test_stats_without_stats(self, own_server, own, args):
        """The server does some of them, but 1.3 raises all the same."""
        assert await outcome(own.stats(own_server.address, *args)) is emcache.CommandError
        assert await own.version(own_server.address)

    async def test_stats_reset_is_done(self, own_server, own):
        await own.get(b"key")
        with contextlib.suppress(emcache.CommandError):
            await own.stats(own_server.address, "reset")
        assert own_server.stats()["cmd_get"] == "0"

    @pytest.mark.parametrize("noreply", [False, True], ids=["reply", "noreply"])
    async def test_verbosity(self, own_server, own, noreply):
        if own_server.login:
            # Memcached does not do what the binary protocol has for it.
            call = own.verbosity(own_server.address, 1, noreply=noreply)
            assert await outcome(call) is (None if noreply else emcache.CommandError)
            assert await own.version(own_server.address)
            return
        for level in (1, 0):
            assert await own.verbosity(own_server.address, level, noreply=noreply) is None
            settings = await own.stats(own_server.address, "settings")
            assert settings["verbosity"] == str(level)

    @pytest.mark.parametrize("noreply", [False, True], ids=["reply", "noreply"])
    async def test_cache_memlimit(self, own_server, own, noreply):
        if own_server.login:
            # The binary protocol has none.
            call = own.cache_memlimit(own_server.address, 100, noreply=noreply)
            assert await outcome(call) is (None if noreply else emcache.CommandError)
            assert await own.version(own_server.address)
            return
        for megabytes in (100, 64):
            assert await own.cache_memlimit(own_server.address, megabytes, noreply=noreply) is None
            settings = await own.stats(own_server.address, "settings")
            assert settings["maxbytes"] == str(megabytes * MIB)

    @pytest.mark.parametrize("megabytes", [0, 1, 7, 2**32 - 1])
    async def test_cache_memlimit_refused(self, own_server, own, megabytes):
        call = own.cache_memlimit(own_server.address, megabytes)
        assert await outcome(call) is emcache.CommandError
        settings = await own.stats(own_server.address, "settings")
        assert settings["maxbytes"] == str(64 * MIB)

    @pytest.mark.parametrize("noreply", [False, True], ids=["reply", "noreply"])
    async def test_flush_all(self, own_server, own, noreply):
        await own.set(b"flushed", b"value")
        assert await own.flush_all(own_server.address, noreply=noreply) is None
        assert await own.get(b"flushed") is None
        await own.set(b"flushed", b"value")
        assert await value_in(own, b"flushed") == b"value"

    @pytest.mark.parametrize("noreply", [False, True], ids=["reply", "noreply"])
    async def test_flush_all_later(self, own_server, own, noreply):

        async def stored():
            # An item of the second in which another test flushed all is gone.
            await own.set(b"later", b"value")
            return await own.get(b"later") is not None

        await until(stored)
        # Far enough away to be still there on a slow machine.
        assert await own.flush_all(own_server.address, 1000, noreply=noreply) is None
        assert await value_in(own, b"later") == b"value"
        assert await own.flush_all(own_server.address, delay=1, noreply=noreply) is None

        async def gone():
            return await own.get(b"later") is None

        await until(gone)

    @pytest.mark.parametrize(
        "address",
        [
            emcache.MemcachedHostAddress("127.0.0.1", 1),
            emcache.MemcachedHostAddress("localhost", 11211),
            emcache.MemcachedUnixSocketPath("/tmp/other"),
            "127.0.0.1:11211",
            None,
            0,
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        "call",
        [
            lambda client, address: client.version(address),
            lambda client, address: client.stats(address, "settings"),
            lambda client, address: client.flush_all(address),
            lambda client, address: client.verbosity(address, 0),
            lambda client, address: client.cache_memlimit(address, 64),
        ],
        ids=["version", "stats", "flush_all", "verbosity", "cache_memlimit"],
    )
    async def test_unknown_node(self, client, call, address):
        with pytest.raises(ValueError, match="can not be found") as raised:
            await call(client, address)
        assert str(raised.value) == f"{address} can not be found"

    async def test_equal_address_is_enough(self, server):
        twin = emcache.MemcachedHostAddress("127.0.0.1", server.port)
        async with emcache.create_client([server.address]) as client:
            assert await client.version(twin)
