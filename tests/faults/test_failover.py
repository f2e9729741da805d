"""Nodes that die, stand still, or cannot be reached, and come back with old values."""

import asyncio
import contextlib
import logging
from collections import Counter

import pytest

import emcache
from emcache._failover import check_failover, check_gutter
from support.calls import client_of, until, within
from support.faults import Faults, Link, Recorder, fault_proxy, seeded
from support.memcached import memcached

KEYS = [b"failover:%d" % number for number in range(60)]
SHORT = {"timeout": 0.3, "max_connections": 2}


class Oracle:
    """Writes growing numbers, and knows the newest one that was acknowledged for each key.

    Each key has one task, so a smaller number is older than an acknowledged write.
    """

    def __init__(self, client: emcache.Client, home: object) -> None:
        self.client = client
        self.home = home
        self.keys = [key for key in KEYS if client.node_for(key) == home]
        self.stale: list[tuple[bytes, int, int]] = []
        self.acknowledged = dict.fromkeys(KEYS, 0)
        self.counts: Counter[str] = Counter()
        self._rng = seeded()
        self._running = True

    async def run(self) -> None:
        await asyncio.gather(*map(self._use, KEYS))

    def stop(self) -> None:
        self._running = False

    def take_counts(self) -> Counter[str]:
        """Return the hits and misses of the home's keys since the last call."""
        counts, self.counts = self.counts, Counter()
        return counts

    async def _use(self, key: bytes) -> None:
        number = 0
        while self._running:
            number += 1
            with contextlib.suppress(emcache.OperationTimeoutError, emcache.ConnectionFailedError):
                match self._rng.randrange(10):
                    case 0:
                        await self.client.set(key, b"%d" % number)
                        self.acknowledged[key] = number
                    case 1:
                        with contextlib.suppress(emcache.NotFoundCommandError):
                            await self.client.delete(key)
                        self.acknowledged[key] = number
                    case 2:
                        with contextlib.suppress(emcache.NotStoredStorageCommandError):
                            await self.client.add(key, b"%d" % number)
                            self.acknowledged[key] = number
                    case _:
                        await self.read(key)
            await asyncio.sleep(0.002)

    async def read(self, key: bytes) -> None:
        found = await self.client.get(key)
        if self.client.node_for(key) == self.home or key in self.keys:
            self.counts["miss" if found is None else "hit"] += 1
        if found is not None and int(found.value) < self.acknowledged[key]:
            self.stale.append((key, int(found.value), self.acknowledged[key]))


@contextlib.contextmanager
def trouble(kind, server, faults):
    """A fault from here to the end of the block."""
    match kind:
        case "stop":
            server.pause()
            yield
            server.resume()
        case "kill":
            server.kill()
            yield
            server.start()
        case "partition":
            faults.stall_after = 0
            yield
            faults.stall_after = None


@pytest.mark.parametrize(
    ("kind", "substitute", "rounds"),
    [("stop", "next", 1), ("kill", "next", 2), ("kill", "gutter", 2), ("partition", "next", 1)],
)
@within(50)
async def test_no_value_is_older_than_an_acknowledged_write(kind, substitute, rounds):
    requests = Faults()
    with memcached() as a, memcached() as b, memcached() as c, memcached() as spare:
        failover = "next" if substitute == "next" else emcache.Gutter([spare.address])
        with fault_proxy(a, lambda _: Link(requests=requests)) as proxy:
            async with client_of(proxy, b, c, failover=failover, **SHORT) as client:
                oracle = Oracle(client, proxy.address)
                load = asyncio.create_task(oracle.run())
                manager = client.cluster_managment()
                for _ in range(rounds):
                    await asyncio.sleep(0.3)
                    with trouble(kind, a, requests):
                        await until(manager.unhealthy_nodes)
                        oracle.take_counts()
                        await asyncio.sleep(0.5)
                        counts = oracle.take_counts()
                        assert counts["hit"] > counts["miss"]
                        assert client.metrics().failover.writes > 0
                    await until(lambda: not manager.unhealthy_nodes())
                    await asyncio.sleep(0.5)
                oracle.stop()
                await load
                await until(lambda: client.metrics().failover.outdated_keys == 0)
                for key in KEYS:
                    await oracle.read(key)
                assert oracle.stale == []
                assert client.metrics().failover.deleted > 0


