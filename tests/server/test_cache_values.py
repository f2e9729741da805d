"""What values are on the wire, what is read back, and what is refused."""

import asyncio
import dataclasses
import datetime
import json
import logging
import os
import random
import subprocess
import sys
import threading
import tracemalloc
import zlib

import pytest

import emcache
from emcache import Cache, SerializationError
from emcache.cache import (
    Json,
    Lz4,
    MsgPack,
    Pickle,
    Pylibmc,
    Pymemcache,
    Raw,
    Utf8,
    Zlib,
    Zstd,
    _values,
    _warnings,
)
from emcache.cache._flags import FLAGS_EMPTY
from support.calls import outcomes, until, within
from support.memory import traces_memory

UTC_NOW = datetime.datetime.now(datetime.UTC)
DOCUMENT = {"name": "Ada", "tags": ["a", "ü"], "n": 1.5, "ok": True, "none": None}


@dataclasses.dataclass
class User:
    name: str


@pytest.mark.parametrize(
    ("serializer", "value", "stored", "flags"),
    [
        (Raw(), b"\0\xff", b"\0\xff", 0),
        # With flags 0 it would be the stub of a lease.
        (Raw(), b"", b"", 0x0EA00000),
        (Raw(flags=7), b"x", b"x", 7),
        (Utf8(), "ключ", "ключ".encode(), 0x0E200000),
        (Utf8(flags=0), "", b"", 0x0EA00000),
        (Utf8(), "", b"", 0x0E200000),
        (Json(), {"a": [1, "ü"]}, '{"a":[1,"ü"]}'.encode(), 0x0E400000),
        (Json(), None, b"null", 0x0E400000),
        (Json(dumps=json.dumps, loads=json.loads, flags=0), [1, 2], b"[1, 2]", 0),
        (MsgPack(), [1, b"\xff", None], b"\x93\x01\xc4\x01\xff\xc0", 0x0E600000),
        (Pickle(), True, b"\x80\x05\x88.", 0x0E800000),
    ],
)
async def test_on_the_wire(client, key, serializer, value, stored, flags):
    cache = Cache(client, serializer=serializer)
    await cache.set(key, value)
    item = await client.get(key, return_flags=True)
    assert (item.value, item.flags) == (stored, flags)
    assert await cache.get(key, "missing") == value


@pytest.mark.parametrize(
    ("serializer", "values"),
    [
        (Json(), [DOCUMENT, [], "", 0, -1, 2**70, False]),
        (MsgPack(), [DOCUMENT, {1: "a"}, b"bytes", UTC_NOW, None]),
        (Pickle(), [DOCUMENT, User("Ada"), {1, 2}, ("a",), UTC_NOW]),
    ],
)
async def test_round_trips(client, key, serializer, values):
    cache = Cache(client, serializer=serializer)
    for value in values:
        await cache.set(key, value)
        assert await cache.get(key, "missing") == value


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        (Raw(), "text"),
        (Utf8(), b"bytes"),
        (Utf8(), "\ud800"),
        (Json(), User("Ada")),
        (Json(), float("nan")),
        (Json(), b"bytes"),
        (MsgPack(), User("Ada")),
        (MsgPack(), datetime.datetime(2026, 1, 1)),
        (Pickle(), lambda: None),
    ],
)
async def test_what_cannot_be_stored(client, key, serializer, value):
    cache = Cache(client, serializer=serializer)
    with pytest.raises(
        SerializationError, match=f"of type {type(value).__name__}, cannot be stored"
    ) as raised:
        await cache.set(key, value)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value.__cause__, Exception)
    assert await client.get(key) is None


SERIALIZERS = [Raw(), Utf8(), Json(), MsgPack(), Pickle()]


@pytest.mark.parametrize("reader", SERIALIZERS, ids=repr)
async def test_never_what_another_serializer_wrote(client, key, reader):
    cache = Cache(client, serializer=reader)
    for writer in SERIALIZERS:
        if writer is not reader:
            await client.set(key, b"1", flags=writer.flags)
            with pytest.raises(SerializationError, match=f"{writer.flags:#x} are not those of"):
                await cache.get(key)
    # 2 is pymemcache's integer, 8 is its zlib, the others nobody's.
    for flags in (2, 8, 0xEC02, 0x0E400001, 0x0EA00000, 0x8E400000, 2**31, 3 << 28):
        await client.set(key, b"1", flags=flags)
        with pytest.raises(SerializationError):
            await cache.get(key)


