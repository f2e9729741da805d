"""Leases while reads of the cache fail, and on servers without CAS."""

import asyncio

import pytest

import emcache
from emcache import Cache
from emcache.cache import CacheInfo
from emcache.testing import FaultProxy, MemcachedServer
from support.calls import until, within


class Factory:
    """Counts its calls, and goes on when it is told to."""

    def __init__(self, result="value"):
        self.calls = 0
        self.result = result
        self.go = asyncio.Event()

    async def __call__(self):
        self.calls += 1
        await self.go.wait()
        return self.result

    async def started(self):
        await until(lambda: self.calls)


def of(value):
    async def factory():
        return value

    return factory


@pytest.fixture
async def broken(server, key):
    """A cache behind a proxy, and one that reaches the same server directly."""
    with FaultProxy(server) as proxy:
        async with (
            emcache.create_client([proxy.address], timeout=0.3) as client,
            emcache.create_client([server.address]) as other,
        ):
            yield Cache(client, prefix=key), Cache(other, prefix=key), proxy


@within(20)
async def test_a_caller_whose_read_fails_does_not_join_a_computation_from_before(broken):
    """Another process may have invalidated the key in between, and this one cannot look."""
    one, other, proxy = broken
    older, newer = Factory("older"), Factory("newer")
    before = asyncio.create_task(one.get_or_set("k", older))
    await older.started()
    await other.delete("k")
    proxy.black_hole()
    after = [asyncio.create_task(one.get_or_set("k", newer)) for _ in range(5)]
    await until(lambda: newer.calls)
    older.go.set()
    newer.go.set()
    assert await asyncio.gather(*after) == ["newer"] * 5
    assert newer.calls == 1
    assert await before == "older"


@pytest.mark.parametrize("options", [{}, {"lease": None, "tags": ["t"]}], ids=["lease", "tags"])
@within(20)
async def test_callers_whose_reads_fail_share_the_next_computation(broken, options):
    """One at a time, and none that began before a caller."""
    one, _, proxy = broken
    proxy.black_hole()
    older, newer = Factory("older"), Factory("newer")
    before = [asyncio.create_task(one.get_or_set("k", older, **options)) for _ in range(5)]
    await older.started()
    after = [asyncio.create_task(one.get_or_set("k", newer, **options)) for _ in range(5)]

    def waiting():
        flights = one._flights.table.get(one.wire_key("k"), {}).values()
        return sum(flight.waiting for flight in flights)

    await until(lambda: waiting() == 10)
    newer.go.set()
    assert not newer.calls
    older.go.set()
    assert await asyncio.gather(*before) == ["older"] * 5
    assert await asyncio.gather(*after) == ["newer"] * 5
    assert (older.calls, newer.calls) == (1, 1)


@pytest.fixture(params=["same", "separate"])
async def without_cas(request):
    """Two caches on a server without CAS."""
    with MemcachedServer("-C") as server:
        async with (
            emcache.create_client([server.address]) as client,
            emcache.create_client([server.address]) as other,
        ):
            yield [Cache(each, lease_key=request.param) for each in (client, other)]


@within(20)
async def test_without_cas_a_value_that_may_not_be_served_is_replaced(without_cas):
    one, other = without_cas
    assert await one.get_or_set("k", of(1), tags=["t"]) == 1
    await other.invalidate_tag("t")
    assert await one.get_or_set("k", of(2), tags=["t"]) == 2
    assert await other.get_or_set("k", of(3), tags=["t"]) == 2


@within(20)
async def test_without_cas_a_failure_gives_the_lease_back(without_cas):
    one, other = without_cas

    async def fail():
        raise LookupError("no row")

    with pytest.raises(LookupError):
        await one.get_or_set("k", fail)
    with pytest.raises(LookupError):
        await one.renew("k", fail)
    assert await other.get_or_set("k", of(1), store_if=lambda _: False) == 1
    assert await one.get_or_set("k", of(2)) == 2
    await other.client.delete(b"k")  # as an eviction: the lease of another key stays
    assert await other.get_or_set("k", of(3)) == 3