@within(30)
async def test_a_stopped_server_executes_what_it_had_received_before_its_keys_return():
    with memcached() as a, memcached() as b:
        async with client_of(a, b, failover="next", timeout=0.2) as client:
            key = next(key for key in KEYS if client.node_for(key) == a.address)
            await client.set(key, b"old")
            a.pause()
            with pytest.raises(emcache.OperationTimeoutError):
                await client.set(key, b"late")
            await until_down(client, key)
            await client.set(key, b"new")
            a.resume()
            await until(lambda: not client.cluster_managment().unhealthy_nodes())
            await until(lambda: client.metrics().failover.outdated_keys == 0)
            # It did execute the late write.
            assert int(a.stats()["cmd_set"]) == 2
            assert client.node_for(key) == a.address
            assert await client.get(key) is None


def has_returned(client):
    is_up = not client.cluster_managment().unhealthy_nodes()
    return is_up and client.metrics().failover.outdated_keys == 0


async def until_down(client, key):
    while not client.cluster_managment().unhealthy_nodes():
        with contextlib.suppress(emcache.OperationTimeoutError, emcache.ConnectionFailedError):
            await client.get(key)
        await asyncio.sleep(0.01)


@within(30)
async def test_writes_at_a_substitute_expire():
    """Whatever the command; what is shorter stays as it is."""
    with memcached() as a, memcached() as b:
        failover = emcache.NextNode(ttl=30)
        async with client_of(a, b, failover=failover) as client:
            keys = [key for key in KEYS if client.node_for(key) == a.address]
            a.kill()
            await until_down(client, keys[0])
            await client.set(keys[0], b"1")
            await client.set(keys[1], b"1", exptime=5)
            await client.add(keys[2], b"1", exptime=3600)
            await client.increment(keys[3], 1, initial=10)
            await client.touch(keys[1], 0)
            await client.gat(3600, keys[1])
            await client.gat_many(3600, keys[:3])
            await client.meta_set(keys[4], b"1")
            await client.meta_get(keys[5], vivify=3600)
            await client.set_many({keys[6]: b"1", keys[7]: b"1"}, noreply=True)
            await client.get_many(keys[:8])
            # Of a counter, of what `vivify` created, and of all others.
            for key in keys[:8]:
                status, seconds, *_ = b.command(b"mg %b t\r\n" % key).split()
                assert status == b"HD"
                assert 0 < int(seconds[1:]) <= 30, key


@within(30)
async def test_a_second_client_returns_on_its_own():
    """Each client deletes what it wrote itself; then neither finds an old value."""
    with memcached() as a, memcached() as b:
        async with (
            client_of(a, b, failover="next") as one,
            client_of(a, b, failover="next") as two,
        ):
            keys = [key for key in KEYS if one.node_for(key) == a.address][:4]
            await one.set_many(dict.fromkeys(keys, b"old"))
            a.kill()
            await asyncio.gather(until_down(one, keys[0]), until_down(two, keys[0]))
            await asyncio.gather(one.set(keys[0], b"new"), two.set(keys[1], b"new"))
            assert (await one.get(keys[1])).value == b"new"
            a.start()
            for key in keys:
                a.command(b"set %b 0 0 3\r\nold\r\n" % key)
            await until(lambda: all(has_returned(client) for client in (one, two)))
            for client in (one, two):
                found = await client.get_many(keys)
                assert sorted(found) == sorted(keys[2:])


