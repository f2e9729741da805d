"""Gets per second of threads that each have an event loop and a client.

``threads.py [SECONDS] [TASKS]``. Run it with several Pythons, with and without the
interpreter lock, and on an idle machine: with two cores, two threads and memcached already want
more than there is.
"""

import asyncio
import statistics
import sys
import threading
import time

import emcache
from emcache.testing import MemcachedServer


async def call(
    server: MemcachedServer, seconds: float, tasks: int, together: threading.Barrier
) -> int:
    """Return the number of gets of one loop."""
    done = 0
    async with emcache.create_client([server.address]) as client:
        await client.set(b"key", b"v" * 100)
        together.wait()
        until = time.monotonic() + seconds

        async def work() -> None:
            nonlocal done
            while time.monotonic() < until:
                for _ in range(50):
                    await client.get(b"key")
                done += 50

        await asyncio.gather(*(work() for _ in range(tasks)))
    return done


def measure(
    server: MemcachedServer, threads: int, seconds: float, tasks: int
) -> tuple[float, float]:
    """Return thousands of gets per second, and the CPU time of each in microseconds."""
    together = threading.Barrier(threads)
    counts: list[int] = []
    workers = [
        threading.Thread(
            target=lambda: counts.append(asyncio.run(call(server, seconds, tasks, together)))
        )
        for _ in range(threads)
    ]
    cpu = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds / 1e3, (time.process_time() - cpu) / sum(counts) * 1e6


def main(seconds: float = 1.0, tasks: int = 64) -> None:
    """Measure one and two threads in turn."""
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(
        f"Python {sys.version.split()[0]}, {'with' if locked else 'without'} the lock, "
        f"{tasks} tasks per loop"
    )
    with MemcachedServer("-t", "2") as server:
        rounds = [
            [measure(server, threads, seconds, tasks) for threads in (1, 2)] for _ in range(9)
        ]
    for threads, results in zip((1, 2), zip(*rounds, strict=True), strict=True):
        rates, cpu = [rate for rate, _ in results], [cost for _, cost in results]
        print(
            f"{threads} threads: {statistics.median(rates):.0f} k gets/s (most: {max(rates):.0f}), "
            f"{statistics.median(cpu):.2f} us CPU per get (least: {min(cpu):.2f})"
        )


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((float, int), sys.argv[1:], strict=False)))
