"""A migration of one client: what is found, what is moved, and how it ends."""

import asyncio
import contextlib

import pytest

import emcache
from support.calls import client_of
from support.memcached import Memcached, memcached
from support.without_meta import without_meta

KEYS = [b"key:%d" % number for number in range(60)]


@pytest.fixture
def servers():
    with memcached() as a, memcached() as b, memcached() as c:
        yield [a, b, c]


def addresses(servers: list[Memcached]) -> list[emcache.MemcachedHostAddress]:
    return [server.address for server in servers]


@contextlib.asynccontextmanager
async def migrating(servers, **options):
    """A client that moves from the first two servers to all three, by another rule."""
    nodes = addresses(servers)
    former = emcache.Cluster(nodes[:2], **options)
    async with emcache.create_client(nodes, routing="rendezvous", migrating_from=former) as client:
        yield client


def old_client(servers):
    return emcache.create_client(addresses(servers)[:2])


def new_client(servers):
    return emcache.create_client(addresses(servers), routing="rendezvous")


async def moves_done(client):
    async with asyncio.timeout(5):
        while client.metrics().migration.queued:
            await asyncio.sleep(0.005)


async def moving_keys(servers) -> list[bytes]:
    """Those whose node differs."""
    async with old_client(servers) as old, new_client(servers) as new:
        return [key for key in KEYS if old.node_for(key) != new.node_for(key)]


async def places(servers, key) -> list[int]:
    """Which servers have an item."""
    found = []
    for number, server in enumerate(servers):
        async with emcache.create_client([server.address]) as client:
            if await client.get(key) is not None:
                found.append(number)
    return found


async def test_nothing_is_lost_and_all_is_moved(servers):
    async with old_client(servers) as client:
        for key in KEYS:
            await client.set(key, b"v:" + key, flags=7, exptime=500)
    async with migrating(servers) as client:
        for key in KEYS[:30]:
            item = await client.get(key, return_flags=True)
            assert (item.value, item.flags) == (b"v:" + key, 7)
        items = await client.get_many([*KEYS, b"missing"], return_flags=True)
        assert {key: item.value for key, item in items.items()} == {k: b"v:" + k for k in KEYS}
        await moves_done(client)
        metrics = client.metrics().migration
        assert metrics.phase == "move"
        assert metrics.moved == len(await moving_keys(servers)) > 20
        assert metrics.fallback_hits >= metrics.moved
    async with new_client(servers) as client:
        items = await client.get_many(KEYS, return_flags=True)
        assert len(items) == len(KEYS)
        assert all(item.flags == 7 for item in items.values())
        for key in KEYS[:10]:
            assert 498 <= await client.ttl(key) <= 500


async def test_a_value_without_an_exptime_keeps_none(servers):
    key = (await moving_keys(servers))[0]
    async with old_client(servers) as client:
        await client.set(key, b"for ever")
    async with migrating(servers) as client:
        await client.get(key)
        await moves_done(client)
        assert (await client.meta_get(key)).ttl == -1
        assert client.metrics().migration.moved == 1


async def test_each_command_finds_its_item(servers):
    """Those that depend on it move it first, and it is never at two places."""
    keys = iter(await moving_keys(servers))
    async with old_client(servers) as old, migrating(servers) as client:

        async def stored(value: bytes = b"10") -> bytes:
            key = next(keys)
            await old.set(key, value, exptime=100)
            return key

        key = await stored()
        assert await client.increment(key, 5) == 15
        assert await client.increment(key, 1, initial=100) == 16
        assert await client.decrement(await stored(), 3) == 7
        assert await client.increment(await stored(), 5, initial=1) == 15
        await client.append(key := await stored(), b"+")
        await client.prepend(key, b"-")
        assert (await client.get(key)).value == b"-10+"
        assert 98 <= await client.ttl(key) <= 100
        await client.replace(key := await stored(), b"new", exptime=100)
        assert (await client.get(key)).value == b"new"
        with pytest.raises(emcache.NotStoredStorageCommandError):
            await client.add(await stored(), b"new")
        item = await client.gets(key := await stored())
        await client.cas(key, b"changed", item.cas)
        with pytest.raises(emcache.NotStoredStorageCommandError):
            await client.cas(key, b"again", item.cas)
        assert (await client.gets_many([key]))[key].value == b"changed"
        await client.touch(key := await stored(), 1000)
        assert await client.ttl(key) > 900
        key = await stored()
        assert (await client.gat(1000, key)).value == b"10"
        assert await client.ttl(key) > 900
        assert len(await client.gat_many(1000, [await stored(), await stored()])) == 2
        assert (await client.meta_get(await stored())).value == b"10"
        assert (await client.meta_set(await stored(), b"x", mode="add")).status == "not_stored"
        assert (await client.meta_delete(await stored())).done
        assert (await client.meta_arithmetic(await stored())).value == 11
        with pytest.raises(emcache.NotFoundCommandError):
            await client.increment(b"missing", 1)
        with pytest.raises(emcache.ArithmeticCommandError):
            await client.increment(await stored(b"text"), 1)
        metrics = client.metrics().migration
        assert metrics.moved >= 15
        assert metrics.failed == metrics.busy == 0
    for key in KEYS:
        assert len(await places(servers, key)) <= 1


