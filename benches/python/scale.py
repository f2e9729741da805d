"""How cost grows with the number of nodes.

    python benches/python/scale.py [--nodes 1 16 64 256 1000] [--loop uvloop] [--routing ketama]

One process measures each number of nodes. The nodes are loopback addresses: up to 16 memcached
processes listen on all of them, each on its share, so a restart of one takes several nodes away.
"""

import argparse
import asyncio
import gc
import itertools
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from servers import free_port

PROCESSES = 16
KEYS = 1000
VALUE = b"x" * 100


class Nodes:
    """Addresses, and the processes that listen on them."""

    def __init__(self, count: int, port: int, group: int = 1) -> None:
        hosts = [f"127.{group}.{n // 250 + 1}.{n % 250 + 1}" for n in range(count)]
        self.addresses = [(host, port) for host in hosts]
        processes = min(count, PROCESSES)
        self.shares = [self.addresses[n::processes] for n in range(processes)]
        self.processes = [self._start(share) for share in self.shares]

    def _start(self, share: list[tuple[str, int]]) -> subprocess.Popen:
        listen = ",".join(f"{host}:{port}" for host, port in share)
        command = ["memcached", "-l", listen, "-U", "0", "-t", "1", "-m", "64", "-c", "4096"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def restart(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()
        self.processes[number] = self._start(self.shares[number])

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def median_ms(call, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


class Load:
    """Tasks that get random keys, and the longest pause of the loop meanwhile."""

    def __init__(self, client, tasks: int = 8) -> None:
        self._client, self._tasks = client, tasks
        self.calls = self.failures = 0
        self.pause = 0.0

    async def _get(self) -> None:
        import emcache

        while True:
            self.calls += 1
            try:
                await self._client.get(b"key:%d" % random.randrange(100_000))
            except emcache.EmcacheError:
                self.failures += 1
            await asyncio.sleep(0.002)

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.pause = max(self.pause, time.perf_counter() - began - 0.001)

    async def __aenter__(self) -> "Load":
        jobs = [self._get() for _ in range(self._tasks)] + [self._watch()]
        self._running = [asyncio.ensure_future(job) for job in jobs]
        return self

    async def __aexit__(self, *_) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class CountLines(logging.Handler):
    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1


async def measure(nodes: Nodes, others: Nodes, routing: str) -> dict[str, float]:
    import emcache

    count = len(nodes.addresses)
    addresses = [emcache.MemcachedHostAddress(*address) for address in nodes.addresses]
    new = [emcache.MemcachedHostAddress(*address) for address in others.addresses[: count // 2]]
    lists = [addresses]
    options = {
        "routing": routing,
        "autodiscovery": emcache.CallableDiscovery(lambda: lists[-1]),
        "autodiscovery_poll_interval": 0.2,
        # The machine may be busy with other work.
        "timeout": 10,
        "min_connections": 0,
    }
    # Modules and allocators are warm before memory is measured.
    async with emcache.create_client(addresses[:1], **options | {"autodiscovery": False}) as client:
        await client.get(b"key:0")
    found: dict[str, float] = {}
    before = resident()
    began = time.perf_counter()
    client = await emcache.create_client(addresses, **options)
    found["create ms"] = (time.perf_counter() - began) * 1e3
    found["kB, no connection"] = (resident() - before) / count / 1024
    began = time.perf_counter()
    client.node_for(b"key:0")
    found["first key ms"] = (time.perf_counter() - began) * 1e3
    one_each = {client.node_for(b"key:%d" % n): b"key:%d" % n for n in range(count * 20)}
    before = resident()
    began = time.perf_counter()
    await asyncio.gather(*map(client.get, one_each.values()))
    found["connect all ms"] = (time.perf_counter() - began) * 1e3
    connection = (resident() - before) / len(one_each) / 1024
    found["kB, connection"] = connection + found["kB, no connection"]

    keys = [b"key:%d" % n for n in range(KEYS)]
    await client.set_many(dict.fromkeys(keys, VALUE))
    cycle = itertools.cycle(keys)
    found["get us"] = await median_ms(lambda: client.get(next(cycle)), 3000) * 1e3
    cpu = time.process_time()
    found["get_many ms"] = await median_ms(lambda: client.get_many(keys), 100)
    found["get_many CPU ms"] = (time.process_time() - cpu) / 100 * 1e3

    async def metrics() -> None:
        client.metrics()

    found["metrics() ms"] = await median_ms(metrics, 10)

    lines = CountLines()
    logger = logging.getLogger("emcache")
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    cpu = time.process_time()
    async with Load(client) as load:
        for number in range(len(nodes.processes)):
            await asyncio.to_thread(nodes.restart, number)
            await asyncio.sleep(0.1)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if not client.cluster_managment().unhealthy_nodes():
                break
    found["restart: pause ms"] = load.pause * 1e3
    found["restart: failed %"] = load.failures / load.calls * 100
    found["restart: CPU ms"] = (time.process_time() - cpu) * 1e3
    found["restart: log lines"] = lines.lines

    if new:
        cpu = time.process_time()
        async with Load(client) as load:
            lists.append(addresses[len(new) :] + new)
            began = time.perf_counter()
            while client.cluster_managment().nodes()[-1] != new[-1]:
                await asyncio.sleep(0.005)
            found["half new: seconds"] = time.perf_counter() - began
            await asyncio.sleep(0.3)
        found["half new: pause ms"] = load.pause * 1e3
        found["half new: failed %"] = load.failures / load.calls * 100
        found["half new: CPU ms"] = (time.process_time() - cpu) * 1e3
    began = time.perf_counter()
    await client.close()
    found["close ms"] = (time.perf_counter() - began) * 1e3
    return found


def work(count: int, loop: str, routing: str) -> None:
    nodes = Nodes(count, free_port())
    others = Nodes(max(1, count // 2), free_port(), group=2)
    time.sleep(0.5)
    factory = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            print(json.dumps(runner.run(measure(nodes, others, routing))))
    finally:
        nodes.stop()
        others.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 16, 64, 256, 1000])
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--routing", default="emcache")
    parser.add_argument("--worker", type=int)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.loop, options.routing)
        return
    columns = {}
    for count in options.nodes:
        command = [sys.executable, __file__, "--worker", str(count), "--loop", options.loop]
        command += ["--routing", options.routing]
        columns[count] = json.loads(subprocess.check_output(command, timeout=120))
    print("| nodes |", " | ".join(map(str, columns)), "|")
    print("|---" * (len(columns) + 1) + "|")
    for name in columns[options.nodes[-1]]:
        values = (column.get(name) for column in columns.values())
        cells = ("-" if value is None else f"{value:.3g}" for value in values)
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
