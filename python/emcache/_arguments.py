"""Arguments that clients and pools share, checked before anything is made of them."""

from ._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath

Value = bytes | bytearray | memoryview


def check_limits(min_connections: int, max_connections: int) -> None:
    """Refuse limits that no pool can have."""
    check_between("max_connections", max_connections, 1, 65535)
    check_between("min_connections", min_connections, 0, 65535)
    if min_connections > max_connections:
        raise ValueError("min_connections can not be higher than max_connections")


def check_credentials(username: str | None, password: str | None) -> None:
    """Refuse half of a login; empty counts as none."""
    if bool(username) != bool(password):
        raise ValueError("username and password must be given together")


def check_between(name: str, value: int, minimum: int, maximum: int) -> None:
    """Refuse what is no integer of a range."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be between {minimum} and {maximum}")


def endpoint(address: Address) -> tuple[str, int] | str:
    """Give an address as the core wants it."""
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
                "node addresses must be MemcachedHostAddress or MemcachedUnixSocketPath, "
                f"not {type(address).__name__}"
            )


def _check_host(host: str) -> None:
    if not isinstance(host, str):
        raise TypeError(f"address must be a str, not {type(host).__name__}")
    if not host or any(char.isspace() or ord(char) < 32 for char in host):
        raise ValueError("address must not be empty or contain whitespace")


def address_text(address: Address) -> str:
    """Name a node for people."""
    match address:
        case MemcachedUnixSocketPath(path):
            return path
        case MemcachedHostAddress(host, port):
            return f"{host}:{port}"
