"""Synchronous clients side by side: one process each, interleaved, every reply checked.

    make bench-sync ARGS="[--rounds N] [--rows TEXT[;TEXT]] [--json FILE]"

A figure is the median over all rounds, and "of" that of the ratios to the other client within each
round. README.md beside this file has the method, docs/performance.md explains the rows.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from runs import about, write

from servers import Servers

WORKER = Path(__file__).with_name("sync_worker.py")
PLAIN = ("emcache", "libmc", "pylibmc", "pymemcache", "python-memcached", "redis")
DJANGO = ("EmcacheCache", "PyLibMCCache", "PyMemcacheCache")
OWN = {"emcache", "EmcacheCache"}


@dataclass(frozen=True)
class Row:
    title: str
    work: str
    calls: int
    """Of all threads in one round."""
    clients: tuple[str, ...] = PLAIN
    threads: int = 1
    nodes: int = 1
    tls: bool = False


ROWS = [
    Row("get", "get", 2000),
    Row("set", "set", 2000),
    Row("get_many of 100", "get_many", 200),
    # Redis has no client-side routing: Redis Cluster is another kind of server.
    Row("set_many of 1,000, 3 nodes", "set_many", 20, PLAIN[:5], nodes=3),
    Row("get, 4 threads", "get", 4000, threads=4),
    Row("get, 8 threads", "get", 4000, threads=8),
    # The others have no TLS.
    Row("get, TLS", "get", 2000, ("emcache", "pymemcache"), tls=True),
    Row("get_many of 100, TLS", "get_many", 200, ("emcache", "pymemcache"), tls=True),
    Row("Django: cache.get", "get", 2000, DJANGO),
    Row("Django: cache.set", "set", 2000, DJANGO),
    Row("Django: cache.get_many of 100", "get_many", 100, DJANGO),
]


class Worker:
    def __init__(self, python, client, ports, ca):
        command = [python, str(WORKER), client, ",".join(map(str, ports)), *([ca] if ca else [])]
        self.client = client
        # Compiled once, as installed packages are: an empty value is none.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},
        )
        self.versions = self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.client} ended")
        return json.loads(line)

    def run(self, row):
        print(row.work, row.threads, row.calls // row.threads, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Workers:
    """The processes: one for each client and kind of servers, kept for all rows."""

    def __init__(self, servers, peers):
        self.servers, self.peers, self.made = servers, peers, {}

    def of(self, row):
        return {name: self._one(name, row.nodes, row.tls) for name in self._chosen(row)}

    def versions(self):
        return {
            name: version
            for worker in self.made.values()
            for name, version in worker.versions.items()
        }

    def close(self):
        for worker in self.made.values():
            worker.close()

    def _chosen(self, row):
        return [name for name in row.clients if name in OWN or self.peers]

    def _one(self, name, nodes, tls):
        kind = name, nodes, tls
        if kind not in self.made:
            of = self.servers
            ports, ca = (of.redis(), "") if name == "redis" else of.of(nodes, tls)
            python = sys.executable if name in OWN else self.peers
            self.made[kind] = Worker(python, name, ports, ca)
        return self.made[kind]


def measure(row, workers, rounds):
    """The figures of each client, and the load of the machine meanwhile.

    A wrong reply, or none within 5 s, makes a round of the client a failed one, without a figure.
    """
    runs, loads = {name: {} for name in workers}, []
    for number in range(rounds + 1):
        for name in random.sample(list(workers), len(workers)):
            done = workers[name].run(row)
            # The first round warms up.
            if number and not done.pop("wrong"):
                runs[name][number] = done
        loads.append(os.getloadavg()[0])
    ours = runs[row.clients[0]]
    results = {name: figures(ours, made) | {"runs": len(made)} for name, made in runs.items()}
    return {"load": statistics.median(loads), "rounds": rounds, "results": results}


def figures(ours, made):
    both = [number for number in made if number in ours]
    if not both:
        sys.exit("all rounds of a client failed")
    result = {}
    for metric in ("p50", "cpu", "rate"):
        ratios = sorted(ours[number][metric] / made[number][metric] for number in both)
        result[metric] = statistics.median(run[metric] for run in made.values())
        result[f"{metric}_of"] = statistics.median(ratios)
        result[f"{metric}_of_middle"] = [ratios[len(ratios) // 4], ratios[len(ratios) * 3 // 4]]
    return result


def show(row, made):
    print(f"\n{row.title} (load {made['load']:.1f})")
    for name, result in made["results"].items():
        low, high = result["p50_of_middle"]
        middle = f"({result['p50_of']:.2f} [{low:.2f}-{high:.2f}])"
        print(
            f"  {name:17} p50 {result['p50']:8.2f} us {middle}"
            f"  cpu {result['cpu']:8.2f} us ({result['cpu_of']:.2f})"
            f"  {result['rate']:9.0f}/s ({result['rate_of']:.2f})  {result['runs']} runs",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="", help="python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--rows", default="", help="only those with one of these texts, by `;`")
    parser.add_argument("--json", default="", help="write the results here")
    args = parser.parse_args()
    rows = [row for row in ROWS if any(text in row.title for text in args.rows.split(";"))]
    table = []
    with Servers() as servers:
        workers = Workers(servers, args.peers)
        for row in rows:
            made = measure(row, workers.of(row), args.rounds)
            show(row, made)
            table.append({"row": row.title} | made)
            if args.json:
                described = about(args.rounds, 0, servers.threads) | {
                    "versions": workers.versions()
                }
                write(args.json, {"about": described, "rows": table})
        workers.close()


if __name__ == "__main__":
    main()
