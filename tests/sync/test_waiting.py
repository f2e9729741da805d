"""What a call waits for: windows of keys, blocked writes, lost connections, other nodes."""

import threading
import time

import pytest

import emcache
import emcache.sync
from support.memcached import free_port, memcached

pytestmark = pytest.mark.driver_independent


def test_a_call_for_more_keys_than_a_window(sync_client, key):
    keys = [b"%b:%d" % (key, n) for n in range(40_000)]
    assert sync_client.set_many(dict.fromkeys(keys, b"v")).done == keys
    assert len(sync_client.get_many(keys)) == len(keys)
    assert sync_client.delete_many(keys).done == keys


def test_a_large_value_without_a_reply_is_written_before_the_call_returns(sync_client, key):
    value = bytes(900_000)
    sync_client.set(key, value, noreply=True)
    found = []

    def read():
        # Another thread, whose connection does not wait for that of the write.
        deadline = time.monotonic() + 10
        with emcache.sync.create_client([sync_client.node_for(key)]) as other:
            while time.monotonic() < deadline and not found:
                found.extend(filter(None, [other.get(key)]))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found[0].value == value


def test_a_connection_that_was_lost_between_calls_fails_no_write(key):
    with (
        memcached() as server,
        emcache.sync.create_client([server.address], timeout=5.0) as client,
    ):
        client.set(key, b"1")
        server.restart()
        time.sleep(0.02)
        client.set(key, b"2")
        assert client.get(key).value == b"2"


def test_a_node_that_comes_back_is_used_again(key):
    with memcached() as server:
        client = emcache.sync.create_client([server.address], timeout=2.0)
        client.set(key, b"1")
        server.kill()

        def write():
            for _ in range(100):
                client.set(key, b"2")

        with pytest.raises(emcache.ConnectionFailedError):
            write()
        server.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                client.set(key, b"3")
                break
            except emcache.EmcacheError:
                time.sleep(0.02)
        assert client.get(key).value == b"3"
        client.close()


def test_ping_and_wait_ready_tell_nodes_apart():
    dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
    with memcached() as server, emcache.sync.create_client([server.address, dead]) as client:
        client.wait_ready(10, min_nodes=1)
        answers = client.ping()
        assert isinstance(answers[server.address], float)
        assert isinstance(answers[dead], emcache.ConnectionFailedError)
        with pytest.raises(emcache.OperationTimeoutError, match="1 of 2 nodes are ready"):
            client.wait_ready(0.3)
        stats = client.stats()
        assert set(stats) == {server.address}
        assert set(stats.errors) == {dead}


def test_meta_gets_of_many_keys(sync_client, key):
    keys = [b"%b:%d" % (key, n) for n in range(300)]
    sync_client.set_many({name: name for name in keys[::2]})
    found = sync_client.meta_get_many(keys)
    assert {name: item.value for name, item in found.items()} == {n: n for n in keys[::2]}


def test_nodes_are_told_of_once(caplog):
    class Events(emcache.sync.ClusterEvents):
        def __init__(self):
            self.seen = []

        def on_node_healthy(self, cluster_managment, host):
            self.seen.append(("up", host))

        def on_node_unhealthy(self, cluster_managment, host):
            self.seen.append(("down", host))

    events = Events()
    dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
    with emcache.sync.create_client([dead], cluster_events=events, timeout=1.0) as client:

        def call():
            for _ in range(20):
                with pytest.raises(emcache.EmcacheError):
                    client.get(b"key")
                time.sleep(0.01)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert events.seen == [("down", dead)]


def test_autodiscovery_is_followed(key):
    with memcached() as one, memcached() as two:
        nodes = [one.address]
        source = emcache.CallableDiscovery(lambda: list(nodes))
        with emcache.sync.create_client(
            [], autodiscovery=source, autodiscovery_poll_interval=0.1
        ) as client:
            client.set(key, b"1")
            assert client.cluster_managment().nodes() == [one.address]
            nodes[:] = [two.address]
            deadline = time.monotonic() + 20
            while client.node_for(key) != two.address and time.monotonic() < deadline:
                time.sleep(0.02)
            assert client.get(key) is None
            client.set(key, b"2")
            assert client.get(key).value == b"2"
        names = [thread.name for thread in threading.enumerate()]
        deadline = time.monotonic() + 5
        while "emcache-autodiscovery" in names and time.monotonic() < deadline:
            time.sleep(0.05)
            names = [thread.name for thread in threading.enumerate()]
        assert "emcache-autodiscovery" not in names
