"""How a migration is ended and taken back: the calls return when it has happened."""

import asyncio

import pytest

import emcache
from support import migration_worker
from support.calls import client_of, until, within
from support.memcached import memcached

KEYS = [b"key:%d" % number for number in range(60)]
SHORT = {"timeout": 0.1}


@pytest.fixture
def servers():
    with memcached() as a, memcached() as b, memcached() as c:
        yield [a, b, c]


@pytest.fixture
def nodes(servers):
    return [server.address for server in servers]


@within(20)
async def test_a_call_returns_when_its_change_has_happened(servers, nodes):
    async with client_of(*servers[:2], **SHORT) as client:
        await client.set_many(dict.fromkeys(KEYS, b"v"))
        migration = await client.migrate(nodes, routing="rendezvous", phase="prepare")
        assert repr(migration) == "<emcache.Migration phase=prepare moved=0>"
        await migration.set_phase("finish")
        assert migration.phase == "finish"
        await migration.set_phase("move")
        assert migration.phase == "move"
        assert len(await client.get_many(KEYS)) == len(KEYS)
        await migration.roll_back()
        metrics = client.metrics().migration
        assert (metrics.phase, metrics.is_rolled_back) == ("move", True)
        assert "phase=move rolled back" in repr(migration)
        assert len(await client.get_many(KEYS)) == len(KEYS)
        await until(lambda: not client.metrics().migration.queued)
        await migration.finish()
        assert client.migration is None
        assert repr(migration) == "<emcache.Migration ended>"
        assert set(client.cluster_managment().nodes()) == set(nodes[:2])
        assert len(await client.get_many(KEYS)) == len(KEYS)
        await migration.wait()
        with pytest.raises(RuntimeError, match="has ended"):
            await migration.roll_back()


@within(20)
async def test_an_ended_migration_does_not_act_on_a_later_one(servers, nodes):
    async with client_of(*servers[:2], **SHORT) as client:
        first = await client.migrate(nodes)
        waiting = asyncio.create_task(first.wait())
        await first.finish()
        second = await client.migrate(nodes[:2])
        for call in (first.finish, first.roll_back, lambda: first.set_phase("finish")):
            with pytest.raises(RuntimeError, match="the migration has ended"):
                await call()
        await waiting
        assert first.phase is first.metrics() is None
        assert repr(first) == "<emcache.Migration ended>"
        assert (second.phase, client.migration) == ("prepare", second)
        await second.finish()


@within(20)
async def test_a_finish_ends_when_another_migration_begins_at_once(servers, nodes):
    async with client_of(*servers[:2], **SHORT) as client:
        first = await client.migrate(nodes)
        finishing = asyncio.create_task(first.finish())
        while client.migration is not None:
            await asyncio.sleep(0)
        second = await client.migrate(nodes[:2])
        await finishing
        assert client.migration is second


@within(20)
async def test_a_drain_says_when_it_ends(servers, nodes):
    async with client_of(*servers[:2], **SHORT) as client:
        migration = await client.migrate(nodes, drain=50)
        assert 99 < migration.metrics().ends_in < 101
        assert "ends_in=100s" in repr(migration)
        await migration.roll_back(drain=0.3)
        assert migration.metrics().ends_in < 1
        await migration.wait()
        assert client.migration is None
        assert set(client.cluster_managment().nodes()) == set(nodes[:2])


@within(20)
async def test_a_later_call_wins_and_tells_the_first(servers, nodes):
    async with client_of(*servers[:2], **SHORT) as client:
        migration = await client.migrate(nodes)
        finishing = asyncio.create_task(migration.finish())
        await asyncio.sleep(0)
        await migration.roll_back()
        with pytest.raises(RuntimeError, match="another call"):
            await finishing
        with pytest.raises(RuntimeError, match=r"under way; client.migration.finish\(\) ends it"):
            await client.migrate(nodes)


@within(20)
async def test_a_change_goes_on_if_its_call_is_cancelled(servers, nodes):
    async with client_of(*servers[:2], **SHORT) as client:
        migration = await client.migrate(nodes)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await migration.finish()
        await migration.wait()
        assert set(client.cluster_managment().nodes()) == set(nodes)


