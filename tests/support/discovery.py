"""A configuration endpoint as hosted clusters have it, with a list that tests change."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import emcache

from .memcached import Memcached
from .scripted import Connection, scripted

Address = emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath
SOON = 0.05
"""An interval."""


class Endpoint:
    def __init__(self) -> None:
        self.version = 1
        self.nodes: list[str] = []
        self.asked = 0
        self.host = "127.0.0.1"
        self.port = 0
        self.reply: Callable[[], bytes] = self.list
        """What `config get cluster` is answered with."""
        self.by_key: Callable[[], bytes] = lambda: b"END\r\n"
        """What `get AmazonElastiCache:cluster` is answered with."""
        self.is_stalled = False

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress(self.host, self.port)

    @property
    def listed(self) -> str:
        """As a node, of itself."""
        return f"{self.host}|{self.host}|{self.port}"

    def payload(self) -> bytes:
        return f"{self.version}\n{' '.join(self.nodes)}\n".encode()

    def under_key(self) -> bytes:
        """The answer of an old engine to `get`."""
        payload = self.payload()
        return b"VALUE AmazonElastiCache:cluster 0 %d\r\n%b\r\nEND\r\n" % (len(payload), payload)

    def list(self) -> bytes:
        payload = self.payload()
        return b"CONFIG cluster 0 %d\r\n%s\r\nEND\r\n" % (len(payload), payload)

    def change(self, *nodes: str) -> None:
        """Publish another list."""
        self.nodes = list(nodes)
        self.version += 1

    async def serve(self, connection: Connection) -> None:
        while line := await connection.line():
            if self.is_stalled:
                await asyncio.sleep(3600)
            if line == b"config get cluster":
                self.asked += 1
                await connection.send(self.reply())
            elif line == b"get AmazonElastiCache:cluster":
                await connection.send(self.by_key())
            else:
                await connection.send(b"ERROR\r\n")


def listed(server: Memcached, host: str = "127.0.0.1", ip: str = "127.0.0.1") -> str:
    return f"{host}|{ip}|{server.port}"


@contextlib.asynccontextmanager
async def endpoint(
    *nodes: str, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    """Serve a list on a port of its own: as on GCP, the endpoint is no node."""
    running = Endpoint()
    running.nodes = list(nodes)
    running.host = host
    async with scripted(running.serve, tls, host) as server:
        running.port = server.port
        yield running


def discovering(source: Endpoint | Memcached, **options: Any) -> Any:
    """A client of what `source` says, which asks often."""
    defaults = {
        "autodiscovery": True,
        "autodiscovery_poll_interval": SOON,
        "autodiscovery_timeout": 2.0,
    }
    return emcache.create_client([source.address], **(defaults | options))


def nodes_of(client: emcache.Client) -> list[Address]:
    return client.cluster_managment().nodes()


async def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def polls(source: Endpoint, count: int) -> None:
    """Wait for so many more questions, and for what follows from them."""
    wanted = source.asked + count
    await until(lambda: source.asked >= wanted, seconds=3.0 * count + 5)
    await asyncio.sleep(0.1)
