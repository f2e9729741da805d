"""Values that do not fit into one item are stored in pieces."""

import asyncio
import random
import struct

import pytest

import emcache
from emcache import Cache, SerializationError
from emcache.cache import Chunks, Json, Pylibmc, Raw, Zlib, _chunks
from emcache.cache._envelope import NEVER, Envelope, encode_envelope
from emcache.cache._flags import FLAG_ENVELOPE, FLAGS_HEAD, FLAGS_PIECE
from support.calls import outcomes, until, within

SMALL = Chunks(item_size=8 * 1024)
PIECE, LARGEST = SMALL.piece_size, SMALL.largest
HEAD_FLAGS = FLAGS_HEAD | FLAG_ENVELOPE


@pytest.fixture
def raw(client, key):
    return Cache(client, serializer=Raw(), prefix=key, chunked=SMALL)


def data_of(size, seed=0):
    return random.Random(size + seed).randbytes(size)


async def head_of(cache, key):
    item = await cache.client.get(cache.wire_key(key), True)
    assert item is not None
    assert item.flags == HEAD_FLAGS
    return cache._storage._head(b"", item.value)[1]


async def pieces_of(cache, key):
    return (await head_of(cache, key)).keys(cache.wire_key(key))


@pytest.mark.parametrize(
    "size",
    [LARGEST + 1, 3 * PIECE - 1, 3 * PIECE, 3 * PIECE + 1, 60 * PIECE + 5, 3_000_000],
)
async def test_a_value_of_any_size_is_read_back(raw, size):
    data = data_of(size)
    await raw.set("k", data)
    assert await raw.get("k") == data
    assert len(await pieces_of(raw, "k")) == -(-size // PIECE)
    assert await raw.get_many(["k", "l"]) == {"k": data}
    assert (await raw.get_with_cas("k"))[0] == data


@pytest.mark.parametrize("size", [0, 1, LARGEST])
async def test_a_value_that_fits_is_stored_as_without_chunks(raw, client, key, size):
    await raw.set("k", data_of(size), ttl=100)
    found = await client.get(raw.wire_key("k"), True)
    await Cache(client, serializer=Raw(), prefix=key).set("k", data_of(size), ttl=100)
    assert found == await client.get(raw.wire_key("k"), True)
    assert await raw.get("k") == data_of(size)


async def test_the_defaults_fit_a_default_server(client, key):
    cache = Cache(client, serializer=Raw(), prefix=key, chunked=True)
    for size in (1024 * 1024 - 512, 1024 * 1024, 10_000_000):
        await cache.set("k", data_of(size))
        assert await cache.get("k") == data_of(size)
    assert len(await pieces_of(cache, "k")) == 20


async def test_pieces_are_spread_over_the_nodes(cluster, key):
    async with emcache.create_client([server.address for server in cluster]) as client:
        cache = Cache(client, prefix=key, chunked=SMALL)
        value = {"numbers": list(range(20_000))}
        await cache.set("k", value)
        assert await cache.get("k") == value
        assert len({client.node_for(piece) for piece in await pieces_of(cache, "k")}) == 3


async def test_values_are_compressed_first(client, key):
    cache = Cache(client, prefix=key, compression=Zlib(), chunked=SMALL)
    await cache.set("small", "x" * 20_000)
    item = await client.get(cache.wire_key("small"), True)
    assert item.flags != HEAD_FLAGS
    text = data_of(20_000).hex()
    await cache.set("large", text)
    assert (await head_of(cache, "large")).size < len(text)
    assert await cache.get("large") == text
    # Whether to compress is a matter of the writer only.
    assert await Cache(client, prefix=key, chunked=SMALL).get("large") == text


async def test_many_values(raw):
    values = {f"k{at}": data_of(size) for at, size in enumerate([5, 10_000, 20_000, 9, 30_000])}
    assert await raw.set_many(values) == {}
    assert await raw.get_many(values) == values
    await raw.client.delete((await pieces_of(raw, "k2"))[1])
    assert (await raw.get_many(values, on_error="partial")).keys() == values.keys() - {"k2"}


async def damage(cache, how):
    client, pieces = cache.client, await pieces_of(cache, "k")
    second = await client.get(pieces[1])
    match how:
        case "evicted":
            await client.delete(pieces[1])
        case "all evicted":
            await client.delete_many(pieces)
        case "last evicted":
            await client.delete(pieces[-1])
        case "shorter":
            await client.set(pieces[1], second.value[:-1], flags=FLAGS_PIECE)
        case "longer":
            await client.append(pieces[1], b"x")
        case "empty":
            await client.set(pieces[1], b"", flags=FLAGS_PIECE)
        case "another":
            first = await client.get(pieces[0])
            await client.set(pieces[1], first.value, flags=FLAGS_PIECE)
        case "one bit":
            value = bytes([second.value[0] ^ 1]) + second.value[1:]
            await client.set(pieces[1], value, flags=FLAGS_PIECE)
        case "of another program":
            await client.set(pieces[1], second.value)


@pytest.mark.parametrize(
    "how",
    [
        "evicted",
        "all evicted",
        "last evicted",
        "shorter",
        "longer",
        "empty",
        "another",
        "one bit",
        "of another program",
    ],
)
async def test_a_missing_or_changed_piece_is_a_miss(raw, how):
    await raw.set("k", data_of(40_000))
    assert await raw.get("k") == data_of(40_000)
    await damage(raw, how)
    assert await raw.get("k", "miss") == "miss"
    assert await raw.get_many(["k"]) == {}
    assert await raw.get_with_cas("k") is None

    async def compute():
        return data_of(40_000, seed=1)

    assert await raw.get_or_set("k", compute) == data_of(40_000, seed=1)
    assert await raw.get("k") == data_of(40_000, seed=1)


async def test_writers_and_readers_at_the_same_time(server, key):
    """A reader gets one of the values as a whole, or a miss."""
    values = [data_of(50_000 + at, seed=at) for at in range(4)]
    async with (
        emcache.create_client([server.address]) as one,
        emcache.create_client([server.address]) as two,
    ):
        caches = [Cache(c, serializer=Raw(), prefix=key, chunked=SMALL) for c in (one, two)]
        found = set()

        async def write(cache, value):
            for _ in range(15):
                await cache.set("k", value)

        async def read(cache):
            for _ in range(40):
                found.add(await cache.get("k"))

        await asyncio.gather(
            *(write(caches[at % 2], value) for at, value in enumerate(values)),
            *(read(cache) for cache in caches),
        )
        assert found <= {None, *values}
        assert len(found - {None}) > 1
        assert await caches[0].get("k") == await caches[1].get("k") in values


async def test_a_reader_during_a_rewrite_gets_the_old_value(raw, monkeypatch):
    await raw.set("k", data_of(40_000))
    original, reached, go = raw.client.get_many, asyncio.Event(), asyncio.Event()

    async def held(*args, **kwargs):
        reached.set()
        await go.wait()
        return await original(*args, **kwargs)

    monkeypatch.setattr(raw.client, "get_many", held)
    reading = asyncio.create_task(raw.get("k"))
    await reached.wait()
    await raw.set("k", data_of(40_000, seed=1))
    go.set()
    assert await reading == data_of(40_000)
    assert await raw.get("k") == data_of(40_000, seed=1)


class Careless:
    """A serializer that does not look at flags."""

    def dumps(self, value):
        return value, 0

    def loads(self, data, flags):
        return data


@pytest.mark.parametrize("serializer", [Raw(), Json(), Careless()])
async def test_a_cache_without_chunks_refuses_such_a_value(client, key, raw, serializer):
    await raw.set("k", data_of(40_000))
    cache = Cache(client, serializer=serializer, prefix=key)
    with pytest.raises(SerializationError, match=r"in pieces; read it with Cache\(chunked=True\)"):
        await cache.get("k")
    results = await cache.get_many(["k"], on_error="partial")
    assert "in pieces" in str(results.errors["k"])
    lenient = Cache(client, serializer=serializer, prefix=key, on_unreadable="miss")
    assert await lenient.get("k") is None


async def test_delete_and_overwrite(raw):
    await raw.set("k", data_of(40_000))
    assert await raw.delete("k")
    assert await raw.get("k") is None
    await raw.set("k", data_of(40_000))
    await raw.set("k", b"small")
    assert await raw.get("k") == b"small"


async def test_pieces_outlive_their_head(raw, client):
    for ttl, head, piece in ((100, 100, 160), (0, 2_592_000 - 60, 2_592_000)):
        await raw.set("k", data_of(40_000), ttl=ttl)
        await raw.set_many({"many": data_of(40_000)}, ttl=ttl)
        for key in ("k", "many"):
            assert head - 2 <= await client.ttl(raw.wire_key(key)) <= head
            for name in await pieces_of(raw, key):
                assert piece - 2 <= await client.ttl(name) <= piece
    assert await raw.get("k") == data_of(40_000)
    await raw.set("k", data_of(40_000), ttl=-1)
    assert await raw.get("k") is None


async def test_touch_reaches_the_pieces(raw, client):
    await raw.set("k", data_of(40_000), ttl=100)
    await raw.set("small", b"v", ttl=100)
    assert await raw.touch("k", 500)
    assert await raw.touch("small", 500)
    assert not await raw.touch("absent", 500)
    pieces = await pieces_of(raw, "k")
    for name, ttl in ((raw.wire_key("small"), 500), (raw.wire_key("k"), 500), (pieces[2], 560)):
        assert ttl - 2 <= await client.ttl(name) <= ttl
    assert await raw.get_and_touch("k", 900) == data_of(40_000)
    for name, ttl in ((raw.wire_key("k"), 900), *((piece, 960) for piece in pieces)):
        assert ttl - 2 <= await client.ttl(name) <= ttl
    assert await raw.get_and_touch("k", 0) == data_of(40_000)
    assert await client.ttl(pieces[0]) > 2_000_000
    await client.delete(pieces[3])
    assert not await raw.touch("k", 500)


async def test_pieces_of_a_refused_store_are_deleted(raw, client, monkeypatch):
    stored = []
    store = _chunks.Pieces.store

    async def noted(self, name, *args):
        head = await store(self, name, *args)
        stored.append(_chunks.decode_head(head).keys(name))
        return head

    monkeypatch.setattr(_chunks.Pieces, "store", noted)
    assert not await raw.replace("k", data_of(40_000))
    assert await raw.add("k", data_of(40_000))
    assert not await raw.add("k", data_of(40_000, seed=1))
    _, cas = await raw.get_with_cas("k")
    assert await raw.cas("k", data_of(30_000), cas)
    assert not await raw.cas("k", data_of(40_000, seed=2), cas)
    assert not await raw.cas("absent", data_of(40_000, seed=2), cas)

    async def compute():
        await raw.delete("computed")
        return data_of(40_000, seed=3)

    await raw.get_or_set("computed", compute)
    assert await raw.get("k") == data_of(30_000)
    kept = await pieces_of(raw, "k")
    refused = [keys for keys in stored if keys != kept]
    refused.remove(stored[1])  # that of the first `add`, whose head was replaced
    assert len(refused) == 4
    async with asyncio.timeout(10):
        while any([await client.get_many(keys) for keys in refused]):
            await asyncio.sleep(0.01)


async def test_get_or_set_with_a_lease(raw, server, key):
    calls = 0

    async def compute():
        nonlocal calls
        calls += 1
        return data_of(40_000)

    async with emcache.create_client([server.address]) as other:
        caches = [raw, Cache(other, serializer=Raw(), prefix=key, chunked=SMALL)]
        results = await asyncio.gather(*(c.get_or_set("k", compute) for c in caches * 10))
        assert results == [data_of(40_000)] * 20
        assert calls == 1
        assert await caches[1].get_or_set_many(["k"], _never) == {"k": data_of(40_000)}


async def _never(keys):
    raise AssertionError(f"{keys} are cached")


async def test_refresh_and_stale_values(client, key):
    cache = Cache(
        client, serializer=Raw(), prefix=key, chunked=SMALL, stale_for=50, refresh_in="caller"
    )
    values = [data_of(40_000, seed) for seed in range(3)]

    async def compute():
        return values.pop(0)

    expected = list(values)
    assert await cache.get_or_set("k", compute) == expected[0]
    assert await cache.invalidate("k", stale_for=30)
    assert await cache.get("k") is None
    info = emcache.cache.CacheInfo()
    assert await cache.get_or_set("k", compute, info=info) == expected[1]
    assert info.computed
    assert await cache.renew("k", compute) == expected[2]
    assert await cache.get("k") == expected[2]


async def test_tags(client, key):
    cache = Cache(client, serializer=Raw(), prefix=key, chunked=SMALL, tags=["all"])
    await cache.set("k", data_of(40_000), tags=["a"])
    await cache.set_many({"l": data_of(30_000), "m": b"small"}, tags=["a"])
    assert await cache.get("k", tags=["a"]) == data_of(40_000)
    assert len(await cache.get_many([*"klm"])) == 3
    await cache.invalidate_tag("a")
    assert await cache.get_many([*"klm"]) == {}


async def test_tags_take_room_in_the_item(client, key):
    """The item with its tags must not be larger than a server accepts."""
    chunks = Chunks(item_size=1024 * 1024)
    cache = Cache(client, serializer=Raw(), prefix=key, chunked=chunks)
    tags = ["t" * 200 + str(at) for at in range(20)]
    await cache.set("k", data_of(chunks.largest), tags=tags)
    assert await cache.get("k", tags=tags) == data_of(chunks.largest)
    await head_of(cache, "k")


async def test_the_limit_of_the_whole(client, key):
    cache = Cache(
        client, serializer=Raw(), prefix=key, chunked=Chunks(item_size=8192, max_size=50_000)
    )
    await cache.set("k", data_of(50_000))
    assert await cache.get("k") == data_of(50_000)
    with pytest.raises(SerializationError, match="50001 bytes, more than the 50000 of max_size"):
        await cache.set("k", data_of(50_001))
    errors = await cache.set_many({"k": data_of(50_001), "l": data_of(40_000)})
    assert errors.keys() == {"k"}
    smaller = Cache(
        client, serializer=Raw(), prefix=key, chunked=Chunks(item_size=8192, max_size=40_000)
    )
    with pytest.raises(SerializationError, match="50000 bytes, more than the 40000 of max_size"):
        await smaller.get("k")
    assert await smaller.get("l") == data_of(40_000)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\1",
        struct.pack(">BIQII12s", 2, 0, 40_000, PIECE, 0, b"i" * 12),
        struct.pack(">BIQII12s", 1, 0, 40_000, 0, 0, b"i" * 12),
        struct.pack(">BIQII12s", 1, 0, 100_000_000, 1, 0, b"i" * 12),
        struct.pack(">BIQII12s", 1, 0, 2**63, PIECE, 0, b"i" * 12),
        struct.pack(">BIQII12s", 1, 0, 0, PIECE, 0, b"i" * 12),
        struct.pack(">BIQII12s", 1, 0, 40_000, PIECE, 0, b"i" * 12) + b"x",
    ],
)
async def test_a_head_of_another_program_is_an_error(raw, client, head):
    stored = encode_envelope(Envelope(NEVER, NEVER), head)
    await client.set(raw.wire_key("k"), stored, flags=HEAD_FLAGS)
    with pytest.raises(SerializationError, match=r"cannot be read|max_size"):
        await raw.get("k")


