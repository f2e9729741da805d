"""Values that pymemcache and pylibmc store are read, and they read ours: on one real server."""

import zlib

import pymemcache
import pytest
from pymemcache import serde

import emcache
from emcache import Cache, SerializationError
from emcache.cache import Json, Pylibmc, Pymemcache, Zlib
from emcache.cache._flags import FLAGS_EMPTY

NATIVE = [b"bytes", b"\0\xff", b"", "text", "ключ", "", 0, 5, -5, 2**70]
PICKLED = [True, False, None, 1.5, [1, "a"], {"a": (1, b"b")}, {1, 2}]
LONG = ["x" * 5000, b"y" * 5000]


@pytest.fixture
def pymemcaches(server):
    """One that stores values as they are, and one that compresses."""
    clients = [
        # Without a reply it would not be sure that the value is there.
        pymemcache.Client(("127.0.0.1", server.port), serde=each, default_noreply=False)
        for each in (serde.pickle_serde, serde.compressed_serde)
    ]
    yield clients
    for each in clients:
        each.close()


@pytest.fixture
def plain(pymemcaches):
    return pymemcaches[0]


@pytest.fixture
def compressing(pymemcaches):
    return pymemcaches[1]


@pytest.fixture
def pylibmc(server):
    library = pytest.importorskip(
        "pylibmc", reason="pylibmc has no wheel for this Python: install it with libmemcached-dev"
    )
    client = library.Client([f"127.0.0.1:{server.port}"])
    yield client
    client.disconnect_all()


def same(one, other):
    return type(one) is type(other) and one == other


def is_stub(value):
    """Whether an empty value of another client is a miss, because leases look like it."""
    return isinstance(value, bytes) and not value


def with_our_flags(item):
    """Only empty bytes have other flags; the other clients read them all the same."""
    return emcache.Item(b"", FLAGS_EMPTY, None) if (item.value, item.flags) == (b"", 0) else item


async def test_what_pymemcache_stored(client, key, plain, compressing):
    cache = Cache(client, serializer=Pymemcache(pickle=True))
    name = key.decode()
    for value in NATIVE + PICKLED + LONG + [["z"] * 1000]:
        for writer in (plain, compressing):
            writer.set(name, value)
            assert same(await cache.get(name, "missing"), "missing" if is_stub(value) else value)
    compressing.set(name, LONG[0])
    assert (await client.get(key, return_flags=True)).flags == 8 | 16


async def test_what_pymemcache_reads(client, key, plain, compressing):
    ours = Pymemcache(pickle=True), Pymemcache(pickle=True, compress_from=401)
    name = key.decode()
    for value in NATIVE + PICKLED + LONG:
        for serializer, readers in zip(ours, ((plain, compressing), (compressing,)), strict=True):
            await Cache(client, serializer=serializer).set(name, value)
            for reader in readers:
                assert same(reader.get(name, "missing"), value)


async def test_pymemcache_to_the_byte(client, key, plain, compressing):
    """The same bytes and flags, whoever stores."""
    for value in NATIVE + PICKLED + LONG:
        for writer, serializer in (
            (plain, Pymemcache(pickle=True)),
            (compressing, Pymemcache(pickle=True, compress_from=401)),
        ):
            writer.set(key.decode(), value)
            theirs = await client.get(key, return_flags=True)
            await Cache(client, serializer=serializer).set(key, value)
            assert await client.get(key, return_flags=True) == with_our_flags(theirs)


async def test_numbers_of_pymemcache(client, key, plain):
    cache = Cache(client, serializer=Pymemcache())
    plain.set(key.decode(), 9)
    assert await cache.increment(key) == 10
    assert await cache.decrement(key) == 9
    assert await cache.get(key) == 9
    assert await cache.increment(key + b"n", initial=5) == 5
    assert plain.get((key + b"n").decode()) == 5