async def test_a_key_of_any_bytes_is_moved(servers):
    names = [b"with space %d" % number for number in range(20)]
    async with old_client(servers) as client:
        for name in names:
            await client.meta_set(name, b"v", flags=3, exptime=100)
    async with migrating(servers) as client:
        for name in names:
            item = await client.meta_get(name)
            assert (item.value, item.flags) == (b"v", 3)
            assert 98 <= item.ttl <= 100
        assert client.metrics().migration.moved > 5
    async with new_client(servers) as client:
        assert all([await client.meta_get(name) for name in names])


@pytest.mark.parametrize("phase", ["prepare", "move", "finish"])
async def test_writes_and_deletes_leave_nothing_old(servers, phase):
    key, other, third, *many = await moving_keys(servers)
    async with old_client(servers) as client:
        await client.set_many(dict.fromkeys([key, other, third, *many], b"old"))
    async with migrating(servers, phase=phase) as client:
        await client.set(key, b"new")
        await client.delete(other)
        await client.set(third, b"new", noreply=True)
        assert (await client.get(key)).value == (await client.get(third)).value == b"new"
        assert await client.get(other) is None
        with pytest.raises(emcache.NotFoundCommandError):
            await client.delete(other)
        half = len(many) // 2
        assert not (await client.set_many(dict.fromkeys(many[:half], b"new"))).errors
        deleted = await client.delete_many([*many[half:], b"missing"])
        assert sorted(deleted.done) == sorted(many[half:])
        assert (deleted.missed, deleted.errors) == ([b"missing"], {})
        items = await client.get_many(many)
        assert {name: item.value for name, item in items.items()} == dict.fromkeys(
            many[:half], b"new"
        )
    for name in (key, third, *many[:half]):
        assert len(await places(servers, name)) == 1
    for name in (other, *many[half:]):
        assert await places(servers, name) == []


async def test_the_first_phase_writes_for_clients_without_a_migration(servers):
    keys = await moving_keys(servers)
    async with old_client(servers) as old, migrating(servers, phase="prepare") as client:
        await client.set(keys[0], b"1")
        assert await client.increment(keys[0], 1) == 2
        await client.add(keys[1], b"added")
        assert (await old.get(keys[0])).value == b"2"
        assert (await old.get(keys[1])).value == b"added"
        assert client.node_for(keys[0]) == old.node_for(keys[0])
        # Another process is one phase ahead.
        async with migrating(servers) as ahead:
            assert await ahead.increment(keys[0], 1) == 3
            assert (await client.get(keys[0])).value == b"3"
            assert await client.increment(keys[0], 1) == 4
            await client.set(keys[0], b"5")
            assert (await ahead.get(keys[0])).value == b"5"


async def test_a_stub_is_never_seen(servers):
    """Another process is moving the item, or was killed while it did."""
    key, other = (await moving_keys(servers))[:2]
    stub = b"\0emcache:moving\0" + b"12345678"
    async with old_client(servers) as old, new_client(servers) as new:
        await new.set(key, stub, exptime=3)
        await new.set(other, stub, exptime=3)
        await old.set(other, b"old")
        async with migrating(servers) as client, migrating(servers, phase="finish") as ahead:
            for reader in (client, ahead):
                assert await reader.get(key) is None
                assert await reader.get_many([key]) == {}
            assert (await client.get(other)).value == b"old"
            assert (await client.get_many([key, other])).keys() == {other}
            with pytest.raises(emcache.NotFoundCommandError):
                await client.increment(key, 1)
            assert await client.gets(key) is None
            await client.append(other, b"er")
            assert (await client.get(other)).value == b"older"
            assert await new.get(key) is None


