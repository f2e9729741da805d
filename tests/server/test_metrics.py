"""What a client counts, against what the server counted."""

import asyncio
import contextlib
import dataclasses
import gc
import threading
import time
import weakref

import pytest

import emcache
from emcache.metrics import read_metrics
from support.calls import client_of, frozen, outcomes, until, within
from support.memcached import memcached
from support.oracle import answer, reply_to, value_of
from support.scripted import scripted


async def workload(client):
    """Some of everything, whatever comes of it."""
    for at in range(7):
        await client.set(b"k%d" % at, b"1" * (at + 1))
    await client.set(b"large", bytes(600_000))
    for key in (b"k1", b"large", b"none"):
        await client.get(key)
        await client.gets(key)
        await client.gat(60, key)
        await client.gats(60, key)
    await client.get_many([b"k%d" % at for at in range(10)])
    await client.gets_many([b"none-%d" % at for at in range(300)])
    await client.gat_many(60, [b"k1", b"none", b"k2"])
    token = (await client.gets(b"k2")).cas
    await outcomes(
        client.add(b"k1", b"x"),
        client.add(b"new", b"x"),
        client.replace(b"none", b"x"),
        client.append(b"k3", b"1"),
        client.prepend(b"none", b"1"),
        client.cas(b"k2", b"22", token),
        client.cas(b"k4", b"x", 1),
        client.cas(b"none", b"x", 1),
        client.delete(b"k5"),
        client.delete(b"none"),
        client.increment(b"k0", 5),
        client.increment(b"none", 5),
        client.decrement(b"k0", 1),
        client.decrement(b"none", 1),
        client.increment(b"large", 1),
        client.touch(b"k1", 60),
        client.touch(b"none", 60),
        client.set(b"huge", bytes(2_000_000)),
    )
    await client.set(b"quiet", b"x", noreply=True)
    await client.delete(b"none", noreply=True)


def results(client, command):
    return dict(client.metrics().commands[command].results)


async def test_totals_are_those_of_the_server():
    with memcached() as server:
        before = {name: int(count) for name, count in server.stats().items() if count.isdecimal()}
        async with client_of(server) as client:
            await workload(client)
            # Behind the last command that nobody waits for.
            assert await client.get(b"none") is None
            metrics = client.metrics()
            pool = metrics.nodes[0].pool
            after = server.stats()

    def of_server(name):
        return int(after[name]) - before[name]

    def ours(commands, *names):
        counts = (metrics.commands[command].results for command in commands.split())
        return sum(count.get(name, 0) for count in counts for name in names)

    touching = "gat gats"
    stores = "set add replace append prepend cas"
    # The server counts `gat` among its touches.
    assert ours("get gets", "hit") == of_server("get_hits")
    assert ours("get gets", "miss") == of_server("get_misses")
    assert ours("get gets", "hit", "miss") == of_server("cmd_get")
    refused = ours(stores, "server_error")
    assert refused == 1
    replies = ("stored", "not_stored", "exists", "not_found")
    assert ours(stores, *replies) == of_server("cmd_set")
    assert ours("cas", "stored") == of_server("cas_hits")
    assert ours("cas", "exists") == of_server("cas_badval")
    assert ours("cas", "not_found") == of_server("cas_misses")
    assert ours("delete", "deleted") == of_server("delete_hits")
    assert ours("delete", "not_found") == of_server("delete_misses")
    assert ours("incr", "ok") == of_server("incr_hits")
    assert ours("incr", "not_found") == of_server("incr_misses")
    assert ours("decr", "ok") == of_server("decr_hits")
    assert ours("decr", "not_found") == of_server("decr_misses")
    assert ours("incr", "client_error") == 1
    assert ours(f"{touching} touch", "hit", "touched") == of_server("touch_hits")
    assert ours(f"{touching} touch", "hit", "touched", "miss", "not_found") == of_server(
        "cmd_touch"
    )
    # The test asks for stats on a connection of its own, and the client may ask for the version.
    uncounted = of_server("bytes_read") - pool.bytes_written - len(b"stats\r\n")
    assert uncounted in (0, len(b"version\r\n"))
    assert pool.cur_connections == pool.connections_idle == 1
    assert pool.keys_shared == 0


