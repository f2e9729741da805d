"""Clusters of which some nodes are slow, flap, or are gone."""

import asyncio
import logging
import time

import pytest

import emcache
from support.calls import client_of, frozen, outcomes, until, within
from support.faults import Faults, Link, Recorder, fault_proxy, fill, seeded
from support.memcached import memcached
from support.oracle import value_of

KEYS = [b"nodes:%d" % number for number in range(60)]


def check(items, keys):
    assert {key: found.value for key, found in items.items()} == {
        key: value_of(key) for key in keys
    }


@within(30)
async def test_one_of_three_nodes_stalls(cluster):
    """As in 1.3 a call with many keys is all or nothing; who asks for less gets the rest."""
    for node in cluster:
        fill(node, KEYS)
    answers = Faults()
    with fault_proxy(cluster[0], lambda _: Link(answers=answers)) as proxy:
        async with client_of(proxy, *cluster[1:], timeout=0.5) as client:
            check(await patiently(client.get_many, KEYS), KEYS)
            places = {key: client.node_for(key) for key in KEYS}
            assert set(places.values()) == {proxy.address, *(node.address for node in cluster[1:])}
            theirs = [key for key in KEYS if places[key] == proxy.address]
            others = [key for key in KEYS if places[key] != proxy.address]
            answers.stall_after = 0
            started = time.monotonic()
            everything, rest, *singles = await outcomes(
                client.get_many(KEYS), client.get_many(others), *map(client.get, others)
            )
            assert 0.49 < time.monotonic() - started < 5
            assert isinstance(everything, emcache.OperationTimeoutError)
            assert everything.node == f"127.0.0.1:{proxy.port}"
            check(rest, others)
            check(dict(zip(others, singles, strict=True)), others)
            (alone,) = await outcomes(client.get_many(theirs))
            assert isinstance(alone, emcache.OperationTimeoutError)
            # Late answers are dropped, and the node never counted as down. Each of the two timeouts
            # may have moved the next calls to another connection.
            answers.stall_after = None
            check(await patiently(client.get_many, KEYS), KEYS)
            assert client.cluster_managment().unhealthy_nodes() == []
            assert proxy.accepted <= 3


@within(30)
async def test_one_of_three_nodes_dies_under_get_many():
    with memcached() as a, memcached() as b, memcached() as c:
        for node in (a, b, c):
            fill(node, KEYS)
        async with client_of(a, b, c) as client:
            check(await client.get_many(KEYS), KEYS)
            others = [key for key in KEYS if client.node_for(key) != a.address]
            with frozen(a):
                tasks = [asyncio.create_task(client.get_many(KEYS)) for _ in range(20)]
                tasks += [asyncio.create_task(client.get_many(others)) for _ in range(20)]
                await until(lambda: all(task.done() for task in tasks[20:]))
                a.kill()
                results = await outcomes(*tasks)
            for failed in results[:20]:
                assert isinstance(failed, emcache.ConnectionFailedError)
                assert failed.node == f"127.0.0.1:{a.port}"
            for items in results[20:]:
                check(items, others)


async def patiently(call, *args):
    while True:
        try:
            return await call(*args)
        except (emcache.ConnectionFailedError, emcache.OperationTimeoutError):
            await asyncio.sleep(0.01)


# -- a node that comes and goes ------------------------------------------------------------------


def alternating(address, count):
    return [(("unhealthy", "healthy")[number % 2], address) for number in range(count)]


