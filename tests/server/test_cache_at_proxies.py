"""Tags, locks and rate limits without meta commands: behind proxies, and with a SASL login."""

import pytest
import pytest_asyncio

import emcache
from emcache import Cache
from support.calls import within
from support.memcached_proxy import WHY_NOT, has_proxy, memcached_proxy
from support.nutcracker import nutcracker
from support.sasl import PASSWORD, USER, sasl_memcached

PEERS = {
    "twemproxy": (nutcracker, {}),
    "memcached's": pytest.param(
        (memcached_proxy, {}), marks=pytest.mark.skipif(not has_proxy(), reason=WHY_NOT)
    ),
    "memcached -S": (sasl_memcached, {"username": USER, "password": PASSWORD, "auth": "sasl"}),
}


@pytest_asyncio.fixture(params=PEERS.values(), ids=PEERS)
async def cache(request, key):
    start, options = request.param
    with start() as peer:
        async with emcache.create_client([peer.address], timeout=20, **options) as client:
            yield Cache(client, prefix=key)


@within(40)
async def test_tags(cache):
    version = 0

    async def compute():
        return version

    for number in range(20):
        await cache.set(f"set{number}", number, tags=["t", f"only{number}"])
    assert len(await cache.get_many([f"set{number}" for number in range(20)], tags=["t"])) == 20
    assert await cache.get_or_set("a", compute, tags=["t"]) == 0
    await cache.invalidate_tag("only7")
    assert await cache.get("set7") is None
    assert await cache.get("set8") == 8
    version = 1
    await cache.invalidate_tags(["t", "more"])
    assert await cache.get("set8") is None
    assert await cache.get_many([f"set{number}" for number in range(20)], tags=["t"]) == {}
    for _ in range(2):
        assert await cache.get_or_set("a", compute, tags=["t"]) == 1


@within(40)
async def test_locks(cache):
    first, second = cache.lock("work", ttl=30, wait=0), cache.lock("work", ttl=30, wait=0)
    assert await first.acquire()
    assert not await second.acquire()
    assert await first.extend()
    assert await first.release()
    assert await second.acquire()
    await cache.client.delete(cache.wire_key("#lock:work"))
    assert await first.acquire()
    assert not await second.release()
    assert await first.release()


@pytest.mark.parametrize("window", ["fixed", "sliding"])
@within(40)
async def test_rate_limits(cache, window):
    limit = cache.rate_limit("api", 3, per=3600, window=window)
    assert [bool(await limit.hit()) for _ in range(5)] == [True, True, True, False, False]
