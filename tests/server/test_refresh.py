"""Values that are served while one caller replaces them: before their end, and after it."""

import asyncio
import itertools
import logging
import time

import pytest

import emcache
from emcache import Cache, cached
from emcache.cache import CacheInfo, Zlib, _envelope, _refreshes, _values, _warnings
from emcache.cache._flags import FLAG_ENVELOPE
from support.calls import outcomes, until, within


class Clock:
    """The clock of all caches of this process, which a test moves."""

    def __init__(self):
        self.offset = 0

    def __call__(self):
        return int(self.real() + self.offset * 1000)

    real = staticmethod(_envelope.now_ms)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("_quick_hits", "_storage", "_ttl"):
        monkeypatch.setattr(f"emcache.cache.{module}.now_ms", clock)
    return clock


@pytest.fixture(autouse=True)
def fresh_warnings():
    _warnings.LOG.reset()


@pytest.fixture
async def pair(client, server, key, clock):
    options = {"prefix": key, "ttl": 60}
    async with emcache.create_client([server.address]) as other:
        yield Cache(client, **options), Cache(other, **options)


class Numbers:
    """Returns 1, 2, 3, ... from call to call; each goes on when it is told to."""

    def __init__(self):
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()
        self.failure = None

    async def __call__(self):
        self.calls += 1
        number = self.calls
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return number


def is_idle(cache):
    return not _refreshes.refreshes_of(cache.client)._busy


async def look(cache, factory, **options):
    info = CacheInfo()
    return await cache.get_or_set("k", factory, info=info, **options), info


@within(20)
async def test_an_envelope_only_where_it_is_needed(pair):
    one, _ = pair
    name = one.wire_key("k")
    for options, bit in (
        ({}, 0),
        ({"refresh": 5}, FLAG_ENVELOPE),
        ({"stale_for": 5}, FLAG_ENVELOPE),
    ):
        await one.delete("k")
        await one.get_or_set("k", Numbers(), **options)
        assert (await one.client.get(name, return_flags=True)).flags & FLAG_ENVELOPE == bit
        # Every cache reads it, also without these options.
        assert await Cache(one.client, prefix=name[:-1]).get("k") == 1


@within(20)
async def test_refresh_in_the_background(pair, clock):
    one, _ = pair
    numbers = Numbers()
    assert (await look(one, numbers, refresh=10))[0] == 1
    clock.offset = 49
    found, info = await look(one, numbers, refresh=10)
    assert (found, info.fresh, info.refreshing) == (1, True, False)
    clock.offset = 51
    numbers.go.clear()
    found, info = await look(one, numbers, refresh=10)
    assert (found, info.fresh, info.refreshing) == (1, True, True)
    # Others are served, and do not compute.
    found, info = await look(one, numbers, refresh=10)
    assert (found, info.fresh, info.refreshing) == (1, True, False)
    numbers.go.set()
    await until(lambda: is_idle(one))
    assert (await look(one, numbers, refresh=10))[0] == 2
    assert (numbers.calls, one._counts.refreshed) == (2, 1)


@within(20)
async def test_refresh_by_the_caller(pair, clock):
    one, other = pair
    numbers = Numbers()
    options = {"refresh": 10, "refresh_in": "caller"}
    await look(one, numbers, **options)
    clock.offset = 55
    numbers.go.clear()
    refreshing = asyncio.create_task(look(one, numbers, **options))
    await until(lambda: numbers.calls == 2)
    for cache in pair:
        found, info = await look(cache, numbers, **options)
        assert (found, info.fresh, info.computed) == (1, True, False)
    numbers.go.set()
    found, info = await refreshing
    assert (found, info.computed, info.fresh) == (2, True, False)
    assert (await look(other, numbers, **options))[0] == 2


@within(20)
async def test_one_process_refreshes(pair, clock):
    one, other = pair
    numbers = Numbers()
    await look(one, numbers, refresh=10)
    clock.offset = 55
    numbers.go.clear()
    for cache, _ in itertools.product(pair, range(20)):
        assert (await look(cache, numbers, refresh=10))[0] == 1
    await until(lambda: numbers.calls == 2)
    await asyncio.sleep(0.1)
    numbers.go.set()
    while (await look(other, numbers, refresh=10))[0] != 2:
        await asyncio.sleep(0.01)
    # The one that had the old value in its hands when the new one was stored.
    await until(lambda: is_idle(one) and is_idle(other))
    assert (await look(one, numbers, refresh=10))[0] == 2
    assert numbers.calls == 2
    assert await one.client.get(one.wire_key("k") + b"#refresh") is None


