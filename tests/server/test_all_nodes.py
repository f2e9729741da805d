"""All nodes at once: `ping`, `wait_ready`, `stats`, `flush_all`, and what `repr` tells of them."""

import asyncio
import threading

import pytest
import pytest_asyncio

import emcache
from support.calls import client_of, until, within
from support.memcached import free_port, memcached
from support.scripted import hold, scripted


def dead_address() -> emcache.MemcachedHostAddress:
    return emcache.MemcachedHostAddress("127.0.0.1", free_port())


@pytest_asyncio.fixture
async def half(server):
    """A client of a node that is there and one that is not, and their addresses."""
    dead = dead_address()
    async with emcache.create_client([server.address, dead], timeout=10.0) as client:
        yield client, server.address, dead


class TestPing:
    async def test_all_answer(self, cluster):
        addresses = [node.address for node in cluster]
        async with emcache.create_client(addresses) as client:
            times = await client.ping()
            assert list(times) == addresses
            assert all(isinstance(took, float) and 0 < took < 10 for took in times.values())

    @within(20)
    async def test_one_does_not(self, half):
        client, alive, dead = half
        answers = await client.ping()
        assert isinstance(answers[alive], float)
        assert isinstance(answers[dead], emcache.NodeUnavailableError)

    @within(20)
    async def test_at_once(self, server):
        async with (
            scripted(hold) as silent,
            client_of(silent, server, silent, timeout=0.5) as client,
        ):
            answers = await client.ping()
        assert [type(answer) for answer in answers.values()] == [
            emcache.OperationTimeoutError,
            float,
        ]


class TestWaitReady:
    async def test_all_are_there(self, cluster):
        async with emcache.create_client([node.address for node in cluster]) as client:
            assert await client.wait_ready(10) is None
            assert await client.wait_ready(10, min_nodes=3) is None
            assert len(client.cluster_managment().connection_pool_metrics()) == 3

    @within(20)
    async def test_some_are_enough(self, half):
        client, *_ = half
        await client.wait_ready(10, min_nodes=1)

    @within(20)
    async def test_says_which_are_missing_and_why(self, server):
        dead = dead_address()
        async with (
            scripted(hold) as silent,
            client_of(server, silent, timeout=30) as client,
            emcache.create_client([server.address, dead]) as other,
        ):
            with pytest.raises(
                TimeoutError, match=r"1 of 2 nodes are ready after 0\.3 s"
            ) as raised:
                await client.wait_ready(0.3)
            assert f"127.0.0.1:{silent.port} has not answered yet" in str(raised.value)
            assert isinstance(raised.value, emcache.OperationTimeoutError)
            with pytest.raises(TimeoutError, match=f"127.0.0.1:{dead.port} is down.*refused"):
                await other.wait_ready(0.5)
            # Nothing of it is left running.
            assert not [t for t in asyncio.all_tasks() if "_probe" in repr(t)]

    @within(30)
    async def test_a_node_that_comes_later(self, server):
        with memcached() as late:
            late.kill()
            async with emcache.create_client([server.address, late.address]) as client:
                waiting = asyncio.ensure_future(client.wait_ready(20))
                await until(lambda: len(client.cluster_managment().unhealthy_nodes()) == 1)
                assert not waiting.done()
                late.start()
                await waiting
                assert (await client.set_many({b"%d" % n: b"" for n in range(20)})).errors == {}

    @within(20)
    async def test_refused_credentials(self, server):
        async with client_of(server, username="user", password="secret word") as client:
            with pytest.raises(TimeoutError, match="refused the login"):
                await client.wait_ready(0.3)

    @within(20)
    async def test_ends_with_its_client_and_its_task(self):
        async with scripted(hold) as silent, client_of(silent) as client:
            first = asyncio.ensure_future(client.wait_ready(20))
            second = asyncio.ensure_future(client.wait_ready(20))
            await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await client.close()
            with pytest.raises(emcache.ClientClosedError):
                await second
            with pytest.raises(emcache.ClientClosedError):
                await client.wait_ready(1)

    @pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), None, True, "1"])
    async def test_bad_timeout(self, client, timeout):
        with pytest.raises((ValueError, TypeError)):
            await client.wait_ready(timeout)

    @pytest.mark.parametrize("min_nodes", [0, -1, 2, 1.0, True])
    async def test_bad_min_nodes(self, client, min_nodes):
        with pytest.raises((ValueError, TypeError)):
            await client.wait_ready(1, min_nodes=min_nodes)


