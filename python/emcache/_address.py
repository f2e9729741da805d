"""Where nodes listen."""

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
