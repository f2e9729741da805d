"""Processes that migrate one after the other, with an oracle that knows the newest values."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from support import migration_worker
from support.memcached import memcached


class Process:
    """A worker that was started."""

    def __init__(self, number, oracle, old, new, phase, *options):
        self.phase = phase
        ports = [",".join(str(server.port) for server in servers) for servers in (old, new)]
        arguments = [str(number), str(oracle), *ports, "rendezvous", phase, *options]
        self._process = subprocess.Popen(
            [sys.executable, migration_worker.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def end(self):
        """Its counts."""
        output, _ = self._process.communicate("", timeout=20)
        counts = json.loads(output)
        assert counts.pop("wrong") == [], self.phase
        return Counter(counts)

    def kill(self):
        self._process.kill()
        self._process.communicate(timeout=20)


@pytest.fixture
def servers():
    with memcached() as a, memcached() as b, memcached() as c:
        yield [a, b, c]


@pytest.fixture
def oracle(tmp_path) -> Path:
    path = tmp_path / "oracle"
    path.write_bytes(bytes(8 * migration_worker.WORDS))
    return path


def test_a_rollout_under_load(servers, oracle):
    """From 1.3's rule over two nodes to rendezvous over three; one process is killed each time."""
    nodes = (servers[:2], servers)

    def start(number, phase):
        plain = ["--plain"] if number == 2 else []
        return Process(number, oracle, *nodes, phase, *plain)

    running = [start(number, "old") for number in range(3)]
    time.sleep(1)
    total = Counter()
    for phase in ("prepare", "move", "finish", "new"):
        for number, process in enumerate(running):
            if number == 2:
                process.kill()
            else:
                total += process.end()
            running[number] = start(number, phase)
        time.sleep(1 if phase == "move" else 0.3)
    for process in running:
        total += process.end()
    assert total["hits"] / total["reads"] > 0.99, total
    assert total["lost_counters"] == total["errors"] == 0, total
    assert min(total[name] for name in ("moved", "increments", "locks", "deletes")) > 10, total


@pytest.mark.driver_independent
def test_a_migration_is_taken_back_under_load(servers, oracle):
    """All processes return to `prepare`, and then move items the other way."""
    nodes = (servers[:2], servers)
    steps = [("old",), ("prepare",), ("move",), ("prepare",)]
    steps += [("move", "--back"), ("finish", "--back"), ("old",)]
    running, total = [], Counter()
    for step, (phase, *back) in enumerate(steps):
        for number in range(3):
            if step and number == 2:
                running[number].kill()
            elif step:
                total += running[number].end()
            plain = ["--plain"] if number == 2 else []
            process = Process(number, oracle, *nodes, phase, *plain, *back)
            running[number : number + 1] = [process]
        time.sleep(1 if phase == "move" else 0.2)
    for process in running:
        total += process.end()
    assert total["hits"] / total["reads"] > 0.99, total
    assert total["lost_counters"] == total["errors"] == 0, total
    assert min(total[name] for name in ("moved", "increments", "locks", "deletes")) > 10, total


@pytest.mark.driver_independent
@pytest.mark.parametrize("which", [0, 2], ids=["old", "new"])
def test_a_node_restarts_empty_in_each_phase(servers, oracle, which):
    """Tokens of the server before mean nothing; what it had is missing, and nothing is old."""
    nodes = (servers[:2], servers)
    running = [Process(number, oracle, *nodes, "old", "--plain") for number in range(2)]
    total = Counter()
    for phase in ("prepare", "move", "finish"):
        for number, process in enumerate(running):
            total += process.end()
            running[number] = Process(number, oracle, *nodes, phase, "--plain")
        time.sleep(0.3)
        servers[which].kill()
        servers[which].start()
        time.sleep(0.7)
    for process in running:
        total += process.end()
    assert total["writes"] > 10, total
    assert total["moved"] > 0, total


def test_an_old_node_dies(servers, oracle):
    a, b, c = servers
    worker = Process(0, oracle, [a, b], [a, b], "old", "--plain")
    time.sleep(0.5)
    worker.end()
    workers = [Process(number, oracle, [a, b], [b, c], "move", "--plain") for number in (0, 1)]
    time.sleep(0.2)
    a.kill()
    time.sleep(1)
    total = sum((worker.end() for worker in workers), Counter())
    assert total["writes"] > 20, total
    # Those that were under way.
    assert total["errors"] < 20, total


def test_an_old_node_is_frozen_and_continues(servers, oracle):
    """What it has is outdated then, and is not used."""
    a, b, c = servers
    worker = Process(0, oracle, [a, b], [a, b], "old", "--plain")
    time.sleep(0.5)
    worker.end()
    worker = Process(0, oracle, [a, b], [b, c], "move", "--plain")
    a.pause()
    time.sleep(1.5)
    a.resume()
    time.sleep(0.5)
    total = worker.end()
    assert total["writes"] > 5, total