async def test_latencies_count_requests(server, key):
    started = time.perf_counter()
    async with client_of(server) as client:
        await client.set(key, b"1")
        for _ in range(20):
            await client.get(key)
        await client.get_many([key, key + b"2", key + b"3"])
        commands = client.metrics().commands
    took = time.perf_counter() - started
    get, put = commands["get"], commands["set"]
    assert (get.latency.count, get.count) == (21, 23)
    assert get.results == {"hit": 21, "miss": 2}
    assert (put.latency.count, put.results) == (1, {"stored": 1})
    assert 0 < get.latency.sum < took
    assert 0 < get.latency.quantile(0.5) <= get.latency.quantile(1.0) < 1


async def test_without_a_timeout_latencies_are_measured_too(server, key):
    async with client_of(server, timeout=None) as client:
        started = time.perf_counter()
        await client.get(key)
        took = time.perf_counter() - started
        assert 0 < client.metrics().commands["get"].latency.sum < took


async def test_gets_that_share_a_key(server, key):
    async with emcache.create_client([server.address], max_connections=1) as client:
        await client.set(key, b"1")
        before = int(server.stats()["cmd_get"])
        await asyncio.gather(*(client.get(key) for _ in range(5)))
        asked = int(server.stats()["cmd_get"]) - before
        metrics = client.metrics()
        driver = client._core.driver
    assert metrics.commands["get"].results == {"hit": 5}
    assert metrics.nodes[0].pool.keys_shared == 5 - asked
    # The first leaves at once, the others go together: the thread takes them as they come.
    assert asked <= (2 if driver == "loop" else 5)


async def test_what_a_cancelled_call_did_not_send_is_not_counted():
    """Of many keys, which go in parts: those of the first were sent, and are answered later."""
    with memcached("-m", "256") as own:
        async with client_of(own, timeout=30) as client:
            await client.set(b"first", b"")
            with frozen(own):
                many = dict.fromkeys((b"%d" % at for at in range(20_000)), b"")
                call = asyncio.create_task(client.set_many(many, noreply=True))
                pool = client.metrics
                await until(lambda: pool().nodes[0].pool.requests_in_flight >= 16_384)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            await until(lambda: results(client, "set") == {"stored": 16_385})
            await client.version(own.address)
            assert results(client, "set") == {"stored": 16_385}
            assert own.stats()["cmd_set"] == "16385"


async def test_each_request_ends_once(server, key):
    """However it ends: the sum is the number of calls."""
    with memcached() as own:
        async with client_of(own, timeout=0.1) as client:
            await client.set(b"k", b"1")
            with frozen(own):
                calls = [client.get(b"k"), client.get_many([b"k", b"l"]), client.delete(b"k")]
                waiting = asyncio.create_task(client.get(b"k"))
                await asyncio.sleep(0)
                waiting.cancel()
                assert all(
                    isinstance(outcome, emcache.OperationTimeoutError)
                    for outcome in await outcomes(*calls)
                )
                await until(lambda: results(client, "get").get("cancelled"))
            assert results(client, "get") == {"timeout": 3, "cancelled": 1}
            assert results(client, "delete") == {"timeout": 1}
            latency = client.metrics().commands["get"].latency
            # The cancelled one is not in it.
            assert latency.count == 2
            assert latency.quantile(0) >= 0.05
            # Late answers are those of requests that were counted already.
            await client.get(b"k")
            assert results(client, "get").get("miss", 0) + results(client, "get").get("hit", 0) == 1
            own.kill()
            await until(lambda: not client.metrics().nodes[0].healthy)
            for _ in range(3):
                await outcomes(client.set(b"k", b"1"))
            assert results(client, "set")["unavailable"] >= 3
            counted = client.metrics()
        assert counted.nodes[0].pool.connections_created_with_error >= 2


