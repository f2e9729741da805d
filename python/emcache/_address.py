"""Addresses of nodes."""

import enum

from ._values import Frozen, dataclass


@dataclass(frozen=True)
class MemcachedHostAddress(Frozen):
    """A node on TCP.

    Args:
        address: a host name, an IPv4 or an IPv6 address. Its spelling, together with the port,
            decides which keys the node gets, so every client must use the same spelling.
        port: 1 to 65535.
    """

    address: str
    port: int

    def __init__(self, address: str, port: int) -> None:
        self.__dict__["address"] = address
        self.__dict__["port"] = port

    def __str__(self) -> str:
        """Return ``host:port`` or ``[ipv6]:port``, which :func:`emcache.parse_nodes` reads."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class MemcachedUnixSocketPath(Frozen):
    """A node on a unix socket; the spelling of the path decides which keys the node gets."""

    path: str

    def __init__(self, path: str) -> None:
        self.__dict__["path"] = path

    def __str__(self) -> str:
        """Return the path, or ``unix:path``, which :func:`emcache.parse_nodes` reads."""
        return self.path if self.path.startswith("/") else f"unix:{self.path}"


Address = MemcachedHostAddress | MemcachedUnixSocketPath
Node = Address | str
"""An address, or its text."""


class AllNodes(enum.Enum):
    """A value in place of an address, for calls that accept all nodes."""

    ALL_NODES = "all nodes"

    def __repr__(self) -> str:
        return self.name


ALL_NODES = AllNodes.ALL_NODES
"""All nodes of the client. ``None`` does not mean this, so that no mistake flushes all nodes."""
