"""The local cache: how old its values may be, and that writes of the client are seen at once."""

import asyncio
import contextlib
import random

import pytest

import emcache
from emcache import Cache, cached
from emcache.cache import (
    CacheInfo,
    Json,
    LocalCache,
    MsgPack,
    Pickle,
    Raw,
    Utf8,
    Zlib,
    _local_items,
    _local_values,
    cached_many,
)
from emcache.testing import FaultProxy
from support.calls import client_of, until, within


@pytest.fixture
def clock(monkeypatch):
    """The clock of local caches, which only the test moves."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(_local_items, "monotonic", clock)
    monkeypatch.setattr(_local_values, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def separate_places(monkeypatch):
    """Let keys and tags share no place among the changes, as a few in a thousand do by chance."""
    monkeypatch.setattr(_local_items, "_PLACES", 2**20)


def gets(client):
    """How many keys were requested from the servers."""
    return sum(
        command.count for name, command in client.metrics().commands.items() if "get" in name
    )


async def test_a_hit_sends_nothing_until_the_ttl_ends(client, key, clock):
    plain, cache = Cache(client, prefix=key), Cache(client, prefix=key, local=LocalCache(10, 5))
    await plain.set("k", {"n": 1})
    assert await cache.get("k") == {"n": 1}
    sent = gets(client)
    await client.set(cache.wire_key("k"), b'{"n":2}', flags=Json().flags)
    clock.now += 4.9
    for _ in range(3):
        assert await cache.get("k") == {"n": 1}
        assert await cache.get_many(["k"]) == {"k": {"n": 1}}
        assert await cache.get_or_set("k", None.__str__) == {"n": 1}
    assert gets(client) == sent
    clock.now += 0.1
    assert await cache.get("k") == {"n": 2}
    assert gets(client) == sent + 1
    counts = client.metrics().caches[key.decode()]
    assert (counts.hits, counts.local, counts.misses) == (11, 9, 0)


async def test_the_ttl_begins_with_the_read_and_not_with_its_reply(server, key, clock):
    with FaultProxy(server) as proxy:
        async with client_of(proxy) as client, client_of(server) as other:
            cache = Cache(client, prefix=key, local=LocalCache(10, 5))
            await Cache(other, prefix=key).set("k", 1)
            proxy.answers.stall_after = 0
            reading = asyncio.create_task(cache.get("k"))
            await until(lambda: proxy.request_bytes > 0)
            clock.now += 3
            proxy.heal()
            assert await reading == 1
            await Cache(other, prefix=key).set("k", 2)
            clock.now += 1.9
            assert await cache.get("k") == 1
            clock.now += 0.1
            assert await cache.get("k") == 2


WRITES = {
    "set": lambda cache: cache.set("k", 7),
    "set_many": lambda cache: cache.set_many({"k": 7}),
    "replace": lambda cache: cache.replace("k", 7),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many(["k"]),
    "invalidate": lambda cache: cache.invalidate("k"),
    "mark stale": lambda cache: cache.invalidate("k", stale_for=10),
    "increment": lambda cache: cache.increment("k"),
    "decrement": lambda cache: cache.decrement("k"),
    "touch": lambda cache: cache.touch("k", -1),
    "get_and_touch": lambda cache: cache.get_and_touch("k", -1),
    "renew": lambda cache: cache.renew("k", lambda: asyncio.sleep(0, 7)),
    "renew without a lease": lambda cache: cache.renew(
        "k", lambda: asyncio.sleep(0, 7), lease=None
    ),
}


@pytest.mark.parametrize("write", WRITES)
async def test_writes_of_the_client_are_seen_at_once(client, key, write):
    """Also those of another cache of the client, in all its local caches."""
    caches = [Cache(client, prefix=key, local=LocalCache(10, 1000)) for _ in range(2)]
    plain = Cache(client, prefix=key)
    await plain.set("k", 5)
    for cache in caches:
        assert await cache.get("k") == await cache.get("k") == 5
    await WRITES[write](plain)
    for cache in caches:
        assert await cache.get("k") == await plain.get("k") != 5


async def test_cas_and_its_read(client, key):
    cache, plain = Cache(client, prefix=key, local=LocalCache(10, 1000)), Cache(client, prefix=key)
    await plain.set("k", 5)
    assert await cache.get("k") == 5
    # Another process writes; after `get_with_cas` has seen that, no read goes back.
    await client.set(cache.wire_key("k"), b"6", flags=Json().flags)
    assert await cache.get("k") == 5
    found = await cache.get_with_cas("k")
    assert found is not None
    assert (found[0], await cache.get("k")) == (6, 6)
    assert await plain.cas("k", 7, found[1])
    assert await cache.get("k") == 7


@pytest.mark.parametrize("write", ["delete", "set", "increment", "invalidate_tag"])
@within(20)
async def test_a_read_that_began_before_a_write_is_not_kept(server, key, write):
    with FaultProxy(server) as proxy:
        async with client_of(proxy) as client, client_of(server) as other:
            cache = Cache(client, prefix=key, local=LocalCache(10, 1000))
            source, tags = Cache(other, prefix=key), ["t"] if write == "invalidate_tag" else None
            await source.set("k", 1, tags=tags)
            await cache.get("unused")
            proxy.answers.stall_after = 0
            before = proxy.request_bytes
            reading = asyncio.create_task(cache.get("k", tags=tags))
            await until(lambda: proxy.request_bytes > before)
            arguments = {"set": ("k", 2), "invalidate_tag": ("t",)}.get(write, ("k",))
            writing = asyncio.create_task(getattr(cache, write)(*arguments))
            await asyncio.sleep(0.05)
            proxy.heal()
            # The reply has the old value, for the call that began before the write.
            assert await reading == 1
            await writing
            assert await cache.get("k") == {"set": 2, "increment": 2}.get(write)


async def test_a_read_during_a_write_that_fails_is_not_kept(server, key):
    """The server may execute the write at any time until it is over."""
    with FaultProxy(server) as proxy:
        async with client_of(proxy, timeout=0.2, max_connections=2) as client:
            cache = Cache(client, prefix=key, local=LocalCache(10, 1000))
            await cache.set("k", 1)
            proxy.black_hole()
            writing = asyncio.create_task(cache.set("k", 2))
            await asyncio.sleep(0)
            reading = cache._local.begin()
            with pytest.raises(emcache.EmcacheError):
                await writing
            cache._local.keep(cache.wire_key("k"), reading, 1, None, b"1", Json().flags)
            assert isinstance(cache._local.find(cache.wire_key("k")), type(_local_values.ABSENT))


async def test_a_late_reply_does_not_replace_a_later_read(client, key, clock):
    cache = Cache(client, prefix=key, local=LocalCache(10, 5))
    earlier = cache._local.begin()
    clock.now += 1
    later = cache._local.begin()
    cache._local.keep(b"k", later, "new", None, b'"new"', 0)
    cache._local.keep(b"k", earlier, "old", None, b'"old"', 0)
    assert cache._local.find(b"k") == "new"


async def test_a_newer_read_ends_an_older_item(client, key):
    """Also if what was read is not kept: there is no value, or it is too large."""
    cache = Cache(client, prefix=key, local=LocalCache(10, 1000, max_bytes=2000))
    plain = Cache(client, prefix=key)
    for write in (
        lambda: client.delete(plain.wire_key("k")),
        lambda: client.set(plain.wire_key("k"), b"1" * 3000, flags=Json().flags),
    ):
        await plain.set("k", 1)
        assert await cache.get("k") == 1
        await write()
        assert await cache.get("k") == 1
        # The item has no such tag, so that this reads the server.
        assert await cache.get("k", tags=["t"]) is None
        found = await cache.get("k")
        assert found == await plain.get("k") != 1


@pytest.mark.parametrize("serializer", [Json(), MsgPack(), Pickle()])
async def test_callers_do_not_share_values_that_can_change(client, key, serializer):
    def cache_with(**options):
        local = LocalCache(10, 1000, **options)
        return Cache(client, prefix=key, serializer=serializer, local=local)

    cache, sharing = cache_with(), cache_with(copy=False)
    await cache.set("k", {"n": [1]})
    for _ in range(3):
        for value in (await cache.get("k"), (await cache.get_many(["k"]))["k"]):
            assert value == {"n": [1]}
            value["n"].append(2)
    (await sharing.get("k"))["n"].append(2)
    assert await sharing.get("k") is await sharing.get("k")
    assert await sharing.get("k") == {"n": [1, 2]}


@pytest.mark.parametrize("value", [None, 0, True, 1.5, "text", ""])
async def test_values_of_every_kind_and_none(client, key, value):
    cache = Cache(client, prefix=key, local=LocalCache(10, 1000))
    await cache.set("k", value)
    sent = gets(client)
    for _ in range(3):
        assert await cache.get("k", "absent") == value
    assert gets(client) == sent + 1


async def test_large_and_empty_and_compressed_values(client, key):
    for serializer, value in ((Raw(), b""), (Utf8(), ""), (Json(), ["x" * 500] * 1000)):
        cache = Cache(
            client,
            prefix=key,
            serializer=serializer,
            compression=Zlib(min_size=100),
            local=LocalCache(10, 1000),
        )
        await cache.set("k", value)
        sent = gets(client)
        assert [await cache.get("k") for _ in range(3)] == [value] * 3
        assert gets(client) == sent + 1


async def test_caches_with_other_serializers_do_not_share_objects(client, key):
    local = LocalCache(10, 1000)
    json = Cache(client, prefix=key, local=local)
    wrapping = Json(dumps=lambda value: value[0], loads=lambda data: [data])
    other = Cache(client, prefix=key, local=local, serializer=wrapping)
    await json.set("k", "text")
    assert await json.get("k") == "text"
    assert await other.get("k") == [b'"text"']
    assert await json.get("k") == "text"


async def test_misses_are_kept_only_if_asked(client, key, clock):
    asking = Cache(client, prefix=key, local=LocalCache(10, 5, misses=2))
    silent = Cache(client, prefix=key, local=LocalCache(10, 5))
    for cache, expected in ((asking, 1), (silent, 3)):
        sent = gets(client)
        assert [await cache.get("k", "no") for _ in range(3)] == ["no"] * 3
        assert gets(client) == sent + expected
    sent = gets(client)
    assert await asking.get_many(["k"]) == {}
    assert await asking.get_many(["k"], on_error="partial") == {}
    assert gets(client) == sent
    await client.set(asking.wire_key("k"), b"1", flags=Json().flags)
    clock.now += 1.9
    assert await asking.get("k") is None
    clock.now += 0.1
    assert await asking.get("k") == 1
    assert client.metrics().caches[key.decode()].local == 0


async def test_a_kept_miss_ends_with_a_write_or_a_computation(client, key):
    cache = Cache(client, prefix=key, local=LocalCache(10, 1000, misses=1000))
    for write in (
        lambda: cache.set("k", 1),
        lambda: cache.add("k", 1),
        lambda: cache.get_or_set("k", lambda: asyncio.sleep(0, 1)),
        lambda: cache.get_or_set("k", lambda: asyncio.sleep(0, 1), lease=None),
        lambda: cache.get_or_set_many(["k"], lambda keys: asyncio.sleep(0, {"k": 1})),
        lambda: cache.increment("k", initial=1),
    ):
        await cache.delete("k")
        assert await cache.get("k") is None
        await write()
        assert await cache.get("k") == 1


async def test_a_failing_read_keeps_nothing(server, key):
    with FaultProxy(server) as proxy:
        async with client_of(proxy, timeout=0.2) as client:
            cache = Cache(client, prefix=key, local=LocalCache(10, 1000, misses=1000))
            await cache.set("k", 1)
            await cache.set("kept", 1)
            assert await cache.get("kept") == 1
            proxy.black_hole()
            for read in (
                cache.get("k"),
                cache.get_many(["k"]),
            ):
                with pytest.raises(emcache.EmcacheError):
                    await read
            found = await cache.get_many(["k", "kept"], on_error="partial")
            assert (found, list(found.errors)) == ({"kept": 1}, ["k"])
            assert await cache.get("kept") == 1
            proxy.heal()
            for _ in range(50):
                with contextlib.suppress(emcache.EmcacheError):
                    assert await cache.get("k") == 1
                    break


async def test_the_least_recently_used_items_are_dropped(client, key):
    cache = Cache(client, prefix=key, local=LocalCache(3, 1000))
    await cache.set_many({str(number): number for number in range(4)})
    await cache.get_many(["0", "1", "2"])
    await cache.get("0")
    await cache.get("3")
    sent = gets(client)
    assert await cache.get_many(["0", "2", "3"]) == {"0": 0, "2": 2, "3": 3}
    assert gets(client) == sent
    assert await cache.get("1") == 1
    assert gets(client) == sent + 1


async def test_the_limit_of_bytes(client, key):
    cache = Cache(client, prefix=key, local=LocalCache(1000, 1000, max_bytes=20_000))
    await cache.set_many(
        {str(number): "x" * 2000 for number in range(20)} | {"large": "x" * 30_000}
    )
    for number in range(20):
        await cache.get(str(number))
    items = cache._local._items
    assert 5 < len(items.table) < 10
    assert items.size == sum(item.size for item in items.table.values()) <= 20_000
    sent = gets(client)
    await cache.get("large")
    await cache.get("large")
    assert gets(client) == sent + 2
    await cache.delete("19")
    await cache.get("18")
    assert items.size == sum(item.size for item in items.table.values())


async def test_tags(client, key, clock):
    """A tag that this client invalidates counts at once, one of another process after the ttl."""
    cache = Cache(client, prefix=key, local=LocalCache(10, 5))
    plain = Cache(client, prefix=key)
    await plain.set("k", 1, tags=["t", "u"])
    await plain.set("other", 1, tags=["v"])
    assert await cache.get("k") == await cache.get("other") == 1
    sent = gets(client)
    assert await cache.get("k", tags=["t"]) == 1
    assert gets(client) == sent
    assert await cache.get("k", tags=["w"]) is None
    for invalidate in (lambda: plain.invalidate_tag("t"), lambda: plain.invalidate_tags(["u"])):
        await plain.set("k", 1, tags=["t", "u"])
        assert await cache.get("k") == 1
        await invalidate()
        assert await cache.get("k") is None
    sent = gets(client)
    assert await cache.get("other") == 1
    assert gets(client) == sent
    await client.delete(key + b"#tag:v")
    assert await cache.get("other") == 1
    clock.now += 5
    assert await cache.get("other") is None


async def test_a_value_is_kept_until_its_refresh_is_due(client, key):
    cache = Cache(client, prefix=key, local=LocalCache(10, 1000))
    numbers = iter(range(10))

    async def compute():
        return next(numbers)

    options = {"ttl": 2, "refresh": 1, "stale_for": 100, "refresh_in": "caller"}
    assert await cache.get_or_set("k", compute, **options) == 0
    assert await cache.get_or_set("k", compute, **options) == 0
    (item,) = cache._local._items.table.values()
    assert item.deadline - item.began < 1.1
    await cache.invalidate("k", stale_for=100)
    info = CacheInfo()
    assert await cache.get_or_set("k", compute, info=info, **options) == 1
    assert not info.local
    assert await cache.get_or_set("k", compute, **options) == 1
    await cache.invalidate("k", stale_for=100)
    for _ in range(2):
        # Stale values are not kept.
        info = CacheInfo()
        assert await cache.get_or_set("k", compute, info=info, lease=2, stale_for=100) == 1
        assert (info.stale, info.local) == (True, False)


async def test_lookups_say_local(client, key):
    cache = Cache(client, prefix=key, local=LocalCache(10, 1000))

    @cached(cache, key="one:{number}")
    async def square(number):
        return {"square": number**2}

    @cached_many(cache, key="many:{number}", tags=["t:{number}"])
    async def squares(numbers):
        return {number: number**2 for number in numbers}

    infos = [(await square.with_info(3))[1] for _ in range(3)]
    assert [(info.computed, info.fresh, info.local) for info in infos] == [
        (True, False, False),
        (False, True, False),
        (False, True, True),
    ]
    info = CacheInfo()
    await cache.get_or_set("one:3", None.__str__, info=info)
    assert info.local
    assert [await squares([1, 2]) for _ in range(2)] == [{1: 1, 2: 4}] * 2
    sent = gets(client)
    assert await squares([2, 1]) == {2: 4, 1: 1}
    assert await square(3) == {"square": 9}
    assert gets(client) == sent
    assert await squares([2, 5]) == {2: 4, 5: 25}
    await squares.invalidate(2)
    assert await squares([2]) == {2: 4}
    function = client.metrics().caches[f"{__name__}.test_lookups_say_local.<locals>.squares"]
    assert (function.local, function.hits, function.computed) == (3, 5, 4)


async def test_a_closed_client_raises(server, key):
    cache = Cache(await client_of(server), prefix=key, local=LocalCache(10, 1000, misses=1000))
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    assert await cache.get("absent") is None
    reading = cache._local.begin()
    await cache.client.close()
    # As if the reply had arrived while the client was being closed.
    cache._local.keep(cache.wire_key("k"), reading, 1, None, b"1", Json().flags)
    for read in (cache.get("k"), cache.get("absent"), cache.get_many(["k"])):
        with pytest.raises(emcache.ClientClosedError):
            await read


async def test_another_loop_raises(client, key):
    cache = Cache(client, prefix=key, local=LocalCache(10, 1000))
    await cache.set("k", 1)
    assert await cache.get("k") == 1
    with pytest.raises(RuntimeError, match="loop"):
        await asyncio.to_thread(lambda: asyncio.run(cache.get("k")))


async def test_caches_share_their_limits_and_clients_share_nothing(server, client, key):
    local = LocalCache(2, 1000)
    first, second = Cache(client, prefix=key, local=local), Cache(client, prefix=key, local=local)
    assert first._local._items is second._local._items
    async with client_of(server) as other:
        assert Cache(other, prefix=key, local=local)._local._items is not first._local._items
    local = LocalCache(2, 1000)
    Cache(client, prefix=key, local=local)
    assert len(client_items(client)) == 1


def client_items(client):
    from emcache.cache._flights import flights_of

    return flights_of(client).local._all


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_items": 0}, ValueError),
        ({"max_items": 1.5}, TypeError),
        ({"ttl": 0}, ValueError),
        ({"ttl": None}, TypeError),
        ({"ttl": float("inf")}, ValueError),
        ({"misses": 0}, ValueError),
        ({"max_bytes": -1}, ValueError),
        ({"copy": None}, TypeError),
    ],
)
def test_options_out_of_range(options, error):
    with pytest.raises(error, match=next(iter(options))):
        LocalCache(**{"max_items": 10, "ttl": 1.0} | options)


async def test_an_argument_of_another_type(client):
    with pytest.raises(TypeError, match="local must be a LocalCache, not dict"):
        Cache(client, local={"ttl": 1})


@within(30)
async def test_random_programs(server, key):
    """No read returns a value that is older than a write of the client that had returned before.

    Another client writes as well: its writes are seen at the latest after the ttl, which counts
    from the moment at which a read begins.
    """
    chance, ttl = random.Random(7), 0.05
    loop = asyncio.get_running_loop()
    async with client_of(server, max_connections=3) as client, client_of(server) as other:
        local = LocalCache(3, ttl, misses=ttl)
        caches = [Cache(client, prefix=key, local=local), Cache(client, prefix=key)]
        foreign = Cache(other, prefix=key)
        keys, numbers = ["a", "b", "c", "d"], iter(range(1, 10**6))
        latest = dict.fromkeys(keys, 0)
        history = {name: [(0.0, 0)] for name in keys}
        writing = {name: asyncio.Lock() for name in keys}
        hits = 0

        async def write(name):
            async with writing[name]:
                number, cache = next(numbers), chance.choice([*caches, *caches, foreign])
                if cache is not foreign and chance.random() < 0.3:
                    await cache.delete(name)
                    number = -number
                else:
                    await cache.set(name, number)
                history[name].append((loop.time(), number))
                if cache is not foreign:
                    latest[name] = abs(number)

        def check(name, value, began, floor):
            nonlocal hits
            last = [abs(number) for at, number in history[name] if at < began - ttl]
            assert value is None or value >= max(floor, last[-1]), (name, value, floor, last[-1:])
            hits += value is not None

        async def read(name):
            began, floors = loop.time(), dict(latest)
            # A foreign write may have come before the own one that is the floor.
            if chance.random() < 0.5:
                check(name, await caches[0].get(name), began, floors[name])
            else:
                for each, value in (await caches[0].get_many(keys)).items():
                    check(each, value, began, floors[each])

        async def work():
            for _ in range(150):
                name = chance.choice(keys)
                await (write(name) if chance.random() < 0.3 else read(name))
                if chance.random() < 0.1:
                    await asyncio.sleep(0.005)

        await asyncio.gather(*(work() for _ in range(8)))
        assert hits > 100
        assert client.metrics().caches[key.decode()].local > 50
