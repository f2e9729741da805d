"""Discovery of the nodes of a cluster: from the cluster itself, from DNS, or from your own code.

A :class:`Discovery` returns the current nodes. A client that is created with one polls it, and adds
and removes nodes without a failed call.
"""

from .._address import MemcachedHostAddress, MemcachedUnixSocketPath
from ._sources import CallableDiscovery, Discovery, DnsDiscovery
from ._topology import DiscoveredNode, Topology

__all__ = [
    "CallableDiscovery",
    "DiscoveredNode",
    "Discovery",
    "DnsDiscovery",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "Topology",
]
