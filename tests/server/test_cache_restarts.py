"""A server that is restarted gives the CAS numbers again that it gave before, to other items."""

import asyncio
import contextlib

import pytest

from emcache import Cache
from emcache.testing import FaultProxy
from support.calls import client_of, until, within
from support.memcached import memcached

FIRST = 5
"""The first CAS of the items that matter, before and after the restart."""


async def filled(client):
    """Let the next item of a new server have the CAS ``FIRST``."""
    while True:
        await client.set(b"filler", b"")
        cas = (await client.gets(b"filler")).cas
        assert cas < FIRST
        if cas == FIRST - 1:
            return


class Restarted:
    """Two clients of a server."""

    def __init__(self, server, one, other):
        self.server = server
        self.one = one
        self.other = other

    async def cas(self, name):
        return (await self.other.client.gets(name)).cas

    async def restart(self):
        self.server.restart()
        for cache in (self.one, self.other):
            await cache.client.wait_ready(10)
        await filled(self.other.client)


@pytest.fixture
async def nodes(key):
    with memcached() as server:
        async with contextlib.AsyncExitStack() as stack:
            caches = []
            for _ in range(2):
                client = await stack.enter_async_context(client_of(server, timeout=3.0))
                caches.append(Cache(client, prefix=key))
            # The commands that a node has are found out before CAS numbers are counted.
            for cache in caches:
                await cache.get_or_set("warm", factory_of("warm"))
                await cache.delete("warm")
            nodes = Restarted(server, *caches)
            await nodes.restart()
            yield nodes


def factory_of(value):
    async def factory():
        return value

    return factory


class Factory:
    """Waits until it is told to return."""

    def __init__(self, value):
        self.value = value
        self.has_begun = False
        self.go = asyncio.Event()

    async def __call__(self):
        self.has_begun = True
        await self.go.wait()
        return self.value

    def start(self, call):
        return asyncio.create_task(call("k", self))


@within(30)
@pytest.mark.parametrize("lease_key", ["same", "separate"])
async def test_a_lease_from_before_does_not_store(nodes, lease_key, key):
    one, other = nodes.one, nodes.other
    mark = one.wire_key("k")
    if lease_key == "separate":
        one, other = (Cache(c.client, prefix=key, lease_key="separate") for c in (one, other))
        mark += b"#lease"
    old, new = Factory("old"), Factory("new")
    before = old.start(one.get_or_set)
    await until(lambda: old.has_begun)
    cas = await nodes.cas(mark)
    await nodes.restart()
    await other.invalidate("k")
    after = new.start(other.get_or_set)
    await until(lambda: new.has_begun)
    assert await nodes.cas(mark) == cas
    # Nor does a caller that comes now join the computation.
    joining = asyncio.create_task(one.get_or_set("k", factory_of("joined")))
    await asyncio.sleep(0.1)
    old.go.set()
    assert await before == "old"
    assert await other.get("k") is None
    new.go.set()
    assert await after == "new"
    assert await joining == "new"
    assert await other.get("k") == "new"


@within(30)
async def test_a_lease_from_before_is_not_given_back(nodes):
    one, other = nodes.one, nodes.other
    old, new = Factory("old"), Factory("new")
    before = old.start(one.get_or_set)
    await until(lambda: old.has_begun)
    cas = await nodes.cas(one.wire_key("k"))
    await nodes.restart()
    after = new.start(other.get_or_set)
    await until(lambda: new.has_begun)
    assert await nodes.cas(one.wire_key("k")) == cas
    before.cancel()
    await asyncio.wait([before])
    assert await nodes.cas(one.wire_key("k")) == cas
    new.go.set()
    assert await after == "new"
    assert await other.get("k") == "new"


@within(30)
async def test_a_value_from_before_is_not_renewed(nodes):
    one, other = nodes.one, nodes.other
    old = Factory("old")
    await one.set("k", "older", ttl=100)
    cas = await nodes.cas(one.wire_key("k"))
    running = old.start(one.renew)
    await until(lambda: old.has_begun)
    await nodes.restart()
    while True:
        await other.set("k", "new", ttl=100)
        if (now := await nodes.cas(one.wire_key("k"))) == cas:
            break
        assert now < cas
    old.go.set()
    await running
    assert await other.get("k") in ("new", None)


@within(30)
async def test_a_lock_from_before_is_not_ours(nodes):
    for step in ("extend", "release"):
        lock = nodes.one.lock("work", ttl=60)
        assert await lock.acquire()
        name = nodes.one.wire_key("#lock:work")
        cas = await nodes.cas(name)
        await nodes.restart()
        theirs = nodes.other.lock("work", ttl=60)
        assert await theirs.acquire()
        assert await nodes.cas(name) == cas
        assert not await getattr(lock, step)()
        assert not await nodes.one.lock("work", ttl=60, wait=0).acquire()
        assert await theirs.extend()
        assert await theirs.release()
        await nodes.restart()


@within(30)
async def test_a_lock_outlives_lost_connections(key):
    """A connection that ends may be a restart, so the lock is looked at."""
    with memcached() as server, FaultProxy(server) as proxy:
        async with client_of(proxy) as client:
            lock = Cache(client, prefix=key).lock("work", ttl=60)
            for step in (lock.acquire, lock.extend, lock.release):
                assert await step()
                proxy.reset()
                await client.wait_ready(10)
