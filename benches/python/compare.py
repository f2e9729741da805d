"""Compares clients on the same work, in interleaved rounds, one process for each run.

See README.md beside this file for the method, and `--help` for what can be chosen.
"""

import argparse
import sys

from clients import CLIENTS, SYNCHRONOUS
from runs import Run, Runner, about, summarise, write

from servers import Servers

ALL_CASES = ["get", "miss", "set", "get_many", "mixed"]


def show(row, results):
    print(f"\n{row['case']}, {row['tasks']} tasks, {row['loop']}, {row['size']} bytes")
    base = results.get("emcache")
    for client, result in results.items():
        if "error" in result:
            print(f"  {client:30} failed: {result['error']}")
            continue
        ratio = ""
        if base and client != "emcache" and "error" not in base:
            faster = base["ops_per_s"] / result["ops_per_s"]
            latency = base["p50_us"] / result["p50_us"]
            ratio = f"  emcache: {faster:5.2f}x ops/s, {latency:4.2f} of p50"
        low, high = result["ops_per_s_spread"]
        print(
            f"  {client:30} {result['ops_per_s']:9.0f} ops/s [{low:.0f}-{high:.0f}]"
            f"  p50 {result['p50_us']:8.1f} us  p99 {result['p99_us']:9.1f} us"
            f"  cpu {result['cpu_us']:6.1f} us{ratio}"
        )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", default="", help="comma-separated; default: all installed")
    parser.add_argument("--cases", default=",".join(ALL_CASES))
    parser.add_argument("--tasks", default="1,32,256,1024")
    parser.add_argument("--loops", default="asyncio,uvloop")
    parser.add_argument("--sizes", default="100")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--many", type=int, default=100, help="keys of a get_many")
    parser.add_argument("--quantiles", action="store_true", help="write those of the latency too")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--server-threads", type=int, default=2)
    parser.add_argument("--peers", default="", help="python of the peers' environment")
    parser.add_argument("--json", default="", help="write the results here")
    return parser.parse_args()


def chosen_rows(args):
    for size in map(int, args.sizes.split(",")):
        for case in args.cases.split(","):
            for tasks in map(int, args.tasks.split(",")):
                for loop in args.loops.split(","):
                    yield {"case": case, "tasks": tasks, "loop": loop, "size": size}


def measure(args, runner, clients, row):
    more = {"nodes": args.nodes, "many": args.many}
    more |= {"watch": "quantiles"} if args.quantiles else {}
    runs = {
        client: Run(client, **row, **more)
        for client in clients
        if row["tasks"] == 1 or client not in SYNCHRONOUS
    }
    results = {client: [] for client in runs}
    for _ in range(args.rounds):
        for client, run in runs.items():
            results[client].append(runner.once(run))
    return {client: summarise(result) for client, result in results.items()}


def main():
    args = arguments()
    chosen = args.clients.split(",") if args.clients else CLIENTS
    table = []
    with Servers(args.server_threads) as servers:
        runner = Runner(servers, args.peers, args.seconds)
        clients = [name for name in CLIENTS if name in chosen and runner.has(name)]
        for row in chosen_rows(args):
            results = measure(args, runner, clients, row)
            show(row, results)
            sys.stdout.flush()
            table.append(row | {"results": results})
            if args.json:
                made = about(args.rounds, args.seconds, args.server_threads)
                write(args.json, {"about": made, "rows": table})


if __name__ == "__main__":
    main()
