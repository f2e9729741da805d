"""Proxies: mcrouter or twemproxy chooses the node; the client connects only to the proxy.

Usage: python examples/proxy.py [host:port of a proxy]; without an argument a few lines of Python
simulate one.
"""

import asyncio
import sys

import emcache
from servers import memcached_cluster

Address = emcache.MemcachedHostAddress


async def main(proxy: Address) -> None:
    # One address, no autodiscovery: the proxy chooses the node of each key.
    async with emcache.create_client([proxy], max_connections=4) as client:
        await client.set(b"greeting", b"hello through a proxy")
        item = await client.get(b"greeting")
        print(item.value.decode() if item else "missed")
        many = {b"key:%d" % n: b"value" for n in range(100)}
        await asyncio.gather(*(client.set(key, value) for key, value in many.items()))
        print(len(await client.get_many(many)), "of 100 items")


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def with_a_proxy_of_our_own(node: Address) -> None:
    served = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        from_node, to_node = await asyncio.open_connection(node.address, node.port)
        await asyncio.gather(pump(reader, to_node), pump(from_node, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await main(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    server.close()
    await asyncio.wait([task for task in served if task])  # ends when its connection closes


if __name__ == "__main__":
    if len(sys.argv) > 1:
        host, _, port = sys.argv[1].rpartition(":")
        asyncio.run(main(Address(host, int(port))))
    else:
        with memcached_cluster(tcp=1) as nodes:
            (started,) = nodes
            assert isinstance(started, Address)
            asyncio.run(with_a_proxy_of_our_own(started))
