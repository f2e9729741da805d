"""Nodes as settings files write them."""

from collections.abc import Iterable

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._arguments import endpoint

DEFAULT_PORT = 11211


def split_nodes(text: str) -> list[str]:
    """Split a list of nodes at commas and semicolons."""
    return [node.strip() for node in text.replace(";", ",").split(",") if node.strip()]


def parse_nodes(nodes: str | Address | Iterable[str | Address]) -> list[Address]:
    """Give the addresses of one node, of several in one text, or of a list.

    Raises:
        ValueError: a text that is no address, or an address that cannot be one.
        TypeError: what is neither a text nor an address.
    """
    each: Iterable[str | Address]
    if isinstance(nodes, Address):
        each = [nodes]
    elif isinstance(nodes, str):
        each = split_nodes(nodes)
    elif isinstance(nodes, Iterable):
        each = nodes
    else:
        raise TypeError(f"nodes must be a text or a list of them, not {type(nodes).__name__}")
    addresses = [node if isinstance(node, Address) else parse_node(node) for node in each]
    for address in addresses:
        endpoint(address)
    return addresses


def parse_node(text: str) -> Address:
    """Give the address that ``host:port``, ``host``, ``[ipv6]:port`` or ``unix:/path`` writes."""
    if not isinstance(text, str):
        raise TypeError(f"a node must be a str or an address of emcache, not {type(text).__name__}")
    if text.startswith("unix:"):
        return MemcachedUnixSocketPath(text.removeprefix("unix:"))
    if text.startswith("/"):
        return MemcachedUnixSocketPath(text)
    host, port = _host_and_port(text)
    if not host or (":" in host and not text.startswith("[")):
        raise ValueError(f"{text!r} is no node: write host:port, [ipv6]:port or unix:/path")
    return MemcachedHostAddress(host, port)


def _host_and_port(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        if not closed or separator not in ("", ":"):
            return "", 0
    else:
        host, separator, port = text.rpartition(":")
        if not separator:
            return text, DEFAULT_PORT
    if not separator:
        return host, DEFAULT_PORT
    return (host, int(port)) if port.isascii() and port.isdigit() else ("", 0)
