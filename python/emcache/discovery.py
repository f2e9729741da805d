"""Which nodes a cluster has: asked of the cluster itself, of DNS, or of anybody.

A :class:`Discovery` says which nodes there are now; a client that is made with one asks again and
again, and its nodes come and go without a failed call.
"""

import asyncio
import contextlib
import inspect
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from ._address import Address, MemcachedHostAddress
from ._arguments import address_text, endpoint
from ._errors import (
    AuthenticationError,
    CommandError,
    ConnectionFailedError,
    EmcacheError,
    ProtocolError,
    attributed,
)
from ._lookups import addresses
from ._topology import DiscoveredNode, Topology, checked, parse
from .connection_pool import Connection, ConnectionPool


@runtime_checkable
class Discovery(Protocol):
    """Says which nodes there are."""

    async def discover(self) -> Topology:
        """Give the nodes as they are now.

        Whatever is raised, a list without nodes, and none within ``autodiscovery_timeout`` leaves
        the client with the nodes it has.
        """


class DnsDiscovery:
    """All addresses of a name, such as a headless service of Kubernetes.

    Args:
        host: the name; every address of it is a node.
        port: the port of all.
        family: ``socket.AF_INET`` or ``socket.AF_INET6``: addresses of one version alone. Where
            each node has one of both, it is two nodes otherwise.

    Raises:
        ValueError, TypeError: what is no name, port or family.
    """

    def __init__(self, host: str, port: int, *, family: int = socket.AF_UNSPEC) -> None:
        endpoint(MemcachedHostAddress(host, port))
        if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"family must be socket.AF_INET or AF_INET6, not {family!r}")
        self._host = host
        self._port = port
        self._family = family

    async def discover(self) -> Topology:
        """Resolve the name, with the resolver of the system."""
        # Of both versions: those that this host has an address of, too.
        flags = 0 if self._family else socket.AI_ADDRCONFIG
        found = await addresses(self._host, self._port, family=self._family, flags=flags)
        return Topology.of(MemcachedHostAddress(ip, self._port) for ip in sorted(found))


Found = Topology | Sequence[Address]


class CallableDiscovery:
    """What a function says, plain or asynchronous: a :class:`Topology`, or addresses."""

    def __init__(self, function: Callable[[], Found | Awaitable[Found]]) -> None:
        if not callable(function):
            raise TypeError(f"function must be a function, not {type(function).__name__}")
        self._function = function

    async def discover(self) -> Topology:
        """Call the function."""
        found = self._function()
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, Topology):
            return found
        if isinstance(found, str | Address) or not isinstance(found, Iterable):
            kind = type(found).__name__
            raise TypeError(f"the function must give a Topology or a list of addresses, not {kind}")
        return Topology.of(found)


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
        self._known: list[Address] = []
        """Who else is asked: nodes, on AWS."""
        self._version = 0
        """Of the last list. A node with an older one lags."""

    async def discover(self) -> Topology:
        """Ask the endpoint, or else a node.

        Raises:
            AuthenticationError: one of them refused the login, and none gave a list.
            NoDiscoveryError: none of them keeps a list.
        """
        failures: list[Exception] = []
        nodes = [address for address in self._known if address not in self._endpoints]
        for source in (*self._endpoints, *random.sample(nodes, len(nodes))):
            try:
                topology = await self._ask(source)
            except Exception as error:
                if isinstance(error, EmcacheError) and error.node is None:
                    attributed(error, address_text(source), _COMMAND)
                failures.append(error)
                continue
            self._version = topology.version or 0
            # What was AWS once stays so: its endpoint may leave the list, or not be resolved.
            if self._known or await self._is_a_node(topology):
                self._known = [node.address for node in topology.nodes]
            return topology
        raise min(failures, key=_rank)

    async def _ask(self, source: Address) -> Topology:
        pool = self._open_pool(source)
        try:
            async with within(self._timeout, address_text(source)):
                payload = await _read(pool)
        finally:
            await pool.close()
        topology = checked(parse(payload))
        if source not in self._endpoints and (topology.version or 0) < self._version:
            raise ValueError(f"{address_text(source)} has an older list")
        return topology

    async def _is_a_node(self, topology: Topology) -> bool:
        """Whether an endpoint is one of the nodes, and so they have lists too."""
        known = _hosts(node.address for node in topology.nodes)
        known |= {node.ip for node in topology.nodes if node.ip is not None}
        for source in self._endpoints:
            if not isinstance(source, MemcachedHostAddress):
                continue
            if source.address in known:
                return True
            # Failing at this must not cost the list.
            with contextlib.suppress(OSError, UnicodeError):
                async with asyncio.timeout(self._timeout):
                    found = await DnsDiscovery(source.address, source.port).discover()
                if known & _hosts(node.address for node in found.nodes):
                    return True
        return False


_LEGACY_KEY = b"AmazonElastiCache:cluster"
_COMMAND = "config get cluster"


async def _read(pool: ConnectionPool) -> bytes:
    """Ask one server for its list. Its next answer may be of another version, so none is kept."""
    async with pool.create_connection_context() as connection:
        said = await _config(connection)
        if said is not None:
            if said not in (b"END", b"") and not said.startswith((b"ERROR", b"CLIENT_ERROR")):
                return said
            # Engines before 1.4.14 keep it under a key.
            if payload := await _by_key(connection):
                return payload
            if said in (b"END", b""):
                raise CommandError("the server has no list of nodes yet")
            raise NoDiscoveryError("the server keeps no list of nodes")
    # A proxy hangs up on commands that it does not know.
    async with pool.create_connection_context() as connection:
        if payload := await _by_key(connection):
            return payload
    raise NoDiscoveryError("the server closes the connection for 'config get cluster'")


async def _config(connection: Connection) -> bytes | None:
    """Give the answer to ``config get cluster``; None: the server closed the connection."""
    try:
        said = bytes(await connection.config_command())
    except ProtocolError:
        raise
    except ConnectionFailedError:
        return None
    if said.startswith(b"SERVER_ERROR"):
        raise CommandError(f"the server answered {said!r}")
    return said


async def _by_key(connection: Connection) -> bytes | None:
    _, values, *_, error = await connection.fetch_command(b"get", [_LEGACY_KEY])
    if error:
        raise CommandError(f"the server answered {bytes(error)!r}")
    return bytes(values[0]) if values else None


def _hosts(addresses: Iterable[Address]) -> set[str]:
    return {a.address for a in addresses if isinstance(a, MemcachedHostAddress)}


def _rank(failure: Exception) -> int:
    """Which of several failures is told: a refused login, or else anything but `no lists here`."""
    if isinstance(failure, AuthenticationError):
        return 0
    return 2 if isinstance(failure, NoDiscoveryError) else 1


@contextlib.asynccontextmanager
async def within(seconds: float, who: str) -> AsyncIterator[None]:
    """As ``asyncio.timeout``, and say who did not answer."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"{who} did not answer within {seconds} s") from error


__all__ = [
    "CallableDiscovery",
    "DiscoveredNode",
    "Discovery",
    "DnsDiscovery",
    "Topology",
]
