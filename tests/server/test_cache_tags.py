"""Tags: one command makes all values with a tag misses, and no loss makes an older one a hit."""

import asyncio
import contextlib

import pytest

import emcache
from emcache import Cache, cached
from emcache.cache import CacheInfo, Raw, Zlib, cached_many
from emcache.cache._envelope import MOST_TAGS
from emcache.cache._tags import make_generations
from emcache.testing import FaultProxy
from support.calls import client_of, within
from support.memcached import memcached
from support.round_trips import is_one_round_trip


@pytest.fixture
def cache(client, key):
    return Cache(client, prefix=key)


def tag_key(cache, tag):
    return cache.wire_key(f"#tag:{tag}")


class Source:
    """What values are computed from."""

    def __init__(self):
        self.version = 0
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        return self.version


# -- set and get ---------------------------------------------------------------------------------


async def test_an_invalidated_tag_makes_misses(cache):
    await cache.set("a", 1, tags=["user:1", "shop"])
    await cache.set("b", 2, tags=["user:2", "shop"])
    await cache.set("c", 3)
    # Whether or not the reader names the tags.
    assert [await cache.get(key) for key in "abc"] == [1, 2, 3]
    assert await cache.get("a", tags=["user:1"]) == 1
    await cache.invalidate_tag("user:1")
    assert [await cache.get(key) for key in "abc"] == [None, 2, 3]
    assert await cache.get("a", "miss", tags=["user:1", "shop"]) == "miss"
    await cache.invalidate_tag("shop")
    assert await cache.get_many(["a", "b", "c"]) == {"c": 3}
    await cache.set("a", 4, tags=["user:1", "shop"])
    assert await cache.get("a", tags=["shop", "user:1"]) == 4


async def test_every_read_checks_tags(cache):
    def reads():
        return [
            cache.get("a"),
            cache.get("a", tags=["t"]),
            cache.get_with_cas("a"),
            cache.get_and_touch("a", 60),
            cache.get_many(["a"]),
            cache.get_many(["a"], tags=["t"]),
            cache.get_many(["a"], on_error="partial"),
            cache.get_many(["a"], on_error="partial", tags=["t"]),
        ]

    await cache.set("a", 1, tags=["t"])
    results = [await read for read in reads()]
    assert results[2][0] == 1
    assert results[:2] + results[3:] == [1, 1, 1, *[{"a": 1}] * 4]
    await cache.invalidate_tag("t")
    assert [await read for read in reads()] == [None] * 4 + [{}] * 4


async def test_a_value_without_a_tag_that_the_reader_names_is_a_miss(cache):
    """It was stored before the tag was added, and no invalidation of the tag would reach it."""
    await cache.set("a", 1)
    await cache.set("b", 2, tags=["other"])
    assert await cache.get("a", tags=["t"]) is None
    assert await cache.get_many(["a", "b"], tags=["t"]) == {}
    assert await cache.get("b", tags=[]) == 2


async def test_invalidate_several_tags(cache):
    for tag in "xyz":
        await cache.set(tag, tag, tags=[tag])
    await cache.invalidate_tags(["x", "y"])
    await cache.invalidate_tags([])
    assert await cache.get_many(["x", "y", "z"]) == {"z": "z"}


async def test_set_many(cache):
    assert await cache.set_many({"a": 1, "b": "2" * 5000}, tags=["t"]) == {}
    assert await cache.get_many(["a", "b"], tags=["t"]) == {"a": 1, "b": "2" * 5000}
    await cache.invalidate_tag("t")
    assert await cache.get_many(["a", "b"]) == {}


async def test_values_of_all_kinds(client, key):
    cache = Cache(client, serializer=Raw(), compression=Zlib(min_size=100), prefix=key, tags=["t"])
    for value in (b"", b"x", b"y" * 10_000):
        await cache.set("a", value)
        assert await cache.get("a") == value
    await cache.invalidate_tag("t")
    assert await cache.get("a") is None


