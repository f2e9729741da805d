"""Which nodes a cluster has: asked of the cluster itself, of DNS, or of anybody.

A :class:`Discovery` says which nodes there are now; a client that is made with one asks again and
again, and its nodes come and go without a failed call.
"""

import asyncio
import inspect
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from ._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from ._arguments import endpoint
from ._errors import AuthenticationError, CommandError, EmcacheError
from ._topology import DiscoveredNode, Topology, parse
from .connection_pool import Connection, ConnectionPool

logger = logging.getLogger("emcache")


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


def checked(topology: Topology) -> Topology:
    """Refuse what cannot be the nodes of a client.

    Raises:
        ValueError: there are none, or one twice.
        TypeError: something in it is no address.
    """
    if not isinstance(topology, Topology):
        raise TypeError(f"discover() must give a Topology, not {type(topology).__name__}")
    if not topology.nodes:
        raise ValueError("discovery found no nodes")
    addresses = [node.address for node in topology.nodes]
    for address in addresses:
        endpoint(address)
    if len(set(addresses)) < len(addresses):
        raise ValueError("discovery found a node twice")
    return topology


class Watcher:
    """Asks a :class:`Discovery` again and again, and tells of each list that is to be applied."""

    _STALE_BEFORE_TRUSTED = 5
    """Of lists in a row: a cluster that was made anew counts from 1."""
    _EARLIEST = 1.0
    """Seconds between two polls at least, whatever happens to nodes."""

    def __init__(
        self,
        discovery: Discovery,
        current: Topology,
        interval: float,
        apply: Callable[[Topology], Awaitable[None]],
    ) -> None:
        self._discovery = discovery
        self._current = current
        self._interval = interval
        self._apply = apply
        self._stale = 0
        self._failures = 0
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Ask soon: something happened to a node."""
        self._hurry.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._pause()
            try:
                topology = checked(await self._discovery.discover())
                if self._is_news(topology):
                    await self._apply(topology)
                    self._current = topology
            except Exception as error:
                self._failed(error)
                continue
            if self._failures:
                logger.info("autodiscovery works again")
                self._failures = 0

    async def _pause(self) -> None:
        # Failures are tried again sooner, clients do not ask together.
        pause = self._interval * random.uniform(0.9, 1.1)
        if self._failures:
            pause = min(pause, 2.0 ** min(self._failures, 16) * random.uniform(0.5, 1.0))
        earliest = min(self._EARLIEST * random.uniform(1.0, 1.5), pause)
        await asyncio.sleep(earliest)
        try:
            async with asyncio.timeout(pause - earliest):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            logger.warning("autodiscovery failed, the nodes stay as they are: %s", error)

    def _is_news(self, topology: Topology) -> bool:
        new, current = topology.version, self._current.version
        if new is None or current is None:
            return topology.nodes != self._current.nodes
        if new >= current:
            self._stale = 0
            return new > current
        self._stale += 1
        if self._stale < self._STALE_BEFORE_TRUSTED:
            return False
        logger.warning("autodiscovery goes back from version %d to %d", current, new)
        self._stale = 0
        return True


async def first(discovery: Discovery, within: float) -> Topology:
    """Give the list that a client begins with; three tries, half a second apart."""
    async with asyncio.timeout(within):
        for wait in (0.5, 0.5, None):
            try:
                return checked(await discovery.discover())
            except (AuthenticationError, NoDiscoveryError):
                raise
            except Exception:
                if wait is None:
                    raise
                await asyncio.sleep(wait)
    raise AssertionError("not reached")


__all__ = [
    "CallableDiscovery",
    "DiscoveredNode",
    "Discovery",
    "DnsDiscovery",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "Topology",
]