@pytest.mark.parametrize(
    ("serializer", "data"),
    [(Utf8(), b"\xff"), (Json(), b"{"), (Json(), b""), (MsgPack(), b"\x93"), (Pickle(), b"cno\n")],
)
async def test_what_cannot_be_read(client, key, serializer, data):
    cache = Cache(client, serializer=serializer)
    await client.set(key, data, flags=serializer.flags)
    for read in (cache.get(key), cache.get_with_cas(key), cache.get_many([key])):
        with pytest.raises(SerializationError, match="cannot be read") as raised:
            await read
        assert key.decode() in str(raised.value)


async def test_values_are_in_no_message(client, key):
    def loads(data):
        raise ValueError(f"bad: {data!r}")

    cache = Cache(client, serializer=Json(dumps=str, loads=loads))
    await cache.set(key, "secret")
    with pytest.raises(SerializationError) as raised:
        await cache.get(key)
    assert "secret" not in str(raised.value)
    assert "secret" in str(raised.value.__cause__)


async def test_unreadable_values_as_misses(client, key, caplog, monkeypatch):
    _warnings.LOG.reset()
    cache = Cache(client, on_unreadable="miss")
    await client.set(key, b"1", flags=1)
    with caplog.at_level(logging.WARNING, "emcache"):
        assert await cache.get(key) is None
        assert await cache.get(key, "default") == "default"
        assert await cache.get_many([key]) == {}
        assert await cache.get_with_cas(key) is None
    assert len(caplog.records) == 1
    assert "flags 0x1" in caplog.text
    # Other errors are errors.
    with pytest.raises(emcache.InvalidKeyError):
        await cache.get("a b")


TEXT = json.dumps([{"id": n, "name": f"user {n % 7}"} for n in range(200)])
COMPRESSIONS = {1 << 28: Zstd, 1 << 29: Lz4, 1 << 30: Zlib}


@pytest.mark.parametrize(("flag", "compression"), COMPRESSIONS.items())
async def test_compressed(client, key, flag, compression):
    cache = Cache(client, serializer=Utf8(), compression=compression())
    await cache.set(key, TEXT)
    item = await client.get(key, return_flags=True)
    assert item.flags == 0x0E200000 | flag
    assert len(item.value) < len(TEXT) / 3
    assert await cache.get(key) == TEXT
    # Whoever does not compress, or does otherwise, reads it all the same.
    for other in (None, *(each() for each in COMPRESSIONS.values())):
        assert await Cache(client, serializer=Utf8(), compression=other).get(key) == TEXT


@pytest.mark.parametrize("compression", COMPRESSIONS.values())
async def test_what_stays_uncompressed(client, key, compression):
    noise = random.Random(1).randbytes(5000)
    for value, min_size in ((b"a" * 1023, 1024), (noise, 1024), (b"", 0), (b"a", 0)):
        cache = Cache(client, serializer=Raw(), compression=compression(min_size=min_size))
        await cache.set(key, value)
        item = await client.get(key, return_flags=True)
        assert (item.value, item.flags) == (value, 0 if value else FLAGS_EMPTY)
        assert await cache.get(key) == value
    await Cache(client, serializer=Raw(), compression=compression()).set(key, b"a" * 1024)
    assert (await client.get(key, return_flags=True)).flags > 0


@pytest.mark.parametrize(("flag", "compression"), COMPRESSIONS.items())
async def test_the_limit_of_decompressed_size(client, key, flag, compression):
    value = bytes(100_000)
    cache = Cache(client, serializer=Raw(), max_size=100_000)
    await client.set(key, compression().compress(value), flags=flag)
    assert await cache.get(key) == value
    await client.set(key, compression().compress(value + b"\0"), flags=flag)
    with pytest.raises(SerializationError, match="max_size, 100000 bytes"):
        await cache.get(key)


@pytest.mark.parametrize(("flag", "compression"), COMPRESSIONS.items())
async def test_the_largest_limit_is_no_limit(client, key, flag, compression):
    value = bytes(_values.DECOMPRESS_IN_LOOP + 1)
    cache = Cache(client, serializer=Raw(), compression=compression(), max_size=sys.maxsize)
    for each in (value, value[:2000]):
        await cache.set(key, each)
        assert (await client.get(key, return_flags=True)).flags == flag
        assert await cache.get(key) == each


@traces_memory
@pytest.mark.parametrize(("flag", "compression"), COMPRESSIONS.items())
async def test_a_bomb_takes_no_memory(client, key, flag, compression):
    bomb = compression().compress(bytes(200 * 2**20))
    cache = Cache(client, serializer=Raw(), max_size=4 * 2**20)
    await client.set(key, bomb, flags=flag)
    await cache.get(key + b"warm-up")
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError, match="max_size, 4194304 bytes"):
            await cache.get(key)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.driver_independent