async def test_any_number_of_tags(cache):
    tags = [f"tag-{number}" for number in range(MOST_TAGS)]
    await cache.set("a", 1, tags=tags)
    assert await cache.get("a", tags=tags) == 1
    await cache.invalidate_tag(tags[200])
    assert await cache.get("a", tags=tags) is None
    with pytest.raises(ValueError, match="at most 255 tags, not 256"):
        await cache.set("a", 1, tags=[*tags, "more"])


async def test_wrong_tags(cache, client):
    for call in (
        cache.set("a", 1, tags="user:1"),
        cache.get("a", tags=b"user:1"),
        cache.get_many(["a"], tags="user:1"),
        cache.get_or_set("a", Source(), tags=7),
        cache.set("a", 1, tags=[7]),
        cache.invalidate_tags("user:1"),
        cache.read_tags("user:1"),
    ):
        with pytest.raises(TypeError, match="tag"):
            await call
    with pytest.raises(emcache.InvalidKeyError):
        await cache.invalidate_tag("a b")
    with pytest.raises(TypeError, match="tags"):
        Cache(client, tags="user:1")


async def test_tags_of_other_prefixes_are_other_tags(cache, client, key):
    other = Cache(client, prefix=key + b":other")
    await cache.set("a", 1, tags=["t"])
    await other.set("a", 2, tags=["t"])
    await other.invalidate_tag("t")
    assert await cache.get("a") == 1
    assert await other.get("a") is None


async def test_a_snapshot_from_before_the_value_was_read(cache):
    snapshot = await cache.read_tags(["t", "u"])
    await cache.set("a", 1, tags=snapshot)
    assert await cache.get("a", tags=["t", "u"]) == 1
    await cache.invalidate_tag("u")
    await cache.set("a", 1, tags=snapshot)
    assert await cache.get("a") is None
    assert await cache.set_many({"a": 1}, tags=snapshot) == {}
    assert await cache.get("a") is None


# -- caches with tags ----------------------------------------------------------------------------


async def test_a_cache_with_tags(client, key):
    cache = Cache(client, prefix=key, tags=["all"])
    await cache.set("set", 1)
    await cache.set("more", 1, tags=["one"])
    assert await cache.add("add", 1)
    assert await cache.replace("add", 2)
    assert await cache.cas("add", 3, (await cache.get_with_cas("add"))[1])
    await cache.set_many({"many": 1})
    await cache.get_or_set("computed", Source())
    keys = ["set", "more", "add", "many", "computed"]
    assert await cache.get_many(keys) == {"set": 1, "more": 1, "add": 3, "many": 1, "computed": 0}
    assert await cache.get_and_touch("set", 60) == 1
    await cache.invalidate_tag("one")
    assert len(await cache.get_many(keys)) == 4
    await cache.invalidate_tag("all")
    assert await cache.get_many(keys) == {}
    assert await cache.get_with_cas("set") is None
    for count in (cache.increment, cache.decrement):
        with pytest.raises(ValueError, match="no counters"):
            await count("number", initial=1)


async def test_untagged_values_are_misses_of_a_cache_with_tags(client, key):
    await Cache(client, prefix=key).set("a", 1)
    cache = Cache(client, prefix=key, tags=["all"])
    assert await cache.get("a") is None
    assert await cache.get_many(["a"]) == {}
    assert await cache.get_with_cas("a") is None
    assert await cache.get_and_touch("a", 60) is None
    assert await cache.get_or_set("a", Source()) == 0


# -- get_or_set and cached -----------------------------------------------------------------------

OPTIONS = {"lease": {}, "no lease": {"lease": None}, "refresh": {"refresh": 30, "stale_for": 60}}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_get_or_set(cache, options):
    source = Source()

    def get(**more):
        return cache.get_or_set("a", source, tags=["t"], **options, **more)

    assert [await get(), await get()] == [0, 0]
    assert source.calls == 1
    source.version = 1
    await cache.invalidate_tag("t")
    info = CacheInfo()
    assert await get(info=info) == 1
    assert info.computed
    assert not info.stale
    assert await get() == 1
    # A reader without the tags gets it, too.
    assert await cache.get_or_set("a", source, **options) == 1
    assert source.calls == 2
    source.version = 2
    await cache.invalidate_tag("t")
    assert await cache.get_or_set("a", source, **options) == 2


