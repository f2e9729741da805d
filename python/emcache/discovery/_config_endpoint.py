"""Discovery from the list of nodes that hosted clusters keep."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence

from .._address import Address, MemcachedHostAddress
from .._errors import (
    AuthenticationError,
    CommandError,
    ConnectionFailedError,
    EmcacheError,
    ProtocolError,
    with_origin,
)
from .._memcached.addresses import format_address
from .._memcached.cluster_config import parse_cluster_config
from ..connection_pool import Connection, ConnectionPool
from ._sources import DnsDiscovery
from ._time_limit import time_limit
from ._topology import DiscoveredNode, Topology, check_topology

_COMMAND = "config get cluster"
_LEGACY_KEY = b"AmazonElastiCache:cluster"
"""The key of the list in engines before 1.4.14."""


class NoDiscoveryError(EmcacheError):
    """The server has no list of nodes."""


class ConfigDiscovery:
    """The list of nodes of AWS ElastiCache and GCP Memorystore.

    On AWS every node has the list, so the client asks a node when the endpoint does not answer. On
    GCP only the endpoint has it, and the endpoint is not a node.
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
        self._nodes_with_list: list[Address] = []
        """Empty on GCP."""
        self._version = 0
        """The version of the last list; a node with an older version lags behind."""

    async def discover(self) -> Topology:
        """Ask the endpoint, or else a node.

        Raises:
            AuthenticationError: one of them refused the login, and none returned a list.
            NoDiscoveryError: none of them has a list.
        """
        failures: list[Exception] = []
        nodes = [address for address in self._nodes_with_list if address not in self._endpoints]
        for source in (*self._endpoints, *random.sample(nodes, len(nodes))):
            try:
                topology = await self._query(source)
            except Exception as error:
                if isinstance(error, EmcacheError) and error.node is None:
                    with_origin(error, format_address(source), _COMMAND)
                failures.append(error)
                continue
            self._version = topology.version or 0
            # Decided once: later the endpoint may leave the list, or fail to resolve.
            if self._nodes_with_list or await self._is_endpoint_a_node(topology):
                self._nodes_with_list = [node.address for node in topology.nodes]
            return topology
        raise min(failures, key=_rank)

    async def _query(self, source: Address) -> Topology:
        pool = self._open_pool(source)
        try:
            async with time_limit(self._timeout, format_address(source)):
                payload = await _read(pool)
        finally:
            await pool.close()
        version, nodes = parse_cluster_config(payload)
        topology = check_topology(
            Topology(
                tuple(
                    DiscoveredNode(MemcachedHostAddress(host, port), ip or None)
                    for host, ip, port in nodes
                ),
                version,
            )
        )
        if source not in self._endpoints and version < self._version:
            raise ValueError(f"{format_address(source)} has an older list")
        return topology

    async def _is_endpoint_a_node(self, topology: Topology) -> bool:
        """Return whether an endpoint is one of the nodes, which then have the list as well."""
        known = _hosts(node.address for node in topology.nodes)
        known |= {node.ip for node in topology.nodes if node.ip is not None}
        for source in self._endpoints:
            if not isinstance(source, MemcachedHostAddress):
                continue
            if source.address in known:
                return True
            # A failure of this lookup must not discard the list.
            with contextlib.suppress(OSError, UnicodeError):
                async with asyncio.timeout(self._timeout):
                    found = await DnsDiscovery(source.address, source.port).discover()
                if known & _hosts(node.address for node in found.nodes):
                    return True
        return False


async def _read(pool: ConnectionPool) -> bytes:
    """Ask one server for its list."""
    async with pool.create_connection_context() as connection:
        reply = await _config(connection)
        if reply is not None:
            is_empty = reply in (b"END", b"")
            if not is_empty and not reply.startswith((b"ERROR", b"CLIENT_ERROR")):
                return reply
            if payload := await _legacy_config(connection):
                return payload
            if is_empty:
                raise CommandError("the server has no list of nodes yet")
            raise NoDiscoveryError("the server has no list of nodes")
    # The connection is closed, as proxies do after commands that they do not support.
    async with pool.create_connection_context() as connection:
        if payload := await _legacy_config(connection):
            return payload
    raise NoDiscoveryError("the server closes the connection after 'config get cluster'")


async def _config(connection: Connection) -> bytes | None:
    """Return the reply to ``config get cluster``; None if the server closed the connection."""
    try:
        reply = bytes(await connection.config_command())
    except ProtocolError:
        raise
    except ConnectionFailedError:
        return None
    if reply.startswith(b"SERVER_ERROR"):
        raise CommandError(f"the server answered {reply!r}")
    return reply


async def _legacy_config(connection: Connection) -> bytes | None:
    _, values, *_, error = await connection.fetch_command(b"get", [_LEGACY_KEY])
    if error:
        raise CommandError(f"the server answered {bytes(error)!r}")
    return bytes(values[0]) if values else None


def _hosts(addresses: Iterable[Address]) -> set[str]:
    return {a.address for a in addresses if isinstance(a, MemcachedHostAddress)}


def _rank(failure: Exception) -> int:
    """Order failures by how much they explain: a refused login first, a missing list last."""
    if isinstance(failure, AuthenticationError):
        return 0
    return 2 if isinstance(failure, NoDiscoveryError) else 1
