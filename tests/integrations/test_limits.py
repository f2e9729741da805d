"""The async half of limits on emcache: `implementation="emcache"`.

Its own tests of this storage run by `make test-limits`.
"""

import asyncio
import itertools
import tempfile
import time
from pathlib import Path

import pytest
import pytest_asyncio
from limits import parse
from limits.aio.storage import MemcachedStorage
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.errors import StorageError
from limits.storage import storage_from_string

import emcache
from support.memcached import memcached

numbers = itertools.count()


async def close(storage):
    await (await storage.bridge.get_storage()).close()


@pytest_asyncio.fixture(params=["one", "many"])
async def storage(request, server, cluster):
    nodes = [server] if request.param == "one" else cluster
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    storage = storage_from_string(
        f"async+memcached://{hosts}", implementation="emcache", timeout=30
    )
    assert isinstance(storage, MemcachedStorage)
    yield storage
    await close(storage)


@pytest.fixture
def name():
    return f"limits:{next(numbers)}:{time.time_ns()}"


# -- the storage -----------------------------------------------------------------------------------


async def test_counters(storage, name):
    assert await storage.get(name) == 0
    assert await storage.incr(name, 60) == 1
    assert await storage.incr(name, 60, amount=10) == 11
    assert await storage.get(name) == 11
    assert await storage.get_expiry(name) == pytest.approx(time.time() + 60, abs=2)
    await storage.clear(name)
    await storage.clear(name)
    assert await storage.get(name) == 0


async def test_a_counter_that_many_begin(storage, name):
    counts = await asyncio.gather(*(storage.incr(name, 60) for _ in range(100)))
    assert sorted(counts) == list(range(1, 101))


async def test_fractions_of_seconds(storage, name):
    assert await storage.incr(name, 0.5) == 1
    assert await storage.get(name) == 1


async def test_no_expiry_is_now(storage, name):
    assert await storage.get_expiry(name) == pytest.approx(time.time(), abs=2)


async def test_check_and_reset(storage):
    assert await storage.check() is True
    with pytest.raises(NotImplementedError):
        await storage.reset()


# -- the strategies --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [FixedWindowRateLimiter, SlidingWindowCounterRateLimiter])
async def test_strategies(storage, name, strategy):
    limiter, limit = strategy(storage), parse("10 per hour")
    assert await limiter.test(limit, name)
    assert (await limiter.get_window_stats(limit, name)).remaining == 10
    assert not await limiter.hit(limit, name, cost=11)
    await limiter.clear(limit, name)
    assert await limiter.hit(limit, name, cost=4)
    assert (await limiter.get_window_stats(limit, name)).remaining == 6
    hits = await asyncio.gather(*(limiter.hit(limit, name) for _ in range(6)))
    assert hits == [True] * 6
    assert not await limiter.test(limit, name)
    assert not await limiter.hit(limit, name)
    assert await limiter.hit(limit, name, "somebody-else")
    stats = await limiter.get_window_stats(limit, name)
    assert stats.remaining == 0
    assert time.time() < stats.reset_time <= time.time() + 3601
    await limiter.clear(limit, name)
    assert await limiter.hit(limit, name)


async def test_identifiers_that_are_no_keys_are_refused(storage):
    limiter, limit = FixedWindowRateLimiter(storage), parse("10 per hour")
    for identifier in ("with space", "a\r\nflush_all", "i" * 250):
        with pytest.raises(emcache.InvalidKeyError):
            await limiter.hit(limit, identifier)


async def test_never_more_than_the_limit(storage, name):
    limiter, limit = FixedWindowRateLimiter(storage), parse("25 per hour")
    hits = await asyncio.gather(*(limiter.hit(limit, name) for _ in range(200)))
    assert sum(hits) == 25


async def test_a_sliding_window_never_lets_more_through(storage, name):
    limiter, limit = SlidingWindowCounterRateLimiter(storage), parse("25 per hour")
    hits = await asyncio.gather(*(limiter.hit(limit, name) for _ in range(200)))
    assert sum(hits) <= 25


async def test_the_last_window_counts(storage, name):
    key, expiry = name, 3600
    previous, _ = storage.sliding_window_keys(key, expiry, time.time())
    await storage.incr(previous, 2 * expiry, amount=8, set_expiration_key=False)
    count, ttl, current, _ = await storage.get_sliding_window(key, expiry)
    assert (count, current) == (8, 0)
    assert 0 < ttl <= expiry
    await storage.clear_sliding_window(key, expiry)
    assert (await storage.get_sliding_window(key, expiry))[0] == 0


async def test_moving_windows_are_not_for_memcached(storage):
    with pytest.raises(NotImplementedError):
        MovingWindowRateLimiter(storage)


# -- logins and failures ---------------------------------------------------------------------------


async def test_a_login():
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        users = Path(directory) / "users"
        users.write_text("app:secret\n")
        with memcached("-Y", str(users)) as server:
            uri = f"async+memcached://app:secret@127.0.0.1:{server.port}"
            storage = storage_from_string(uri, implementation="emcache", timeout=30)
            assert await storage.incr("k", 60) == 1
            await close(storage)


async def test_what_the_server_refuses_is_wrapped(server, name):
    uri = f"async+memcached://127.0.0.1:{server.port}"
    storage = storage_from_string(uri, implementation="emcache", timeout=30, wrap_exceptions=True)
    await (await storage.bridge.get_storage()).set(name.encode(), b"no number")
    with pytest.raises(StorageError) as raised:
        await storage.incr(name, 60)
    assert isinstance(raised.value.storage_error, emcache.ArithmeticCommandError)
    await close(storage)


async def until_raised(error, call):
    async with asyncio.timeout(20):
        while True:
            try:
                await call()
            except error:
                return
            except (emcache.ConnectionFailedError, emcache.OperationTimeoutError):
                await asyncio.sleep(0.01)


async def test_a_dead_server():
    with memcached() as server:
        uri = f"async+memcached://127.0.0.1:{server.port}"
        storage = storage_from_string(
            uri,
            implementation="emcache",
            timeout=30,
            wrap_exceptions=True,
            purge_unhealthy_nodes=True,
        )
        assert await storage.incr("k", 60) == 1
        server.kill()
        assert await storage.check() is False
        # limits wraps this error and those of commands, not lost connections.
        await until_raised(StorageError, lambda: storage.incr("k", 60))
        await close(storage)


class EmcacheStorage(MemcachedStorage):
    """As docs/integrations.md has it."""

    STORAGE_SCHEME = ["async+emcache"]

    def __init__(self, uri, **options):
        super().__init__(uri, implementation="emcache", **options)

    @property
    def base_exceptions(self):
        return (emcache.EmcacheError,)


async def test_a_dead_server_by_the_recipe():
    with memcached() as server:
        uri = f"async+emcache://127.0.0.1:{server.port}"
        storage = storage_from_string(uri, wrap_exceptions=True, timeout=30)
        assert isinstance(storage, EmcacheStorage)
        assert await storage.incr("k", 60) == 1
        server.kill()
        for _ in range(3):
            with pytest.raises(StorageError):
                await storage.incr("k", 60)
        assert await storage.check() is False
        await close(storage)