async def test_it_ends_by_itself(servers):
    key = (await moving_keys(servers))[0]
    async with old_client(servers) as old:
        await old.set(key, b"v")
    nodes = addresses(servers)
    former = emcache.Cluster(nodes[:2], drain=0.2)
    options = {"routing": "rendezvous", "migrating_from": former, "timeout": 0.1}
    async with emcache.create_client(nodes[1:], **options) as client:
        assert client.migration.phase == "move"
        assert nodes[0] in client.cluster_managment().nodes()
        assert (await client.get(key)).value == b"v"
        await client.migration.wait()
        assert client.metrics().migration is None
        assert (await client.get(key)).value == b"v"
        assert set(client.cluster_managment().nodes()) == set(nodes[1:])
        with pytest.raises(RuntimeError):
            await emcache.Migration.finish(client._migration)


async def test_a_client_changes_its_nodes_and_takes_it_back(servers):
    nodes = addresses(servers)
    async with emcache.create_client(nodes[:2], timeout=0.15) as client:
        await client.set_many({key: b"v:" + key for key in KEYS})
        migration = await client.migrate(nodes, routing="rendezvous")
        assert migration.phase == "prepare"
        with pytest.raises(RuntimeError, match="under way"):
            await client.migrate(nodes)
        await reach(migration, "move")
        assert len(await client.get_many(KEYS)) == len(KEYS)
        await moves_done(client)
        await client.set(KEYS[0], b"changed")
        rolling_back = asyncio.create_task(migration.roll_back())
        await reach(migration, "prepare")
        assert (await client.get(KEYS[0])).value == b"changed"
        await rolling_back
        items = await client.get_many(KEYS)
        assert len(items) == len(KEYS)
        assert items[KEYS[0]].value == b"changed"
        await moves_done(client)
        await migration.finish()
        assert client.migration is None
        assert set(client.cluster_managment().nodes()) == set(nodes[:2])
        assert len(await client.get_many(KEYS)) == len(KEYS)
        # Once more: the third node is a new one again.
        await client.migrate(nodes, phase="prepare")
        await client.set(b"after", b"1")
        assert len(await client.get_many(KEYS)) == len(KEYS)


async def reach(migration, phase):
    async with asyncio.timeout(10):
        while migration.phase != phase:
            await asyncio.sleep(0.01)


async def test_a_cache_keeps_its_promises(servers):
    keys = [key.decode() for key in await moving_keys(servers)]
    async with migrating(servers, phase="prepare") as old:
        before = emcache.Cache(old)
        await before.set(keys[0], {"a": 1})
        await before.set(keys[1], "tagged", tags=["t"])
        async with before.lock(keys[2], ttl=30), migrating(servers) as client:
            cache = emcache.Cache(client)
            assert await cache.get(keys[0]) == {"a": 1}
            assert await cache.get(keys[1]) == "tagged"
            await cache.invalidate_tag("t")
            assert await cache.get(keys[1]) is None
            with pytest.raises(emcache.LockTimeoutError):
                async with cache.lock(keys[2], ttl=30, wait=0.05):
                    pass
            computed = 0

            async def compute():
                nonlocal computed
                computed += 1
                await asyncio.sleep(0.02)
                return "value"

            calls = [cache.get_or_set(keys[3], compute, ttl=60) for _ in range(20)]
            assert await asyncio.gather(*calls) == ["value"] * 20
            assert computed == 1
            assert await cache.get(keys[3]) == "value"


async def test_a_lease_from_before_is_kept(servers):
    """Its holder has a token of the old node."""
    key = (await moving_keys(servers))[0]
    async with old_client(servers) as old, migrating(servers) as client:
        await old.add(key, b"", exptime=20)
        lease = await old.gets(key)
        with pytest.raises(emcache.NotStoredStorageCommandError):
            await client.add(key, b"", exptime=20)
        await old.cas(key, b"value", lease.cas)
        assert (await client.get(key)).value == b"value"


async def test_a_stale_item_is_not_revived(servers):
    key = (await moving_keys(servers))[0]
    async with old_client(servers) as old, migrating(servers) as client:
        await old.set(key, b"outdated")
        await old.meta_delete(key, stale_for=30)
        item = await client.gets(key)
        assert item is None


