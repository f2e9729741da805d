"""Addresses of nodes."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class MemcachedHostAddress:
    """A node on TCP.

    Args:
        address: a host name, an IPv4 or an IPv6 address. Its spelling, together with the port,
            decides which keys the node gets, so every client must use the same spelling.
        port: 1 to 65535.
    """

    address: str
    port: int


@dataclass(frozen=True)
class MemcachedUnixSocketPath:
    """A node on a unix socket; the spelling of the path decides which keys the node gets."""

    path: str


Address = MemcachedHostAddress | MemcachedUnixSocketPath


class AllNodes(enum.Enum):
    """A value in place of an address, for calls that accept all nodes."""

    ALL_NODES = "all nodes"

    def __repr__(self) -> str:
        return self.name


ALL_NODES = AllNodes.ALL_NODES
"""All nodes of the client. ``None`` does not mean this, so that no mistake flushes all nodes."""
