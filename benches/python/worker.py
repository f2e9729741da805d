"""One measurement in a process of its own: prints one JSON object.

Usage: worker.py '{"client": "emcache", "case": "get", "tasks": 32, ...}'
"""

import asyncio
import gc
import json
import random
import resource
import sys
import time

from clients import CLIENTS

KEYS = 1000
MANY = 100


def value_of(key, size):
    """Every value is a function of its key, so a foreign one is seen."""
    return (key * (size // len(key) + 1))[:size]


async def one_task(client, spec, keys, values, until, latencies, seed):
    rng = random.Random(seed)
    case, now = spec["case"], time.perf_counter_ns
    at, count, errors = rng.randrange(KEYS), len(keys), 0
    started = now()
    while started < until:
        at = (at + 1) % count
        key = keys[at]
        match case:
            case "get":
                errors += await client.get(key) != values[at]
            case "miss":
                errors += await client.get(b"missing-" + key) is not None
            case "set":
                await client.set(key, values[at])
            case "mixed" if rng.random() < 0.1:
                await client.set(key, values[at])
            case "mixed":
                errors += await client.get(key) != values[at]
            case "get_many":
                begin = at * 7 % (count - MANY)
                got = await client.get_many(keys[begin : begin + MANY])
                errors += got != dict(
                    zip(keys[begin : begin + MANY], values[begin : begin + MANY], strict=True)
                )
        ended = now()
        latencies.append(ended - started)
        started = ended
    return errors


async def measure(spec):
    _, make = CLIENTS[spec["client"]]
    client = make()
    await client.connect(spec["ports"])
    count = KEYS if spec["size"] <= 10_000 else 64
    count = max(count, 2 * MANY) if spec["case"] == "get_many" else count
    keys = [b"bench:%06d:key" % i for i in range(count)]
    values = [value_of(key, spec["size"]) for key in keys]
    for key, value in zip(keys, values, strict=True):
        await client.set(key, value)

    async def run(seconds):
        latencies = []
        until = time.perf_counter_ns() + int(seconds * 1e9)
        started, cpu = time.perf_counter(), time.process_time()
        errors = await asyncio.gather(
            *[
                one_task(client, spec, keys, values, until, latencies, seed)
                for seed in range(spec["tasks"])
            ]
        )
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        if any(errors):
            raise AssertionError(f"{sum(errors)} wrong answers")
        return latencies, wall, cpu

    await run(spec["seconds"] / 5)
    gc.collect()
    latencies, wall, cpu = await run(spec["seconds"])
    latencies.sort()
    ops = len(latencies)
    result = {
        "ops_per_s": ops / wall,
        "p50_us": latencies[ops // 2] / 1e3,
        "p99_us": latencies[min(ops - 1, ops * 99 // 100)] / 1e3,
        "cpu_us": cpu / ops * 1e6,
        "max_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    await client.close()
    return result


def main():
    spec = json.loads(sys.argv[1])
    if spec["loop"] == "uvloop":
        import uvloop

        run = uvloop.run
    else:
        run = asyncio.run
    print(json.dumps(run(measure(spec))))


if __name__ == "__main__":
    main()