@pytest.mark.parametrize("compression", COMPRESSIONS.values())
def test_a_bomb_takes_no_memory_of_the_process(compression):
    # What the libraries themselves allocate is not traced; that it grows shows in a process of
    # its own. Nor does it help that a zstd frame does not say its size.
    program = f"""
import resource, zlib, sys
from emcache.cache import {compression.__name__} as Compression
compression = Compression()
if Compression.__name__ == "Zstd":
    from {"compression" if sys.version_info >= (3, 14) else "backports"} import zstd
    stream = zstd.ZstdCompressor()
    bomb = b"".join(stream.compress(bytes(2**20)) for _ in range(200)) + stream.flush()
    assert zstd.get_frame_info(bomb).decompressed_size is None
else:
    bomb = compression.compress(bytes(200 * 2**20))
# The peak so far is that of making it.
pid_peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = pid_peak()
assert compression.decompress(bomb, 4 * 2**20) is None
print(pid_peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    if "clear_refs" in done.stderr:
        pytest.skip("this system does not reset a process's peak of memory")
    assert done.stderr == ""
    assert int(done.stdout) < 24 * 1024


@pytest.mark.parametrize(("flag", "compression"), COMPRESSIONS.items())
async def test_damaged_data(client, key, flag, compression):
    whole = compression().compress(TEXT.encode())
    cache = Cache(client, serializer=Raw(), compression=compression())
    for data in (whole[:-1], whole[: len(whole) // 2], whole + b"x", b"", b"\0" * 50, b"text"):
        await client.set(key, data, flags=flag)
        with pytest.raises(SerializationError, match="cannot be read"):
            await cache.get(key)


class Watched(Zlib):
    """Remembers the threads it worked in."""

    def __init__(self):
        super().__init__()
        self.threads = []

    def compress(self, data):
        self.threads.append(threading.current_thread())
        return super().compress(data)

    def decompress(self, data, limit):
        self.threads.append(threading.current_thread())
        return super().decompress(data, limit)


async def test_large_values_are_left_to_a_thread(client, key):
    watched = Watched()
    cache = Cache(client, serializer=Raw(), compression=watched)
    loops = threading.current_thread()
    await cache.set(key, bytes(_values.COMPRESS_IN_LOOP - 1))
    await cache.get(key)
    assert watched.threads == [loops, loops]
    await cache.set(key, bytes(_values.COMPRESS_IN_LOOP))
    assert watched.threads.pop() is not loops
    large = bytes(_values.DECOMPRESS_IN_LOOP + 1)
    await cache.set(key, large)
    watched.threads.clear()
    assert await cache.get(key) == large
    # A little in the loop shows that there is more.
    assert watched.threads[0] is loops
    assert watched.threads[1] is not loops
    noise = os.urandom(_values.DECOMPRESS_IN_LOOP)
    await client.set(key, zlib.compress(noise), flags=1 << 30)
    watched.threads.clear()
    assert await cache.get(key) == noise
    assert loops not in watched.threads


class Slow(Zlib):
    """Counts those who decompress in threads at once, who wait until they are told to go on."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.go = threading.Event()
        self.begun = self.now = self.most = 0

    def decompress(self, data, limit):
        if limit == _values.DECOMPRESS_IN_LOOP:
            return None
        with self.lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.now, self.most)
        try:
            assert self.go.wait(10)
            return super().decompress(data, limit)
        finally:
            with self.lock:
                self.now -= 1


@within(10)
async def test_few_large_values_are_decompressed_at_once(client, key):
    slow = Slow()
    cache = Cache(client, serializer=Raw(), compression=slow)
    large = bytes(_values.DECOMPRESS_IN_LOOP + 1)
    await cache.set(key, large)
    readers = [asyncio.create_task(cache.get(key)) for _ in range(8)]
    await until(lambda: slow.begun == 2)
    # Those who gave up still have their threads, and so their places.
    readers[0].cancel()
    readers[1].cancel()
    readers[7].cancel()
    await asyncio.sleep(0.02)
    assert (slow.begun, slow.now) == (2, 2)
    slow.go.set()
    results = await outcomes(*readers)
    kinds = [result if isinstance(result, bytes) else type(result) for result in results]
    gone = kinds.count(asyncio.CancelledError)
    assert gone == 3
    assert kinds.count(large) == 5
    assert slow.most == 2


