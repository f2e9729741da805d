"""Several processes with failover, and an oracle that knows the newest values."""

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from emcache.testing import FaultProxy
from support import failover_worker
from support.failover_worker import CALM, OUTAGE, WRITERS, Oracle
from support.memcached import memcached

pytestmark = pytest.mark.driver_independent

TESTS = Path(failover_worker.__file__).parents[1]
LONGEST = 30


class Process:
    """A worker that was started."""

    def __init__(self, number, path, ports, *options):
        arguments = [str(number), str(path), ",".join(map(str, ports)), *options]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.failover_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS,
        )

    def wait_ready(self):
        assert self._process.stdout.readline() == "ready\n"

    def end(self):
        """Its counts."""
        output, _ = self._process.communicate("", timeout=LONGEST)
        return Counter(json.loads(output))

    def kill(self):
        self._process.kill()
        self._process.communicate(timeout=LONGEST)


@contextlib.contextmanager
def started(count, *arguments):
    processes = [Process(number, *arguments) for number in range(count)]
    try:
        for process in processes:
            process.wait_ready()
        yield processes
    finally:
        for process in processes:
            process.kill()


class Cluster:
    """Three nodes, the first behind a proxy, and a spare one."""

    def __init__(self, stack, tmp_path):
        self.servers = [stack.enter_context(memcached("-m", "64")) for _ in range(4)]
        self.proxy = stack.enter_context(FaultProxy(self.servers[0]))
        self.path = tmp_path / "oracle"
        self.path.write_bytes(bytes(8 * failover_worker.WORDS))
        self.oracle = Oracle(str(self.path))

    @property
    def ports(self):
        return [self.proxy.port, *(server.port for server in self.servers[1:3])]

    @contextlib.contextmanager
    def trouble(self, kind):
        first = self.servers[0]
        match kind:
            case "kill":
                first.kill()
                yield
                first.start()
            case "stop":
                first.pause()
                yield
                first.resume()
            case "partition":
                self.proxy.black_hole()
                yield
                self.proxy.heal()
                sys.stderr.write(f"{time.monotonic():.3f} healed\n")

    def wait_for(self, state, processes=range(WRITERS)):
        """Until all processes are in this state; they agree then."""
        end = time.monotonic() + LONGEST
        while any(self.oracle.state(number) != state for number in processes):
            assert time.monotonic() < end, [self.oracle.state(n) for n in range(WRITERS)]
            time.sleep(0.01)

    def agree(self, seconds):
        """Reads of the next seconds must find what other processes have written."""
        self.oracle.agreed += 1
        time.sleep(seconds)
        self.oracle.agreed += 1


@pytest.fixture
def cluster(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Cluster(stack, tmp_path)


@pytest.mark.parametrize(
    ("kind", "substitute"),
    [("kill", "gutter"), ("stop", "next"), ("partition", "next")],
)
def test_no_process_reads_a_value_that_is_older_than_an_acknowledged_write(
    cluster, kind, substitute
):
    """Its own writes: at any time. Those of others: whenever all see the same nodes."""
    gutter = ["--gutter", str(cluster.servers[3].port)] if substitute == "gutter" else []
    with started(WRITERS, cluster.path, cluster.ports, *gutter) as processes:
        cluster.wait_for(CALM)
        cluster.agree(0.5)
        with cluster.trouble(kind):
            cluster.wait_for(OUTAGE)
            cluster.agree(0.7)
        cluster.wait_for(CALM)
        cluster.agree(0.7)
        results = [process.end() for process in processes]
    assert [result.pop("wrong") for result in results] == [[]] * WRITERS
    total = sum(results, Counter())
    assert total["agreed_hits"] > 10, total
    assert total["own_hits"] > 10, total


def test_a_process_that_is_cut_off_alone(cluster):
    """The others use the node meanwhile; afterwards all agree."""
    direct = [server.port for server in cluster.servers[:3]]
    with started(1, cluster.path, cluster.ports) as [alone]:
        others = [Process(number, cluster.path, direct) for number in (1, 2)]
        try:
            for process in others:
                process.wait_ready()
            cluster.wait_for(CALM)
            with cluster.trouble("partition"):
                cluster.wait_for(OUTAGE, [0])
                time.sleep(0.5)
                assert [cluster.oracle.state(number) for number in (1, 2)] == [CALM, CALM]
            cluster.wait_for(CALM)
            cluster.agree(0.7)
            results = [process.end() for process in (alone, *others)]
        finally:
            for process in others:
                process.kill()
    assert [result.pop("wrong") for result in results] == [[]] * WRITERS


def test_a_process_is_killed_while_the_node_is_down(cluster):
    """A node that was restarted has no old values, so nothing that it knew is missing."""
    with started(WRITERS, cluster.path, cluster.ports) as processes:
        cluster.wait_for(CALM)
        with cluster.trouble("kill"):
            cluster.wait_for(OUTAGE)
            processes[2].kill()
            cluster.oracle.set_state(2, 0)
            processes[2] = Process(2, cluster.path, cluster.ports)
            processes[2].wait_ready()
            cluster.wait_for(OUTAGE)
            cluster.agree(0.5)
        cluster.wait_for(CALM)
        cluster.agree(0.7)
        results = [process.end() for process in processes]
    assert [result.pop("wrong") for result in results] == [[]] * WRITERS