async def test_renew(cache):
    source = Source()
    assert await cache.renew("a", source, tags=["t"]) == 0
    assert await cache.get("a", tags=["t"]) == 0
    source.version = 1
    assert await cache.renew("a", source, tags=["t"]) == 1
    assert await cache.get("a", tags=["t"]) == 1


async def test_a_stale_value_keeps_its_tags(cache):
    await cache.set("a", 1, tags=["t"])
    assert await cache.invalidate("a", stale_for=60)
    await cache.invalidate_tag("t")

    async def fails():
        raise LookupError

    with pytest.raises(LookupError):
        await cache.get_or_set("a", fails, tags=["t"], stale_for=60)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@within(20)
async def test_a_tag_that_is_invalidated_during_the_computation(cache, server, key, options):
    started, go = asyncio.Event(), asyncio.Event()

    async def older():
        started.set()
        await go.wait()
        return "older"

    async def newer():
        return "newer"

    async with client_of(server) as client:
        other = Cache(client, prefix=key)
        running = asyncio.create_task(cache.get_or_set("a", older, tags=["t"], **options))
        await started.wait()
        await other.invalidate_tag("t")
        # A caller that begins now must not get the older value, here or elsewhere.
        late = asyncio.create_task(cache.get_or_set("a", newer, tags=["t"], **options))
        await asyncio.sleep(0.05)
        go.set()
        assert await running == "older"
        assert await late == "newer"
        assert await cache.get("a", "miss") == "newer"
        assert await other.get("a", "miss", tags=["t"]) == "newer"


@pytest.mark.parametrize("invalidated", ["before", "during", "after"])
@within(20)
async def test_a_refresh_keeps_the_tags(cache, invalidated):
    source = Source()
    options = {"ttl": 2, "refresh": 1, "refresh_in": "caller", "stale_for": 60, "tags": ["t"]}

    async def refreshed():
        version = await source()
        if invalidated == "during":
            await cache.invalidate_tag("t")
        return version

    await cache.get_or_set("a", source, **options)
    await asyncio.sleep(1.1)
    source.version = 1
    if invalidated == "before":
        await cache.invalidate_tag("t")
    info = CacheInfo()
    assert await cache.get_or_set("a", refreshed, info=info, **options) == 1
    assert (source.calls, info.computed) == (2, True)
    if invalidated == "after":
        assert await cache.get("a", tags=["t"]) == 1
        await cache.invalidate_tag("t")
    # A reader that does not name the tags sees them, too.
    assert await cache.get("a") == (1 if invalidated == "before" else None)


@within(20)
async def test_another_process_does_not_take_what_was_invalidated(cache, server, key):
    """The one that waits for the lease gets a value that it must not serve."""
    started, go = asyncio.Event(), asyncio.Event()

    async def older():
        started.set()
        await go.wait()
        return "older"

    async def newer():
        return "newer"

    async with client_of(server) as client:
        other = Cache(client, prefix=key)
        running = asyncio.create_task(cache.get_or_set("a", older, tags=["t"]))
        await started.wait()
        await other.invalidate_tag("t")
        late = asyncio.create_task(other.get_or_set("a", newer, tags=["t"]))
        await asyncio.sleep(0.05)
        go.set()
        assert [await running, await late] == ["older", "newer"]
        assert await other.get("a", tags=["t"]) == "newer"


@within(20)
async def test_callers_share_a_computation_with_tags(cache, server, key):
    source = Source()

    async def slow():
        await asyncio.sleep(0.05)
        return await source()

    async with client_of(server) as client:
        other = Cache(client, prefix=key)
        for _ in range(3):
            calls = source.calls
            both = (cache, other)
            results = await asyncio.gather(
                *(each.get_or_set("a", slow, tags=["t"]) for each in both for _ in range(20))
            )
            assert results == [source.version] * 40
            assert source.calls == calls + 1
            source.version += 1
            await cache.invalidate_tag("t")


