"""Compares clients on the same work, in interleaved rounds, one process for each run.

See README.md beside this file for the method, and `--help` for what can be chosen.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from clients import CLIENTS, SYNCHRONOUS

HERE = Path(__file__).parent
ALL_CASES = ["get", "miss", "set", "get_many", "mixed"]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start_memcached(threads):
    port = free_port()
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-t", str(threads)]
    command += ["-m", "1024", "-c", "4096", "-I", "2m"]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    process = subprocess.Popen(command)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process, port
    raise RuntimeError("memcached did not start")


def run_once(pythons, spec):
    environment, _ = CLIENTS[spec["client"]]
    command = [pythons[environment], str(HERE / "worker.py"), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout)


def summarise(runs):
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"error": runs[0]["error"]}
    summary = {}
    for name in good[0]:
        values = sorted(run[name] for run in good)
        summary[name] = statistics.median(values)
        summary[name + "_spread"] = [values[0], values[-1]]
    return summary | {"runs": len(good), "failed": len(runs) - len(good)}


def show(row, clients, results):
    case, tasks, loop, size = row
    print(f"\n{case}, {tasks} tasks, {loop}, {size} bytes")
    base = results.get("emcache")
    for client in clients:
        result = results[client]
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
                    yield case, tasks, loop, size


def main():
    args = arguments()
    pythons = {"own": sys.executable, "peers": args.peers}
    clients = [
        name
        for name, (environment, _) in CLIENTS.items()
        if (name in args.clients.split(",") if args.clients else True) and pythons[environment]
    ]
    if shutil.which("memcached") is None:
        sys.exit("memcached is not installed (Debian: apt-get install memcached)")
    server, port = start_memcached(args.server_threads)
    table = []
    try:
        for case, tasks, loop, size in chosen_rows(args):
            row_clients = [c for c in clients if tasks == 1 or c not in SYNCHRONOUS]
            runs = {client: [] for client in row_clients}
            for _ in range(args.rounds):
                for client in row_clients:
                    spec = {"client": client, "case": case, "tasks": tasks, "loop": loop}
                    spec |= {"size": size, "seconds": args.seconds, "ports": [port]}
                    runs[client].append(run_once(pythons, spec))
            results = {client: summarise(runs[client]) for client in row_clients}
            show((case, tasks, loop, size), row_clients, results)
            sys.stdout.flush()
            row = {"case": case, "tasks": tasks, "loop": loop, "size": size, "results": results}
            table.append(row)
            if args.json:
                write(args, table)
    finally:
        server.terminate()
        server.wait()


def write(args, table):
    version = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True)
    about = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memcached": version.stdout.strip(),
        "server_threads": args.server_threads,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    Path(args.json).write_text(json.dumps({"about": about, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
