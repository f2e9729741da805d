"""``make soak MINUTES=10 SEED=1``: episodes with faults, until the time is over."""

import argparse
import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from emcache.testing import FaultProxy, MemcachedServer

NODES = 3
GROWTH = 40 * 1024
"""KiB by which a process may grow in the later part of an episode."""

FAULTS = ("none", "splits", "resets", "pauses", "kills", "silence", "refusals")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="of one episode")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--faults", choices=FAULTS, help="only these")
    parser.add_argument("--mode", choices=("async", "sync"), help="only this")
    parser.add_argument("--failover", action="store_true", help="in each process")
    arguments = parser.parse_args()
    print(f"SEED={arguments.seed}", flush=True)
    rng = random.Random(arguments.seed)
    end = time.monotonic() + arguments.minutes * 60
    total, failed, number = Counter(), 0, 0
    while time.monotonic() < end:
        number += 1
        episode = Episode(rng.getrandbits(32), arguments)
        counts, wrong = episode.run()
        total.update(counts)
        failed += len(wrong)
        print(f"{number:4} {episode}: {told(counts)}", flush=True)
        for text in wrong:
            print(text, flush=True)
    print(f"{number} episodes, {told(total)}; {failed} wrong")
    return 1 if failed else 0


def told(counts: Counter) -> str:
    """Return the counts as text."""
    return ", ".join(f"{name} {counts[name]:,}" for name in ("keys", "calls", "unknown", "lost"))


class Episode:
    """Some seconds with servers, processes and faults of one kind."""

    def __init__(self, seed: int, arguments: argparse.Namespace) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.seconds = arguments.seconds
        self.faults = arguments.faults or self.rng.choice(FAULTS)
        self.strict = self.faults in ("none", "splits")
        self.plans = [self._plan(number, arguments) for number in range(arguments.processes)]
        self.over = threading.Event()

    def __str__(self) -> str:
        workers = "; ".join(
            f"{plan['workers']} x {plan['mode']} {plan['driver']} {plan['loop']}"
            f"{' failover' if 'failover' in plan['options'] else ''}"
            for plan in self.plans
        )
        return f"seed {self.seed}, {self.faults}, {workers}"

    def _plan(self, number: int, arguments: argparse.Namespace) -> dict:
        rng = self.rng
        mode = arguments.mode or rng.choice(("async", "async", "sync"))
        options = {
            "timeout": 20.0 if self.strict else rng.choice((0.2, 0.5)),
            "max_connections": rng.choice((1, 2, 4)),
        }
        if mode == "async":
            options["autobatching"] = rng.random() < 0.5
        if rng.random() < 0.3 or arguments.failover:
            options["failover"] = "next"
        workers = rng.choice((2, 4, 8)) if mode == "sync" else rng.choice((4, 32, 128))
        return {
            "mode": mode,
            "driver": rng.choice(("loop", "thread")) if mode == "async" else "-",
            "loop": rng.choice(("asyncio", "uvloop")) if mode == "async" else "-",
            "workers": workers,
            "options": options,
            "seed": rng.getrandbits(32),
            "seconds": self.seconds,
            "names": [f"p{number}k{key}" for key in range(4 * workers)],
            # A substitute begins without items, and is emptied when it is no longer one.
            "lossy": self.faults == "kills" or ("failover" in options and not self.strict),
            "strict": self.strict,
        }

    def run(self) -> tuple[Counter, list[str]]:
        """Run all processes; return their counts and what was wrong."""
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(MemcachedServer("-m", "256")) for _ in range(NODES)]
            proxies = [stack.enter_context(FaultProxy(server)) for server in servers]
            # "none" goes without proxies, as fast as the servers are.
            nodes = servers if self.faults == "none" else proxies
            for plan in self.plans:
                others = [other for other in self.plans if other is not plan]
                plan["only_newer"] = self.strict or not any(
                    "failover" in other["options"] for other in others
                )
                plan["peers"] = [name for other in others for name in other["names"]]
                plan["nodes"] = [f"{each.address.address}:{each.address.port}" for each in nodes]
            processes = [self._start(plan) for plan in self.plans]
            troubling = threading.Thread(target=self._trouble, args=(servers, proxies))
            troubling.start()
            try:
                return self._collect(processes)
            finally:
                self.over.set()
                troubling.join()
                for process in processes:
                    process.kill()

    def _start(self, plan: dict) -> subprocess.Popen:
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        if plan["mode"] == "async":
            environment["EMCACHE_DRIVER"] = plan["driver"]
        command = [sys.executable, "-m", "soak.worker", json.dumps(plan)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def _collect(self, processes: list[subprocess.Popen]) -> tuple[Counter, list[str]]:
        counts, wrong = Counter(), []
        for process in processes:
            try:
                output, errors = process.communicate(timeout=self.seconds * 3 + 60)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
                wrong.append(f"a process did not end\n{errors}")
                continue
            if process.returncode or errors:
                wrong.append(f"exit {process.returncode}\n{errors}")
            if output:
                result = json.loads(output)
                wrong += result.pop("wrong")
                memory = result.pop("memory")
                if self.seconds >= 10 and memory[-1] - memory[0] > GROWTH:
                    wrong.append(f"the resident memory grew: {memory} KiB")
                counts.update(result)
        if not counts["keys"]:
            wrong.append("nothing was checked")
        return counts, wrong

    def _trouble(self, servers: list[MemcachedServer], proxies: list[FaultProxy]) -> None:
        """Cause faults until the processes have ended."""
        if self.faults == "splits":
            for proxy in proxies:
                proxy.answers.split, proxy.requests.split = 700, 700
                proxy.answers.jitter = proxy.requests.jitter = 0.0005
        while not self.over.wait(self.rng.uniform(0.1, 1.0)):
            at = self.rng.randrange(NODES)
            match self.faults:
                case "resets":
                    proxies[at].reset()
                case "refusals":
                    proxies[at].refuse()
                    self.over.wait(self.rng.uniform(0.05, 0.6))
                    proxies[at].listen()
                case "silence":
                    proxies[at].black_hole()
                    self.over.wait(self.rng.uniform(0.1, 1.0))
                    proxies[at].heal()
                case "pauses":
                    servers[at].pause()
                    self.over.wait(self.rng.uniform(0.05, 0.8))
                    servers[at].resume()
                case "kills":
                    servers[at].kill()
                    self.over.wait(self.rng.uniform(0.0, 0.8))
                    servers[at].restart()


if __name__ == "__main__":
    sys.exit(main())