async def test_cached_functions(cache):
    source = Source()

    class Shop:
        id = 7

        @cached(lambda: cache, key="order:{self.id}:{order}", tags=["shop:{self.id}", "o:{order}"])
        async def order(self, order):
            return [order, await source()]

    shop = Shop()
    assert shop.order.tags_for("x") == ["shop:7", "o:x"]
    assert [await shop.order("x"), await shop.order("x"), await shop.order("y")] == [
        ["x", 0],
        ["x", 0],
        ["y", 0],
    ]
    source.version = 1
    await cache.invalidate_tag("o:x")
    assert [await shop.order("x"), await shop.order("y")] == [["x", 1], ["y", 0]]
    source.version = 2
    await cache.invalidate_tags(shop.order.tags_for("z"))
    assert [await shop.order("x"), await shop.order("y")] == [["x", 2], ["y", 2]]
    source.version = 3
    assert await shop.order.refresh("x") == ["x", 3]
    assert await cache.get("order:7:x", tags=["shop:7"]) == ["x", 3]
    assert (await shop.order.with_info("x"))[1].fresh


async def test_tags_of_a_function(cache):
    source = Source()

    @cached(cache, key="k:{name}", tags=lambda name: [name, b"all"])
    async def by_function(name):
        return await source()

    @cached(cache, key="c", tags=["constant", "{{braces}}"])
    async def constant():
        return await source()

    assert by_function.tags_for("n") == ["n", b"all"]
    assert constant.tags_for() == ["constant", "{braces}"]
    assert [await by_function("n"), await constant()] == [0, 0]
    source.version = 1
    await cache.invalidate_tags(["all", "{braces}"])
    assert [await by_function("n"), await constant()] == [1, 1]


async def test_text_in_tags_is_as_in_an_f_string(cache):
    """Otherwise `invalidate_tag(f"user:{name}")` would miss the tag of some users in silence."""

    @cached(cache, key="k:{name}", tags=["user:{name}", "{name!r}", "{name:>9}"])
    async def load(name): ...

    for name in ("a:b%c", "", 7, -1, 1.5, True, None, b"x"):
        if name is not None and not isinstance(name, bytes):
            assert load.tags_for(name) == [f"user:{name}", f"{name!r}", f"{name:>9}"]

        @cached(cache, key="k:{name}", tags=["user:{name}", "all", "{{{name}}}{other}"])
        async def plain(name, other="x"): ...

        tags = [f"user:{name}", "all", f"{{{name}}}x"]
        assert plain.tags_for(name) == plain.tags_for(name=name) == tags
        assert plain.tags_for(name, "y")[2] == f"{{{name}}}y"
    with pytest.raises(TypeError, match="argument"):
        plain.tags_for()


async def test_a_tag_must_not_be_empty(client, cache):
    async def load(user): ...

    for tag in ("", b""):
        with pytest.raises(ValueError, match="a tag must not be empty"):
            Cache(client, tags=[tag])
        with pytest.raises(ValueError, match="a tag must not be empty"):
            await cache.get_or_set("k", load, tags=["t", tag])
        with pytest.raises(ValueError, match="a tag must not be empty"):
            await cache.invalidate_tag(tag)
        with pytest.raises(ValueError, match="a tag must not be empty"):
            cached(cache, key="{user}", tags=[tag])(load)


async def test_wrong_tags_of_functions(cache):
    async def load(user): ...

    for tags, match in (
        (["user:{usr}"], "has no parameter 'usr'"),
        ("user:{user}", "tags must be a list of tags, not one str"),
        (7, "not one int"),
        ([7], "a tag must be a str or bytes, not int"),
    ):
        with pytest.raises(TypeError, match=match):
            cached(cache, key="k:{user.id}", tags=tags)(load)
    with pytest.raises(TypeError, match="memory address"):
        await cached(cache, key=lambda user: "k", tags=["user:{user}"])(load)(object())


async def test_a_function_of_a_cache_with_tags(client, key):
    cache, source = Cache(client, prefix=key, tags=["all"]), Source()

    @cached(cache, key="k")
    async def load():
        return await source()

    assert await load() == 0
    source.version = 1
    await cache.invalidate_tag("all")
    assert [await load(), await load()] == [1, 1]
    assert source.calls == 2


