"""Lists of nodes."""

from collections.abc import Iterable
from dataclasses import dataclass

from .._address import Address, Node
from .._memcached.addresses import parse_nodes, to_endpoint


@dataclass(frozen=True)
class DiscoveredNode:
    """A node of a cluster."""

    address: Address
    """The node's identity: it decides which keys the node gets, and TLS verifies its name."""
    ip: str | None = None
    """The current IP address. A node that is replaced keeps ``address`` and changes ``ip``."""
    weight: int | None = None
    """Its share of the keys, 1 to 65,535, if ``routing`` has weights; ``weights`` takes
    precedence."""
    name: str | None = None
    """The name that ``routing`` hashes for the node; ``names`` takes precedence."""


@dataclass(frozen=True)
class Topology:
    """The nodes of a cluster, in an order that all clients agree on."""

    nodes: tuple[DiscoveredNode, ...]
    version: int | None = None
    """A number that rises with each change; None if the source has none, and then any difference
    is a change."""

    @classmethod
    def of(cls, addresses: Node | Iterable[Node]) -> "Topology":
        """Create a topology from what :func:`emcache.parse_nodes` accepts."""
        return cls(tuple(DiscoveredNode(address) for address in parse_nodes(addresses)))


def check_topology(topology: Topology) -> Topology:
    """Return a topology that can be the nodes of a client.

    Raises:
        ValueError: it has no nodes, or a node twice, or an invalid address.
        TypeError: not a topology, or a node without an address.
    """
    if not isinstance(topology, Topology):
        raise TypeError(f"discover() must return a Topology, not {type(topology).__name__}")
    if not topology.nodes:
        raise ValueError("discovery found no nodes")
    addresses = [node.address for node in topology.nodes]
    for address in addresses:
        to_endpoint(address)
    if len(set(addresses)) < len(addresses):
        raise ValueError("discovery found a node twice")
    return topology
