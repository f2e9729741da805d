"""Arguments that clients and pools share, checked before anything is made of them."""

import os
import socket
import ssl as ssl_module
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from ._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath

if TYPE_CHECKING:
    from datetime import datetime, timedelta
else:
    # The same classes, for annotations: before Python 3.12 their module takes 2 ms to import.
    try:
        from _datetime import datetime, timedelta
    except ImportError:
        from datetime import datetime, timedelta

Value = bytes | bytearray | memoryview
Exptime: TypeAlias = int | timedelta | datetime
OnError = Literal["raise", "partial"]
Changed = tuple[list[bytes], list[bytes], dict[bytes, Exception]]
"""The keys that were changed, those that the server said no to, and errors by key."""
Pem = str | os.PathLike[str] | bytes
"""PEM data, or the path of a file with it."""


class TlsArguments(TypedDict):
    """What the core takes for TLS."""

    verify: bool
    extra_ca: bytes | None
    client: tuple[bytes, bytes] | None
    server_name: str | None
    only_1_3: bool


LoginArguments = tuple[str, str, str]
"""Mechanism, username, password."""


def check_limits(min_connections: int, max_connections: int) -> None:
    """Refuse limits that no pool can have."""
    check_between("max_connections", max_connections, 1, 65535)
    check_between("min_connections", min_connections, 0, 65535)
    if min_connections > max_connections:
        raise ValueError("min_connections can not be higher than max_connections")


def login_arguments(
    username: str | None, password: str | None, auth: str | None
) -> LoginArguments | None:
    """Give a login as the core wants it; empty counts as none."""
    for name, value in (("username", username), ("password", password)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if value is not None and any("\ud800" <= char <= "\udfff" for char in value):
            # Said here: an encoding error would show it.
            raise ValueError(f"{name} cannot be encoded as UTF-8")
    if auth not in (None, "ascii", "sasl"):
        raise ValueError("auth must be 'ascii', 'sasl' or None")
    if bool(username) != bool(password):
        raise ValueError("username and password must be given together")
    if not username or not password:
        if auth is not None:
            raise ValueError("auth needs username and password")
        return None
    return auth or "ascii", username, password


def tls_arguments(
    ssl: bool,
    ssl_verify: bool,
    ssl_extra_ca: Pem | None,
    ssl_certfile: Pem | None,
    ssl_keyfile: Pem | None,
    ssl_server_hostname: str | None,
    ssl_min_version: str | None,
    addresses: Iterable[Address],
) -> TlsArguments | None:
    """Give what is asked of TLS as the core wants it, files read."""
    if isinstance(ssl, ssl_module.SSLContext):
        raise TypeError(
            "ssl must be a bool: TLS is done by the core, which cannot use an SSLContext. Pass "
            "ssl=True with ssl_extra_ca, ssl_certfile, ssl_keyfile, ssl_server_hostname or "
            "ssl_min_version"
        )
    check_bools(ssl=ssl, ssl_verify=ssl_verify)
    beyond_1_3 = {
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile": ssl_keyfile,
        "ssl_server_hostname": ssl_server_hostname,
        "ssl_min_version": ssl_min_version,
    }
    if not ssl:
        for name, value in beyond_1_3.items():
            if value is not None:
                raise ValueError(f"{name} needs ssl=True")
        if ssl_extra_ca is not None:
            # 1.3 says nothing, so it is no error.
            text = "ssl_extra_ca without ssl=True: nothing is encrypted, a password included"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return None
    if ssl_min_version not in (None, "TLSv1.2", "TLSv1.3"):
        raise ValueError("ssl_min_version must be 'TLSv1.2' or 'TLSv1.3'")
    if ssl_server_hostname is not None and not isinstance(ssl_server_hostname, str):
        kind = type(ssl_server_hostname).__name__
        raise TypeError(f"ssl_server_hostname must be a str, not {kind}")
    if ssl_keyfile is not None and ssl_certfile is None:
        raise ValueError("ssl_keyfile needs ssl_certfile")
    if ssl_verify and not ssl_server_hostname:
        refuse_sockets(addresses)
    extra_ca = None if ssl_extra_ca is None else _pem("ssl_extra_ca", ssl_extra_ca)
    client = None
    if ssl_certfile is not None:
        certificate = _pem("ssl_certfile", ssl_certfile)
        client = certificate, certificate
        if ssl_keyfile is not None:
            client = certificate, _pem("ssl_keyfile", ssl_keyfile)
    return {
        "verify": bool(ssl_verify),
        "extra_ca": extra_ca,
        "client": client,
        "server_name": ssl_server_hostname,
        "only_1_3": ssl_min_version == "TLSv1.3",
    }


def refuse_sockets(addresses: Iterable[Address]) -> None:
    """Refuse nodes without a name that a certificate could be for."""
    if any(isinstance(address, MemcachedUnixSocketPath) for address in addresses):
        raise ValueError("TLS over a unix socket needs ssl_server_hostname, or ssl_verify=False")


def _pem(name: str, source: Pem) -> bytes:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"{name} must be a path or bytes, not {type(source).__name__}")
    if "-----BEGIN" in str(source) or "\n" in str(source):
        # Said here: as a path that is not there it would be shown.
        raise TypeError(f"{name}: PEM data must be bytes, a str is the path of a file with it")
    # pathlib takes 4 ms to import, which everybody would pay for.
    with open(source, "rb") as file:  # noqa: PTH123
        return file.read()


def check_between(name: str, value: int, minimum: int, maximum: int) -> None:
    """Refuse what is no integer of a range."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be between {minimum} and {maximum}")


def check_seconds(name: str, value: float) -> None:
    """Refuse what is no time to wait."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    check_float(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number of seconds > 0")


def check_patience(**times: float | None) -> None:
    """Refuse what is no number of seconds; the core refuses those out of range."""
    for name, value in times.items():
        # Numbers of other kinds (Decimal, numpy's) will do.
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__float__")):
            kind = type(value).__name__
            raise TypeError(f"{name} must be a number of seconds or None, not {kind}")
        if value is not None:
            check_float(name, value)


def check_float(name: str, value: float) -> None:
    """Refuse an integer that no float can hold: what waits counts in floats."""
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large: no number of seconds has so many digits") from None


def check_bools(**switches: bool) -> None:
    """Refuse what only looks like yes or no: the text "false" is true, and None is neither."""
    for name, value in switches.items():
        if not isinstance(value, int) or value not in (0, 1):
            raise TypeError(f"{name} must be a bool, not {type(value).__name__} {value!r:.20}")


def stats_words(args: tuple[str, ...]) -> str:
    """Give the arguments of ``stats`` as one text, which the core checks."""
    for arg in args:
        if not isinstance(arg, str):
            raise TypeError(f"arguments of stats must be str, not {type(arg).__name__}")
    return " ".join(args)


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
                f"address must be a host name, an IPv4 or an IPv6 address, not {host!r}: the port "
                "is an argument of its own, and IPv6 addresses have no brackets here"
            ) from None


def address_text(address: Address) -> str:
    """Name a node for people, as settings may name it."""
    match address:
        case MemcachedUnixSocketPath(path):
            return path
        case MemcachedHostAddress(host, port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
