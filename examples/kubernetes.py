"""DNS discovery: a name with several addresses, such as a headless service of Kubernetes.

Usage: python examples/kubernetes.py [name:port], such as memcached.default.svc.cluster.local:11211.
Without an argument it starts its own server and uses the name localhost.
"""

import asyncio
import socket
import sys

import emcache
from servers import memcached_cluster


async def main(name: str, port: int) -> None:
    # If pods have IPv4 and IPv6 addresses, select one family; otherwise each pod is two nodes.
    discovery = emcache.DnsDiscovery(name, port, family=socket.AF_INET)
    async with emcache.create_client(
        [],
        autodiscovery=discovery,
        autodiscovery_poll_interval=15,  # new pods are found within 15 s
    ) as client:
        for node in client.cluster_managment().nodes():
            print("node:", node)
        await client.set(b"greeting", b"hello, pods")
        item = await client.get(b"greeting")
        print(item.value.decode() if item else "missed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        host, _, port_text = sys.argv[1].rpartition(":")
        asyncio.run(main(host, int(port_text)))
    else:
        with memcached_cluster(tcp=1) as nodes:
            (node,) = nodes
            assert isinstance(node, emcache.MemcachedHostAddress)
            asyncio.run(main("localhost", node.port))
