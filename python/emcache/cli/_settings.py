"""The connection options of a command, and the client that they describe."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from .._address import Address, MemcachedUnixSocketPath
from .._client import Client
from .._create import create_client
from .._failover import Gutter, NextNode
from .._memcached.addresses import DEFAULT_PORT, format_address, parse_nodes
from .._routing import parse_weights
from ..default_values import DEFAULT_ROUTING
from ._output import printable

DEFAULT_SERVER = f"127.0.0.1:{DEFAULT_PORT}"
PASSWORD_VARIABLE = "EMCACHE_PASSWORD"


@dataclass
class Settings:
    """The connection options of a command, with their defaults."""

    servers: tuple[str, ...] = ()
    discovery: str | None = None
    routing: str | None = None
    weights: str | None = None
    failover: str | None = None
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
        """Whether to connect with TLS: with ``--tls``, or one of the options that need TLS."""
        if self.tls is not None:
            return self.tls
        return bool(self.ca or self.cert or self.tls_key or self.server_name or self.no_verify)

    def addresses(self) -> list[Address]:
        """Return the nodes of ``--servers``, or the endpoint of ``--discovery``."""
        if self.discovery is not None:
            if self.servers:
                raise click.UsageError("use --servers or --discovery, not both")
            return parse_servers([self.discovery])
        return parse_servers(self.servers or (DEFAULT_SERVER,))

    def password(self) -> str | None:
        """Return the password from its file, or else from the environment."""
        if self.password_file is not None:
            text = Path(self.password_file).read_bytes()
            try:
                return text.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise click.UsageError("--password-file: the file is not UTF-8 text") from None
        return os.environ.get(PASSWORD_VARIABLE) or None

    def login(self) -> dict[str, Any]:
        """Return the login options of ``create_client``; empty without a login."""
        if self.username is None:
            if self.auth is not None or self.password_file is not None:
                raise click.UsageError("a login needs --username")
            return {}
        password = self.password()
        if not password:
            raise click.UsageError(
                f"--username needs a password; set {PASSWORD_VARIABLE}, or use --password-file"
            )
        return {"username": self.username, "password": password, "auth": self.auth}

    def security(self) -> dict[str, Any]:
        """Return the TLS and login options of ``create_client``."""
        if not self.uses_tls:
            return self.login()
        if self.tls_key is not None and self.cert is None:
            raise click.UsageError("--key needs --cert")
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
        """Create a client of all nodes; the caller closes it."""
        addresses = self.addresses()
        options["routing"] = self.routing or DEFAULT_ROUTING
        options["weights"] = None if self.weights is None else parse_weights(self.weights)
        if self.discovery is None:
            return await self.client_of(addresses, **options)
        client = await self.client_of(
            addresses, autodiscovery=True, autodiscovery_timeout=self.timeout, **options
        )
        if client.cluster_managment().nodes() == addresses:
            click.echo("the endpoint has no list of nodes; using it as the only node", err=True)
        return client

    async def item_client(self) -> Client:
        """Create a client for commands about keys, with the failover of ``--failover``."""
        return await self.client(failover=self.parsed_failover())

    def parsed_failover(self) -> NextNode | None:
        """Return the failover of ``--failover``."""
        if self.failover in (None, "next"):
            return None if self.failover is None else NextNode()
        kind, _, nodes = self.failover.partition(":")
        if kind != "gutter":
            raise click.UsageError("--failover must be next, or gutter:ADDRESS[,...]")
        return Gutter(parse_servers([nodes], "--failover"))

    async def client_of(self, addresses: list[Address], **options: Any) -> Client:
        """Create a client of these nodes; the caller closes it."""
        is_verified = self.uses_tls and not self.no_verify and not self.server_name
        if is_verified and any(isinstance(a, MemcachedUnixSocketPath) for a in addresses):
            raise click.UsageError("TLS over a unix socket needs --server-name, or --no-verify")
        options |= {"timeout": self.timeout, "connection_timeout": self.timeout}
        return await create_client(addresses, **options, **self.security())


def node_name(address: Address) -> str:
    """Return the name of a node, as ``--servers`` accepts it."""
    return printable(format_address(address))


def parse_servers(texts: Iterable[str], option: str = "--servers") -> list[Address]:
    """Parse addresses that are separated by commas; see :func:`parse_nodes`.

    Raises:
        click.UsageError: a text is not an address, or there is none, or one twice.
    """
    try:
        addresses = parse_nodes(",".join(texts))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not addresses:
        raise click.UsageError(f"{option} names no server")
    if len(set(addresses)) < len(addresses):
        raise click.UsageError(f"{option} names a server twice")
    return addresses
