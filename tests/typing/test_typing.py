"""Code as users write it. `mypy --strict` checks it, and pytest runs it.

An ignored error is part of the check: were it none, mypy would report the ignore as unused.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import pytest
import pytest_asyncio

import emcache
import emcache.client_errors
from emcache import (
    Client,
    ClusterEvents,
    ClusterManagment,
    ConnectionPool,
    ConnectionPoolMetrics,
    Item,
    ManyResult,
    MemcachedHostAddress,
    MemcachedUnixSocketPath,
    PartialResult,
)

Address = MemcachedHostAddress | MemcachedUnixSocketPath


@pytest.fixture
def node(server: Any) -> MemcachedHostAddress:
    return MemcachedHostAddress("127.0.0.1", server.port)


@pytest_asyncio.fixture
async def client(node: MemcachedHostAddress) -> AsyncIterator[Client]:
    async with emcache.create_client([node]) as running:
        assert_type(running, Client)
        yield running


async def test_three_ways_to_create(node: MemcachedHostAddress) -> None:
    first = await emcache.create_client([node], timeout=None, max_connections=1)
    assert_type(first, Client)
    assert_type(await first.close(), None)
    assert_type(first.closed, bool)
    async with emcache.create_client([node]) as second:
        assert_type(second, Client)
    async with await emcache.create_client((node,)) as third:
        assert_type(third, Client)


async def test_whole_connections(node: MemcachedHostAddress) -> None:
    pool = ConnectionPool(node, 2, 1, 60.0, 5.0, lambda healthy: bool(healthy))
    async with pool.create_connection_context() as connection:
        reply = await connection.storage_command(b"set", b"typing", b"1", 0, 0, False, None)
        assert_type(reply, bytearray | None)
        _keys, values, _flags, cas, error = await connection.fetch_command(b"gets", [b"typing"])
        assert_type(values, list[bytes])
        assert_type(cas, list[int | None])
        assert_type(error, bytearray)
        assert_type(connection.closed(), bool)
    assert_type(pool.metrics(), ConnectionPoolMetrics)
    assert_type(pool.total_connections, int)
    assert_type(await pool.close(), None)


async def test_in_tasks(node: MemcachedHostAddress) -> None:
    task = asyncio.create_task(emcache.create_client([node]))
    assert_type(task, asyncio.Task[Client])
    await (await task).close()
    one, two = await asyncio.gather(emcache.create_client([node]), emcache.create_client([node]))
    assert_type(one, Client)
    for client in (one, two):
        await client.close()
    async with asyncio.TaskGroup() as group:
        grouped = group.create_task(emcache.create_client([node]))
    await grouped.result().close()
    waited = await asyncio.wait_for(emcache.create_client([node]), 5)
    assert_type(waited, Client)
    await waited.close()


async def test_lists_of_either_address(node: MemcachedHostAddress) -> None:
    hosts: list[MemcachedHostAddress] = [node]
    mixed: list[Address] = [node, MemcachedUnixSocketPath("/tmp/no-server")]
    for addresses in (hosts, mixed):
        async with emcache.create_client(addresses, min_connections=0) as client:
            assert_type(client.cluster_managment().nodes(), list[Address])


async def test_nodes_as_text(node: MemcachedHostAddress) -> None:
    text = str(node)
    assert_type(emcache.parse_nodes([text, node]), list[Address])
    async with emcache.create_client(text) as client:
        assert_type(await client.version(text), str | None)
        with pytest.raises(AttributeError):
            client.incr  # type: ignore[attr-defined]  # noqa: B018
    async with emcache.from_url(f"memcached://{text}", timeout=1) as other:
        assert_type(other, Client)
    with pytest.raises(TypeError):
        emcache.create_client(text, pool_size=1)  # type: ignore[call-arg]


async def test_retrieval(client: Client, key: bytes) -> None:
    await client.set(key, b"value", flags=1)
    assert_type(await client.get(key), Item | None)
    assert_type(await client.gets(key, return_flags=True), Item | None)
    assert_type(await client.gat(0, key), Item | None)
    assert_type(await client.gats(0, key, True), Item | None)
    assert_type(await client.get_many([key]), dict[bytes, Item])
    assert_type(await client.gets_many((key,)), dict[bytes, Item])
    assert_type(await client.gat_many(0, {key}), dict[bytes, Item])
    assert_type(await client.gats_many(0, (k for k in [key])), dict[bytes, Item])


async def test_item(client: Client, key: bytes) -> None:
    await client.set(key, b"value", flags=1)
    item = await client.gets(key, return_flags=True)
    assert item is not None
    assert_type(item.value, bytes)
    assert_type(item.flags, int | None)
    assert_type(item.cas, int | None)
    assert item.cas is not None
    await client.cas(key, item.value.upper(), item.cas)
    item.value = b"mutable"
    match item:
        case Item(value, flags, cas):
            assert_type(value, bytes)
            assert (value, flags, cas) == (b"mutable", 1, item.cas)
        case _:
            pytest.fail("did not match")
    assert Item(b"v", None, None) == Item(value=b"v", flags=None, cas=None)
    with pytest.raises(TypeError):
        Item(b"v")  # type: ignore[call-arg]
    assert_type(dataclasses.replace(item, value=b"new"), Item)
    assert dataclasses.asdict(item)["flags"] == 1
    with pytest.raises(TypeError):
        hash(item)


async def test_values(client: Client, key: bytes) -> None:
    for value in (b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview")):
        assert_type(await client.set(key, value), None)
        await client.append(key, value)
        await client.prepend(key, value, noreply=True)
    with pytest.raises(TypeError):
        await client.set(key, "str")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await client.set("str", b"value")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await client.set(key, b"value", 1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await client.set(key, b"value", flags="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await client.get_many(["str"])  # type: ignore[list-item]


async def test_commands(client: Client, key: bytes) -> None:
    assert_type(await client.add(key, b"1", flags=1, exptime=0, noreply=False), None)
    assert_type(await client.replace(key, b"1", exptime=100), None)
    assert_type(await client.increment(key, 5), int | None)
    assert_type(await client.decrement(key, 1, noreply=True), int | None)
    assert_type(await client.touch(key, 100), None)
    assert_type(await client.delete(key), None)


async def test_node_commands(client: Client, node: MemcachedHostAddress) -> None:
    assert_type(await client.version(node), str | None)
    assert_type(await client.stats(node), dict[str, str])
    assert_type(await client.stats(node, "settings"), dict[str, str])
    assert_type(await client.verbosity(node, 0, noreply=True), None)
    with pytest.raises(ValueError):
        await client.flush_all("127.0.0.1:1")
    with pytest.raises(ValueError):
        await client.cache_memlimit(MemcachedUnixSocketPath("/tmp/other"), 64)


async def test_managment(client: Client, node: MemcachedHostAddress) -> None:
    managment = client.cluster_managment()
    assert_type(managment, ClusterManagment)
    assert_type(managment.healthy_nodes(), list[Address])
    assert_type(managment.unhealthy_nodes(), list[Address])
    metrics = managment.connection_pool_metrics()
    assert_type(metrics, dict[Address, ConnectionPoolMetrics])
    assert_type(metrics[node].cur_connections, int)
    assert_type(metrics[node].create_connection_p99, float | None)
    assert dataclasses.asdict(metrics[node]).keys() >= {"operations_executed"}
    for address in managment.nodes():
        match address:
            case MemcachedHostAddress(host, port):
                assert_type(host, str)
                assert (host, port) == ("127.0.0.1", node.port)
            case MemcachedUnixSocketPath(path):
                pytest.fail(path)


class Recorder(ClusterEvents):
    """Annotated as 1.3's own type hints let users do it."""

    def __init__(self) -> None:
        self.seen: list[Address] = []

    async def on_node_healthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        self.seen.append(host)

    async def on_node_unhealthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        self.seen.append(host)