async def test_damaged_data_in_a_thread(client, key):
    await client.set(key, b"x" * (_values.DECOMPRESS_IN_LOOP + 1), flags=1 << 30)
    cache = Cache(client, serializer=Raw())
    for result in await outcomes(*(asyncio.ensure_future(cache.get(key)) for _ in range(5))):
        assert "cannot be read" in str(result)


async def test_what_could_not_be_read_back_is_not_stored(client, key):
    cache = Cache(client, serializer=Raw(), compression=Zlib(), max_size=10_000)
    await cache.set(key, bytes(10_000))
    with pytest.raises(SerializationError, match=r"10001 bytes .* max_size is 10000"):
        await cache.set(key, bytes(10_001))
    assert await cache.get(key) == bytes(10_000)


async def test_a_cancelled_call_with_a_thread(client, key):
    cache = Cache(client, serializer=Raw(), compression=Zlib())
    task = asyncio.create_task(cache.set(key, bytes(1_000_000)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await cache.set(key, b"after")
    assert await cache.get(key) == b"after"


class Reversed:
    """A compression without a base class."""

    flag = 1 << 19
    min_size = 0

    def compress(self, data):
        return data[::-1].strip(b" ")

    def decompress(self, data, limit):
        return data[::-1]


async def test_a_compression_of_ones_own(client, key):
    cache = Cache(client, serializer=Utf8(), compression=Reversed())
    await cache.set(key, "abc ")
    item = await client.get(key, return_flags=True)
    assert (item.value, item.flags) == (b"cba", 0x0E200000 | 1 << 19)
    assert await cache.get(key) == "abc"
    with pytest.raises(SerializationError):
        await Cache(client, serializer=Utf8()).get(key)


class Giving:
    """A serializer that gives what it is told."""

    def __init__(self, dumped):
        self.dumped = dumped

    def dumps(self, value):
        return self.dumped if value == "bad" else (value.encode(), 1)

    def loads(self, data, flags):
        return data.decode()


@pytest.mark.parametrize(
    ("dumped", "says"),
    [
        (("text", 1), "must return bytes, not str"),
        ((None, 1), "must return bytes, not NoneType"),
        ((b"x", -1), "must return flags from 0 to"),
        ((b"x", 2**32), "must return flags from 0 to"),
        ((b"x", "1"), "must return flags from 0 to"),
        ((b"x", True), "must return flags from 0 to"),
        (b"xy", "a tuple of bytes and flags"),
        ((b"x",), "a tuple of bytes and flags"),
    ],
)
async def test_what_a_serializer_must_give(client, key, dumped, says):
    cache = Cache(client, serializer=Giving(dumped), prefix=key)
    with pytest.raises(SerializationError, match=f"cannot be stored: the serializer .*{says}"):
        await cache.set("k", "bad")
    errors = await cache.set_many({"a": "good", "k": "bad", "b": "good"})
    assert list(errors) == ["k"]
    assert isinstance(errors["k"], SerializationError)
    assert await cache.get_many(["a", "k", "b"]) == {"a": "good", "b": "good"}


async def test_bytes_of_any_kind_are_stored(client, key):
    for data in (bytearray(b"data"), memoryview(b"data")):
        await Cache(client, serializer=Giving((data, 1))).set(key, "bad")
        assert await Cache(client, serializer=Giving(None)).get(key) == "data"


class Wordy(Reversed):
    def compress(self, data):
        return ""


async def test_what_a_compression_must_give(client, key):
    cache = Cache(client, serializer=Utf8(), compression=Wordy())
    with pytest.raises(SerializationError, match="the compression must return bytes, not str"):
        await cache.set(key, "x")


@pytest.mark.parametrize("flags", [1 << 28, 0xF0000000, 0x4E400000])
async def test_flags_that_mark_compression_are_refused(client, key, flags):
    with pytest.raises(ValueError, match=f"flags {flags:#x} .*mark compressed values"):
        Cache(client, serializer=Raw(flags=flags))
    # Of a serializer of the user's the flags are known only with its values.
    cache = Cache(client, serializer=Giving((b"x", flags)))
    with pytest.raises(SerializationError, match="mark compressed values"):
        await cache.set(key, "bad")


class SharingABit(Reversed):
    flag = 1 << 21


async def test_a_compression_whose_bit_the_serializer_uses_is_refused(client):
    with pytest.raises(ValueError, match="mark compressed values"):
        Cache(client, serializer=Utf8(), compression=SharingABit())


@pytest.mark.driver_independent
def test_no_mark_has_a_bit_that_other_clients_use():
    marks = [each().flags for each in (Utf8, Json, MsgPack, Pickle)]
    marks += [each().flag for each in COMPRESSIONS.values()]
    assert len(set(marks)) == len(marks)
    for mark in marks:
        # Below 19 they mean something to one or the other, with 31 spymemcached disconnects.
        assert mark & ~sum(1 << bit for bit in range(19, 31)) == 0
        # Two bits are left to the compressions of users.
        assert mark & (3 << 19) == 0


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Json(dumps=json.dumps),
        lambda: Raw(flags="1"),
        lambda: Raw(flags=True),
        lambda: Utf8(flags=2**32),
        lambda: MsgPack(flags=-1),
        lambda: Zlib(level=10),
        lambda: Zlib(min_size=-1),
        lambda: Zlib(flag=3),
        lambda: Zlib(flag=0),
        lambda: Lz4(level=17),
        lambda: Zstd(level=23),
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises((ValueError, TypeError)):
        wrong()


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Json(flags="1"), "flags must be an int, not str"),
        (lambda: Json(dumps=5, loads=5), "dumps must be a function, not int"),
        (lambda: Pickle(protocol="5"), "protocol must be an int, not str"),
        (lambda: Pickle(protocol=99), "protocol must be between"),
        (lambda: Zlib(level="9"), "level must be an int, not str"),
        (lambda: Zlib(min_size="1k"), "min_size must be an int, not str"),
        (lambda: Zlib(min_size=1e3), "min_size must be an int, not float"),
        (lambda: Zlib(flag="x"), "flag must be an int, not str"),
        (lambda: Zstd(level=None), "level must be an int, not NoneType"),
        (lambda: Pymemcache(compress_from="1k"), "compress_from must be an int, not str"),
        (lambda: Pylibmc(pickle=2), "pickle must be a bool, not int"),
    ],
)
def test_a_wrong_argument_is_named(wrong, says):
    with pytest.raises((TypeError, ValueError), match=says):
        wrong()