async def test_a_connection_that_is_lost():
    async def hang_up(connection):
        await connection.line()

    async with scripted(hang_up) as server, client_of(server) as client:
        assert isinstance((await outcomes(client.delete(b"k")))[0], emcache.ConnectionFailedError)
        assert results(client, "delete") == {"connection": 1}
        assert client.metrics().commands["delete"].latency.count == 1
        await until(lambda: client.metrics().nodes[0].pool.reconnects)


async def test_what_is_no_reply():
    async def babble(connection):
        await connection.line()
        await connection.send(b"220 smtp.example.org\r\n")

    async with scripted(babble) as server, client_of(server) as client:
        assert isinstance((await outcomes(client.touch(b"k", 1)))[0], emcache.ProtocolError)
        assert results(client, "touch") == {"protocol": 1}


async def test_a_closed_client_tells_its_last(server, key):
    async with client_of(server) as client:
        await client.get(key)
    closed = client.metrics()
    assert closed.commands["get"].results == {"miss": 1}
    assert closed == client.metrics()


async def test_a_snapshot_does_not_change(server, key):
    async with client_of(server) as client:
        await client.get(key)
        before = client.metrics()
        await client.get(key)
        assert before.commands["get"].count == 1
        assert client.metrics().commands["get"].count == 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.taken = 0.0  # type: ignore[misc]


async def test_nodes_and_limits(cluster):
    options = {"min_connections": 1, "max_connections": 3}
    async with client_of(*cluster, **options) as client:
        for at in range(60):
            await client.set(b"node-%d" % at, b"1")
        metrics = client.metrics()
        assert (metrics.min_connections, metrics.max_connections) == (1, 3)
        assert {node.address for node in metrics.nodes} == {node.address for node in cluster}
        each = [node.commands["set"].count for node in metrics.nodes]
        assert metrics.commands["set"].count == sum(each) == 60
        assert all(each)
        assert all(node.healthy for node in metrics.nodes)
        assert abs(metrics.taken - time.time()) < 10


class TestFromAnotherThread:
    async def test_the_loop_is_asked(self, server, key):
        async with client_of(server) as client:
            await client.get(key)
            metrics = await asyncio.to_thread(client.metrics)
            assert metrics.commands["get"].count == 1
            await client.get(key)
            assert (await asyncio.to_thread(client.metrics)).commands["get"].count == 2

    async def test_a_loop_that_is_blocked(self, server, key):
        async with client_of(server) as client:
            await client.get(key)
            known = client.metrics()
            told = []
            thread = threading.Thread(target=lambda: told.append(read_metrics(client, 0.05)))
            thread.start()
            thread.join()
            assert told == [known]

    async def test_a_loop_that_never_answered(self, server):
        async with client_of(server) as client:
            told = []
            thread = threading.Thread(target=lambda: told.append(read_metrics(client, 0.05)))
            thread.start()
            thread.join()
            assert told == [emcache.ClientMetrics()]

    async def test_a_client_that_nobody_holds(self, server):
        client = await client_of(server)
        alive = weakref.ref(client)
        client.metrics()
        clients = [client]
        del client
        with pytest.warns(ResourceWarning, match="unclosed"):
            clients.clear()
        gc.collect()
        assert alive() is None

    @pytest.mark.driver_independent
    def test_a_loop_that_is_closed(self, server, key):
        async def use():
            client = await client_of(server)
            await client.get(key)
            client.metrics()
            return client

        loop = asyncio.SelectorEventLoop()
        client = loop.run_until_complete(use())
        # Not running: nobody is waited for.
        assert client.metrics().commands["get"].count == 1
        loop.run_until_complete(client.close())
        loop.close()
        assert client.metrics().commands["get"].count == 1