async def test_events(node: MemcachedHostAddress) -> None:
    recorder = Recorder()
    async with emcache.create_client([node], cluster_events=recorder) as client:
        assert await client.version(node)
    assert recorder.seen == []
    with pytest.raises(TypeError):
        ClusterEvents()  # type: ignore[abstract]


class Told(Recorder):
    async def on_topology_change(
        self,
        cluster_managment: ClusterManagment,
        old: list[Address],
        new: list[Address],
        version: int | None,
    ) -> None:
        self.seen += new


class Fixed:
    """A discovery without a base class."""

    def __init__(self, node: MemcachedHostAddress) -> None:
        self.node = node

    async def discover(self) -> emcache.Topology:
        return emcache.Topology((emcache.DiscoveredNode(self.node, ip="127.0.0.1"),), version=1)


async def test_discoveries(node: MemcachedHostAddress) -> None:
    async def later() -> list[MemcachedHostAddress]:
        return [node]

    discoveries: list[bool | emcache.Discovery] = [
        Fixed(node),
        emcache.CallableDiscovery(lambda: [node]),
        emcache.CallableDiscovery(later),
        emcache.DnsDiscovery("127.0.0.1", node.port),
    ]
    for discovery in discoveries:
        options = emcache.create_client([], autodiscovery=discovery, cluster_events=Told())
        async with options as client:
            assert_type(client, Client)
            assert client.cluster_managment().nodes() == [node]


