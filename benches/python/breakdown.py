"""Where the time of one get goes, by sampling client and server with perf.

Debian: apt-get install linux-perf. The clock is sampled (cpu-clock), as not every machine lets
hardware events be counted. A sample counts for the shared object that it hit.
"""

import argparse
import collections
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runs import Run, Runner, about, write

from servers import Servers

FREQUENCY = 4999
SAMPLE = re.compile(r"^\s*(?P<pid>\d+)\s+(?P<ip>[0-9a-f]+)\s+(?P<symbol>.*)\s+\((?P<dso>[^()]*)\)$")
CLIENTS = ("emcache", "floor")
CLIENT, LOOP = "emcache", "Python, asyncio, the benchmark's own loop"
KERNEL, LIBC = "kernel, for the client", "libc (copies, memory)"
SERVER, SERVER_KERNEL = "memcached", "kernel, for memcached"
CATEGORIES = (LOOP, CLIENT, LIBC, KERNEL, SERVER_KERNEL, SERVER)


def category(dso, is_server):
    name = Path(dso).name
    is_kernel = dso.startswith("[") and dso != "[vdso]"
    if is_server:
        return SERVER_KERNEL if is_kernel else SERVER
    if is_kernel:
        return KERNEL
    if name.startswith(("_emcache", "cyemcache")):
        return CLIENT
    return LIBC if name.startswith(("libc.", "libc-", "ld-", "[vdso]")) else LOOP


def profile(runner, run, servers):
    """Microseconds of CPU per operation, by category, and the symbols that took most."""
    seconds = run.seconds * runner.seconds
    with tempfile.NamedTemporaryFile(suffix=".perf") as data:
        pids = ",".join(["{pid}", *map(str, servers.pids())])
        perf = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", data.name]
        result = runner.once(run, profiler=[*perf, "-p", pids, "--", "sleep", str(seconds + 1.5)])
        if "error" in result:
            sys.exit(f"{run}: {result['error']}")
        command = ["perf", "script", "-i", data.name, "-F", "pid,ip,sym,dso", "--no-inline"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    samples = [match for line in done.stdout.splitlines() if (match := SAMPLE.match(line))]
    return result | fold(samples, set(servers.pids()), 1e6 / FREQUENCY / result["ops"])


def fold(samples, servers, each_us):
    by_category, by_symbol = collections.Counter(), collections.Counter()
    for sample in samples:
        kind = category(sample["dso"], int(sample["pid"]) in servers)
        by_category[kind] += each_us
        by_symbol[f"{kind}: {sample['symbol'].strip()}"] += each_us
    return {
        "samples": len(samples),
        "us_per_op": {kind: by_category[kind] for kind in CATEGORIES},
        "symbols_us": dict(by_symbol.most_common(40)),
    }


def show(row):
    print(f"\n{row['client']}, {row['tasks']} tasks, {row['loop']}: {row['samples']} samples")
    for kind, took in row["us_per_op"].items():
        print(f"  {took:7.2f} us  {kind}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="1,32,256")
    parser.add_argument("--loops", default="asyncio,uvloop")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--server-threads", type=int, default=2)
    parser.add_argument("--json", default="", help="write the results here")
    args = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("perf is not installed (Debian: apt-get install linux-perf)")
    rows = []
    with Servers(args.server_threads) as servers:
        runner = Runner(servers, "", args.seconds)
        servers.of()
        for tasks in map(int, args.tasks.split(",")):
            for loop in args.loops.split(","):
                for client in CLIENTS:
                    run = Run(client, "get", tasks, loop)
                    row = {"client": client, "tasks": tasks, "loop": loop}
                    rows.append(row | profile(runner, run, servers))
                    show(rows[-1])
    made = {"about": about(1, args.seconds, args.server_threads), "rows": rows}
    if args.json:
        write(args.json, made)


if __name__ == "__main__":
    main()
