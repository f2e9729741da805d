"""Node addresses: checked, formatted, and parsed from text."""

import socket
from collections.abc import Iterable

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath, Node

DEFAULT_PORT = 11211
_PATHS = ("unix:", "/")


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
    return str(address)


def parse_address(text: str) -> Address:
    """Parse ``host:port``, ``host``, ``[ipv6]:port``, ``unix:/path`` or ``/path``.

    Raises:
        ValueError: the text is not an address.
        TypeError: not a str.
    """
    if not isinstance(text, str):
        raise TypeError(
            "a node must be a text such as 'cache-1:11211' or an address of emcache, "
            f"not {type(text).__name__}"
        )
    address = _parse(text)
    try:
        to_endpoint(address)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a node address: {error}") from None
    return address


def _parse(text: str) -> Address:
    if text.startswith(_PATHS):
        path = text.removeprefix("unix:")
        # "unix://" before a path is a common form.
        is_url = path.startswith("///") and path != text
        return MemcachedUnixSocketPath(path[2:] if is_url else path)
    _refuse_urls(text)
    host, port = _split_port(text)
    if not host or "," in host or (":" in host and not text.startswith("[")):
        raise ValueError(
            f"{text!r} is not a node address; write host:port, [ipv6]:port or unix:/path"
        )
    return MemcachedHostAddress(host, port)


def _refuse_urls(text: str) -> None:
    """Refuse a text that may contain a password, without showing it."""
    if "@" in text or "://" in text:
        raise ValueError(
            "a node address has no scheme and no login; pass a URL to emcache.from_url, or a login "
            "as the options username and password"
        )


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


def parse_nodes(nodes: Node | Iterable[Node], argument: str = "nodes") -> list[Address]:
    """Return the addresses of a text with one node or several, of a list of nodes, or of one.

    A text has nodes that are separated by commas or semicolons: ``cache-1:11211``, ``cache-2`` (the
    port is then 11211), ``[::1]:11211``, ``unix:/run/m.sock`` or ``/run/m.sock``. A list has such
    texts with one node each, or addresses.

    Args:
        nodes: the nodes.
        argument: the name of ``nodes`` in errors.

    Raises:
        ValueError: a text or an address that is not valid.
        TypeError: neither a text nor an address.
    """
    if isinstance(nodes, str):
        nodes = split_addresses(nodes)
        # A password may contain commas, so all parts are checked before an error shows one.
        for node in nodes:
            if not node.startswith(_PATHS):
                _refuse_urls(node)
    elif isinstance(nodes, Address):
        nodes = [nodes]
    elif isinstance(nodes, bytes) or not isinstance(nodes, Iterable):
        raise TypeError(
            f"{argument} must be a text such as 'cache-1:11211,cache-2', or a list of nodes, "
            f"not {type(nodes).__name__}"
        )
    return [parse_node(node) for node in nodes]


def duplicates(nodes: Iterable[Address]) -> list[str]:
    """Return the nodes that are listed more than once."""
    seen, found = set(), {}
    for node in nodes:
        if node in seen:
            found[node] = format_address(node)
        seen.add(node)
    return list(found.values())


def refuse_duplicates(nodes: Iterable[Address], where: str) -> None:
    """Refuse a list with a node twice."""
    for node in duplicates(nodes):
        raise ValueError(f"{node} is twice in {where}")


def warn_of_duplicates(nodes: Iterable[Address]) -> None:
    """Log nodes that are listed twice: as in 1.3, each entry gets keys of its own."""
    for node in duplicates(nodes):
        import logging

        logging.getLogger("emcache").warning(
            "node %s is listed twice, so it gets twice the keys and connections", node
        )


def parse_node(node: Node) -> Address:
    """Return the address of one node; a text is parsed.

    Raises:
        ValueError: a text or an address that is not valid.
        TypeError: neither a text nor an address.
    """
    if not isinstance(node, Address):
        return parse_address(node)
    to_endpoint(node)
    return node
