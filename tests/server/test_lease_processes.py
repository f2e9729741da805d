"""Real processes that share a cache, and are killed."""

import contextlib
import os
import time

import pytest

from support.memcached import memcached
from support.nutcracker import nutcracker
from support.processes import barrier, crowd, first_of, oracle, refreshers, run_all, running
from support.sasl import PASSWORD, USER, sasl_memcached

pytestmark = pytest.mark.timeout(180)

PROCESSES, TASKS = 8, 200
COUNTED = ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta", "delete_hits", "delete_misses")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request, monkeypatch):
    monkeypatch.setenv("EMCACHE_TEST_LOOP", request.param)


class Servers:
    """What the processes use, and how many requests the servers have counted."""

    def __init__(self, client, memcacheds):
        self.client = client
        self._memcacheds = memcacheds

    def requests(self):
        return sum(int(each.stats()[name]) for each in self._memcacheds for name in COUNTED)


@contextlib.contextmanager
def direct():
    with memcached("-t", "2") as server:
        yield Servers({"node_addresses": [server.address]}, [server])


@contextlib.contextmanager
def proxied():
    with nutcracker() as proxy:
        yield Servers({"node_addresses": [proxy.address]}, proxy.servers)


@contextlib.contextmanager
def binary():
    with sasl_memcached() as server:
        options = {"username": USER, "password": PASSWORD, "auth": "sasl"}
        yield Servers({"node_addresses": [server.address], **options}, [])


KINDS = {"memcached": direct, "twemproxy": proxied, "memcached -S": binary}


@pytest.fixture(params=KINDS)
def servers(request):
    with KINDS[request.param]() as servers:
        yield servers


def results_of(processes):
    """The values and calls of all processes, without what they sent before."""
    found = []
    for process in processes:
        while not isinstance(result := process.result(), tuple):
            pass
        found.append(result)
    return [value for values, _ in found for value in values], sum(calls for _, calls in found)


def test_a_cold_key_is_computed_once(loop, servers):
    start = barrier(PROCESSES)
    work = {"key": "cold", "tasks": TASKS, "seconds": 0.3}
    before = servers.requests()
    with running(PROCESSES, crowd, start, servers.client, work) as processes:
        values, calls = results_of(processes)
    assert calls == 1
    assert len(values) == PROCESSES * TASKS
    assert all(value == values[0] for value in values)
    # One `get` of each process is to have a connection.
    assert servers.requests() - before - PROCESSES <= 100


def test_a_factory_that_raises_gives_the_next_process_its_turn(loop, servers):
    start = barrier(PROCESSES)
    cache = {"lease": 120}
    work = {"key": "raises", "tasks": 20, "seconds": 0.1, "failures": 1, "cache": cache}
    with running(PROCESSES, crowd, start, servers.client, work) as processes:
        began = time.monotonic()
        values, calls = results_of(processes)
    good = [value for value in values if isinstance(value, list)]
    # Each process fails once, and then one of its other callers could compute.
    assert {str(value) for value in values if not isinstance(value, list)} <= {
        "LookupError('no row')"
    }
    assert calls <= PROCESSES + 1
    assert all(value == good[0] for value in good)
    assert time.monotonic() - began < 120  # nobody waited for the end of a lease


def test_the_winner_is_killed(loop, servers):
    start = barrier(PROCESSES)
    # The lease is much longer than the computation, however busy the machine is.
    work = {"key": "killed", "tasks": TASKS, "seconds": 1.5, "cache": {"lease": 8}}
    with running(PROCESSES, crowd, start, servers.client, work) as processes:
        for process in processes:
            assert process.result() == "started"
        winner = first_of(processes)
        assert winner.result() == "computing"
        winner.kill()
        survivors = [process for process in processes if process is not winner]
        values, calls = results_of(survivors)
    assert calls == 1  # and the one of the winner
    assert len(values) == (PROCESSES - 1) * TASKS
    assert all(value == values[0] for value in values)


