"""Where nodes listen."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True)
class MemcachedHostAddress:
    """A node on TCP.

    Args:
        address: a host name, an IPv4 or an IPv6 address. As written it decides, together with the
            port, which keys the node gets: every client must write it alike.
        port: 1 to 65535.
    """

    address: str
    port: int


@dataclass(frozen=True)
class MemcachedUnixSocketPath:
    """A node on a unix socket; the path as written decides which keys the node gets."""

    path: str


Address = MemcachedHostAddress | MemcachedUnixSocketPath


class AllNodes(enum.Enum):
    """In place of an address, for calls that may be for all nodes."""

    ALL_NODES = "all nodes"

    def __repr__(self) -> str:
        return self.name


ALL_NODES = AllNodes.ALL_NODES
"""All nodes of the client. ``None`` is not: what flushes a node must not flush all by mistake."""
