"""The reads of the demo with another client; runs in a separate virtual environment."""

import asyncio
import json
import sys
import time
from pathlib import Path


async def connect(peer, nodes):
    """Return `get(key, node)`, a function that closes the client, and the reachable nodes."""
    if peer == "aiomcache":
        import aiomcache

        # One client for each node: aiomcache supports neither clusters nor unix sockets.
        clients = {
            number: aiomcache.Client(*node, pool_size=32)
            for number, node in enumerate(nodes)
            if len(node) == 2
        }

        async def get(key, node):
            return await clients[node].get(key)

        async def close():
            await asyncio.gather(*[client.close() for client in clients.values()])

        return get, close, set(clients)
    import emcache

    addresses = [
        (emcache.MemcachedHostAddress if len(node) == 2 else emcache.MemcachedUnixSocketPath)(*node)
        for node in nodes
    ]
    options = {"autobatching": True} if "autobatching" in peer else {"max_connections": 32}
    client = await emcache.create_client(addresses, timeout=30.0, **options)

    async def get_item(key, node):
        item = await client.get(key)
        return None if item is None else item.value

    return get_item, client.close, set(range(len(nodes)))


async def main(peer, plan):
    get, close, reachable = await connect(peer, plan["nodes"])
    keys = [(key.encode(), node) for key, node in plan["keys"].items() if node in reachable]
    queue = iter(keys)
    latencies, volume, missed = [], 0, 0

    async def worker():
        nonlocal volume, missed
        for key, node in queue:
            asked = time.perf_counter()
            value = await get(key, node)
            latencies.append(time.perf_counter() - asked)
            missed += value is None
            volume += len(value or b"")

    started = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(plan["tasks"])])
    seconds = time.perf_counter() - started
    await close()
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    print(
        f"  {peer:26} {len(keys) / seconds:8.0f} gets/s  {volume / seconds / 2**20:6.0f} MiB/s"
        f"   p50 {p50:.2f} ms  p99 {p99:.2f} ms"
        + (f"   {missed} missed" if missed else "")
        + ("" if len(reachable) == len(plan["nodes"]) else "   (TCP nodes only)")
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