@within(20)
async def test_a_refresher_that_saw_the_old_value_finds_the_new_one(pair, clock, monkeypatch):
    """It takes the mark after the other refresher has removed it."""
    one, other = pair
    numbers = Numbers()
    await look(one, numbers, refresh=10)
    clock.offset = 55
    reached, go = asyncio.Event(), asyncio.Event()
    original = other.client.add

    async def held(*args, **kwargs):
        reached.set()
        await go.wait()
        return await original(*args, **kwargs)

    monkeypatch.setattr(other.client, "add", held)
    await look(other, numbers, refresh=10)
    await reached.wait()
    await look(one, numbers, refresh=10)
    await until(lambda: is_idle(one))
    assert (await look(one, numbers, refresh=10))[0] == 2
    go.set()
    await until(lambda: is_idle(other))
    assert numbers.calls == 2


@within(20)
async def test_a_dead_refresher(pair, clock):
    one, other = pair
    numbers = Numbers()
    options = {"refresh": 10, "stale_for": 600, "lease": 2}
    await look(one, numbers, **options)
    clock.offset = 55
    # As a process does that is killed then.
    await other.client.add(other.wire_key("k") + b"#refresh", b"1", exptime=2)
    while (await look(one, numbers, **options))[0] == 1:
        clock.offset = 70  # stale by now
        await asyncio.sleep(0.02)
    assert numbers.calls == 2


@pytest.mark.parametrize("refresh_in", ["background", "caller"])
@within(20)
async def test_a_stale_value_is_served_when_the_factory_fails(pair, clock, refresh_in, caplog):
    one, _ = pair
    numbers = Numbers()
    options = {"stale_for": 600, "refresh_in": refresh_in}
    await look(one, numbers, **options)
    clock.offset = 61
    numbers.failure = LookupError("the database is down")
    with caplog.at_level(logging.WARNING, "emcache"):
        for _ in range(3):
            found, info = await look(one, numbers, **options)
            assert (found, info.stale, info.fresh) == (1, True, False)
        await until(lambda: numbers.calls == 2 and caplog.records)
    assert "refreshing a cached value failed" in caplog.text
    assert one._counts.stale == 3
    # It is tried again, but not by every caller.
    numbers.failure = None
    await until(lambda: is_idle(one))
    while (await look(one, numbers, **options))[0] == 1:
        await asyncio.sleep(0.02)
    assert (await look(one, numbers, **options))[1].fresh


@within(20)
async def test_the_end_of_a_stale_value(pair, clock):
    one, _ = pair
    numbers = Numbers()
    await look(one, numbers, stale_for=600)
    clock.offset = 61
    # Who did not ask for it does not get it.
    assert await one.get("k") is None
    assert await one.get_with_cas("k") is None
    assert await one.get_many(["k"]) == {}
    # Neither does one who asked for a shorter time.
    clock.offset = 66
    found, info = await look(one, numbers, stale_for=5)
    assert (found, info.computed) == (2, True)


@within(20)
async def test_a_caller_without_stale_for_replaces_a_stale_value(pair, clock):
    one, other = pair
    numbers = Numbers()
    await look(one, numbers, stale_for=600)
    clock.offset = 61
    numbers.go.clear()
    computing = asyncio.create_task(look(one, numbers))
    await until(lambda: numbers.calls == 2)
    waiting = asyncio.create_task(look(other, numbers))
    await asyncio.sleep(0.05)
    numbers.go.set()
    assert [(await task)[0] for task in (computing, waiting)] == [2, 2]
    assert numbers.calls == 2


@within(20)
async def test_who_wants_no_stale_value_gets_none_from_another_caller(pair):
    """A value that is stored, and goes stale, while both wait for its computation elsewhere."""
    one, other = pair
    leases = one._storage.leases
    name = other.wire_key("k")
    cas = (await leases.take(name, 30)).cas
    lax = asyncio.create_task(look(other, Numbers(), stale_for=600))
    strict = asyncio.create_task(look(other, Numbers(), stale_for=0))
    await until(lambda: other._flights.table)
    data, flags = await one._values.pack(name, "old")
    sealed = _values.seal(data, flags, _envelope.Envelope(0, 1_000 * int(time.time() - 5)))
    assert await leases.store(name, cas, *sealed, 600) == "stored"
    found, info = await lax
    assert (found, info.stale) == ("old", True)
    found, info = await strict
    assert (found, info.computed) == (1, True)


@within(20)
async def test_invalidated_and_still_served(pair):
    one, other = pair
    numbers = Numbers()
    await one.set("k", "old")
    assert await one.invalidate("k", stale_for=60)
    assert await other.get("k") is None
    numbers.go.clear()
    for cache in pair:
        found, info = await look(cache, numbers)
        assert (found, info.stale) == ("old", True)
    await until(lambda: numbers.calls == 1)
    numbers.go.set()
    while (await look(other, numbers))[0] != 1:
        await asyncio.sleep(0.01)
    assert (await look(other, numbers))[1].fresh
    assert numbers.calls == 1


