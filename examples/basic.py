"""Store, read, count and expire items.

Usage: python examples/basic.py [host:port,...]; without an argument it starts its own server.
"""

import asyncio
import sys

import emcache
from servers import Address, memcached_cluster


async def main(nodes: list[Address]) -> None:
    async with emcache.create_client(nodes) as client:
        await client.set(b"greeting", b"hello", exptime=60)
        item = await client.get(b"greeting")
        print("greeting:", item.value if item else "missed")

        try:
            await client.add(b"greeting", b"bonjour")
        except emcache.NotStoredStorageCommandError:
            print("add: the key exists")

        await client.set(b"visits", b"41")
        print("visits:", await client.increment(b"visits", 1))

        many = await client.get_many([b"greeting", b"visits", b"nothing"])
        print("many:", {key.decode(): item.value for key, item in many.items()})

        await client.delete(b"greeting")
        print("after delete:", await client.get(b"greeting"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(emcache.parse_nodes(sys.argv[1])))
    else:
        with memcached_cluster(tcp=1) as started:
            asyncio.run(main(started))
