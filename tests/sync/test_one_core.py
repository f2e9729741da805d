"""Clients whose threads share one core: failover, and routers written in Python."""

import random
import signal
import threading
import time

import pytest

import emcache
import emcache.sync
from emcache import CallableDiscovery, DiscoveredNode, Topology
from support.memcached import memcached
from support.threads import in_child, in_threads, until

pytestmark = pytest.mark.driver_independent

KEYS = [b"one-core:%d" % number for number in range(48)]


class ByDigit:
    """The last byte of a key is the digit of its node's position."""

    def __init__(self):
        self.lists = []

    def build(self, nodes):
        self.lists.append([node.address for node in nodes])
        return lambda key: (key[-1] - ord("0")) % len(nodes)


def test_every_command_goes_to_the_chosen_node(cluster, key):
    nodes = [server.address for server in cluster]
    router = ByDigit()
    keys = [key + b":%d" % number for number in range(3)]
    with emcache.sync.create_client(nodes, routing=router) as client:
        assert [client.node_for(k) for k in keys] == nodes
        assert client.set_many(dict.fromkeys(keys, b"1")).done == keys
        assert client.increment(keys[0], 4) == 5
        assert client.get_many(keys).keys() == set(keys)
        assert client.meta_get_many(keys).keys() == set(keys)
        client.append(keys[1], b"0", noreply=True)
        assert client.get(keys[1]).value == b"10"
        for k, node in zip(keys, nodes, strict=True):
            with emcache.sync.create_client(node) as direct:
                assert [direct.get(other) is not None for other in keys].count(True) == 1
                assert direct.get(k) is not None
        assert client.delete_many(keys).done == keys
    assert router.lists == [nodes]


def test_a_router_that_raises_and_one_that_calls_the_client(cluster, key):
    class Odd:
        def build(self, nodes):
            def choose(asked):
                if asked.endswith(b"raise"):
                    raise LookupError(asked)
                if asked.endswith(b"nested"):
                    client.get(key)
                return 99 if asked.endswith(b"99") else 0

            return choose

    with emcache.sync.create_client([s.address for s in cluster], routing=Odd()) as client:
        with pytest.raises(LookupError):
            client.get(key + b"raise")
        with pytest.raises(ValueError, match="from 0 to 2"):
            client.get_many([key, key + b"99"])
        client.set(key + b"nested", b"1")
        assert client.get(key + b"nested").value == b"1"


def test_a_router_sees_the_nodes_that_discovery_finds(cluster, key):
    a, b, c = (server.address for server in cluster)
    found = [DiscoveredNode(a), DiscoveredNode(b)]
    source, router = CallableDiscovery(lambda: Topology(tuple(found))), ByDigit()
    with emcache.sync.create_client(
        [], autodiscovery=source, autodiscovery_poll_interval=0.05, routing=router
    ) as client:
        assert client.node_for(key + b"1") == b
        found[:] = [DiscoveredNode(b), DiscoveredNode(c)]
        until(lambda: client.node_for(key + b"1") == c)
        client.set(key + b"1", b"v")
        assert client.get(key + b"1").value == b"v"
        assert set(client.cluster_managment().nodes()) == {b, c}
        in_child(lambda: client.node_for(key + b"1") == c and client.get(key + b"1").value == b"v")
    assert router.lists[:2] == [[a, b], [b, c]]


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_no_thread_reads_a_value_that_is_older_than_an_acknowledged_write(kind):
    with memcached() as one, memcached() as two, memcached() as spare:
        nodes = [one.address, two.address]
        failover = emcache.Gutter([spare.address]) if kind == "stop" else "next"
        client = emcache.sync.create_client(nodes, failover=failover, timeout=0.3)
        acknowledged = dict.fromkeys(KEYS, 0)
        locks = {key: threading.Lock() for key in KEYS}
        stale, stop, rights = [], threading.Event(), [0]

        def work(number):
            rng = random.Random(number)
            while not stop.is_set():
                key = rng.choice(KEYS)
                # Any thread writes any key, one at a time.
                with locks[key]:
                    newest = acknowledged[key]
                    try:
                        if rng.random() < 0.4:
                            client.set(key, b"%d" % (newest + 1))
                            acknowledged[key] = newest + 1
                            continue
                        item = client.get(key)
                    except emcache.EmcacheError:
                        continue
                    if item is not None and int(item.value) < newest:
                        stale.append((key, item.value, newest))
                    rights[0] += item is not None

        def trouble():
            try:
                for _ in range(2 if kind == "kill" else 1):
                    time.sleep(0.3)
                    one.kill() if kind == "kill" else one.pause()
                    until(lambda: one.address in client.cluster_managment().unhealthy_nodes())
                    time.sleep(0.3)
                    one.start() if kind == "kill" else one.resume()
                    until(lambda: not client.cluster_managment().unhealthy_nodes())
            finally:
                stop.set()

        making = threading.Thread(target=trouble)
        making.start()
        in_threads(4, work)
        making.join()
        assert not stale
        assert rights[0] > 100
        metrics = client.metrics().failover
        assert metrics.reads > 0
        assert metrics.writes > 0
        client.close()
        assert client.metrics().failover.reads >= metrics.reads