async def test_errors(client: Client, key: bytes) -> None:
    try:
        await client.increment(key, 1)
    except emcache.NotFoundCommandError as error:
        assert_type(error.node, str | None)
    else:
        pytest.fail("there is no such key")
    handlers: tuple[type[Exception], ...] = (
        emcache.client_errors.CommandError,
        emcache.EmcacheError,
        asyncio.TimeoutError,
    )
    with pytest.raises(handlers):
        await client.replace(key, b"value")


class Cache:
    """A typical wrapper."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}:{name}".encode()

    async def load(self, name: str) -> str | None:
        item = await self._client.get(self._key(name))
        return item.value.decode() if item else None

    async def load_all(self, *names: str) -> dict[str, str]:
        keys = {self._key(name): name for name in names}
        found = await self._client.get_many(keys)
        return {keys[key]: item.value.decode() for key, item in found.items()}

    async def store(self, name: str, text: str, seconds: int = 0) -> None:
        await self._client.set(self._key(name), text.encode(), exptime=seconds)


async def test_wrapper(client: Client, key: bytes) -> None:
    cache = Cache(client, key.decode())
    await cache.store("a", "ä", seconds=100)
    assert await cache.load("a") == "ä"
    assert await cache.load("b") is None
    assert await cache.load_all("a", "b") == {"a": "ä"}


@pytest.mark.driver_independent
def test_defaults() -> None:
    seconds: Iterator[float] = iter((emcache.DEFAULT_TIMEOUT, emcache.DEFAULT_CONNECTION_TIMEOUT))
    assert all(second > 0 for second in seconds)
    keys: int = emcache.DEFAULT_AUTOBATCHING_MAX_KEYS
    assert keys > 0
    assert_type(emcache.__version__, str)


async def test_many_keys(client: Client, node: MemcachedHostAddress) -> None:
    result = await client.set_many({b"typing": b"1"}, exptime=timedelta(minutes=1))
    assert_type(result, ManyResult)
    assert_type(result.done, list[bytes])
    assert_type(result.errors, dict[bytes, Exception])
    assert_type(await client.delete_many([b"typing:none"]), ManyResult)
    assert_type(await client.get_many([b"typing"]), dict[bytes, Item])
    assert_type(await client.get_many([b"typing"], on_error="raise"), dict[bytes, Item])
    partial = await client.gat_many(60, [b"typing"], True, on_error="partial")
    assert_type(partial, PartialResult[bytes, Item])
    assert_type(partial.errors, dict[bytes, Exception])
    assert_type(await client.increment(b"typing", 1, initial=0), int | None)


async def test_all_nodes(client: Client, node: MemcachedHostAddress) -> None:
    assert_type(await client.ping(), dict[Address, float | Exception])
    assert_type(await client.wait_ready(5, min_nodes=1), None)
    assert_type(await client.stats(node), dict[str, str])
    assert_type(await client.stats(), PartialResult[Address, dict[str, str]])
    assert_type(
        await client.stats(emcache.ALL_NODES, "settings"), PartialResult[Address, dict[str, str]]
    )
    await client.set(b"typing", b"", exptime=datetime.now(UTC) + timedelta(days=90))
    with pytest.raises(TypeError):
        await client.touch(b"typing", "60")  # type: ignore[arg-type]