async def test_what_pylibmc_stored(client, key, pylibmc):
    cache = Cache(client, serializer=Pylibmc(pickle=True))
    name = key.decode()
    for value in NATIVE + PICKLED + LONG + [["z"] * 1000]:
        for min_compress_len in (0, 1):
            pylibmc.set(name, value, min_compress_len=min_compress_len)
            if is_stub(value):
                assert await cache.get(name) is None
                continue
            # As pylibmc reads it itself: a bool is an int by then.
            assert same(await cache.get(name, "missing"), pylibmc.get(name))
            assert await cache.get(name) == value
    pylibmc.set(name, LONG[0], min_compress_len=1)
    assert (await client.get(key, return_flags=True)).flags == 8 | 16


async def test_what_pylibmc_reads(client, key, pylibmc):
    for value in NATIVE + PICKLED + LONG:
        for compress_from in (None, 1):
            serializer = Pylibmc(pickle=True, compress_from=compress_from)
            await Cache(client, serializer=serializer).set(key, value)
            assert pylibmc.get(key.decode()) == value


async def test_pylibmc_to_the_byte(client, key, pylibmc):
    for value in NATIVE + PICKLED + LONG:
        for compress_from in (None, 100):
            pylibmc.set(key.decode(), value, min_compress_len=compress_from or 0)
            theirs = await client.get(key, return_flags=True)
            serializer = Pylibmc(pickle=True, compress_from=compress_from)
            await Cache(client, serializer=serializer).set(key, value)
            assert await client.get(key, return_flags=True) == with_our_flags(theirs)


async def test_text_keys_of_the_others(client, key, pylibmc, server):
    name = f"{key.decode()}:ключ"
    cache = Cache(client, serializer=Pylibmc())
    pylibmc.set(name, "v")
    assert await cache.get(name) == "v"
    other = pymemcache.Client(
        ("127.0.0.1", server.port), serde=serde.pickle_serde, allow_unicode_keys=True
    )
    assert other.get(name) == "v"
    other.close()


@pytest.mark.parametrize("preset", [Pymemcache, Pylibmc])
async def test_no_pickle_unless_asked(client, key, plain, preset):
    class Exploding:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was read",))

    plain.set(key.decode(), Exploding())
    cache = Cache(client, serializer=preset())
    with pytest.raises(SerializationError, match="pickle=True"):
        await cache.get(key)
    for value in (None, 1.5, [1]):
        with pytest.raises(SerializationError, match="pickle=True"):
            await cache.set(key, value)
    for value in NATIVE:
        await cache.set(key, value)
        assert same(await cache.get(key), value)


@pytest.mark.parametrize("preset", [Pymemcache, Pylibmc])
async def test_flags_of_nobody(client, key, preset):
    cache = Cache(client, serializer=preset(pickle=True))
    for flags in (3, 6, 17, 18, 32, 64, 1 << 28, 2**31):
        await client.set(key, b"1", flags=flags)
        with pytest.raises(SerializationError, match="does not use flags"):
            await cache.get(key)
    await Cache(client).set(key, 1)
    with pytest.raises(SerializationError, match=r"written by emcache with Json\(\)"):
        await cache.get(key)
    for flags, data in ((2, b"x"), (16, b"\xff"), (1, b"x"), (8, b"x"), (10, zlib.compress(b""))):
        await client.set(key, data, flags=flags)
        with pytest.raises(SerializationError, match="cannot be read"):
            await cache.get(key)


@pytest.mark.parametrize("preset", [Pymemcache, Pylibmc])
async def test_bombs(client, key, preset):
    await client.set(key, zlib.compress(bytes(2**20 + 1)), flags=8)
    assert len(await Cache(client, serializer=preset()).get(key)) == 2**20 + 1
    with pytest.raises(SerializationError, match="max_size, 1048576 bytes"):
        await Cache(client, serializer=preset(), max_size=2**20).get(key)


async def test_presets_and_other_options(client, key):
    with pytest.raises(ValueError, match="compress_from"):
        Cache(client, serializer=Pymemcache(), compression=Zlib())
    with pytest.raises(ValueError, match="compress_from"):
        Pylibmc(compress_from=0)
    await Cache(client).set(key, "text")
    for preset in (Pymemcache(), Pylibmc()):
        with pytest.raises(SerializationError):
            await Cache(client, serializer=preset).get(key)
    await client.set(key, b"1", flags=2)
    with pytest.raises(emcache.SerializationError):
        await Cache(client, serializer=Json()).get(key)