async def test_a_head_in_the_place_of_a_value_is_an_error(raw, client):
    """The flags in a head come from the server as well."""
    await raw.set("k", data_of(40_000))
    head = await head_of(raw, "k")
    for flags in (HEAD_FLAGS, 0x72 << 21):
        stored = encode_envelope(Envelope(NEVER, NEVER), head._replace(flags=flags).encode())
        await client.set(raw.wire_key("k"), stored, flags=HEAD_FLAGS)
        with pytest.raises(SerializationError):
            await raw.get("k")


@within(20)
async def test_a_node_of_pieces_that_is_down(cluster, key):
    nodes = [server.address for server in cluster]
    async with emcache.create_client(nodes, timeout=0.3) as client:
        cache = Cache(client, serializer=Raw(), prefix=key, chunked=SMALL)
        name = next(
            f"k{at}" for at in range(100) if client.node_for(cache.wire_key(f"k{at}")) == nodes[0]
        )
        other = next(
            f"o{at}" for at in range(100) if client.node_for(cache.wire_key(f"o{at}")) == nodes[0]
        )
        await cache.set(name, data_of(40_000))
        await cache.set(other, b"small")
        cluster[1].pause()
        try:
            with pytest.raises(emcache.EmcacheError):
                await cache.get(name)
            results = await cache.get_many([name, other], on_error="partial")
            assert results == {other: b"small"}
            assert results.errors.keys() == {name}
            with pytest.raises(emcache.EmcacheError):
                await cache.set(name, data_of(40_000, seed=1))
            errors = await cache.set_many({name: data_of(40_000, seed=1), other: b"smaller"})
            assert errors.keys() == {name}

            async def compute():
                return data_of(40_000, seed=2)

            assert await cache.get_or_set(name, compute) == data_of(40_000, seed=2)
        finally:
            cluster[1].resume()
        assert await cache.get(other) == b"smaller"
    async with emcache.create_client(nodes) as client:
        cache = Cache(client, serializer=Raw(), prefix=key, chunked=SMALL)
        assert await cache.get(name) == data_of(40_000)