async def test_many_values(cache):
    versions, calls = {"a": 0, "b": 0, "c": 0}, []

    async def load(keys):
        calls.append(sorted(keys))
        return {key: versions[key] for key in keys}

    def get(tags):
        return cache.get_or_set_many(["a", "b", "c"], load, tags=tags)

    assert await get(["t"]) == versions
    assert await get(["t"]) == versions
    assert await cache.get("a", tags=["t"]) == 0
    versions["b"] = 1
    await cache.invalidate_tag("t")
    assert await get(lambda key: ["t", f"one:{key}"]) == versions
    assert calls == [["a", "b", "c"]] * 2
    versions["b"] = 2
    await cache.invalidate_tag("one:b")
    assert await get(["t"]) == versions
    assert calls[2:] == [["b"]]


async def test_functions_of_many_elements(cache):
    versions, calls = {1: 0, 2: 0}, []

    @cached_many(cache, key="k:{id}", tags=["all", "one:{id}"])
    async def load(ids):
        calls.append(ids)
        return {each: versions[each] for each in ids}

    assert load.tags_for(1) == ["all", "one:1"]
    assert [await load([1, 2]), await load([2, 1])] == [versions] * 2
    versions[1] = 1
    await cache.invalidate_tag("one:1")
    assert await load([1, 2]) == versions
    versions |= {1: 2, 2: 2}
    await cache.invalidate_tag("all")
    assert await load([1, 2]) == versions
    assert calls == [[1, 2], [1], [1, 2]]
    for tags in (["{id}:{other}"], ["{}"]):
        with pytest.raises(TypeError, match="must have one field"):
            cached_many(cache, key="k:{id}", tags=tags)


# -- round trips ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def proxied(*servers, **options):
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(FaultProxy(server)) for server in servers]
        async with client_of(*proxies, **options) as client:
            yield client, proxies


NAMES = tuple(map(str, range(40)))
"""Enough that each of two nodes has one of them, wherever their ports place them."""


def spread(client, cache, *names):
    """A name of each kind on each node, so that all nodes are used."""
    nodes = {}
    for name in names:
        nodes.setdefault(client.node_for(cache.wire_key(name)), name)
    return nodes


@within(30)
async def test_a_read_that_names_its_tags_is_one_round_trip(cluster, key):
    async with proxied(*cluster[:2]) as (client, proxies):
        cache = Cache(client, prefix=key)
        value = next(iter(spread(client, cache, *NAMES).values()))
        tags = [
            name.removeprefix("#tag:")
            for name in spread(client, cache, *(f"#tag:{n}" for n in NAMES)).values()
        ]
        assert len(tags) == 2

        @cached(cache, key=value, tags=tags)
        async def load():
            return 1

        await load()
        tagged = Cache(client, prefix=key, tags=tags)
        for call in (
            lambda: cache.get(value, tags=tags),
            lambda: cache.get_many([value], tags=tags),
            lambda: cache.get_or_set(value, Source(), tags=tags),
            load,
            lambda: cache.get_or_set_many([value], Source(), tags=tags),
            lambda: tagged.get(value),
            lambda: tagged.get_many([value]),
            lambda: tagged.get_with_cas(value),
            lambda: tagged.get_and_touch(value, 60),
        ):
            assert await call() not in (None, {})
            assert await is_one_round_trip(proxies, call(), used=2)
        # It sees what it is meant to see: without the tags' names there is a second one.
        assert not await is_one_round_trip(proxies, cache.get(value), used=1)
        assert await is_one_round_trip(proxies, cache.invalidate_tag(tags[0]), used=1)
        assert await is_one_round_trip(proxies, cache.invalidate_tags(tags), used=2)


async def test_one_line_carries_the_key_and_its_tags(server, key):
    async with proxied(server, autobatching=True) as (client, [proxy]):
        cache = Cache(client, prefix=key)
        await cache.set("a", 1, tags=["t", "u"])
        before = proxy.request_bytes
        assert await cache.get("a", tags=["t", "u"]) == 1
        names = [cache.wire_key(name) for name in ("a", "#tag:t", "#tag:u")]
        assert proxy.request_bytes - before == len(b"get " + b" ".join(names) + b"\r\n")


