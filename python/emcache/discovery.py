"""Which nodes a cluster has: asked of the cluster itself, of DNS, or of anybody.

A :class:`Discovery` says which nodes there are now; a client that is made with one asks again and
again, and its nodes come and go without a failed call.
"""

import asyncio
import inspect
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from ._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from ._errors import AuthenticationError, CommandError, EmcacheError
from ._topology import DiscoveredNode, Topology, checked, parse
from .connection_pool import Connection, ConnectionPool


@runtime_checkable
class Discovery(Protocol):
    """Says which nodes there are."""

    async def discover(self) -> Topology:
        """Give the nodes as they are now.

        Whatever is raised, and a list without nodes, leaves the client with the nodes it has.
        """


class DnsDiscovery:
    """All addresses of a name, such as a headless service of Kubernetes.

    Args:
        host: the name; every address of it is a node.
        port: the port of all.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def discover(self) -> Topology:
        """Resolve the name, with the resolver of the system."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = sorted({str(sockaddr[0]) for *_, sockaddr in found})
        return Topology.of(MemcachedHostAddress(address, self._port) for address in addresses)


Found = Topology | Sequence[Address]


class CallableDiscovery:
    """What a function says, plain or asynchronous: a :class:`Topology`, or addresses."""

    def __init__(self, function: Callable[[], Found | Awaitable[Found]]) -> None:
        self._function = function

    async def discover(self) -> Topology:
        """Call the function."""
        found = self._function()
        if inspect.isawaitable(found):
            found = await found
        return found if isinstance(found, Topology) else Topology.of(found)


class NoDiscoveryError(EmcacheError):
    """The server keeps no list of nodes."""


class ConfigDiscovery:
    """The list that hosted clusters keep: AWS ElastiCache, GCP Memorystore.

    On AWS each node has it, and any is asked when the endpoint does not answer; on GCP only the
    endpoint, which is no node itself.
    """

    def __init__(
        self,
        endpoints: Sequence[Address],
        open_pool: Callable[[Address], ConnectionPool],
        timeout: float,
    ) -> None:
        self._endpoints = endpoints
        self._open_pool = open_pool
        self._timeout = timeout
        self._known: tuple[DiscoveredNode, ...] = ()
        self._asks_by_key = False

    async def discover(self) -> Topology:
        """Ask the endpoint, or else a node."""
        failure: Exception | None = None
        nodes = [node.address for node in self._known]
        for source in (*self._endpoints, *random.sample(nodes, len(nodes))):
            try:
                async with asyncio.timeout(self._timeout):
                    topology = await self._ask(source)
            except (AuthenticationError, NoDiscoveryError):
                raise
            except Exception as error:
                failure = failure or error
            else:
                has_lists = await self._are_nodes(self._endpoints, topology)
                self._known = topology.nodes if has_lists else ()
                return topology
        assert failure is not None
        raise failure

    async def _ask(self, source: Address) -> Topology:
        pool = self._open_pool(source)
        try:
            async with pool.create_connection_context() as connection:
                payload = await self._read(connection)
        finally:
            await pool.close()
        return checked(parse(payload))

    async def _read(self, connection: Connection) -> bytes:
        if not self._asks_by_key:
            payload = bytes(await connection.config_command())
            if not _is_refusal(payload):
                return payload
        # Engines before 1.4.14 keep it under a key.
        _, values, *_, error = await connection.fetch_command(b"get", [_LEGACY_KEY])
        if values:
            self._asks_by_key = True
            return bytes(values[0])
        if error:
            raise CommandError(f"the server answered {bytes(error)!r}")
        raise NoDiscoveryError("the server keeps no list of nodes")

    async def _are_nodes(self, endpoints: Sequence[Address], topology: Topology) -> bool:
        """Whether an endpoint is one of the nodes, and so they have lists too."""
        known = _hosts(node.address for node in topology.nodes)
        known |= {node.ip for node in topology.nodes if node.ip is not None}
        for source in endpoints:
            if not isinstance(source, MemcachedHostAddress):
                continue
            try:
                found = await DnsDiscovery(source.address, source.port).discover()
            except OSError:
                continue
            ips = _hosts(node.address for node in found.nodes)
            if source.address in known or known & ips:
                return True
        return False


_LEGACY_KEY = b"AmazonElastiCache:cluster"


def _hosts(addresses: Iterable[Address]) -> set[str]:
    return {a.address for a in addresses if isinstance(a, MemcachedHostAddress)}


def _is_refusal(payload: bytes) -> bool:
    return payload in (b"END", b"") or payload.startswith((b"ERROR", b"CLIENT_ERROR"))


__all__ = [
    "CallableDiscovery",
    "DiscoveredNode",
    "Discovery",
    "DnsDiscovery",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "Topology",
]