@within(30)
async def test_listeners_and_the_log_say_what_happens(caplog):
    caplog.set_level(logging.INFO, logger="emcache")
    with memcached() as a, memcached() as b:
        events = Recorder()
        options = {"failover": emcache.NextNode(max_keys=1), "cluster_events": events}
        async with client_of(a, b, **options) as client:
            keys = [key for key in KEYS if client.node_for(key) == a.address]
            a.kill()
            await until_down(client, keys[0])
            await client.set_many(dict.fromkeys(keys, b"1"))
            a.start()
            await until(lambda: len(events.events) == 2)
            assert events.events == [("unhealthy", a.address), ("healthy", a.address)]
            assert client.metrics().failover.flushes == 1
    told = [record.getMessage().partition(" ")[2] for record in caplog.records]
    node = f"127.0.0.1:{a.port}"
    assert [line.replace(node, "it").partition(":")[0] for line in told] == [
        "it is unhealthy",
        "it has more than 1 outdated keys (max_keys), so it gets no keys until it is flushed",
        "it was flushed because of its outdated keys",
        "it is healthy",
    ]


@within(30)
async def test_gutter_nodes_get_no_other_keys_and_are_seen_in_metrics():
    with memcached() as a, memcached() as spare:
        failover = emcache.Gutter([spare.address], ttl=5)
        async with client_of(a, failover=failover) as client:
            assert client.cluster_managment().nodes() == [a.address]
            assert {client.node_for(key) for key in KEYS} == {a.address}
            a.kill()
            await until_down(client, KEYS[0])
            await client.set_many(dict.fromkeys(KEYS, b"1"))
            assert {client.node_for(key) for key in KEYS} == {spare.address}
            assert len(await client.get_many(KEYS)) == len(KEYS)
            health = {node.address: node.healthy for node in client.metrics().nodes}
            assert health == {a.address: False, spare.address: True}
            assert client.metrics().failover.reads >= len(KEYS)
            assert int((await client.stats(spare.address))["curr_items"]) == len(KEYS)


@within(30)
async def test_a_client_that_closes_during_the_deletes():
    with memcached() as a, memcached() as b:
        async with client_of(a, b, failover="next") as client:
            keys = [key for key in KEYS if client.node_for(key) == a.address]
            a.kill()
            await until_down(client, keys[0])
            await client.set_many(dict.fromkeys(keys, b"1"))
            a.start()
            await until(lambda: a.stats()["cmd_get"] != "0")
        assert client.metrics().failover.outdated_keys == len(keys)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: emcache.NextNode(ttl=0), ValueError, "ttl must be"),
        (lambda: emcache.NextNode(ttl=86_401), ValueError, "ttl must be"),
        (lambda: emcache.NextNode(ttl="1"), TypeError, "ttl must be"),
        (lambda: emcache.NextNode(max_keys=0), ValueError, "max_keys must be"),
        (lambda: emcache.NextNode(on_overflow="drop"), ValueError, "on_overflow must be"),
        (lambda: emcache.Gutter([]), ValueError, "at least one node"),
        (lambda: emcache.Gutter(1), TypeError, "or a list of nodes"),
        (lambda: emcache.Gutter([1]), TypeError, None),
        (lambda: check_failover("gutter", False), TypeError, "failover must be"),
        (lambda: check_failover(True, False), TypeError, "failover must be"),
        (lambda: check_failover(emcache.Gutter, False), TypeError, "failover must be"),
        (lambda: check_failover("next", True), ValueError, "purge_unhealthy_nodes"),
    ],
)
def test_wrong_options(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.driver_independent
def test_a_node_is_not_its_own_gutter():
    node = emcache.MemcachedHostAddress("10.0.0.1", 11211)
    gutter = emcache.Gutter([node])
    with pytest.raises(ValueError, match=r"10.0.0.1:11211 is a node of the cluster and"):
        check_gutter(gutter, [node])
    check_gutter(gutter, [])
    assert repr(gutter).startswith("Gutter([10.0.0.1:11211], ttl=60, max_keys=100000, ")