@within(20)
async def test_who_wants_no_stale_value_gets_none_after_an_invalidation(pair):
    one, _ = pair
    await one.set("k", "old")
    await one.invalidate("k", stale_for=60)
    found, info = await look(one, Numbers(), stale_for=0)
    assert (found, info.computed) == (1, True)


@within(20)
async def test_invalidation_of_what_is_not_there(pair):
    one, _ = pair
    assert await one.invalidate("k", stale_for=60) is False
    assert await one.invalidate("k") is False
    for stale_for, error in ((0, ValueError), ("1", TypeError)):
        with pytest.raises(error):
            await one.invalidate("k", stale_for=stale_for)


@pytest.mark.parametrize("softly", [None, 60])
@within(20)
async def test_a_refresh_that_began_before_an_invalidation_is_not_stored(pair, clock, softly):
    one, other = pair
    numbers = Numbers()
    await look(one, numbers, refresh=10)
    clock.offset = 55
    numbers.go.clear()
    await look(one, numbers, refresh=10)
    await until(lambda: numbers.calls == 2)
    await other.invalidate("k", stale_for=softly)
    numbers.go.set()
    await until(lambda: is_idle(one))
    assert await other.get("k") is None
    assert one._counts.not_stored == {"invalidated" if softly is None else "replaced": 1}
    while (found := await look(other, numbers, refresh=10))[1].stale:
        await asyncio.sleep(0.01)
    assert found[0] == 3


@within(20)
async def test_an_invalidated_value_keeps_its_compression_and_envelope(pair):
    one, _ = pair
    prefix = one.wire_key("k")[:-1]
    caches = [Cache(each.client, prefix=prefix, compression=Zlib(), stale_for=30) for each in pair]

    async def large():
        return "x" * 5000

    assert await caches[0].get_or_set("k", large) == "x" * 5000
    assert await caches[0].invalidate("k", stale_for=60)
    assert await caches[1].invalidate("k", stale_for=60)
    found, info = await look(caches[1], Numbers())
    assert (found, info.stale) == ("x" * 5000, True)


@within(20)
async def test_mark_stale_of_a_cached_function(pair):
    one, _ = pair
    calls = itertools.count(1)

    @cached(one, key="f:{number}", stale_for=30)
    async def function(number):
        return [number, next(calls)]

    @cached(one, key="g")
    async def without():
        return 1

    assert await function(5) == [5, 1]
    assert await function.mark_stale(5)
    result, info = await function.with_info(5)
    assert (result, info.stale) == ([5, 1], True)
    while (await function.with_info(5))[1].stale:
        await asyncio.sleep(0.01)
    assert await function(5) == [5, 2]
    with pytest.raises(ValueError, match="stale_for"):
        await without.mark_stale()
    assert await cached(lambda: None, key="f:{cache}", stale_for=5)(look).mark_stale(1, 2) is False


@within(20)
async def test_a_cancelled_refresh_by_the_caller_lets_the_next_one_begin(pair, clock):
    one, other = pair
    numbers = Numbers()
    options = {"refresh": 10, "refresh_in": "caller"}
    await look(one, numbers, **options)
    clock.offset = 55
    numbers.go.clear()
    refreshing = asyncio.create_task(look(one, numbers, **options))
    await until(lambda: numbers.calls == 2)
    refreshing.cancel()
    await outcomes(refreshing)
    numbers.go.set()
    found, info = await look(other, numbers, **options)
    assert (found, info.computed) == (3, True)


@within(20)
async def test_a_cancel_while_a_refresh_is_announced_lets_the_next_one_begin(
    pair, clock, monkeypatch
):
    one, other = pair
    numbers = Numbers()
    options = {"refresh": 10, "refresh_in": "caller"}
    await look(one, numbers, **options)
    clock.offset = 55
    add, added, go = one.client.add, asyncio.Event(), asyncio.Event()

    async def slow_add(*args, **kwargs):
        await add(*args, **kwargs)
        added.set()
        await go.wait()

    monkeypatch.setattr(one.client, "add", slow_add)
    refreshing = asyncio.create_task(look(one, numbers, **options))
    await added.wait()
    refreshing.cancel()
    await outcomes(refreshing)
    go.set()
    mark = one.wire_key("k#refresh")
    while await other.client.get(mark) is not None:
        await asyncio.sleep(0.01)
    found, info = await look(other, numbers, **options)
    assert (found, info.computed) == (2, True)


