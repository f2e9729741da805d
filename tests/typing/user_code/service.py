"""A service as users write it; mypy and pyright check it in strict mode, the tests run `main`."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_type

import emcache

logger = logging.getLogger(__name__)
Address = emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath


@dataclass(frozen=True)
class Settings:
    nodes: Sequence[Address]
    timeout: float | None = 1.0
    username: str | None = None
    password: str | None = None


class Alerts(emcache.ClusterEvents):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.down: set[Address] = set()

    async def on_node_healthy(
        self, cluster_managment: emcache.ClusterManagment, host: Address
    ) -> None:
        self.down.discard(host)

    async def on_node_unhealthy(
        self, cluster_managment: emcache.ClusterManagment, host: Address
    ) -> None:
        self.down.add(host)
        logger.warning("%s of %d nodes are down", len(self.down), len(cluster_managment.nodes()))


class Registry:
    """A discovery of one's own: it needs no base class."""

    def __init__(self, nodes: Iterable[Address]) -> None:
        self._nodes = tuple(nodes)

    async def discover(self) -> emcache.Topology:
        return emcache.Topology.of(self._nodes)


@contextlib.asynccontextmanager
async def cache(settings: Settings, alerts: Alerts) -> AsyncGenerator["Users", None]:
    """As a lifespan has it."""
    async with emcache.create_client(
        settings.nodes,
        timeout=settings.timeout,
        username=settings.username,
        password=settings.password,
        cluster_events=alerts,
    ) as client:
        assert_type(client, emcache.Client)
        yield Users(client)


class Users:
    def __init__(self, client: emcache.Client) -> None:
        self._client = client

    async def name(self, number: int) -> str | None:
        try:
            item = await self._client.get(b"user:%d" % number)
        except (TimeoutError, ConnectionError, emcache.EmcacheError) as error:
            logger.warning("no cache: %s", error)
            return None
        assert_type(item, emcache.Item | None)
        if item is None:
            return None
        assert_type(item, emcache.Item)
        return item.value.decode()

    async def names(self, numbers: Iterable[int]) -> dict[int, str]:
        keys = {b"user:%d" % number: number for number in numbers}
        found = await self._client.get_many(keys)
        assert_type(found, dict[bytes, emcache.Item])
        return {keys[key]: item.value.decode() for key, item in found.items()}

    async def rename(self, number: int, name: str) -> bool:
        """Compare and swap."""
        key = b"user:%d" % number
        item = await self._client.gets(key)
        if item is None or item.cas is None:
            return False
        try:
            await self._client.cas(key, name.encode(), item.cas, exptime=60)
        except emcache.NotStoredStorageCommandError:
            return False
        return True

    async def store(self, number: int, name: str) -> None:
        await self._client.set(b"user:%d" % number, name.encode(), exptime=60)

    async def seen(self) -> int:
        try:
            count = await self._client.increment(b"seen", 1)
        except emcache.NotFoundCommandError:
            await self._client.add(b"seen", b"1")
            return 1
        assert_type(count, int | None)
        return count or 0


async def whole_connections(node: Address) -> list[bytes]:
    pool = emcache.ConnectionPool(node, max_connections=1)
    try:
        async with pool.create_connection_context() as connection:
            keys, values, _flags, _cas, _error = await connection.fetch_command(b"get", [b"user:1"])
            assert_type(keys, list[bytes])
            return values
    finally:
        await pool.close()


async def main(nodes: Sequence[Address]) -> None:
    alerts = Alerts()
    async with cache(Settings(nodes), alerts) as users:
        await users.store(1, "Ada")
        assert await users.name(1) == "Ada"
        assert await users.name(2) is None
        assert await users.names([1, 2]) == {1: "Ada"}
        assert await users.rename(1, "Grace")
        assert not await users.rename(2, "nobody")
        assert [await users.seen() for _ in range(2)] == [1, 2]
    assert await whole_connections(nodes[0]) == [b"Grace"]

    client = await emcache.create_client([], autodiscovery=Registry(nodes))
    try:
        stats = await client.stats(client.node_for(b"user:1"))
        assert_type(stats, dict[str, str])
        first, second = await asyncio.gather(client.get(b"user:1"), client.touch(b"user:1", 9))
        assert_type(first, emcache.Item | None)
        assert_type(second, None)
    finally:
        await client.close()
    assert not alerts.down