async def test_a_cancelled_store_leaves_the_old_value(raw, monkeypatch):
    await raw.set("k", data_of(40_000))
    original, calls = raw.client.set_many, []

    async def slow(items, **options):
        calls.append(items)
        if len(calls) > 3:
            await asyncio.sleep(60)
        return await original(items, **options)

    monkeypatch.setattr(raw.client, "set_many", slow)
    monkeypatch.setattr(_chunks, "_IN_FLIGHT", 8 * PIECE)
    storing = asyncio.create_task(raw.set("k", data_of(100_000)))
    await until(lambda: len(calls) > 4)
    storing.cancel()
    assert isinstance((await outcomes(storing))[0], asyncio.CancelledError)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in others if "_in_turn" in repr(task) or "put" in repr(task)]
    assert await raw.get("k") == data_of(40_000)


@pytest.mark.driver_independent
async def test_wrong_options(client):
    with pytest.raises(TypeError, match=r"chunked must be a bool or an emcache.cache.Chunks"):
        Cache(client, chunked=1024)
    with pytest.raises(ValueError, match="chunked does not go with Pylibmc"):
        Cache(client, serializer=Pylibmc(), chunked=True)
    for options in ({"item_size": 100}, {"item_size": 2**40}, {"max_size": 0}):
        with pytest.raises(ValueError, match="must be"):
            Chunks(**options)
    with pytest.raises(TypeError):
        Chunks(max_size="1 MiB")
