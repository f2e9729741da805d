"""What the presets for PHP, Ruby, Perl and Java refuse, and how; tests/interop has the rest."""

import asyncio
import contextlib
import struct
import zlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcache import Cache, SerializationError
from emcache.cache import (
    Bmemcached,
    Dalli,
    Json,
    MetaMemcache,
    MsgPack,
    PerlMemcached,
    PhpMemcache,
    PhpMemcached,
    Pickle,
    Pylibmc,
    Pymemcache,
    Spymemcached,
    Utf8,
    Zlib,
)
from emcache.cache._fastlz import decompress
from emcache.cache._presets_compression import PhpFastLz
from emcache.cache._values import Values

MARSHAL, JAVA, PHP = b"\x04\x08i.", b"\xac\xed\x00\x05sr\x00", b'a:1:{i:0;s:1:"x";}'
STORABLE, PICKLE, IGBINARY = b"\x05\x0b\x02\x00", b"\x80\x05]\x94.", b"\0\0\0\2\x00"
SERIALIZED = {
    MARSHAL: "dalli with Marshal",
    JAVA: "spymemcached with Java serialization",
    PHP: r"a PHP client with serialize\(\)",
    b"N;": r"a PHP client with serialize\(\)",
    STORABLE: "a Perl client with Storable",
    IGBINARY: "a PHP client with igbinary",
    PICKLE: "a Python client",
}
OTHERS = [PhpMemcache, Dalli, PerlMemcached, Spymemcached]
PICKLING = [Pymemcache, Pylibmc, Bmemcached, MetaMemcache]
ALL = [PhpMemcached, *OTHERS, *PICKLING]


@pytest.mark.parametrize("preset", OTHERS + PICKLING)
@pytest.mark.parametrize("data", SERIALIZED)
async def test_the_writer_of_serialized_values_is_named(client, key, preset, data):
    await client.set(key, data, flags=1)
    with pytest.raises(SerializationError, match=f"it was written by {SERIALIZED[data]}"):
        await Cache(client, serializer=preset()).get(key)


@pytest.mark.parametrize("preset", PICKLING)
async def test_only_pickles_are_unpickled(client, key, preset, monkeypatch):
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("unpickled"))
    for data in SERIALIZED.keys() - {PICKLE}:
        await client.set(key, data, flags=1)
        with pytest.raises(SerializationError, match=f"{SERIALIZED[data]}, which"):
            await Cache(client, serializer=preset(pickle=True)).get(key)


@pytest.mark.parametrize("preset", ALL)
@pytest.mark.parametrize("serializer", [Utf8(), Json(), MsgPack(), Pickle()], ids=repr)
async def test_our_own_formats_are_named(client, key, preset, serializer):
    name = type(serializer).__name__
    for options in ({}, {"compression": Zlib(min_size=1)}):
        await Cache(client, serializer=serializer, **options).set(key, "text" * 100)
        with pytest.raises(SerializationError, match=rf"written by emcache with {name}\(\)"):
            await Cache(client, serializer=preset()).get(key)


@pytest.mark.parametrize(
    ("preset", "value", "text"),
    [
        (PhpMemcached(), b"bytes", "stores str, int, float, bool, None, lists and dicts, not byte"),
        (PhpMemcached(binary=True), "text", "stores bytes, int, .*, not str"),
        (PhpMemcached(), 2**63, "integers of 64 bits"),
        (PhpMemcached(), {1, 2}, "not set"),
        (PhpMemcached(), [float("nan")], "ValueError"),
        (PhpMemcached(), [b"x"], "TypeError"),
        (PhpMemcache(), None, "stores str, int, float and bool, not NoneType"),
        (PhpMemcache(), float("inf"), "finite floats"),
        (PhpMemcache(), -(2**63) - 1, "integers of 64 bits"),
        (Dalli(), 5, "stores str, not int"),
        (Dalli(binary=True), "text", "stores bytes, not str"),
        (Dalli(json=True), b"bytes", "TypeError"),
        (PerlMemcached(), 5, "stores str, not int"),
        (Spymemcached(), 2**63, "int of 64 bits"),
        (Spymemcached(), None, "not NoneType"),
        (Spymemcached(), datetime(2026, 1, 1), "datetimes with a time zone"),
        (Bmemcached(), [1], "pickle=True"),
        (MetaMemcache(), "", "meta-memcache would read an empty str as bytes"),
    ],
)
async def test_what_they_do_not_store(client, key, preset, value, text):
    cache = Cache(client, serializer=preset)
    with pytest.raises(SerializationError, match=text):
        await cache.set(key, value)
    assert await client.get(key) is None