@pytest.mark.parametrize("refresh_in", ["background", "caller"])
@within(20)
async def test_a_refresh_whose_value_is_refused_is_not_repeated_on_each_read(
    pair, clock, refresh_in, monkeypatch
):
    for module in ("_refresh", "_refreshes"):
        monkeypatch.setattr(f"emcache.cache.{module}.TRY_AGAIN", 60)
    one, other = pair
    numbers = Numbers()
    options = {"refresh": 10, "refresh_in": refresh_in, "store_if": lambda value: value == 1}
    await look(one, numbers, **options)
    clock.offset = 55
    await look(one, numbers, **options)
    await until(lambda: one._counts.not_stored)
    for cache in (one, other) * 3:
        assert (await look(cache, numbers, **options))[0] == 1
        await asyncio.sleep(0.02)
    assert numbers.calls == 2
    assert one._counts.not_stored == {"refused": 1}


@within(20)
async def test_a_client_that_closes_during_a_refresh(server, key, clock, caplog):
    numbers = Numbers()
    async with emcache.create_client([server.address]) as client:
        cache = Cache(client, prefix=key, ttl=60, refresh=10)
        await look(cache, numbers)
        clock.offset = 55
        numbers.go.clear()
        await look(cache, numbers)
        await until(lambda: numbers.calls == 2)
    numbers.go.set()
    await until(lambda: is_idle(cache) or numbers.calls == 2)
    await asyncio.sleep(0.05)
    assert caplog.records == []


@within(20)
async def test_ttls(pair, clock):
    one, _ = pair
    seen = []

    async def ttl_of(**options):
        await one.delete("k")
        await one.get_or_set("k", Numbers(), **options)
        item = await one.client.get(one.wire_key("k"), return_flags=True)
        envelope, _ = _envelope.decode_envelope(item.value)
        return (envelope.fresh_until - clock()) / 1000, (
            envelope.fresh_until - envelope.refresh_from
        ) / 1000

    left, before = await ttl_of(refresh=10)
    assert 55 < left <= 60
    assert before == 10
    # A refresh that is as long as the ttl would never end.
    left, before = await ttl_of(refresh=100)
    assert before == 30
    left, _ = await ttl_of(refresh=1, ttl=lambda value: seen.append(value) or 20)
    assert 15 < left <= 20
    assert seen == [1]
    lefts = [(await ttl_of(refresh=1, jitter=0.5))[0] for _ in range(30)]
    assert min(lefts) >= 25
    assert len({round(left) for left in lefts}) > 3
    await one.delete("k")
    await one.get_or_set("k", Numbers(), ttl=0, refresh=10)
    assert await one.get("k") == 1
    with pytest.raises(ValueError, match="ttl"):
        await one.renew("k", Numbers(), ttl=lambda value: 10**8)
    assert await one.get("k") == 1
    await one.delete("k")
    assert await one.get_or_set("k", Numbers(), ttl=-1) == 1
    assert await one.get("k") is None


async def test_values_end_after_an_hour_by_default(client, key):
    sent = []

    async def recorded(name, *args, exptime=0, **kwargs):
        sent.append(exptime)

    cache = Cache(client, prefix=key)
    cache.client.set = cache.client.cas = recorded
    await cache.set("k", 1)
    await cache.get_or_set("l", Numbers())
    await cache.set("k", 1, ttl=0)
    del cache.client.set, cache.client.cas
    assert sent == [3600, 3600, 0]


@within(20)
async def test_a_refresh_mark_is_a_second_longer_at_the_server(client, key, monkeypatch):
    cache, marks = Cache(client, prefix=key, lease=2), []
    original = client.add

    async def recorded(name, *args, exptime=0, **kwargs):
        marks.append(exptime)
        return await original(name, *args, exptime=exptime, **kwargs)

    await cache.set("k", "old")
    await cache.invalidate("k", stale_for=60)
    monkeypatch.setattr(client, "add", recorded)
    options = {"stale_for": 60, "refresh_in": "caller"}
    assert await cache.get_or_set("k", Numbers(), **options) == 1
    assert marks == [3]


@pytest.mark.parametrize("refresh_in", ["background", "caller"])
@within(20)
async def test_a_client_that_is_closed_removes_its_marks(server, client, key, refresh_in):
    """Another process refreshes at once, also while the factory is slow to end."""
    closing, other = emcache.create_client([server.address]), Cache(client, prefix=key)
    one = Cache(await closing, prefix=key)
    options = {"stale_for": 60, "refresh_in": refresh_in}
    await one.set("k", 0)
    await one.invalidate("k", stale_for=60)
    numbers = Numbers()
    numbers.go.clear()
    call = asyncio.create_task(one.get_or_set("k", numbers, **options))
    await until(lambda: numbers.calls == 1)
    mark = one.wire_key("k") + b"#refresh"
    assert await client.get(mark) is not None
    await one.client.close()
    assert await client.get(mark) is None
    numbers.go.set()
    assert await call == 0
    assert await other.get_or_set("k", Numbers(), stale_for=60, refresh_in="caller") == 1
