"""One measurement in a process of its own: prints one JSON object.

Usage: worker.py '{"client": "emcache", "case": "get", "tasks": 32, ...}', see `Run` in runs.py
"""

import asyncio
import gc
import json
import os
import random
import resource
import subprocess
import sys
import time
from array import array

from clients import CLIENTS

KEYS = 1000
QUANTILES = 200


def value_of(key, size):
    """Every value is a function of its key, so a foreign one is seen."""
    return (key * (size // len(key) + 1))[:size]


async def one_task(client, spec, keys, values, until, latencies, seed):
    rng = random.Random(seed)
    case, many, now = spec["case"], spec["many"], time.perf_counter_ns
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
            case "miss_heavy" if rng.random() < 0.9:
                errors += await client.get(b"missing-" + key) is not None
            case "set":
                await client.set(key, values[at])
            case "mixed" if rng.random() < 0.1:
                await client.set(key, values[at])
            case "mixed" | "miss_heavy":
                errors += await client.get(key) != values[at]
            case "get_many":
                begin = at * 7 % (count - many)
                got = await client.get_many(keys[begin : begin + many])
                errors += got != dict(
                    zip(keys[begin : begin + many], values[begin : begin + many], strict=True)
                )
        ended = now()
        latencies.append(ended - started)
        started = ended
    return errors


class Load:
    """The tasks of a run, and what they work on."""

    def __init__(self, client, spec):
        self.client, self.spec = client, spec
        count = KEYS if spec["size"] <= 10_000 else 64
        count = max(count, 2 * spec["many"]) if spec["case"] == "get_many" else count
        self.keys = [b"bench:%06d:key" % i for i in range(count)]
        self.values = [value_of(key, spec["size"]) for key in self.keys]

    async def prepare(self):
        for key, value in zip(self.keys, self.values, strict=True):
            await self.client.set(key, value)

    async def run(self, seconds):
        """The latencies in nanoseconds, and the wall and process time that passed."""
        latencies = array("q")
        until = time.perf_counter_ns() + int(seconds * 1e9)
        started, cpu = time.perf_counter(), time.process_time()
        work = (self.client, self.spec, self.keys, self.values, until, latencies)
        errors = await asyncio.gather(
            *[one_task(*work, seed) for seed in range(self.spec["tasks"])]
        )
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        if any(errors):
            raise AssertionError(f"{sum(errors)} wrong answers")
        return latencies, wall, cpu


def watchers(spec):
    if not spec["watch"] or spec["watch"] == "quantiles":
        return None
    import watch

    return watch.Turns() if spec["watch"] == "turns" else watch.Memory()


async def start_profiler(spec):
    """Start the profiler from the profiled process, so that it sees only the run."""
    if "profiler" not in spec:
        return None
    profiler = subprocess.Popen([word.format(pid=os.getpid()) for word in spec["profiler"]])
    await asyncio.sleep(1)
    return profiler


async def measure(client, spec):
    load = Load(client, spec)
    await load.prepare()
    gc.collect()
    watcher = watchers(spec)
    await load.run(max(spec["warm"], spec["seconds"] / 5))
    gc.collect()
    if spec["watch"] == "turns":
        watcher.clear()
    profiler = await start_profiler(spec)
    latencies, wall, cpu = await load.run(spec["seconds"])
    if profiler:
        profiler.wait()
    result = figures(latencies, wall, cpu, spec)
    return result | (watcher.result() if watcher else {})


def figures(latencies, wall, cpu, spec):
    latencies = sorted(latencies)
    ops = len(latencies)
    result = {
        "ops": ops,
        "ops_per_s": ops / wall,
        "p50_us": latencies[ops // 2] / 1e3,
        "p99_us": latencies[min(ops - 1, ops * 99 // 100)] / 1e3,
        "cpu_us": cpu / ops * 1e6,
        "max_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    if spec["watch"] == "quantiles":
        result["quantiles_us"] = [
            round(latencies[ops * at // QUANTILES] / 1e3, 1) for at in range(QUANTILES)
        ]
    return result


async def set_up(part, client):
    if not part:
        return None
    import parts

    return parts.PARTS[part](client.client)


async def run(spec):
    _, make = CLIENTS[spec["client"]]
    started = time.perf_counter()
    client = make()
    if spec["ca"]:
        client.use_tls(spec["ca"])
    await client.connect(spec["ports"])
    kept = await set_up(spec["part"], client)
    if spec["case"] in ("startup", "idle"):
        await client.get(b"bench:first")
        result = {"start_ms": (time.perf_counter() - started) * 1e3}
        if spec["case"] == "idle":
            import watch

            result |= await watch.idle(settle=2, seconds=10)
    else:
        result = await measure(client, spec)
    await client.close()
    del kept
    return result


def main():
    spec = json.loads(sys.argv[1])
    if spec["loop"] == "uvloop":
        import uvloop

        start = uvloop.run
    else:
        start = asyncio.run
    print(json.dumps(start(run(spec))))


if __name__ == "__main__":
    main()