class TestAllNodes:
    async def test_stats(self, cluster):
        addresses = [node.address for node in cluster]
        async with emcache.create_client(addresses) as client:
            stats = await client.stats()
            assert list(stats) == addresses
            assert stats.errors == {}
            for node in cluster:
                assert stats[node.address]["pid"] == str(node.process.pid)
                assert stats[node.address].keys() == (await client.stats(node.address)).keys()
            settings = await client.stats(emcache.ALL_NODES, "settings")
            assert all("maxbytes" in of_node for of_node in settings.values())
            unknown = await client.stats(emcache.ALL_NODES, "nonsense")
            assert unknown == {}
            assert {type(e) for e in unknown.errors.values()} == {emcache.CommandError}
            with pytest.raises(ValueError, match="stats arguments"):
                await client.stats(emcache.ALL_NODES, "a\r\nflush_all")

    @within(20)
    async def test_stats_without_a_node(self, half):
        client, alive, dead = half
        stats = await client.stats()
        assert list(stats) == [alive]
        assert list(stats.errors) == [dead]
        with pytest.raises(ExceptionGroup):
            stats.raise_errors()

    async def test_flush_all(self, key):
        with memcached() as a, memcached() as b:
            async with emcache.create_client([a.address, b.address]) as client:
                for options in ({}, {"noreply": True}):
                    items = {b"%s:%d" % (key, n): b"" for n in range(20)}
                    await client.set_many(items)
                    assert await client.flush_all(**options) is None
                    assert await client.get_many(items) == {}
                await client.set_many(items)
                with pytest.raises(ValueError, match="None can not be found"):
                    await client.flush_all(None)
                await client.flush_all(a.address)
                left = await client.get_many(items)
                assert {client.node_for(k) for k in left} == {b.address}
                await client.flush_all(delay=1000)
                assert len(await client.get_many(items)) == len(left)
                with pytest.raises(ValueError):
                    await client.flush_all(delay=-1)

    @within(20)
    async def test_flush_all_without_a_node(self, key):
        dead = dead_address()
        with memcached() as alive:
            async with emcache.create_client([alive.address, dead], timeout=10.0) as client:
                await client.set_many({b"%s:%d" % (key, n): b"" for n in range(20)})
                with pytest.raises(ExceptionGroup) as raised:
                    await client.flush_all()
                (error,) = raised.value.exceptions
                assert isinstance(error, emcache.NodeUnavailableError)
                assert error.node == f"127.0.0.1:{dead.port}"
                assert alive.stats()["cmd_flush"] == "1"


class TestRepr:
    @within(20)
    async def test_up_and_down(self, half):
        client, alive, dead = half
        await until(lambda: client.cluster_managment().unhealthy_nodes() == [dead])
        nodes = f"up=[127.0.0.1:{alive.port}] down=[127.0.0.1:{dead.port}]"
        assert repr(client) == f"<emcache.Client open {nodes}>"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(repr(client)))
        thread.start()
        thread.join()
        assert seen == [repr(client)]
        await client.close()
        assert repr(client) == f"<emcache.Client closed {nodes}>"

    @within(20)
    async def test_another_thread_sees_changes(self, server):
        """It cannot ask the core: it is told what was told last."""
        dead = dead_address()
        async with emcache.create_client([server.address, dead]) as client:
            loop = asyncio.get_running_loop()
            while "down=[]" in await loop.run_in_executor(None, repr, client):
                await asyncio.sleep(0.01)
            assert f"down=[127.0.0.1:{dead.port}]" in repr(client)

    @within(20)
    async def test_ipv6(self):
        """A port follows, so it is in brackets, as in the node of an error."""
        dead = dead_address()
        address = emcache.MemcachedHostAddress("::1", dead.port)
        node = f"[::1]:{dead.port}"
        async with emcache.create_client([address], timeout=5.0) as client:
            assert f"[{node}]" in repr(client)
            pool = emcache.ConnectionPool(address)
            assert f" node={node} " in repr(pool)
            await pool.close()
            with pytest.raises(emcache.NodeUnavailableError) as raised:
                await client.get(b"key")
            assert raised.value.node == node
