"""Lists of nodes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ._address import Address, MemcachedHostAddress
from ._arguments import endpoint


@dataclass(frozen=True)
class DiscoveredNode:
    """A node of a list."""

    address: Address
    """What it is known by: it decides which keys the node gets; TLS verifies its name."""
    ip: str | None = None
    """Where it is now. A node that is replaced keeps its address and changes this."""


@dataclass(frozen=True)
class Topology:
    """The nodes of a cluster, in an order that all clients agree on."""

    nodes: tuple[DiscoveredNode, ...]
    version: int | None = None
    """Rises with each change; None: lists have no number, and any that differs is a change."""

    @classmethod
    def of(cls, addresses: Iterable[Address]) -> "Topology":
        """Make one of addresses alone."""
        return cls(tuple(DiscoveredNode(address) for address in addresses))


def parse(payload: bytes) -> Topology:
    """Read a list of nodes: a line with the version, and one with ``host|ip|port`` for each node.

    Source: the documentation of ElastiCache, "Adding auto discovery to your client library".

    Raises:
        ValueError: it is none; one bad node makes a bad list. (One without nodes is a list.)
    """
    lines = [line.strip() for line in re.split(r"\r?\n", payload.decode()) if line.strip()]
    if len(lines) not in (1, 2) or not re.fullmatch("[0-9]{1,18}", lines[0]):
        raise ValueError("a list of nodes must be a version and a line of nodes")
    nodes = []
    for text in " ".join(lines[1:]).split():
        # IPv6 addresses have colons, and nothing has bars.
        host, _, rest = text.partition("|")
        ip, bar, port = rest.rpartition("|")
        if not bar or not re.fullmatch("[0-9]{1,5}", port):
            raise ValueError("a node must be host|ip|port")
        address = MemcachedHostAddress(host or ip, int(port))
        endpoint(address)
        nodes.append(DiscoveredNode(address, ip or None))
    return Topology(tuple(nodes), int(lines[0]))


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
