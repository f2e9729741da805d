"""Calls that cover several nodes, while one of these leaves the cluster."""

import asyncio
import contextlib
import ctypes

import pytest

import emcache
from emcache.discovery import Topology
from support.calls import frozen, within
from support.discovery import discovering, endpoint, listed, nodes_of, until
from support.memcached import memcached


@pytest.fixture
def two():
    with memcached() as first, memcached() as second:
        yield first, second


@contextlib.asynccontextmanager
async def half_frozen(first, second, **options):
    """A client of both, of which the second does not answer; `leave` takes that out."""
    async with (
        endpoint(listed(first), listed(second)) as source,
        discovering(source, **({"timeout": 1.0} | options)) as client,
    ):
        await client.wait_ready(20)

        async def leave():
            source.change(listed(first))
            await until(lambda: nodes_of(client) == [first.address])

        with frozen(second):
            yield client, leave


CALLS = {
    "ping": lambda client: client.ping(),
    "stats": lambda client: client.stats(),
    "stats with words": lambda client: client.stats(emcache.ALL_NODES, "settings"),
    "flush_all": lambda client: client.flush_all(),
}


@within(40)
@pytest.mark.parametrize("timeout", [0.5, 30.0])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_is_left_out(two, call, timeout):
    """Whether its answer is given up because of the timeout, or because it left."""
    async with half_frozen(*two, timeout=timeout) as (client, leave):
        calling = asyncio.create_task(call(client))
        await asyncio.sleep(0.1)
        await leave()
        if timeout == 30.0:
            two[1].resume()
        result = await calling
        if isinstance(result, dict) and timeout == 0.5:
            assert list(result) == [two[0].address]
            assert not getattr(result, "errors", {})
        assert await client.get(b"k") is None


@within(40)
@pytest.mark.parametrize("min_nodes", [None, 2])
async def test_wait_ready_does_not_wait_for_it(two, min_nodes):
    first, second = two
    second.kill()
    async with endpoint(listed(first), listed(second)) as source, discovering(source) as client:
        waiting = asyncio.create_task(client.wait_ready(30, min_nodes=min_nodes))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        source.change(listed(first))
        await waiting
        assert nodes_of(client) == [first.address]


@within(40)
async def test_wait_ready_of_a_client_that_is_closed(two):
    first, second = two
    second.kill()
    async with emcache.create_client([first.address, second.address]) as client:
        waiting = asyncio.create_task(client.wait_ready(30))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(emcache.ClientClosedError):
            await waiting


@within(40)
async def test_what_it_is_asked_after_that_names_it(two):
    """An open client does not say that it is closed."""
    first, second = two
    async with emcache.create_client([first.address, second.address]) as client:
        await client.wait_ready(20)
        index = client._node_index(second.address)
        await client._apply(Topology.of([first.address]), 1.0)
        await until(lambda: not client._core.is_connected(index))
        for _ in range(2):
            with pytest.raises(
                emcache.NodeUnavailableError, match="has left the cluster"
            ) as raised:
                await client._core.version(index)
            assert raised.value.node == f"127.0.0.1:{second.port}"
            assert client._core.metrics(index)["cur_connections"] == 0
        # It may come back, as another one.
        await client._apply(Topology.of([first.address, second.address]), 1.0)
        assert await client.version(second.address)


def heap_in_use() -> int:
    class Mallinfo2(ctypes.Structure):
        # The eighth is what is in use.
        _fields_ = [(f"field_{number}", ctypes.c_size_t) for number in range(10)]

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("needs glibc 2.33")
    mallinfo2.restype = Mallinfo2
    return mallinfo2().field_7


@within(50)
async def test_it_leaves_little_behind(server):
    """A client that lives for long sees many nodes."""
    stays = server.address

    async def come_and_go(numbers):
        async with asyncio.timeout(40):
            for number in numbers:
                comes = emcache.MemcachedHostAddress("127.0.0.1", 20_000 + number)
                await client._apply(Topology.of([stays, comes]), 0.0)
            await client._apply(Topology.of([stays]), 0.0)
            # The last of them is dismantled when nothing is under way.
            await asyncio.sleep(0.5)

    async with emcache.create_client([stays], min_connections=0, timeout=0.2) as client:
        await come_and_go(range(500))
        before = heap_in_use()
        await come_and_go(range(500, 2_000))
        assert (heap_in_use() - before) / 1_500 < 700
        assert (await client.ping()).keys() == {stays}