@within(40)
async def test_a_flapping_node_is_told_in_order_and_dialled_with_care(cluster, caplog):
    caplog.set_level(logging.INFO, "emcache")
    recorder = Recorder()
    rounds = 3
    for node in cluster[:2]:
        fill(node, KEYS)
    with fault_proxy(cluster[0]) as proxy:
        options = {"cluster_events": recorder, "max_connections": 2}
        async with client_of(proxy, cluster[1], **options) as client:
            metrics = client.cluster_managment().connection_pool_metrics
            stop = asyncio.Event()

            async def caller():
                """Traffic of which the flapping is not to make a storm."""
                while not stop.is_set():
                    for result, key in zip(
                        await outcomes(*map(client.get, KEYS)), KEYS, strict=True
                    ):
                        if isinstance(result, emcache.Item):
                            assert result.value == value_of(key)
                        else:
                            assert isinstance(result, emcache.ConnectionFailedError), repr(result)
                            assert client.node_for(key) == proxy.address
                    await asyncio.sleep(0.005)

            traffic = asyncio.create_task(caller())
            for at in range(rounds):
                await patiently(client.version, proxy.address)
                await asyncio.to_thread(proxy.refuse)
                await until(lambda at=at: len(recorder.events) == 2 * at + 1)
                await asyncio.to_thread(proxy.listen)
                await until(lambda at=at: len(recorder.events) == 2 * at + 2)
            stop.set()
            await traffic
            assert recorder.events == alternating(proxy.address, 2 * rounds)
            # A round is three failed dials, and those of the second that it may take to come back.
            assert metrics()[proxy.address].connections_created_with_error < 20 * rounds
            assert proxy.accepted <= 6 * rounds
            assert proxy.most_open <= 2
            assert metrics()[cluster[1].address].connections_created <= 2
    told = [record for record in caplog.records if "healthy" in record.getMessage()]
    assert len(told) == 2 * rounds


@within(40)
async def test_a_node_that_flaps_faster_than_it_is_dialled(server):
    """Whatever it does, and whenever: events alternate, and in the end it is up."""
    rng = seeded()
    recorder = Recorder()
    fill(server, KEYS)
    with fault_proxy(server, rng=rng) as proxy:
        async with client_of(proxy, cluster_events=recorder) as client:
            loop = asyncio.get_running_loop()
            end = loop.time() + 1.5
            while loop.time() < end:
                await asyncio.to_thread(proxy.refuse)
                await outcomes(*map(client.get, KEYS[:5]))
                await asyncio.sleep(rng.random() * 0.3)
                await asyncio.to_thread(proxy.listen)
                await asyncio.sleep(rng.random() * 0.2)
            for key in KEYS:
                assert (await patiently(client.get, key)).value == value_of(key)
            await until(lambda: len(recorder.events) % 2 == 0)
            assert recorder.events == alternating(proxy.address, len(recorder.events))
            (metrics,) = client.cluster_managment().connection_pool_metrics().values()
            assert metrics.connections_created + metrics.connections_created_with_error < 150
            assert client.cluster_managment().unhealthy_nodes() == []


# -- all of them ---------------------------------------------------------------------------------


@within(40)
@pytest.mark.parametrize("purge", [True, False], ids=["purge", "keep"])
async def test_all_nodes_go_and_come_back(cluster, purge):
    recorder = Recorder()
    for node in cluster:
        fill(node, KEYS)
    with fault_proxy(cluster[0]) as a, fault_proxy(cluster[1]) as b, fault_proxy(cluster[2]) as c:
        proxies = [a, b, c]
        options = {"purge_unhealthy_nodes": purge, "cluster_events": recorder}
        async with client_of(*proxies, **options) as client:
            home = {key: client.node_for(key) for key in KEYS}
            check(await client.get_many(KEYS), KEYS)
            for proxy in proxies:
                await asyncio.to_thread(proxy.refuse)
            management = client.cluster_managment()
            await until(lambda: len(management.unhealthy_nodes()) == 3)
            expected = emcache.ClusterNoAvailableNodes if purge else emcache.NodeUnavailableError
            started = time.monotonic()
            results = await outcomes(
                client.get(KEYS[0]), client.set(KEYS[0], b"v"), client.get_many(KEYS)
            )
            assert time.monotonic() - started < 5  # the timeout is 30 s
            assert {type(result) for result in results} == {expected}
            for proxy in proxies:
                await asyncio.to_thread(proxy.listen)
            await until(lambda: management.unhealthy_nodes() == [])
            assert {key: client.node_for(key) for key in KEYS} == home
            check(await client.get_many(KEYS), KEYS)
            await until(lambda: len(recorder.events) == 6)
            for proxy in proxies:
                mine = [event for event in recorder.events if event[1] == proxy.address]
                assert mine == alternating(proxy.address, 2)
