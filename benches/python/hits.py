"""CPU per hit of Cache.get, get_or_set and cached functions, against another build.

    python benches/python/hits.py /path/to/the/other/checkout [--loop uvloop] [--tasks 256]

Two processes, one for each build, measure all calls in turn, round by round: the machine is shared,
so only ratios within a round mean something. A figure is the CPU time of the process (user and
system) divided by the number of calls.
"""

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
CALLS = 60
"""Calls of each task in a round."""


async def measure(port: int, tasks: int) -> None:
    import emcache

    async with emcache.create_client([emcache.MemcachedHostAddress("127.0.0.1", port)]) as client:
        cache = emcache.Cache(client, prefix="hits:", ttl=600)
        keys = [f"user:{number}" for number in range(tasks)]
        for key in keys:
            await cache.set(key, {"id": 1, "name": "Ada"})

        async def factory() -> object:
            raise AssertionError("a miss")

        @emcache.cached(cache, key="user:{user_id}", ttl=60)
        async def by_template(user_id: int) -> object:
            return await factory()

        @emcache.cached(lambda: cache, ttl=600)
        async def by_arguments(user_id: int) -> object:
            return {"id": user_id, "name": "Ada"}

        calls = {
            "Cache.get": lambda number: cache.get(keys[number]),
            "get_or_set": lambda number: cache.get_or_set(keys[number], factory),
            "get_or_set(ttl=60)": lambda number: cache.get_or_set(keys[number], factory, ttl=60),
            "cached, template": by_template,
            "cached, arguments": by_arguments,
        }

        async def cpu(call) -> float:
            async def repeat(number: int) -> None:
                for _ in range(CALLS):
                    await call(number)

            running = [asyncio.ensure_future(repeat(number)) for number in range(tasks)]
            began = time.process_time()
            await asyncio.gather(*running)
            return (time.process_time() - began) / (tasks * CALLS) * 1e6

        loop = asyncio.get_running_loop()
        for call in calls.values():
            await cpu(call)
        while (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            gc.collect()
            gc.disable()
            print(json.dumps({name: await cpu(call) for name, call in calls.items()}), flush=True)
            gc.enable()


def compare(other: Path, loop: str, tasks: int, rounds: int) -> None:
    sys.path.insert(0, str(HERE / "python"))
    from emcache.testing import MemcachedServer

    options = ["--loop", loop, "--tasks", str(tasks)]
    results: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with MemcachedServer("-t", "2") as server:
        workers = {
            name: subprocess.Popen(
                [sys.executable, __file__, *options, "--worker", str(server.port)],
                env=os.environ | {"PYTHONPATH": str(path / "python")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, path in (("before", other), ("now", HERE))
        }
        for number in range(rounds):
            for name in sorted(workers, reverse=bool(number % 2)):
                worker = workers[name]
                worker.stdin.write("go\n")
                worker.stdin.flush()
                results[name].append(json.loads(worker.stdout.readline()))
        for worker in workers.values():
            worker.communicate()
    print(f"{loop}, {tasks} tasks, {rounds} rounds: medians; speed = before / now")
    for call in results["now"][0]:
        before, now = ([each[call] for each in results[name]] for name in ("before", "now"))
        speed = [b / n for b, n in zip(before, now, strict=True)]
        to_get = [each[call] / each["Cache.get"] for each in results["now"]]
        print(
            f"{call:20} before {statistics.median(before):6.2f} us  "
            f"now {statistics.median(now):6.2f} us  speed {statistics.median(speed):.2f}  "
            f"of Cache.get {statistics.median(to_get):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--worker", type=int)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if options.worker is None:
        if options.other is None:
            parser.error("which checkout to compare with?")
        compare(options.other.resolve(), options.loop, options.tasks, options.rounds)
        return
    factory = asyncio.new_event_loop
    if options.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(options.worker, options.tasks))


if __name__ == "__main__":
    main()
