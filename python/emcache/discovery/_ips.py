"""IP addresses of nodes that have names, for the rule ``spymemcached``, which hashes both."""

import dataclasses
import ipaddress
import socket

from .._address import Address, MemcachedHostAddress
from ._dns import resolve
from ._sources import Discovery
from ._topology import DiscoveredNode, Topology


class DiscoveryWithIps:
    """A discovery whose nodes all have an IP address."""

    def __init__(self, source: Discovery) -> None:
        self._source = source

    async def discover(self) -> Topology:
        """Discover the nodes and resolve their names."""
        return await with_ips(await self._source.discover())


async def with_ips(topology: Topology) -> Topology:
    """Resolve the names of all nodes.

    Raises:
        OSError: a name cannot be resolved.
    """
    nodes = [dataclasses.replace(node, ip=await _ip(node)) for node in topology.nodes]
    return dataclasses.replace(topology, nodes=tuple(nodes))


async def names_with_ips(topology: Topology, known: dict[Address, str]) -> dict[Address, str]:
    """Return the names of nodes as Java writes them: ``host/ip:port``; without ``known`` nodes."""
    names: dict[Address, str] = {}
    for node in topology.nodes:
        address = node.address
        if isinstance(address, MemcachedHostAddress) and address not in known:
            ip = await _ip(node)
            names[address] = _java_name(address.address, ip, address.port)
    return names


def _java_name(host: str, ip: str | None, port: int) -> str:
    """Return ``host/ip:port``, or ``ip:port`` if the host is an IP address."""
    try:
        parsed = ipaddress.ip_address(ip or host)
    except ValueError:
        return f"{host}:{port}"
    shown = ip or host
    if parsed.version == 6:
        # As Java writes it from version 14 on.
        shown = "[" + ":".join(f"{int(part, 16):x}" for part in parsed.exploded.split(":")) + "]"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f"{host}/{shown}:{port}"
    return f"{shown}:{port}"


async def _ip(node: DiscoveredNode) -> str | None:
    address = node.address
    if node.ip is not None or not isinstance(address, MemcachedHostAddress):
        return node.ip
    # Java prefers IPv4.
    for family in (socket.AF_INET, socket.AF_UNSPEC):
        try:
            return (await resolve(address.address, address.port, family=family))[0]
        except OSError as error:
            failure = error
    raise OSError(
        f"routing 'spymemcached' hashes IP addresses, and {address.address} cannot be resolved: "
        f"{failure}"
    ) from failure
