"""``hot_keys``: the keys that this client requests most often."""

import asyncio

import pytest

import emcache
from emcache import Cache
from emcache.cache import LocalCache
from support.calls import client_of


async def test_off_by_default(client):
    await client.get(b"k")
    assert client.metrics().hot_keys == ()


async def test_all_kinds_of_requests_count(cluster, key):
    hot, warm = key + b":hot", key + b":warm"
    async with client_of(*cluster, hot_keys=2) as client:
        for _ in range(5):
            await client.get(hot)
            await client.get_many([hot, warm, b"other"])
        await client.set(hot, b"1")
        await client.set_many({hot: b"1"})
        await client.delete(hot)
        await client.meta_get(hot)
        await client.gat(1, hot)
        await client.stats(cluster[0].address)
        first, second = client.metrics().hot_keys
        assert (first.key, second.key) == (hot, warm)
        assert (first.node, second.node) == (client.node_for(hot), client.node_for(warm))
        # 15 of 25, and some to find out what the nodes support.
        assert 0.5 < first.share < 0.8
        assert first.rate > second.rate > 0
        assert (await asyncio.to_thread(client.metrics)).hot_keys[0].key == hot
    assert client.metrics().hot_keys[0].key == hot


async def test_keys_are_not_shown(client, server):
    async with client_of(server, hot_keys=1) as client:
        await client.get(b"user:ada@example.org")
        metrics = client.metrics()
        assert metrics.hot_keys[0].key == b"user:ada@example.org"
        assert "ada" not in repr(metrics) + str(metrics.hot_keys)


async def test_hits_of_a_local_cache_are_no_requests(server, key):
    async with client_of(server, hot_keys=1) as client:
        cache = Cache(client, prefix=key, local=LocalCache(10, 1000))
        await cache.set("k", 1)
        for _ in range(100):
            assert await cache.get("k") == 1
        for _ in range(5):
            await client.get(b"other")
        assert client.metrics().hot_keys[0].key == b"other"


async def test_a_skewed_load(server):
    """One key has a third of the requests, the others are never the same."""
    async with client_of(server, hot_keys=3, autobatching=True) as client:
        for start in range(0, 6000, 100):
            cold = (b"cold:%d" % number for number in range(start, start + 100))
            await asyncio.gather(*(client.get(k) for k in cold))
            await asyncio.gather(*(client.get(b"hot") for _ in range(50)))
        first, second, _ = client.metrics().hot_keys
        assert first.key == b"hot"
        assert 0.28 < first.share < 0.38
        assert second.share < 0.05


@pytest.mark.driver_independent
@pytest.mark.parametrize("given", [101, -1, "3", True])
async def test_arguments_out_of_range(server, given):
    with pytest.raises((TypeError, ValueError), match="hot_keys"):
        await emcache.create_client([server.address], hot_keys=given)


class LastNode:
    def build(self, nodes):
        return lambda key: len(nodes) - 1


async def test_the_node_is_that_of_a_router(cluster, key):
    async with client_of(*cluster, hot_keys=5, routing=LastNode()) as client:
        keys = [key + b"%d" % number for number in range(5)]
        await client.get_many(keys)
        assert {hot.node for hot in client.metrics().hot_keys} == {cluster[-1].address}