@pytest.mark.parametrize(
    ("preset", "data", "flags"),
    [
        (PhpMemcached(), b"yes", 3),
        (PhpMemcached(), b"x", 1),
        (PhpMemcached(), b"", 2),
        (PhpMemcached(), b"{", 6),
        (PhpMemcached(), b"1", 8),
        (PhpMemcached(), b"1", 0x100),
        (PhpMemcached(), b"\x01\x00\x00\x00abcd", 0x10),
        (PhpMemcached(), b"\x01\x00\x00\x00abcd", 0x90),
        (PhpMemcached(), b"\x01\x00\x00\x00\x00a", 0x70),
        (PhpMemcached(), b"\x01\x00\x00", 0x30),
        (PhpMemcached(), b"\x09\x00\x00\x00" + zlib.compress(b"text"), 0x30),
        (PhpMemcached(), b"\x02\x00\x00\x00" + zlib.compress(b"text"), 0x30),
        (PhpMemcached(), b"\x02\x00\x00\x00\x00a", 0x50),
        (PhpMemcached(), b"\x00\x00\x00\x00", 0x50),
        (PhpMemcache(), b"", 0x100),
        (PhpMemcache(), b"1", 0x200),
        (Dalli(), b"text", 2),
        (Dalli(), b"1", 4),
        (Dalli(json=True), b"{", 1),
        (Dalli(), b"\xff", 0),
        (PerlMemcached(), b"1", 8),
        (PerlMemcached(), zlib.compress(b"text"), 2),
        (Spymemcached(), b"12345", 0x200),
        (Spymemcached(), b"123456789", 0x700),
        (Spymemcached(), b"2", 0x100),
        (Spymemcached(), b"1", 0x900),
        (Spymemcached(), b"\x7f" + b"\xff" * 7, 0x400),
    ],
)
async def test_damaged_and_unknown_values(client, key, preset, data, flags):
    await client.set(key, data, flags=flags)
    with pytest.raises(SerializationError, match="cannot be read: "):
        await Cache(client, serializer=preset).get(key)


async def test_what_is_said_of_other_serializers_of_dalli_and_php(client, key):
    await client.set(key, b'{"a":1}', flags=1)
    with pytest.raises(SerializationError, match=r"use Dalli\(json=True\) if that is JSON"):
        await Cache(client, serializer=Dalli()).get(key)
    assert await Cache(client, serializer=Dalli(json=True)).get(key) == {"a": 1}
    await client.set(key, b"N;", flags=4)
    with pytest.raises(SerializationError, match="set Memcached::OPT_SERIALIZER to"):
        await Cache(client, serializer=PhpMemcached()).get(key)


async def test_dates_of_java(client, key):
    cache = Cache(client, serializer=Spymemcached())
    east = datetime(2026, 1, 31, 12, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=2)))
    await cache.set(key, east)
    assert await cache.get(key) == datetime(2026, 1, 31, 10, 0, 0, 123_000, tzinfo=UTC)


async def test_integers_of_java(client, key):
    for longs, value, flags in (
        (False, 2**31 - 1, 0x200), (False, 2**31, 0x300), (False, -(2**31), 0x200),
        (False, -(2**31) - 1, 0x300), (True, 1, 0x300), (True, -(2**63), 0x300),
    ):  # fmt: skip
        cache = Cache(client, serializer=Spymemcached(longs=longs))
        await cache.set(key, value)
        assert (await client.get(key, return_flags=True)).flags == flags
        assert await cache.get(key) == value