@within(20)
async def test_without_cas_a_value_is_refreshed(without_cas):
    one, other = without_cas
    options = {"stale_for": 60, "refresh": 60, "refresh_in": "caller"}
    assert await one.get_or_set("k", of(1), ttl=1, **options) == 1
    info = CacheInfo()
    while not info.computed:
        await asyncio.sleep(0.05)
        assert await other.get_or_set("k", of(2), info=info, **options) in (1, 2)
    assert info.not_stored is None
    assert await one.get("k") == 2


@pytest.mark.parametrize(("change", "left"), [("set", "newer"), ("delete", None)])
@within(20)
async def test_without_cas_a_refresh_leaves_later_writes_alone(without_cas, change, left):
    one, other = without_cas
    options = {"stale_for": 60, "refresh": 60, "refresh_in": "caller"}
    assert await one.get_or_set("k", of("old"), ttl=1, **options) == "old"

    async def meanwhile():
        await (one.set("k", "newer") if change == "set" else one.delete("k"))
        return "late"

    info = CacheInfo()
    while not info.computed:
        await asyncio.sleep(0.05)
        await other.get_or_set("k", meanwhile, info=info, **options)
    assert info.not_stored == ("replaced" if change == "set" else "invalidated")
    assert await one.get("k") == left


@pytest.mark.parametrize("lease_key", ["same", "separate"])
@pytest.mark.parametrize("initial", [None, 1])
@within(20)
async def test_a_number_that_another_process_computes_does_not_exist_yet(
    broken, lease_key, initial
):
    """It may be computed from data of before the change, so it is not stored either."""
    one, other, _ = broken
    other = Cache(other.client, prefix=other.wire_key("k")[:-1], lease_key=lease_key)
    factory = Factory(100)
    computing = asyncio.create_task(one.get_or_set("k", factory))
    await factory.started()
    assert await other.increment("k", 1, initial=initial) == initial
    factory.go.set()
    assert await computing == 100
    assert await other.get("k") == initial


@within(20)
async def test_a_value_that_is_not_a_number_is_not_taken_for_a_lease(broken):
    _, other, _ = broken
    await other.set("k", "text")
    with pytest.raises(emcache.ArithmeticCommandError):
        await other.increment("k", 1, initial=1)
    assert await other.get("k") == "text"


async def fill(cache, kind):
    """Write what a computation needs, and return the number of writes of the key."""
    if kind == "a miss":
        return 0
    await cache.set("k", "oldest")
    if kind == "renew":
        return 1
    await cache.invalidate("k", stale_for=60)
    return 2


COMPUTATIONS = {
    "a miss": lambda cache, factory: cache.get_or_set("k", factory),
    "renew": lambda cache, factory: cache.renew("k", factory),
    "refresh": lambda cache, factory: cache.get_or_set("k", factory, refresh_in="caller"),
}


@pytest.mark.parametrize("lease_key", ["same", "separate"])
@pytest.mark.parametrize("kind", COMPUTATIONS)
@within(40)
async def test_a_restarted_server_issues_the_same_tokens_again(kind, lease_key):
    """A token from before a restart must not replace an item from after it."""
    options = {"lease_key": lease_key, "stale_for": 60}
    with MemcachedServer() as server:
        async with emcache.create_client([server.address]) as client:
            one, older, newer = Cache(client, **options), Factory("older"), Factory("newer")
            writes = await fill(one, kind)
            computing = asyncio.create_task(COMPUTATIONS[kind](one, older))
            await older.started()
            server.restart()
            async with emcache.create_client([server.address]) as other_client:
                other = Cache(other_client, **options)
                await other.delete("k")
                for _ in range(writes):
                    await other.set("k", "newer")
                later = asyncio.create_task(other.get_or_set("k", newer))
                await until(lambda: newer.calls or later.done())
                joined = asyncio.create_task(one.get_or_set("k", of("joined")))
                await asyncio.sleep(0.05)
                older.go.set()
                assert await computing == "older"
                newer.go.set()
                assert await later == "newer"
                assert await joined in ("newer", "joined")
                assert await other.get("k") != "older"
