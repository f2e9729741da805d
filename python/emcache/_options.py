"""The options of clients and pools, checked and converted to what the core takes."""

import os
import ssl as ssl_module
import warnings
from collections.abc import Iterable
from typing import TypedDict

from ._address import Address, MemcachedUnixSocketPath
from ._checks import check_bools, check_range

Pem = str | os.PathLike[str] | bytes
"""PEM data, or the path of a file with PEM data."""


class TlsArguments(TypedDict):
    """The TLS settings of the core."""

    verify: bool
    extra_ca: bytes | None
    client: tuple[bytes, bytes] | None
    server_name: str | None
    only_1_3: bool


LoginArguments = tuple[str, str, str]
"""Mechanism, username, password."""


def check_limits(min_connections: int, max_connections: int) -> None:
    """Check the connection limits of a pool."""
    check_range("max_connections", max_connections, 1, 65535)
    check_range("min_connections", min_connections, 0, 65535)
    if min_connections > max_connections:
        raise ValueError("min_connections can not be higher than max_connections")


def login_arguments(
    username: str | None, password: str | None, auth: str | None
) -> LoginArguments | None:
    """Check the login options; an empty username and password mean no login."""
    for name, value in (("username", username), ("password", password)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if value is not None and any("\ud800" <= char <= "\udfff" for char in value):
            # Checked here because a UnicodeEncodeError would show the value.
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
    """Check the TLS options and read their files; None without TLS."""
    if isinstance(ssl, ssl_module.SSLContext):
        raise TypeError(
            "ssl must be a bool: the core implements TLS and cannot use an SSLContext; pass "
            "ssl=True with ssl_extra_ca, ssl_certfile, ssl_keyfile, ssl_server_hostname or "
            "ssl_min_version"
        )
    check_bools(ssl=ssl, ssl_verify=ssl_verify)
    if not ssl:
        _check_unused(
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
            ssl_server_hostname=ssl_server_hostname,
            ssl_min_version=ssl_min_version,
        )
        if ssl_extra_ca is not None:
            # emcache 1.3 ignores this silently, so it cannot be an error.
            text = "ssl_extra_ca without ssl=True: nothing is encrypted, not even the password"
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
        refuse_unix_sockets(addresses)
    extra_ca = None if ssl_extra_ca is None else _read_pem("ssl_extra_ca", ssl_extra_ca)
    client = None
    if ssl_certfile is not None:
        certificate = _read_pem("ssl_certfile", ssl_certfile)
        client = certificate, certificate
        if ssl_keyfile is not None:
            client = certificate, _read_pem("ssl_keyfile", ssl_keyfile)
    return {
        "verify": bool(ssl_verify),
        "extra_ca": extra_ca,
        "client": client,
        "server_name": ssl_server_hostname,
        "only_1_3": ssl_min_version == "TLSv1.3",
    }


def _check_unused(**options: object) -> None:
    """Refuse TLS options without TLS."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} needs ssl=True")


def refuse_unix_sockets(addresses: Iterable[Address]) -> None:
    """Refuse nodes that have no host name to verify a certificate against."""
    if any(isinstance(address, MemcachedUnixSocketPath) for address in addresses):
        raise ValueError("TLS over a unix socket needs ssl_server_hostname, or ssl_verify=False")


def _read_pem(name: str, source: Pem) -> bytes:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"{name} must be a path or bytes, not {type(source).__name__}")
    if "-----BEGIN" in str(source) or "\n" in str(source):
        # Checked here because the error of a missing file would show the key.
        raise TypeError(f"{name}: PEM data must be bytes; a str is the path of a file")
    # Not pathlib, whose import takes 4 ms.
    with open(source, "rb") as file:  # noqa: PTH123
        return file.read()


def stats_arguments(args: tuple[str, ...]) -> str:
    """Join the arguments of ``stats``; the core checks their characters."""
    for arg in args:
        if not isinstance(arg, str):
            raise TypeError(f"arguments of stats must be str, not {type(arg).__name__}")
    return " ".join(args)
