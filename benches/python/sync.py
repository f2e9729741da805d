"""Synchronous clients side by side: one process each, interleaved, every reply checked.

    python benches/python/sync.py --peers PYTHON [--rounds N] [--only WORK] [--out FILE]

``PYTHON`` has the peers (benches/python/peers.txt). A figure is the median over all rounds;
docs/performance.md explains the rows.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from servers import Servers

WORKER = Path(__file__).with_name("sync_worker.py")
PEERS = ("libmc", "pylibmc", "pymemcache", "python-memcached")
CALLS = 3000
"""Single calls of a thread in a round."""
ROWS = [
    # Work, threads, nodes, calls.
    ("get", 1, 1, CALLS),
    ("set", 1, 1, CALLS),
    ("get_many", 1, 1, CALLS // 10),
    ("set_many", 1, 3, CALLS // 100),
    ("get", 4, 1, CALLS // 4),
    ("get", 8, 1, CALLS // 8),
]


class Worker:
    def __init__(self, python, client, ports):
        command = [python, str(WORKER), client, ",".join(map(str, ports))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[2]} ended")
        return line

    def run(self, work, threads, count):
        print(work, threads, count, file=self.process.stdin, flush=True)
        return json.loads(self._line())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clients = {"emcache": sys.executable}
    clients |= dict.fromkeys(PEERS if args.peers else (), args.peers)
    rows = [row for row in ROWS if args.only in (None, row[0])]
    results = []
    with Servers() as servers:
        workers = {
            nodes: {
                name: Worker(python, name, servers.of(nodes)[0]) for name, python in clients.items()
            }
            for nodes in {nodes for _, _, nodes, _ in rows}
        }
        for work, threads, nodes, count in rows:
            runs = {name: [] for name in clients}
            for round_ in range(args.rounds + 1):
                for name, worker in workers[nodes].items():
                    done = worker.run(work, threads, count)
                    if done["wrong"]:
                        sys.exit(f"{name}: {done['wrong']} wrong replies ({work})")
                    # The first round warms up.
                    if round_:
                        runs[name].append(done)
            row = {
                name: {
                    key: statistics.median(run[key] for run in of) for key in ("p50", "cpu", "rate")
                }
                for name, of in runs.items()
            }
            results.append({"work": work, "threads": threads, "nodes": nodes, "clients": row})
            print(f"\n{work}, {threads} threads, {nodes} nodes")
            ours = row["emcache"]
            for name, figures in row.items():
                ratios = {key: ours[key] / figures[key] for key in figures}
                print(
                    f"  {name:17} p50 {figures['p50']:8.2f} us ({ratios['p50']:.2f})"
                    f"  cpu {figures['cpu']:8.2f} us ({ratios['cpu']:.2f})"
                    f"  {figures['rate']:9.0f}/s ({ratios['rate']:.2f})",
                    flush=True,
                )
        for of_nodes in workers.values():
            for worker in of_nodes.values():
                worker.close()
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
