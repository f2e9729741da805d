"""Leases while reads of the cache fail, and on servers without CAS."""

import asyncio
import contextlib

import pytest

import emcache
from emcache import Cache
from emcache.cache import CacheInfo
from emcache.testing import FaultProxy, MemcachedServer
from support.calls import outcomes, until, within


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