@pytest.mark.driver_independent
class TestHistogram:
    def test_quantiles(self):
        bounds = emcache.LatencyHistogram.bounds
        empty = emcache.LatencyHistogram()
        assert (empty.count, empty.quantile(0.5)) == (0, None)
        counts = [0] * (len(bounds) + 1)
        counts[0], counts[3], counts[-1] = 5, 4, 1
        histogram = emcache.LatencyHistogram(tuple(counts), 1.0)
        assert histogram.count == 10
        assert histogram.quantile(0.5) == bounds[0]
        assert histogram.quantile(0.7) == pytest.approx((bounds[2] + bounds[3]) / 2)
        assert histogram.quantile(0.9) == bounds[3]
        assert histogram.quantile(1.0) == bounds[-1]
        with contextlib.suppress(ValueError):
            histogram.quantile(1.5)
            pytest.fail("out of range")

    def test_bounds(self):
        bounds = emcache.LatencyHistogram.bounds
        assert bounds[0] == 1e-05
        assert bounds[-1] == 10.0
        assert {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0} <= set(bounds)


# -- connections ---------------------------------------------------------------------------------


def connections_of(client):
    (found,) = client.cluster_managment().connection_pool_metrics().values()
    return found


def seen(client, *names):
    return [getattr(connections_of(client), name) for name in names]


@within(20)
async def test_an_answer_that_comes_too_late_is_counted_once():
    gate = asyncio.Event()

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            await gate.wait()
            await connection.send(reply_to(words))

    counts = ("operations_executed", "operations_executed_with_error", "requests_timed_out")
    async with scripted(script) as server, client_of(server, timeout=0.2) as client:

        async def answered():
            gate.set()
            await until(lambda: connections_of(client).requests_in_flight == 0)
            gate.clear()

        for _ in range(2):
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(b"k")
        assert seen(client, *counts) == [0, 2, 2]
        await answered()
        assert seen(client, *counts) == [0, 2, 2]
        # Whoever went away before is told of no timeout.
        call = asyncio.create_task(client.get(b"k"))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(0.4)
        await answered()
        assert seen(client, *counts)[1:] == [2, 2]
        assert connections_of(client).connections_closed == 0


@within(20)
async def test_a_connection_that_is_free_is_not_waited_for():
    async with scripted(answer) as server:
        pool = emcache.ConnectionPool(server.address, max_connections=1)
        await until(lambda: pool.total_connections == 1)
        # After the second it is looked at before it is checked out.
        for pause in (0, 1, 0):
            await asyncio.sleep(pause)
            async with pool.create_connection_context() as connection:
                await connection.version_command()
        assert pool.metrics().operations_waited == 0
        async with pool.create_connection_context() as connection:
            context = pool.create_connection_context()
            waiter = asyncio.create_task(context.__aenter__())
            await until(lambda: pool.metrics().requests_queued == 1)
            assert pool.metrics().operations_waited == 1
        await waiter
        await context.__aexit__(None, None, None)
        await pool.close()


@within(20)
async def test_what_was_asked_again_and_what_was_no_reply_are_counted():
    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if b"end" in words and connection.number == 0:
                return
            await connection.send(b"nonsense\r\n" if b"bad" in words else reply_to(words))

    names = (
        "requests_retried",
        "protocol_errors",
        "operations_executed",
        "operations_executed_with_error",
        "requests_timed_out",
    )
    async with scripted(script) as server, client_of(server) as client:
        await client.get(b"k")
        assert seen(client, *names) == [0, 0, 1, 0, 0]
        assert (await client.get(b"end")).value == value_of(b"end")
        assert seen(client, *names) == [1, 0, 2, 0, 0]
        for number in range(1, 3):
            with pytest.raises(emcache.ProtocolError):
                await client.get(b"bad")
            assert (await client.get(b"k")).value == value_of(b"k")
            assert seen(client, *names) == [1, number, 2 + number, number, 0]
        assert client.cluster_managment().unhealthy_nodes() == []
