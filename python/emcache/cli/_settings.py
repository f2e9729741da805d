"""What the connection options say, and the client that is made of it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._arguments import address_text, endpoint
from ..base import Client
from ..client import create_client
from ._output import printable

DEFAULT_PORT = 11211
DEFAULT_SERVER = f"127.0.0.1:{DEFAULT_PORT}"
PASSWORD_VARIABLE = "EMCACHE_PASSWORD"


@dataclass
class Settings:
    """The connection options of a command, with their defaults."""

    servers: tuple[str, ...] = ()
    discovery: str | None = None
    tls: bool | None = None
    ca: str | None = None
    cert: str | None = None
    tls_key: str | None = None
    no_verify: bool = False
    server_name: str | None = None
    username: str | None = None
    password_file: str | None = field(default=None, repr=False)
    auth: Literal["ascii", "sasl"] | None = None
    timeout: float = 2.0
    json: bool = False

    @property
    def uses_tls(self) -> bool:
        """Whether TLS is spoken: asked for, or meant by one of its options."""
        if self.tls is not None:
            return self.tls
        return bool(self.ca or self.cert or self.tls_key or self.server_name or self.no_verify)

    def addresses(self) -> list[Address]:
        """Give the nodes as they were named; with ``--discovery`` the endpoint."""
        if self.discovery is not None:
            if self.servers:
                raise click.UsageError("give --servers or --discovery, not both")
            return parse_servers([self.discovery])
        return parse_servers(self.servers or (DEFAULT_SERVER,))

    def password(self) -> str | None:
        """Read the password, from its file or else from the environment."""
        if self.password_file is not None:
            text = Path(self.password_file).read_bytes()
            try:
                return text.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise click.UsageError("--password-file: the file is not UTF-8 text") from None
        return os.environ.get(PASSWORD_VARIABLE) or None

    def login(self) -> dict[str, Any]:
        """Give the arguments of a login, without any for none."""
        if self.username is None:
            if self.auth is not None or self.password_file is not None:
                raise click.UsageError("a login needs --username")
            return {}
        password = self.password()
        if not password:
            raise click.UsageError(
                f"--username needs a password: in {PASSWORD_VARIABLE}, or in --password-file"
            )
        return {"username": self.username, "password": password, "auth": self.auth}

    def security(self) -> dict[str, Any]:
        """Give the arguments of TLS and login, as clients and pools take them."""
        if not self.uses_tls:
            return self.login()
        return {
            "ssl": True,
            "ssl_verify": not self.no_verify,
            "ssl_extra_ca": self.ca,
            "ssl_certfile": self.cert,
            "ssl_keyfile": self.tls_key,
            "ssl_server_hostname": self.server_name,
            **self.login(),
        }

    async def client(self, **options: Any) -> Client:
        """Make a client of the nodes; it is to be closed."""
        addresses = self.addresses()
        if self.discovery is None:
            return await self.client_of(addresses, **options)
        client = await self.client_of(
            addresses, autodiscovery=True, autodiscovery_timeout=self.timeout, **options
        )
        if client.cluster_managment().nodes() == addresses:
            click.echo("the endpoint keeps no list of nodes; it is used as the only one", err=True)
        return client

    async def client_of(self, addresses: list[Address], **options: Any) -> Client:
        """Make a client of some nodes; it is to be closed."""
        options |= {"timeout": self.timeout, "connection_timeout": self.timeout}
        return await create_client(addresses, **options, **self.security())


def node_name(address: Address) -> str:
    """Name a node, as it can be given to ``--servers``."""
    return printable(address_text(address))


def parse_servers(texts: Iterable[str]) -> list[Address]:
    """Read ``host:port``, ``host``, ``[ipv6]:port`` and ``unix:/path``, separated by commas."""
    words = [word.strip() for text in texts for word in text.split(",")]
    addresses = [parse_server(word) for word in words if word]
    if not addresses:
        raise click.UsageError("no servers are named")
    if len(set(addresses)) < len(addresses):
        raise click.UsageError("a server is named twice")
    return addresses


def parse_server(text: str) -> Address:
    """Read one address.

    Raises:
        click.UsageError: it is none.
    """
    address = _parse(text)
    try:
        endpoint(address)
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{text!r} is no server: {error}") from None
    return address


def _parse(text: str) -> Address:
    if text.startswith(("unix:", "/")):
        return MemcachedUnixSocketPath(text.removeprefix("unix:"))
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise click.UsageError(f"{text!r} is no server: write [address]:port")
        return MemcachedHostAddress(host, _port(text, rest[1:]))
    if text.count(":") > 1:
        raise click.UsageError(f"{text!r} is no server: write IPv6 addresses as [::1]:11211")
    host, _, port = text.partition(":")
    return MemcachedHostAddress(host, _port(text, port))


def _port(text: str, port: str) -> int:
    if not port:
        return DEFAULT_PORT
    if not (port.isascii() and port.isdigit()):
        raise click.UsageError(f"{text!r} is no server: the port must be a number")
    return int(port[:9])