def test_a_call_that_waits_ends_with_a_signal_and_with_a_close(key):
    with memcached() as server:
        client = emcache.sync.create_client([server.address], failover="next", timeout=30.0)
        client.set(key, b"1")
        server.pause()
        try:

            def handler(*_):
                raise InterruptedError

            before = signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(InterruptedError):
                client.get(key)
            signal.signal(signal.SIGALRM, before)
            errors = []

            def call():
                try:
                    client.get_many([key])
                except emcache.ClientClosedError as error:
                    errors.append(error)

            threads = [threading.Thread(target=call) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            client.close()
            for thread in threads:
                thread.join(10)
            assert len(errors) == 3
        finally:
            server.resume()


def test_a_late_reply_reaches_no_other_call(key):
    with (
        memcached() as server,
        emcache.sync.create_client([server.address], failover="next", timeout=0.05) as client,
    ):
        for n in range(8):
            client.set(b"%b:%d" % (key, n), b"%d" % n)

        def work(number):
            mine, value = b"%b:%d" % (key, number), b"%d" % number
            for _ in range(20):
                try:
                    item = client.get(mine)
                except emcache.EmcacheError:
                    continue
                assert item.value == value

        for _ in range(3):
            server.pause()
            threading.Timer(0.15, server.resume).start()
            in_threads(8, work)
            until(lambda: not client.cluster_managment().unhealthy_nodes())


@pytest.mark.parametrize("failover", [None, "next"])
def test_the_reply_to_an_interrupted_call_reaches_no_other_call(key, failover):
    def handler(*_):
        raise InterruptedError

    with (
        memcached() as server,
        emcache.sync.create_client([server.address], failover=failover, timeout=10.0) as client,
    ):
        names = [b"%b:%d" % (key, n) for n in range(4)]
        client.set_many({name: name for name in names})
        server.pause()
        before = signal.signal(signal.SIGALRM, handler)
        try:
            for name in names[:2]:
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(InterruptedError):
                    client.get(name)
        finally:
            signal.signal(signal.SIGALRM, before)
        threading.Timer(0.1, server.resume).start()
        assert client.get(names[2]).value == names[2]
        assert client.get_many(names[2:]).keys() == set(names[2:])
        client.set(names[3], b"3")
        assert client.get(names[3]).value == b"3"


def test_a_process_that_exits_has_written_what_has_no_reply(server, key):
    def work():
        client = emcache.sync.create_client([server.address], failover="next")
        client.set(key, bytes(200_000), noreply=True)
        return True

    in_child(work)
    with emcache.sync.create_client([server.address]) as client:
        until(lambda: client.get(key) is not None)


def test_a_migration_under_the_calls_of_threads(key):
    with memcached() as one, memcached() as two:
        names = [b"%b:%d" % (key, n) for n in range(200)]
        client = emcache.sync.create_client([one.address], timeout=1.0)
        client.set_many({name: name for name in names})
        client.set(names[0], names[0], noreply=True)
        stop, missed = threading.Event(), []

        def work(_):
            while not stop.is_set():
                for name in names[::7]:
                    item = client.get(name)
                    if item is None or item.value != name:
                        missed.append((name, item))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            migration = client.migrate([two.address])
            assert client.migration is migration
            with pytest.raises(RuntimeError, match="under way"):
                client.migrate([one.address])
            until(lambda: migration.phase == "move")
            until(lambda: client.get_many(names) and migration.metrics().moved >= 100)
            assert client.metrics().migration.moved >= 100
            pid_ok = refused_in_child(client, key)
            migration.finish()
            until(lambda: client.migration is None)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert pid_ok
        assert not missed
        assert client.cluster_managment().nodes() == [two.address]
        client.close()


def refused_in_child(client, key):
    """Return whether the client raises in the child of a fork."""

    def work():
        try:
            client.get(key)
        except RuntimeError as error:
            return "migration" in str(error)
        return False

    in_child(work)
    return True


def test_a_client_created_with_a_migration_works_in_a_child_too(key):
    with memcached() as one, memcached() as two:
        with emcache.sync.create_client([one.address]) as old:
            old.set_many({b"%b:%d" % (key, n): b"1" for n in range(50)})
        former = emcache.Cluster([one.address])
        with emcache.sync.create_client([two.address], migrating_from=former) as client:
            assert client.get(key + b":1").value == b"1"
            in_child(lambda: client.get(key + b":2").value == b"1" and client.close() is None)
            client.migration.set_phase("finish")
            assert refused_in_child(client, key)
            assert client.get(key + b":3") is None  # not moved
