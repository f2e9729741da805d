"""Small gets while large values move on the same client: p50 and p99, with and without.

Windows alternate in one process, so both see the same machine. The server: `memcached -m 512`.

Usage: large.py PORT [--small-tasks 32] [--large-tasks 1] [--connections 2] [--rounds 7] [--pause 0]
"""

import argparse
import asyncio
import json
import statistics
import time

import emcache

SMALL, LARGE = b"s" * 100, b"l" * 1_000_000


async def small(client, keys, latencies, stop):
    at = 0
    while not stop.is_set():
        started = time.perf_counter()
        item = await client.get(keys[at % len(keys)])
        latencies.append(time.perf_counter() - started)
        assert item is not None
        assert item.value == SMALL
        at += 1


async def large(client, key, moved, stop, pause):
    while not stop.is_set():
        await client.set(key, LARGE)
        item = await client.get(key)
        assert item is not None
        assert len(item.value) == len(LARGE)
        moved.append(2)
        if pause:
            await asyncio.sleep(pause)


async def window(client, keys, seconds, small_tasks, large_tasks, pause):
    latencies, moved, stop = [], [], asyncio.Event()
    tasks = [
        asyncio.create_task(small(client, keys[n:] + keys[:n], latencies, stop))
        for n in range(small_tasks)
    ]
    tasks += [
        asyncio.create_task(large(client, b"large:%d" % n, moved, stop, pause))
        for n in range(large_tasks)
    ]
    await asyncio.sleep(seconds)
    stop.set()
    await asyncio.gather(*tasks)
    latencies.sort()
    p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    return p50 * 1e6, p99 * 1e6, sum(moved) / seconds


async def main(options):
    address = emcache.MemcachedHostAddress("127.0.0.1", options.port)
    client = await emcache.create_client([address], max_connections=options.connections, timeout=10)
    keys = [b"small:%d" % n for n in range(1000)]
    for key in keys:
        await client.set(key, SMALL)
    rounds = []
    for _ in range(options.rounds + 1):
        both = [
            await window(client, keys, 0.7, options.small_tasks, tasks, options.pause)
            for tasks in (0, options.large_tasks)
        ]
        rounds.append(both)
    metrics = client.cluster_managment().connection_pool_metrics()[address]
    await client.close()
    medians = [
        [statistics.median(both[at][field] for both in rounds[1:]) for field in range(3)]
        for at in (0, 1)
    ]
    (p50, p99, _), (p50_with, p99_with, moved) = medians
    print(
        json.dumps(
            {
                "p50_us": round(p50),
                "p99_us": round(p99),
                "p50_with_us": round(p50_with),
                "p99_with_us": round(p99_with),
                "p99_ratio": round(p99_with / p99, 2),
                "large_per_s": round(moved),
                "connections": metrics.cur_connections,
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--small-tasks", type=int, default=32)
    parser.add_argument("--large-tasks", type=int, default=1)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pause", type=float, default=0.0)
    asyncio.run(main(parser.parse_args()))