class OddFlag(Zlib):
    flag = 3

    def __init__(self):
        self.min_size = 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"compression": "zlib"}, "compression must have .*: str 'zlib' has no compress"),
        ({"compression": Zlib}, r"compression must be an object, .*; write Zlib\(\)"),
        ({"compression": zlib}, "module .* has no flag"),
        ({"compression": OddFlag()}, "flag must have exactly one"),
        ({"serializer": Json}, r"serializer must be an object, .*; write Json\(\)"),
        ({"serializer": "json"}, "serializer must have dumps, loads: str 'json' has no dumps"),
        ({"serializer": ""}, "serializer must have dumps, loads"),
        ({"serializer": Pymemcache}, r"write Pymemcache\(\)"),
        ({"serializer": Json(), "compression": True}, "bool True has no compress"),
        ({"ttl": "60"}, "'ttl' has incorrect type .*got str"),
        ({"ttl": 1.5}, "'ttl' has incorrect type .*got float"),
        ({"max_size": "16M"}, "max_size must be an int, not str"),
    ],
    ids=str,
)
async def test_what_would_fail_with_the_first_value(client, options, says):
    with pytest.raises((TypeError, ValueError), match=says):
        Cache(client, **options)


async def test_wrong_arguments_of_a_cache(client):
    for wrong in (
        {"on_unreadable": "ignore"},
        {"max_size": 0},
        {"keys": "md5"},
        {"prefix": "a b"},
        {"ttl": datetime.datetime(2026, 1, 1)},
    ):
        with pytest.raises(ValueError):
            Cache(client, **wrong)
    creating = emcache.create_client([emcache.MemcachedHostAddress("127.0.0.1", 1)])
    with pytest.raises(TypeError, match="await"):
        Cache(creating)
    await (await creating).close()


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [("msgpack", "MsgPack", "msgpack"), ("backports.zstd", "Zstd", "zstd"), ("lz4", "Lz4", "lz4")],
)
def test_a_missing_library_says_what_to_install(module, name, extra):
    if name == "Zstd" and sys.version_info >= (3, 14):
        pytest.skip("zstd is in the standard library")
    program = f"""
import sys
sys.modules[{module!r}] = None
import emcache.cache
try:
    emcache.cache.{name}()
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert f"pip install 'emcache[{extra}]'" in done.stdout


@pytest.mark.driver_independent
def test_whoever_has_no_cache_imports_none():
    program = "import sys, emcache; print([m for m in sys.modules if 'emcache.cache' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
    for name in ("Cache", "cached"):
        assert name in emcache.__all__
        assert getattr(emcache, name) is getattr(emcache.cache, name)
