"""A configuration endpoint as hosted clusters have it, with a list that tests change."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import emcache

from .memcached import Memcached
from .scripted import Connection, scripted


class Endpoint:
    def __init__(self) -> None:
        self.version = 1
        self.nodes: list[str] = []
        self.asked = 0
        self.port = 0
        self.reply: Callable[[], bytes] = self.list
        """What `config get cluster` is answered with."""
        self.by_key: Callable[[], bytes] = lambda: b"END\r\n"
        """What `get AmazonElastiCache:cluster` is answered with."""
        self.is_stalled = False

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)

    def payload(self) -> bytes:
        return f"{self.version}\n{' '.join(self.nodes)}\n".encode()

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
async def endpoint(*nodes: str) -> AsyncIterator[Endpoint]:
    """Serve a list on a port of its own: as on GCP, the endpoint is no node."""
    running = Endpoint()
    running.nodes = list(nodes)
    async with scripted(running.serve) as server:
        running.port = server.port
        yield running
