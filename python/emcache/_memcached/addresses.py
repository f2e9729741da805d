"""Node addresses: checked, formatted, and parsed from text."""

import socket
from collections.abc import Iterable

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath

DEFAULT_PORT = 11211


def to_endpoint(address: Address) -> tuple[str, int] | str:
    """Check an address and convert it to what the core takes: ``(host, port)`` or a path.

    Raises:
        TypeError: not an address, or a part of a wrong type.
        ValueError: a part that cannot be a host name, an IP address, a port or a path.
    """
    match address:
        case MemcachedUnixSocketPath(path):
            if not isinstance(path, str):
                raise TypeError(f"path must be a str, not {type(path).__name__}")
            if not path or "\0" in path:
                raise ValueError("path must not be empty or contain a null character")
            return path
        case MemcachedHostAddress(host, port):
            _check_host(host)
            if not isinstance(port, int) or isinstance(port, bool):
                raise TypeError(f"port must be an int, not {type(port).__name__}")
            if not 1 <= port <= 65535:
                raise ValueError(f"port must be between 1 and 65535, not {port}")
            return host, port
        case _:
            raise TypeError(
                "node addresses must be MemcachedHostAddress(host, port) or "
                "MemcachedUnixSocketPath(path), "
                f"not {type(address).__name__}"
            )


def _check_host(host: str) -> None:
    if not isinstance(host, str):
        raise TypeError(f"address must be a str, not {type(host).__name__}")
    if not host or any(char.isspace() or ord(char) < 32 for char in host):
        raise ValueError("address must not be empty or contain whitespace")
    if ":" in host or host.startswith("["):
        try:
            socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        except OSError:
            raise ValueError(
                f"address must be a host name, an IPv4 or an IPv6 address, not {host!r}; pass the "
                "port as the second argument, and IPv6 addresses without brackets"
            ) from None


def format_address(address: Address) -> str:
    """Return ``host:port``, ``[ipv6]:port`` or a path, which :func:`parse_address` reads again."""
    match address:
        case MemcachedUnixSocketPath(path):
            return path
        case MemcachedHostAddress(host, port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> Address:
    """Parse ``host:port``, ``host``, ``[ipv6]:port``, ``unix:/path`` or ``/path``.

    Raises:
        ValueError: the text is not an address.
        TypeError: not a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"a node must be a str or an address of emcache, not {type(text).__name__}")
    address = _parse(text)
    try:
        to_endpoint(address)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a node address: {error}") from None
    return address


def _parse(text: str) -> Address:
    if text.startswith(("unix:", "/")):
        return MemcachedUnixSocketPath(text.removeprefix("unix:"))
    host, port = _split_port(text)
    if not host or (":" in host and not text.startswith("[")):
        raise ValueError(
            f"{text!r} is not a node address; write host:port, [ipv6]:port or unix:/path"
        )
    return MemcachedHostAddress(host, port)


def _split_port(text: str) -> tuple[str, int]:
    """Return host and port, or an empty host for a text that has neither form."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        separator, port = rest[:1], rest[1:]
        if not bracket or separator not in ("", ":"):
            return "", 0
    else:
        host, separator, port = text.rpartition(":")
        if not separator:
            return text, DEFAULT_PORT
    if not separator:
        return host, DEFAULT_PORT
    # Python refuses to convert thousands of digits, with a message about that limit.
    return (host, int(port[:9])) if port.isascii() and port.isdigit() else ("", 0)


def split_addresses(text: str) -> list[str]:
    """Split a list of addresses at commas and semicolons."""
    return [node.strip() for node in text.replace(";", ",").split(",") if node.strip()]


def parse_addresses(nodes: str | Address | Iterable[str | Address]) -> list[Address]:
    """Return the addresses of one node, of a text with several, or of a list of either.

    Raises:
        ValueError: a text or an address that is not valid.
        TypeError: neither a text nor an address.
    """
    each: Iterable[str | Address]
    if isinstance(nodes, Address):
        each = [nodes]
    elif isinstance(nodes, str):
        each = split_addresses(nodes)
    elif isinstance(nodes, Iterable):
        each = nodes
    else:
        raise TypeError(f"nodes must be a str or a list of them, not {type(nodes).__name__}")
    addresses = [node if isinstance(node, Address) else parse_address(node) for node in each]
    for address in addresses:
        to_endpoint(address)
    return addresses
