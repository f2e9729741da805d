"""Autodiscovery: follow a cluster as on AWS and GCP, and with your own function.

It needs no other setup: a few lines of Python simulate the endpoint; the nodes are real.
"""

import asyncio
from collections.abc import Callable

import emcache
from servers import memcached_cluster

Address = emcache.MemcachedHostAddress


class Endpoint:
    """A configuration endpoint that answers `config get cluster`."""

    def __init__(self) -> None:
        self.version = 1
        self.nodes: list[Address] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            nodes = " ".join(f"{n.address}|{n.address}|{n.port}" for n in self.nodes)
            text = f"{self.version}\n{nodes}\n"
            writer.write(f"CONFIG cluster 0 {len(text)}\r\n{text}\r\nEND\r\n".encode())
            await writer.drain()
        writer.close()


class Told(emcache.ClusterEvents):
    async def on_node_healthy(
        self, cluster_managment: emcache.ClusterManagment, host: object
    ) -> None:
        print("healthy:", host)

    async def on_node_unhealthy(
        self, cluster_managment: emcache.ClusterManagment, host: object
    ) -> None:
        print("unhealthy:", host)

    async def on_topology_change(
        self,
        cluster_managment: emcache.ClusterManagment,
        old: list[emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath],
        new: list[emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath],
        version: int | None,
    ) -> None:
        print(f"{len(old)} nodes, now {len(new)}; version {version}")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


async def as_on_aws_and_gcp(nodes: list[Address]) -> None:
    endpoint = Endpoint()
    endpoint.nodes = nodes[:2]
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with emcache.create_client(
        [Address("127.0.0.1", port)],
        autodiscovery=True,
        autodiscovery_poll_interval=0.1,  # the default is 60 s
        cluster_events=Told(),
    ) as client:
        keys = [b"key:%d" % number for number in range(1000)]
        homes = {key: client.node_for(key) for key in keys}
        # Add a node.
        endpoint.nodes, endpoint.version = nodes, 2
        await until(lambda: len(client.cluster_managment().nodes()) == 3)
        moved = [key for key in keys if client.node_for(key) != homes[key]]
        print("moved to the new node:", {client.node_for(key) for key in moved} == {nodes[2]})
        await client.set(b"key", b"value")
        print(await client.get(b"key"))
        await asyncio.sleep(0)
    server.close()
    await server.wait_closed()


async def by_a_function(nodes: list[Address]) -> None:
    async def lookup() -> list[Address]:
        return nodes  # from a file, a database, Consul ...

    discovery = emcache.CallableDiscovery(lookup)
    async with emcache.create_client([], autodiscovery=discovery) as client:
        print("by a function:", len(client.cluster_managment().nodes()), "nodes")


async def main() -> None:
    with memcached_cluster(tcp=3) as addresses:
        nodes = [address for address in addresses if isinstance(address, Address)]
        await as_on_aws_and_gcp(nodes)
        await by_a_function(nodes)


if __name__ == "__main__":
    asyncio.run(main())
