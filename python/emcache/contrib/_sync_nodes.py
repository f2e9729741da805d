"""The client of the integrations of synchronous libraries."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from .._address import Address
from .._client_options import CLIENT_OPTIONS
from .._memcached.addresses import parse_nodes
from ..sync import Client, create_client

Servers = str | Iterable[str | Address] | Client


def client_of(owner: object, servers: Servers, options: Mapping[str, Any], *, of: str) -> Client:
    """Return the client, or create one; ``of`` names the options in an error.

    The created client is closed with its ``owner``, or at the end of the process.

    Raises:
        TypeError: an unknown option, or options although ``servers`` is a client.
        ValueError: a text that is not a node, or no node.
    """
    if isinstance(servers, Client):
        if options:
            names = ", ".join(sorted(options))
            raise TypeError(f"{of}: {names} must be passed to create_client, with the client")
        return servers
    if unknown := options.keys() - CLIENT_OPTIONS.keys() - {"allow_in_event_loop"}:
        names = ", ".join(sorted(unknown))
        raise TypeError(f"unknown {of}: {names}; use those of emcache.sync.create_client")
    nodes = parse_nodes(servers)
    if not nodes and not options.get("autodiscovery"):
        raise ValueError(f"{of}: at least one node is needed, such as '127.0.0.1:11211'")
    # The library's own calls are synchronous, and block a loop where one is running.
    client = create_client(nodes, **{"allow_in_event_loop": True, **options})
    weakref.finalize(owner, client.close)
    return client
