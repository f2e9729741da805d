"""10 MB as one value in pieces, and as separate items by `get_many` and `set_many`.

Calls alternate in one process, so all see the same machine. The server: `memcached`.
`separate` has its items ready, and leaves them as they are; `by hand` splits and joins them.

Usage: chunks.py PORT [--size 10000000] [--rounds 60]
"""

import argparse
import asyncio
import json
import os
import statistics
import time

import emcache
from emcache.cache import Raw

ITEM = 1_000_000


async def main(options):
    data = os.urandom(options.size)
    starts = range(0, len(data), ITEM)
    keys = [b"item:%d" % at for at in starts]
    items = {key: data[at : at + ITEM] for key, at in zip(keys, starts, strict=True)}
    address = emcache.MemcachedHostAddress("127.0.0.1", options.port)
    async with emcache.create_client([address], timeout=10) as client:
        cache = emcache.Cache(client, serializer=Raw(), chunked=True)

        async def set_by_hand():
            parts = [data[at : at + ITEM] for at in starts]
            await client.set_many(dict(zip(keys, parts, strict=True)))

        async def get_by_hand():
            found = await client.get_many(keys)
            return b"".join([found[key].value for key in keys])

        calls = {
            "set": {
                "separate": lambda: client.set_many(items),
                "by hand": set_by_hand,
                "chunked": lambda: cache.set("value", data),
            },
            "get": {
                "separate": lambda: client.get_many(keys),
                "by hand": get_by_hand,
                "chunked": lambda: cache.get("value"),
            },
        }
        for direction, ways in calls.items():
            seconds = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, call in ways.items():
                    for repeated in range(4):
                        started = time.perf_counter()
                        result = await call()
                        if repeated:  # the first one has the memory of another way
                            seconds[way].append(time.perf_counter() - started)
                        del result
            assert await cache.get("value") == data
            medians = {way: statistics.median(times) * 1000 for way, times in seconds.items()}
            lowest = {way: statistics.quantiles(times)[0] * 1000 for way, times in seconds.items()}
            print(
                json.dumps(
                    {
                        "direction": direction,
                        "median_ms": {way: round(ms, 2) for way, ms in medians.items()},
                        "quartile_ms": {way: round(ms, 2) for way, ms in lowest.items()},
                        "ratio": round(medians["separate"] / medians["chunked"], 2),
                        "quartile_ratio": round(lowest["separate"] / lowest["chunked"], 2),
                    }
                )
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--size", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=60)
    asyncio.run(main(parser.parse_args()))