@pytest.mark.parametrize("answer", ["ERROR", "close"])
async def test_an_unknown_time_is_replaced(servers, answer):
    """An old node without meta commands does not tell how long an item lives."""
    async with without_meta(servers[0], answer) as (old, _):
        new = servers[1].address
        async with emcache.create_client([old]) as client:
            await client.set(b"key", b"v", exptime=1000, flags=9)
        former = emcache.Cluster([old], unknown_ttl=30)
        async with emcache.create_client([new], migrating_from=former) as client:
            assert (await client.get(b"key")).value == b"v"
            await moves_done(client)
            assert 28 <= await client.ttl(b"key") <= 30
            assert (await client.get(b"key", return_flags=True)).flags == 9


async def test_all_nodes_are_flushed(servers):
    async with old_client(servers) as old, migrating(servers) as client:
        await old.set_many(dict.fromkeys(KEYS, b"old"))
        await client.get_many(KEYS)
        await client.flush_all()
        assert await client.get_many(KEYS) == {}


async def test_many_calls_at_once_move_an_item_once(servers):
    key = (await moving_keys(servers))[0]
    async with old_client(servers) as old, migrating(servers) as client:
        await old.set(key, b"0")
        numbers = await asyncio.gather(*(client.increment(key, 1) for _ in range(100)))
        assert sorted(numbers) == list(range(1, 101))
        assert client.metrics().migration.moved == 1


async def test_cancelled_calls_leave_no_trace(servers):
    keys = await moving_keys(servers)
    async with old_client(servers) as old, migrating(servers) as client:
        await old.set_many(dict.fromkeys(keys, b"old"))
        for delay in range(12):
            tasks = [asyncio.create_task(client.set(key, b"new")) for key in keys]
            tasks += [asyncio.create_task(client.get(key)) for key in keys]
            await asyncio.sleep(delay / 4000)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(client.set(key, b"last") for key in keys))
        items = await client.get_many(keys)
        assert {item.value for item in items.values()} == {b"last"}
        assert len(items) == len(keys)


async def test_a_client_is_closed_in_the_middle(servers):
    async with old_client(servers) as old:
        await old.set_many(dict.fromkeys(KEYS, b"old"))
    for _ in range(5):
        async with migrating(servers) as client:
            tasks = [asyncio.create_task(client.get(key)) for key in KEYS]
            tasks += [asyncio.create_task(client.increment(key, 1)) for key in KEYS]
            await asyncio.sleep(0.001)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            ok = result is None or isinstance(result, emcache.Item | emcache.EmcacheError)
            assert ok, repr(result)


async def test_arguments_are_checked(servers):
    nodes = addresses(servers)
    for options in ({"phase": "copy"}, {"drain": 0}, {"unknown_ttl": 0}, {"routing": "none"}):
        with pytest.raises(ValueError):
            emcache.Cluster(nodes, **options)
    with pytest.raises(ValueError, match="at least one"):
        emcache.Cluster([])
    with pytest.raises(TypeError, match="migrating_from"):
        await emcache.create_client(nodes, migrating_from=nodes)
    async with emcache.create_client(nodes) as client:
        assert client.migration is None
        with pytest.raises(ValueError):
            await client.migrate([])


async def test_weights_and_rule_are_kept(servers):
    nodes = addresses(servers)
    options = {"routing": "rendezvous", "timeout": 0.1}
    async with (
        emcache.create_client(nodes[:2], weights={nodes[0]: 5}, **options) as client,
        emcache.create_client(nodes, weights={nodes[0]: 5}, **options) as plain,
    ):
        migration = await client.migrate(nodes)
        await reach(migration, "move")
        assert [client.node_for(key) for key in KEYS] == [plain.node_for(key) for key in KEYS]


async def test_a_short_pause_of_an_old_node_concerns_only_the_keys_written_meanwhile(key):
    with memcached() as old, memcached() as new:
        async with (
            client_of(old) as before,
            client_of(new, timeout=1.0, migrating_from=emcache.Cluster([old.address])) as client,
        ):
            names = [key + b"%d" % number for number in range(3)]
            for name in names:
                await before.set(name, b"1")
            old.pause()
            try:
                await client.set(names[0], b"2")
            finally:
                old.resume()
            assert client.metrics().migration.unreachable == (old.address,)
            async with asyncio.timeout(10):
                while await client.get(names[1]) is None:
                    await asyncio.sleep(0.05)
            assert await client.increment(names[2], 1) == 2
            assert (await client.get(names[0])).value == b"2"
            # This write reaches both nodes.
            await client.set(names[0], b"3")
            assert client.metrics().migration.unreachable == ()
