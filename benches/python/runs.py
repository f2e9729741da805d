"""One run is one process; rounds of runs; what the rounds come to."""

import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from clients import CLIENTS, MODULES, OF_REDIS

HERE = Path(__file__).parent
STARTS = 9


@dataclass(frozen=True)
class Run:
    """The work of one process. Equal runs are the same measurement."""

    client: str
    case: str = "get"
    tasks: int = 1
    loop: str = "asyncio"
    size: int = 100
    nodes: int = 1
    many: int = 100
    tls: bool = False
    driver: str = ""
    watch: str = ""
    """"turns", "memory" or "quantiles": measured besides, in runs of their own, as it costs."""
    part: str = ""
    """The optional parts to enable: see parts.py."""
    seconds: float = 1.0
    """Multiplies the time that each run is given."""
    warm: float = 0.1
    """Seconds to warm up, if a fifth of the run is less."""


class Runner:
    """Know where the clients and the servers are."""

    def __init__(self, servers, peers, seconds):
        self.pythons = {"own": sys.executable, "peers": peers}
        self.servers = servers
        self.seconds = seconds

    @functools.cache  # noqa: B019, there is one runner
    def has(self, client):
        """Whether the client is installed."""
        python = self.pythons[CLIENTS[client][0]]
        module = MODULES.get(client, client.split()[0])
        command = [python, "-c", f"import {module}"]
        return bool(python) and not subprocess.run(command, capture_output=True).returncode

    def command(self, run, **more):
        """The command of a run, and its environment."""
        of = self.servers
        ports, ca = (of.redis(), "") if run.client in OF_REDIS else of.of(run.nodes, run.tls)
        spec = asdict(run) | {"seconds": run.seconds * self.seconds, "ports": ports, "ca": ca}
        environment, _ = CLIENTS[run.client]
        command = [self.pythons[environment], str(HERE / "worker.py"), json.dumps(spec | more)]
        # Compiled once, as installed packages are: an empty value is none.
        return command, os.environ | {"EMCACHE_DRIVER": run.driver, "PYTHONDONTWRITEBYTECODE": ""}

    def start(self, run, **more):
        command, environment = self.command(run, **more)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def once(self, run, **more):
        if run.case == "startup":
            return self._starts(run)
        return finish(self.start(run, **more))

    def _starts(self, run):
        """One start is one sample, where the other runs have thousands: the median of several."""
        made = [finish(self.start(run)) for _ in range(STARTS)]
        failed = next((result for result in made if not is_good(result)), None)
        return failed or {"start_ms": statistics.median(result["start_ms"] for result in made)}


def finish(process):
    try:
        out, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"error": "did not end"}
    if process.returncode:
        return {"error": (errors.strip().splitlines() or ["no message"])[-1]}
    # A library may have written something before it.
    return json.loads(out.splitlines()[-1]) if out else {"error": "printed nothing"}


def is_good(result):
    return "error" not in result


def summarise(results):
    """The median of each figure, with the lowest and the highest beside it."""
    good = [result for result in results if is_good(result)]
    if not good:
        return {"error": results[0]["error"]}
    summary = {}
    for name, first in good[0].items():
        if isinstance(first, list):
            columns = zip(*(result[name] for result in good), strict=True)
            summary[name] = [statistics.median(column) for column in columns]
            continue
        values = sorted(result[name] for result in good)
        summary[name] = statistics.median(values)
        summary[name + "_spread"] = [values[0], values[-1]]
    return summary | {"runs": len(good), "failed": len(results) - len(good)}


def medians(summary):
    """Only the medians of a summary."""
    return {name: value for name, value in summary.items() if not name.endswith("_spread")}


def output_of(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def about(rounds, seconds, server_threads):
    """Describe the measurement: versions, machine and time."""
    return {
        "commit": output_of("git", "-C", str(HERE), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memcached": output_of("memcached", "-V"),
        "server_threads": server_threads,
        "rounds": rounds,
        "seconds": seconds,
        "load": round(os.getloadavg()[0], 1),
        "when": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def write(path, data):
    """As JSON, with lists of numbers on one line."""
    text = json.dumps(data, indent=1)
    text = re.sub(r"\[([-\d.,\s]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    Path(path).write_text(text + "\n")