@within(20)
async def test_a_client_that_is_closed_ends_the_wait(servers, nodes):
    async with client_of(*servers[:2]) as client:
        migration = await client.migrate(nodes)
        waiting = [asyncio.create_task(call()) for call in (migration.wait, migration.finish)]
        await asyncio.sleep(0.01)
    for task in waiting:
        with pytest.raises(emcache.ClientClosedError):
            await task
    assert repr(migration) == "<emcache.Migration>"


@within(20)
async def test_the_rule_after_a_roll_back_is_the_former_one(servers, nodes):
    async with (
        client_of(*servers[:2], **SHORT) as client,
        client_of(*servers) as plain,
    ):
        migration = await client.migrate(nodes[:2], routing="rendezvous")
        await migration.roll_back()
        await migration.finish()
        migration = await client.migrate(nodes)
        await migration.set_phase("move")
        assert [client.node_for(key) for key in KEYS] == [plain.node_for(key) for key in KEYS]


@within(20)
async def test_discovery_finds_a_node_of_the_former_list(servers, nodes):
    class Changing(emcache.discovery.Discovery):
        found = nodes[1:]

        async def discover(self):
            return emcache.discovery.Topology.of(self.found)

    source = Changing()
    former = emcache.Cluster(nodes[:1], phase="finish")
    options = {"autodiscovery": source, "autodiscovery_poll_interval": 0.05}
    async with client_of(migrating_from=former, **options) as client:
        with pytest.raises(ValueError, match="autodiscovery cannot be rolled back"):
            await client.migration.roll_back()
        source.found = nodes
        await until(lambda: client.node_for(KEYS[0]) and nodes[0] in map(client.node_for, KEYS))


@within(30)
async def test_any_order_of_changes_under_load(servers, nodes, tmp_path):
    """Also those that interrupt another; an oracle knows the newest values."""
    path = tmp_path / "oracle"
    path.write_bytes(bytes(8 * migration_worker.WORDS))
    oracle = migration_worker.Oracle(str(path))
    async with client_of(*servers[:2], timeout=0.3) as client:
        worker = migration_worker.Worker(0, oracle, client)
        tasks = [asyncio.create_task(worker.run(number)) for number in range(5)]
        migration = await client.migrate(nodes, routing="rendezvous")
        await migration.roll_back()
        interrupted = asyncio.create_task(migration.roll_back())
        await asyncio.sleep(0.1)
        await migration.set_phase("finish")
        with pytest.raises(RuntimeError):
            await interrupted
        await migration.roll_back()
        await migration.roll_back()
        interrupted = asyncio.create_task(migration.finish())
        await asyncio.sleep(0.4)
        await migration.roll_back()
        with pytest.raises(RuntimeError):
            await interrupted
        await migration.finish()
        migration = await client.migrate(nodes, routing="rendezvous")
        await migration.finish()
        worker.stop.set()
        await asyncio.gather(*tasks)
    assert worker.wrong == []
    assert worker.counts["hits"] / worker.counts["reads"] > 0.9, worker.counts
    assert worker.counts["increments"] > 10


@within(20)
async def test_a_hit_costs_nothing_more_and_a_miss_one_request(servers, nodes):
    """As docs/migration.md says; `set` is two requests."""
    a, b = servers[:2]
    async with client_of(b, migrating_from=emcache.Cluster([a.address])) as client:
        await client.set(b"key", b"v")

        async def gets_of(call) -> tuple[int, int]:
            before = [int(server.stats()["cmd_get"]) for server in (a, b)]
            await call
            after = [int(server.stats()["cmd_get"]) for server in (a, b)]
            return after[0] - before[0], after[1] - before[1]

        assert await gets_of(client.get(b"key")) == (0, 1)
        assert await gets_of(client.get(b"missing")) == (1, 1)
        assert await gets_of(client.get_many([b"key", b"missing"])) == (1, 2)
        deletes = int(a.stats()["delete_misses"])
        await client.set(b"key", b"w")
        assert int(a.stats()["delete_misses"]) == deletes + 1
