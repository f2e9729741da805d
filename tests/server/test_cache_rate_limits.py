"""Rate limits: never more hits in a window than the limit, by any number of processes."""

import asyncio
import itertools
import math
import random
import time
from datetime import timedelta

import pytest

import emcache
from emcache import Cache
from emcache.cache import _rate_limits
from support.calls import client_of, within
from support.memcached import memcached
from support.workers import workers


@pytest.fixture
def cache(client, key):
    return Cache(client, prefix=key)


class Clock:
    """The Unix time that rate limits see."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_rate_limits, "time", clock)
    return clock


async def test_a_window_allows_as_many_hits_as_its_limit(cache, clock):
    limit = cache.rate_limit("api", 3, per=60)
    clock.now = 60 * 1000 + 15
    results = [await limit.hit() for _ in range(4)]
    assert [result.allowed for result in results] == [True, True, True, False]
    assert [result.remaining for result in results] == [2, 1, 0, 0]
    assert [result.retry_after for result in results] == [0.0, 0.0, 0.0, 45.0]
    assert [bool(result) for result in results] == [True, True, True, False]
    clock.now += results[-1].retry_after
    assert await limit.hit()


async def test_hits_that_cost_more(cache, clock):
    limit = cache.rate_limit("api", 10, per=timedelta(minutes=1))
    assert (await limit.hit(cost=7)).remaining == 3
    # It does not fit, and must not take the room of those that do.
    assert not await limit.hit(cost=4)
    assert (await limit.hit(cost=3)).remaining == 0
    assert not await limit.hit()


async def test_each_name_length_and_prefix_counts_by_itself(cache, client, key):
    other = Cache(client, prefix=key + b":other")
    for limit in (
        cache.rate_limit("a", 1, per=60),
        cache.rate_limit(b"b", 1, per=60),
        cache.rate_limit("a", 1, per=3600),
        other.rate_limit("a", 1, per=60),
    ):
        assert await limit.hit()
        assert not await limit.hit()


async def test_a_sliding_window_counts_the_one_before_in_proportion(cache, clock):
    limit = cache.rate_limit("api", 10, per=100, window="sliding")
    clock.now = 100 * 1000 + 50
    for _ in range(10):
        assert await limit.hit()
    refused = await limit.hit()
    # In the next window, 10 x (1 - elapsed / 100) + 1 must be at most 10.
    assert (refused.allowed, refused.retry_after) == (False, pytest.approx(60))
    clock.now += 59.9
    assert not await limit.hit()
    clock.now += 0.1
    assert await limit.hit()
    refused = await limit.hit()
    assert (refused.allowed, refused.retry_after) == (False, pytest.approx(10))
    clock.now += 40
    assert [bool(await limit.hit()) for _ in range(5)] == [True, True, True, True, False]
    clock.now = 100 * 1003
    assert (await limit.hit()).remaining == 9


@pytest.mark.parametrize("seed", range(5))
async def test_a_refused_hit_fits_after_its_wait(cache, clock, seed):
    """The wait is long enough, and no shorter one would be."""
    chance = random.Random(seed)
    limit = cache.rate_limit(f"api{seed}", 10, per=100, window="sliding")
    clock.now = 100 * 1000.0
    refusals = 0
    for _ in range(200):
        cost = chance.randint(1, 5)
        result = await limit.hit(cost)
        if not result:
            refusals += 1
            assert 0 < result.retry_after <= 200
            clock.now += result.retry_after - 0.01
            assert not await limit.hit(cost)
            clock.now += 0.011
            assert await limit.hit(cost)
        clock.now += chance.choice([0, 0, 1, 20])
    assert refusals > 5


async def test_refused_hits_do_not_keep_a_sliding_window_full(cache, clock):
    limit = cache.rate_limit("api", 10, per=100, window="sliding")
    clock.now = 100 * 1000 + 99
    allowed = [0, 0, 0]
    for _ in range(201):
        for _ in range(3):
            allowed[int(clock.now // 100 - 1000)] += bool(await limit.hit())
        clock.now += 1
    # Not 10: some part of the window before counts until the end.
    assert allowed == [3, 9, 9]


@pytest.mark.parametrize("window", ["fixed", "sliding"])
@pytest.mark.parametrize("costs", [[1], [1, 2, 5]])
@within(30)
async def test_concurrent_hits(cache, clock, window, costs):
    limit = cache.rate_limit("api", 50, per=60, window=window)
    hits = list(itertools.islice(itertools.cycle(costs), 300))
    results = await asyncio.gather(*(limit.hit(cost) for cost in hits))
    allowed = sum(cost for cost, result in zip(hits, results, strict=True) if result)
    assert allowed <= 50
    if costs == [1]:
        assert allowed == 50


HAMMERING = """
    async def main():
        prefix, window = sys.argv[3:]
        async with create() as client:
            limit = emcache.Cache(client, prefix=prefix).rate_limit("api", 20, per=1, window=window)
            allowed = {}
            print("ready")
            await hear()
            end = time.monotonic() + 3
            while time.monotonic() < end:
                # The window in which it is counted: known only if none begins meanwhile.
                window = int(time.time())
                results = await asyncio.gather(*(limit.hit() for _ in range(5)))
                if int(time.time()) == window:
                    allowed[window] = allowed.get(window, 0) + sum(map(bool, results))
                await asyncio.sleep(0.005)
        for window, count in allowed.items():
            print(window, count)
    run(main())
