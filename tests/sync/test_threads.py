"""Threads that share a synchronous client: they get their own replies, and leave nothing behind."""

import random
import threading
import time
from pathlib import Path

import pytest

import emcache
import emcache.sync
from support.memcached import memcached
from support.threads import in_threads, until

pytestmark = pytest.mark.driver_independent


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_each_thread_gets_its_own_replies(sync_client, key):
    def work(number):
        mine = {b"%b:%d:%d" % (key, number, n): b"%d/%d" % (number, n) for n in range(20)}
        for _ in range(30):
            sync_client.set_many(mine)
            for name, value in mine.items():
                assert sync_client.get(name).value == value
            found = sync_client.get_many(mine)
            assert {name: item.value for name, item in found.items()} == mine

    in_threads(8, work)
    assert sync_client.metrics().nodes[0].pool.cur_connections <= 9


def test_calls_of_threads_run_at_the_same_time(key):
    with memcached() as server:
        client = emcache.sync.create_client([server.address], timeout=10.0)
        server.pause()
        try:
            begun = time.monotonic()
            calls = [threading.Thread(target=client.get, args=(key,)) for _ in range(4)]
            for call in calls:
                call.start()
            # The interpreter is free while they wait.
            time.sleep(0.2)
            assert all(call.is_alive() for call in calls)
        finally:
            server.resume()
        for call in calls:
            call.join()
        assert time.monotonic() - begun < 8
        client.close()


def test_threads_that_come_and_go_leave_no_descriptors(sync_client, key):
    counts = []
    for _ in range(60):
        in_threads(1, lambda _: sync_client.get(key))
        in_threads(1, lambda _: sync_client.set(key, b"v", noreply=True))
        counts.append(descriptors())
    # At most two cores, of which one waits for the replies of a thread that ended.
    assert max(counts[10:]) <= max(counts[:10]) + 4


def test_cores_of_threads_that_ended_are_closed(key):
    with (
        memcached() as server,
        emcache.sync.create_client(
            [server.address], timeout=10.0, purge_unused_connections_after=0.05
        ) as client,
    ):
        client.get(key)
        before = descriptors()
        # Each thread sends on a core of its own, because no core gets a reply.
        server.pause()
        in_threads(8, lambda _: client.set(key, b"v", noreply=True))
        most = descriptors()
        assert most >= before + 8
        server.resume()

        def are_closed():
            client.get(key)
            # One call uses the core that was there before, or one of those.
            return descriptors() <= before

        until(are_closed)
        assert client.get(key).value == b"v"


def test_counters_at_the_close_contain_the_calls_that_it_ended(key):
    with memcached() as server:
        client = emcache.sync.create_client([server.address], timeout=30.0)
        client.get(key)
        server.pause()
        try:
            begun = threading.Barrier(4)

            def call(_):
                begun.wait()
                with pytest.raises(emcache.ClientClosedError):
                    client.get(key)

            closing = threading.Thread(
                target=lambda: (begun.wait(), time.sleep(0.3), client.close())
            )
            closing.start()
            in_threads(3, call)
            closing.join()
        finally:
            server.resume()
        pool = client.metrics().nodes[0].pool
        assert pool.cur_connections == 0
        assert pool.connections_closed == pool.connections_created >= 3


def test_close_reaches_the_connections_of_all_threads(server, key):
    before = descriptors()
    client = emcache.sync.create_client([server.address])
    ready, end = threading.Barrier(5), threading.Event()

    def work(_):
        client.set(key, b"v", noreply=True)
        ready.wait()
        end.wait()

    closer = threading.Thread(target=lambda: (ready.wait(), client.close(), end.set()))
    closer.start()
    in_threads(4, work)
    closer.join()
    assert descriptors() == before
    with pytest.raises(emcache.ClientClosedError):
        client.get(key)


def test_a_call_that_waits_ends_when_another_thread_closes_the_client(key):
    with memcached() as server:
        client = emcache.sync.create_client([server.address], timeout=30.0)
        client.get(key)
        server.pause()
        try:
            errors = []

            def call():
                try:
                    client.get(key)
                except emcache.ClientClosedError as error:
                    errors.append(error)

            thread = threading.Thread(target=call)
            thread.start()
            time.sleep(0.1)
            client.close()
            thread.join(5)
            assert len(errors) == 1
        finally:
            server.resume()


def test_a_thread_reads_what_it_wrote_without_a_reply(sync_client, key):
    def work(number):
        mine = b"%b:%d" % (key, number)
        for n in range(200):
            value = b"%d" % n + b"x" * random.choice((1, 1, 1, 50_000))
            sync_client.set(mine, value, noreply=True)
            assert sync_client.get(mine).value == value

    in_threads(6, work)


def test_metrics_count_the_calls_of_all_threads(server, key):
    with emcache.sync.create_client([server.address]) as client:
        in_threads(4, lambda _: [client.get(key) for _ in range(50)])
        assert client.metrics().commands["get"].count == 200
    assert client.metrics().commands["get"].count == 200


def test_a_server_that_is_killed_and_restarted_gives_no_wrong_values(key):
    with memcached() as server:
        client = emcache.sync.create_client([server.address], timeout=2.0)
        stop, failures, right = threading.Event(), [], [0]

        def work(number):
            mine = b"%b:%d" % (key, number)
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    client.set(mine, b"%d:%d" % (number, n))
                    item = client.get(mine)
                except emcache.EmcacheError:
                    time.sleep(0.01)
                    continue
                if item is not None:
                    owner, _, found = item.value.partition(b":")
                    if int(owner) != number or int(found) > n:
                        failures.append(item.value)
                    right[0] += 1

        def chaos():
            try:
                for _ in range(3):
                    time.sleep(0.3)
                    server.kill()
                    time.sleep(0.2)
                    server.start()
                time.sleep(0.5)
            finally:
                stop.set()

        killer = threading.Thread(target=chaos)
        killer.start()
        in_threads(6, work)
        killer.join()
        assert not failures
        client.set(key, b"again")
        assert client.get(key).value == b"again"
        assert right[0] > 100
        client.close()
