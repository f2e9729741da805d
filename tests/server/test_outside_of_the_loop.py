"""What a client tells of its nodes where its loop does not run."""

import asyncio
import threading

import pytest

from support.calls import client_of
from support.loops import LOOPS
from support.memcached import memcached


@pytest.fixture(params=LOOPS.values(), ids=LOOPS)
def loop(request):
    loop = request.param()
    yield loop
    loop.close()


def in_a_thread(call):
    told = []
    thread = threading.Thread(target=lambda: told.append(call()))
    thread.start()
    thread.join()
    return told[0]


def test_between_two_runs(loop, server, key):
    client = loop.run_until_complete(client_of(server))
    management = client.cluster_managment()
    loop.run_until_complete(client.set(key, b"v"))
    for _ in range(2):
        assert management.nodes() == management.healthy_nodes() == [server.address]
        assert management.unhealthy_nodes() == []
        assert management.connection_pool_metrics()[server.address].operations_executed == 1
        assert client.metrics().commands["set"].count == 1
        assert client.node_for(key) == server.address
        assert server.address.address in repr(client)
    loop.run_until_complete(client.get(key))
    assert management.connection_pool_metrics()[server.address].operations_executed == 2
    # Calls still want their loop.
    with pytest.raises(RuntimeError):
        client.get(key).send(None)
    loop.run_until_complete(client.close())
    assert management.nodes() == [server.address]


def test_from_another_thread_while_it_does_not_run(loop, server, key):
    """It is told what was counted last."""
    client = loop.run_until_complete(client_of(server))
    management = client.cluster_managment()
    assert in_a_thread(management.connection_pool_metrics) == {}
    loop.run_until_complete(client.set(key, b"v"))
    known = management.connection_pool_metrics()
    assert in_a_thread(management.connection_pool_metrics) == known
    assert in_a_thread(management.healthy_nodes) == [server.address]
    assert in_a_thread(management.unhealthy_nodes) == []
    loop.run_until_complete(client.close())


async def test_from_another_thread_while_it_runs(server, key):
    async with client_of(server) as client:
        management = client.cluster_managment()
        await client.set(key, b"v")
        metrics = await asyncio.to_thread(management.connection_pool_metrics)
        assert metrics[server.address].operations_executed == 1
        assert await asyncio.to_thread(management.nodes) == [server.address]


async def test_another_thread_sees_a_node_go_down():
    with memcached() as server:
        async with client_of(server, timeout=0.5) as client:
            management = client.cluster_managment()
            await client.get(b"k")
            server.kill()
            while await asyncio.to_thread(management.healthy_nodes):
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(management.unhealthy_nodes) == [server.address]


async def test_of_a_client_that_is_closed(server, key):
    client = await client_of(server)
    await client.set(key, b"v")
    await client.close()
    management = client.cluster_managment()
    assert management.nodes() == management.healthy_nodes() == [server.address]
    # What was counted when it was closed.
    assert management.connection_pool_metrics()[server.address].operations_executed == 1


def test_of_a_loop_that_is_closed(server, key):
    loop = asyncio.SelectorEventLoop()
    client = loop.run_until_complete(client_of(server))
    loop.run_until_complete(client.set(key, b"v"))
    loop.close()
    management = client.cluster_managment()
    assert management.nodes() == [server.address]
    assert management.connection_pool_metrics()[server.address].operations_executed == 1
    clients = [client]
    del client
    with pytest.warns(ResourceWarning, match="unclosed"):
        clients.clear()