async def test_counters(client, key):
    php = Cache(client, serializer=PhpMemcached())
    await php.set(key, 9)
    assert await php.increment(key) == 10
    assert await php.decrement(key) == 9
    assert await php.get(key) == 9
    ruby = Cache(client, serializer=Dalli())
    await ruby.set(key, "10")
    assert await ruby.decrement(key) == 9


@pytest.mark.parametrize(
    ("preset", "data", "flags"),
    [
        (PhpMemcached(), struct.pack("<I", 2**20 + 1) + b"\x00a" + b"\xe0\xff\x00" * 3951, 0x50),
        (PhpMemcached(), struct.pack("<I", 2**32 - 1) + b"\x00a", 0x50),
        (PhpMemcached(), struct.pack("<I", 2**20 + 1) + zlib.compress(bytes(2**20 + 1)), 0x30),
        (PhpMemcache(), zlib.compress(bytes(2**20 + 1)), 2),
        (Dalli(), zlib.compress(bytes(2**20 + 1)), 2),
        (PerlMemcached(), zlib.compress(bytes(2**20 + 1), wbits=31), 2),
        (Spymemcached(), zlib.compress(bytes(2**20 + 1), wbits=31), 2),
        (Bmemcached(), zlib.compress(bytes(2**20 + 1)), 8),
    ],
)
async def test_bombs(client, key, preset, data, flags):
    await client.set(key, data, flags=flags)
    with pytest.raises(SerializationError, match="max_size, 1048576 bytes"):
        await Cache(client, serializer=preset, max_size=2**20).get(key)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Dalli(json=True, binary=True), "either json or binary"),
        (lambda: PerlMemcached(utf8=True, binary=True), "either utf8 or binary"),
        (lambda: PhpMemcached(binary="no"), "binary must be a bool"),
        (lambda: Dalli(json="yes"), "json must be a bool"),
        (lambda: Spymemcached(longs=2), "longs must be a bool"),
        (lambda: Spymemcached(compress_from=0), "compress_from must be between"),
        (lambda: PhpMemcached(compress_from="1"), "compress_from must be an int"),
    ],
)
def test_wrong_arguments(make, text):
    with pytest.raises((TypeError, ValueError), match=text):
        make()


@pytest.mark.driver_independent
@given(st.binary(max_size=300), st.integers(0, 1000))
def test_damaged_fastlz_never_gives_another_size(data, size):
    with contextlib.suppress(ValueError):
        assert len(decompress(data, size)) == size


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x02abc", b"abc"),
        (b"\x00a\x20\x00", b"aaaa"),
        (b"\x02abc\xe0\x00\x02", b"abcabcabcabc"),
        (b"\x02abc\xe0\x05\x02", b"abc" + b"abcabcabcabcab"),
        (b"\x22abc\xe0\xff\x01\x02", b"abc" * 89 + b"a"),
        (b"\x22abc\x20\x02\x00z", b"abcabcz"),
    ],
)
def test_fastlz_by_hand(data, value):
    assert decompress(data, len(value)) == value


@pytest.mark.driver_independent
def test_a_large_value_of_fastlz_is_decompressed_in_a_thread(monkeypatch):
    threads = []

    def to_thread(work):
        threads.append(1)
        return asyncio.sleep(0, work())

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    reader = Values(PhpMemcached(), None, 2**20)
    for size, in_threads in ((PhpFastLz.in_loop, 0), (PhpFastLz.in_loop + 1, 1)):
        rest = size - 1
        length = b"\xe0" + b"\xff" * ((rest - 9) // 255)
        packed = b"\x20a" + length + bytes([(rest - 9) % 255, 0])
        data = struct.pack("<I", size) + packed
        value, *_ = asyncio.run(reader.unpack(b"key", data, 0x50))
        assert value == "a" * size
        assert len(threads) == in_threads