def test_one_refresh_of_all_processes(loop, servers):
    """A ttl of 4 s that is refreshed every 2 s or so, for 9 s."""
    start = barrier(PROCESSES)
    # A refresh that comes late on a busy machine makes nobody wait.
    cache = {"ttl": 4, "refresh": 2, "lease": 10, "stale_for": 60}
    work = {"key": "refreshed", "seconds": 9, "cache": cache}
    found = run_all(PROCESSES, refreshers, start, servers.client, work)
    computed = sum(calls for _, calls, _ in found)
    values = {tuple(value) for values, _, _ in found for value in values}
    # As many values as computations: none was computed twice or for nothing.
    assert 2 <= len(values) == computed
    # Only the first value was waited for.
    assert all(waits <= 1 for _, _, waits in found)
    # Everyone saw them in the same order.
    orders = [[tuple(value) for value in values] for values, _, _ in found]
    longest = max(orders, key=len)
    for order in orders:
        assert order == [value for value in longest if value in order]


def old_values(found):
    """The reads that saw a value from before a write that had returned when they began."""
    events = [event for events in found for event in events]
    reads = [event[1:] for event in events if event[0] == "read"]
    writes = [event[1:] for event in events if event[0] == "write"]
    # A computed value is as old as its computation. A value that was set may have been stored at
    # any time up to the end of the call.
    set_until = {begin: end for _, begin, end, how in writes if how == "set"}
    old = []
    for key in {key for key, *_ in reads}:
        ended = sorted((end, begin) for name, begin, end, _ in writes if name == key)
        index, latest = 0, 0
        for name, began, value, is_stale in sorted(reads, key=lambda event: event[1]):
            if name != key:
                continue
            while index < len(ended) and ended[index][0] < began:
                latest = max(latest, ended[index][1])
                index += 1
            if not is_stale and set_until.get(value, value) < latest:
                old.append((key, began, value, latest))
    return old


CACHES = {
    "leases": {"ttl": 60, "lease": 2},
    "refreshed and stale": {"ttl": 2, "refresh": 1, "stale_for": 1, "lease": 2},
    "by the caller": {"ttl": 2, "refresh": 1, "refresh_in": "caller", "lease": 2},
}


@pytest.mark.parametrize("cache", CACHES)
def test_no_value_from_before_an_invalidation(loop, servers, cache):
    """Random programs of several processes; the oracle knows what is too old.

    A read that began after a write had returned must not see a value whose computation began
    before that write.
    """
    seed = int(os.environ.get("EMCACHE_TEST_SEED", time.time_ns() % 1_000_000))
    work = {"key": f"o{seed}", "tasks": 10, "steps": 150, "seed": seed, "cache": CACHES[cache]}
    found = run_all(4, oracle, barrier(4), servers.client, work)
    assert sum(event[0] == "read" for events in found for event in events) > 1000
    assert sum(event[0] == "write" for events in found for event in events) > 100
    assert old_values(found) == [], seed


def test_many_keys_have_no_value_from_before_an_invalidation(loop):
    """The same, with calls for many keys whose misses share a task; one process is killed."""
    seed = int(os.environ.get("EMCACHE_TEST_SEED", time.time_ns() % 1_000_000))
    cache = {"ttl": 60, "lease": 2}
    work = {"key": f"m{seed}", "tasks": 8, "steps": 40, "seed": seed, "cache": cache}
    with direct() as servers:
        everything = servers.client, work | {"many": True}
        with running(4, oracle, barrier(4), *everything) as processes:
            for process in processes:
                assert process.result() == "begun"
            processes[0].kill()
            found = [process.result() for process in processes[1:]]
    assert sum(event[0] == "read" for events in found for event in events) > 300
    assert old_values(found) == [], seed


def test_the_oracle_notices_an_old_value(loop):
    """Without leases processes do not know of each other, and the oracle must see it."""
    with direct() as servers:
        for seed in range(5):
            work = {"key": f"none{seed}", "tasks": 10, "steps": 150, "seed": seed}
            cache = {"cache": {"lease": None}}
            found = run_all(4, oracle, barrier(4), servers.client, work | cache)
            if old_values(found):
                return
    pytest.fail("no old value was seen in five programs")
