"""Sources of topologies: the protocol, DNS, and a user's function."""

import inspect
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, runtime_checkable

from .._address import MemcachedHostAddress, Node
from .._memcached.addresses import parse_nodes, to_endpoint
from ._dns import resolve
from ._topology import Topology


@runtime_checkable
class Discovery(Protocol):
    """A source of the nodes of a cluster."""

    async def discover(self) -> Topology:
        """Return the current nodes.

        If this raises, returns no nodes, or takes longer than ``autodiscovery_timeout``, the client
        keeps the nodes that it has.
        """


class DnsDiscovery:
    """All addresses of a host name, such as a headless service of Kubernetes.

    Args:
        host: the name; each of its addresses is a node.
        port: the port of all nodes.
        family: ``socket.AF_INET`` or ``socket.AF_INET6``, to use the addresses of one IP version.
            By default a host with an IPv4 and an IPv6 address becomes two nodes.

    Raises:
        ValueError, TypeError: an invalid name, port or family.
    """

    def __init__(self, host: str, port: int, *, family: int = socket.AF_UNSPEC) -> None:
        to_endpoint(MemcachedHostAddress(host, port))
        if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"family must be socket.AF_INET or AF_INET6, not {family!r}")
        self._host = host
        self._port = port
        self._family = family

    async def discover(self) -> Topology:
        """Resolve the name with the system's resolver."""
        # Without a family: only the IP versions that this host has an address of.
        flags = 0 if self._family else socket.AI_ADDRCONFIG
        found = await resolve(self._host, self._port, family=self._family, flags=flags)
        return Topology.of(MemcachedHostAddress(ip, self._port) for ip in sorted(found))


Found = Topology | Node | Iterable[Node]


class CallableDiscovery:
    """A function, synchronous or asynchronous, that returns a :class:`Topology` or nodes.

    The nodes are what :func:`emcache.parse_nodes` accepts: a text, or a list of texts or addresses.
    """

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
        return Topology.of(parse_nodes(found, "the nodes that the function returns"))
