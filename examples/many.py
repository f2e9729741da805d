"""Several nodes, many keys, and events about the health of nodes."""

import asyncio

import emcache
from servers import memcached_cluster


class Log(emcache.ClusterEvents):
    """Print when a node goes down and when it recovers."""

    async def on_node_healthy(
        self,
        cluster_managment: emcache.ClusterManagment,
        host: emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath,
    ) -> None:
        print("up:", host)

    async def on_node_unhealthy(
        self,
        cluster_managment: emcache.ClusterManagment,
        host: emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath,
    ) -> None:
        print("down:", host)


async def main() -> None:
    with memcached_cluster(tcp=2, unix=1) as nodes:
        async with emcache.create_client(nodes, cluster_events=Log()) as client:
            keys = [f"user:{number}".encode() for number in range(1000)]
            async with asyncio.TaskGroup() as group:
                for key in keys:
                    group.create_task(client.set(key, key.upper()))
            items = await client.get_many(keys)
            right = sum(items[key].value == key.upper() for key in keys)
            print(f"{right} of {len(keys)} items, from {len(nodes)} nodes")
            for number, node in enumerate(nodes):
                count = sum(client.node_for(key) == node for key in keys)
                print(f"node {number} has {count}")


if __name__ == "__main__":
    asyncio.run(main())