"""


@pytest.mark.parametrize("window", ["fixed", "sliding"])
@within(50)
async def test_processes_together_stay_within_the_limit(server, key, window):
    async with workers(4, HAMMERING, server.port, key.decode(), window) as processes:
        for process in processes:
            assert await process.line() == "ready"
        for process in processes:
            await process.say()
        allowed = {}
        for process in processes:
            for line in await process.rest():
                second, count = map(int, line.split())
                allowed[second] = allowed.get(second, 0) + count
    assert max(allowed.values()) <= 20
    assert sum(allowed.values()) > 0


async def test_a_hit_is_one_round_trip(server, key):
    """One command, or two that are sent together for a sliding window."""
    async with client_of(server) as client:
        cache = Cache(client, prefix=key)
        await cache.rate_limit("first", 5, per=3600).hit()
        for window, reads in (("fixed", 0), ("sliding", 1)):
            limit = cache.rate_limit(window, 5, per=3600, window=window)
            await limit.hit()
            before = server.stats()
            assert await limit.hit()
            after = server.stats()
            written = ("incr_hits", "incr_misses", "decr_hits", "cmd_set", "cmd_touch")
            assert sum(int(after[name]) - int(before[name]) for name in written) == 1
            assert int(after["cmd_get"]) - int(before["cmd_get"]) == reads


async def test_counters_outlive_their_windows_and_end(cache, clock):
    clock.now = time.time()
    for window, per in (("fixed", 10), ("sliding", 10)):
        await cache.rate_limit(window, 5, per=per, window=window).hit()
        index = int(clock.now // per)
        key = cache.wire_key(f"#limit:{window}:{per}:{index}")
        assert await cache.client.get(key) is not None


async def test_errors_are_raised_or_allow(key):
    with memcached() as node:
        address = node.address
    async with emcache.create_client([address], timeout=0.5) as client:
        cache = Cache(client, prefix=key)
        for window in ("fixed", "sliding"):
            with pytest.raises(emcache.EmcacheError):
                await cache.rate_limit("a", 5, per=60, window=window).hit()
            limit = cache.rate_limit("a", 5, per=60, window=window, on_error="allow")
            assert [(await limit.hit()).allowed for _ in range(6)] == [True] * 6
        with pytest.raises(emcache.InvalidKeyError):
            await cache.rate_limit("a b", 5, per=60, on_error="allow").hit()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"limit": 0}, ValueError),
        ({"limit": 1.5}, TypeError),
        ({"per": 0}, ValueError),
        ({"per": -1}, ValueError),
        ({"per": math.inf}, ValueError),
        ({"per": math.nan}, ValueError),
        ({"per": "60"}, TypeError),
        ({"per": True}, TypeError),
        ({"per": timedelta(days=31)}, ValueError),
        ({"window": "rolling"}, ValueError),
        ({"on_error": "miss"}, ValueError),
    ],
)
async def test_wrong_arguments(cache, options, error):
    with pytest.raises(error, match=next(iter(options))):
        cache.rate_limit("a", **({"limit": 5, "per": 60} | options))


async def test_wrong_costs(cache):
    limit = cache.rate_limit("a", 5, per=60)
    for cost in (0, 6, -1):
        with pytest.raises(ValueError, match="cost"):
            await limit.hit(cost)
    with pytest.raises(TypeError, match="cost"):
        await limit.hit(1.5)


async def test_a_counter_that_another_program_has_overwritten(cache, client, clock):
    limit = cache.rate_limit("a", 5, per=60, window="sliding")
    index = int(clock.now // 60)
    await client.set(limit._counter(index - 1), b"text")
    assert await limit.hit()
    await client.set(limit._counter(index), b"text")
    with pytest.raises(emcache.ArithmeticCommandError):
        await limit.hit()