async def test_a_miss_reads_the_generations_once(server, key):
    """Those of the first read are those of the value."""
    async with client_of(server) as client:
        cache = Cache(client, prefix=key)
        await cache.read_tags(["t"])
        before = server.stats()
        await cache.get_or_set("a", Source(), tags=["t"])
        after = server.stats()
        # Key and generation; then the lease.
        assert int(after["cmd_get"]) - int(before["cmd_get"]) == 3


# -- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["delete", "foreign", "empty"])
async def test_a_generation_that_is_lost(cache, loss):
    source = Source()

    async def get():
        return await cache.get_or_set("a", source, tags=["t"])

    await get()
    source.version = 1
    name = tag_key(cache, "t")
    if loss == "delete":
        await cache.client.delete(name)
    else:
        await cache.client.set(name, b"" if loss == "empty" else b"something else")
    assert await cache.get("a") is None
    assert await cache.get("a", tags=["t"]) is None
    assert [await get(), await get()] == [1, 1]
    assert len((await cache.client.get(name)).value) == 8
    await cache.set("b", 1, tags=["t"])
    assert await cache.get_many(["a", "b"], tags=["t"]) == {"a": 1, "b": 1}


async def test_a_generation_that_others_create_at_the_same_time(cache, server, key):
    names = tuple(tag_key(cache, tag) for tag in ("x", "y", "z"))
    async with client_of(server) as client:
        made = await asyncio.gather(
            *(make_generations(each, names, {}) for each in (cache.client, client) * 10)
        )
    assert len(set(made)) == 1


@within(40)
async def test_the_node_of_a_tag_is_lost(key):
    """Its values are misses while it is down, and stay that after it came back empty."""
    with memcached() as first, memcached() as second:
        nodes = [first.address, second.address]
        async with emcache.create_client(nodes, timeout=0.5) as client:
            cache = Cache(client, prefix=key)
            by_node = spread(client, cache, *NAMES)
            value = by_node[first.address]
            tag = spread(client, cache, *(f"#tag:{n}" for n in NAMES))[second.address]
            tag = tag.removeprefix("#tag:")
            source = Source()
            await cache.get_or_set(value, source, tags=[tag])
            assert await cache.get(value, tags=[tag]) == 0
            second.kill()
            source.version = 1
            assert await cache.get(value, "miss") == "miss"
            assert await cache.get(value, "miss", tags=[tag]) == "miss"
            assert await cache.get_many([value], tags=[tag]) == {}
            # Computed and returned, but it cannot be stored with the tag.
            info = CacheInfo()
            assert await cache.get_or_set(value, source, tags=[tag], info=info) == 1
            assert info.not_stored == "failed"
            for call in (
                cache.get_or_set(value, source, tags=[tag], on_error="raise"),
                cache.set(value, 1, tags=[tag]),
                cache.invalidate_tag(tag),
                cache.invalidate_tags([tag]),
                cache.read_tags([tag]),
            ):
                with pytest.raises(emcache.EmcacheError):
                    await call
            second.start()
            await client.wait_ready(20)
            assert await cache.get(value, "miss", tags=[tag]) == "miss"
            source.version = 2
            assert await cache.get_or_set(value, source, tags=[tag]) == 2
            assert await cache.get(value, "miss", tags=[tag]) == 2


@within(30)
async def test_callers_share_a_computation_while_a_tag_is_down(key):
    with memcached() as first, memcached() as second:
        nodes = [first.address, second.address]
        async with emcache.create_client(nodes, timeout=0.5) as client:
            cache = Cache(client, prefix=key)
            value = spread(client, cache, *NAMES)[first.address]
            tag = spread(client, cache, *(f"#tag:{n}" for n in NAMES))[second.address]
            tag = tag.removeprefix("#tag:")
            second.kill()
            source, all_have_begun = Source(), asyncio.Event()

            async def slow():
                await all_have_begun.wait()
                return await source()

            calls = []
            for _ in range(30):
                call = cache.get_or_set(value, slow, tags=[tag])
                calls.append(asyncio.create_task(call))
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
            all_have_begun.set()
            assert await asyncio.gather(*calls) == [0] * 30
            assert source.calls < 5
