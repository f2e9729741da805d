"""The performance targets: design.md section 7 and the table of issue 6, row by row.

A row compares runs of one round, and is reached if the figure made of the medians of all rounds is
on the right side of its limit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from runs import Run

LOOPS = ("asyncio", "uvloop")
OLD, BATCHING, OURS, FLOOR = "emcache 1.3.3", "emcache 1.3.3 autobatching", "emcache", "floor"
LIBMC, PYLIBMC = "libmc", "pylibmc"
ASYNC_PEERS = (OLD, BATCHING, "aiomcache", "memcachio")
MORE_IS_BETTER = {"ops_per_s"}


@dataclass(frozen=True)
class Row:
    work: str
    against: str
    ours: Run
    others: tuple[Run, ...]
    of: Callable
    """Makes the figure of the results of `ours` and of `others`."""
    limit: float
    at_least: bool = False
    unit: str = ""

    def is_reached(self, figure):
        return figure >= self.limit if self.at_least else figure <= self.limit

    @property
    def title(self):
        return f"{self.work} / {self.against} / {self.ours.loop}"

    @property
    def reach(self):
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{self.unit}"


def ratio(metric):
    """The ratio of ours to the best of the others."""
    best = max if metric in MORE_IS_BETTER else min
    return lambda ours, others: ours[metric] / best(other[metric] for other in others)


def inverse(metric):
    return lambda ours, others: others[0][metric] / ours[metric]


def own(metric, scale=1.0):
    return lambda ours, _: ours[metric] / scale


def beyond(metric, scale=1.0):
    """The difference between ours and the other."""
    return lambda ours, others: (ours[metric] - others[0][metric]) / scale


def tail(ours, _):
    return ours["p99_us"] / ours["p50_us"]


def against(run, work, limits, metric="ops_per_s", of=None):
    """Rows that say how fast `run` is; `limits`: (loops, peers, limit)."""
    more = metric in MORE_IS_BETTER
    for loops, peers, limit in limits:
        peers = (peers,) if isinstance(peers, str) else peers
        for loop in loops:
            ours = replace(run, loop=loop)
            others = tuple(replace(ours, client=peer) for peer in peers)
            name = peers[0] if len(peers) == 1 else "the fastest async peer"
            unit = "x" if more else ""
            yield Row(
                f"{work}: {metric}", name, ours, others, of or ratio(metric), limit, more, unit
            )


ASYNCIO, UVLOOP = LOOPS[:1], LOOPS[1:]


def of_the_design():
    one, some, many = (Run(OURS, tasks=tasks) for tasks in (1, 32, 256))
    yield from against(one, "get, 1 task", [(ASYNCIO, OLD, 0.7), (UVLOOP, OLD, 0.75)], "p50_us")
    libs = [(ASYNCIO, LIBMC, 1.2), (ASYNCIO, PYLIBMC, 1.2)]
    yield from against(one, "get, 1 task", libs, "p50_us")
    yield from against(one, "get, 1 task", [(LOOPS, OLD, 0.6)], "cpu_us")
    limits = [(ASYNCIO, OLD, 7), (UVLOOP, OLD, 4.5), (LOOPS, BATCHING, 1.5)]
    yield from against(some, "get, 32 tasks", limits)
    limits = [(ASYNCIO, OLD, 14), (UVLOOP, OLD, 10), (LOOPS, BATCHING, 2.2)]
    limits += [(ASYNCIO, FLOOR, 0.9), (UVLOOP, FLOOR, 0.7)]
    yield from against(many, "get, 256 tasks", limits)
    limits = [(ASYNCIO, OLD, 7), (UVLOOP, OLD, 4.5)]
    yield from against(replace(some, case="set"), "set, 32 tasks", limits)
    yield from against(replace(many, case="set"), "set, 256 tasks", [(ASYNCIO, OLD, 14)])
    hundred = replace(one, case="get_many")
    yield from against(hundred, "get_many of 100, 1 task", [(LOOPS, LIBMC, 1.0)], "p50_us")
    limits = [(ASYNCIO, OLD, 3), (UVLOOP, OLD, 2.5)]
    yield from against(replace(hundred, tasks=32), "get_many of 100, 32 tasks", limits)
    for loop in LOOPS:
        run = Run(OURS, tasks=1024, loop=loop)
        yield Row("get, 1,024 tasks, default pool: p99 / p50", "itself", run, (), tail, 3)
    start = Run(OURS, case="startup")
    limits = [(ASYNCIO, OLD, 1.0)]
    yield from against(start, "import, create, first get", limits, "start_ms")


def of_large_values():
    for case in ("get", "set"):
        peers = [peer for peer in ASYNC_PEERS if (case, peer) != ("set", BATCHING)]
        for size, name, limit in [(10_000, "10 KB", 1.5), (100_000, "100 KB", 1.5)]:
            run = Run(OURS, case, tasks=32, size=size)
            yield from against(run, f"{case} of {name}, 32 tasks", [(ASYNCIO, peers, limit)])
        run = Run(OURS, case, tasks=32, size=1_000_000, watch="memory")
        work = f"{case} of 1 MB, 32 tasks"
        yield from against(run, work, [(ASYNCIO, peers, 1.0)])
        in_flight = own("peak_kib", scale=32 * 1_000_000 / 1024)
        yield Row(f"{work}: peak memory", "the values in flight", run, (), in_flight, 1.2, unit="x")


def of_many_nodes():
    run = Run(OURS, "get_many", many=1000, nodes=16)
    work = "get_many of 1,000 over 16 nodes"
    yield from against(run, work, [(LOOPS, OLD, 3)])
    for loop in LOOPS:
        ours = replace(run, loop=loop)
        one = (replace(ours, nodes=1),)
        yield Row(f"{work}: p50_us", "one node with all keys", ours, one, ratio("p50_us"), 1.3)


def of_the_rest():
    tls = Run(OURS, tasks=32, tls=True, warm=1.5)
    yield from against(tls, "TLS, get, 32 tasks", [(LOOPS, OLD, 3)])
    for case, name in [("mixed", "nine gets to a set"), ("miss_heavy", "nine misses to a hit")]:
        run = Run(OURS, case, tasks=256)
        yield from against(run, f"{name}, 256 tasks", [(LOOPS, OLD, 8)])
    for loop in LOOPS:
        # Long enough that the first burst, in which the tasks are made, is about a per cent of it.
        long = Run(OURS, tasks=10_000, loop=loop, seconds=6)
        ours = Run(OURS, tasks=10_000, loop=loop, watch="memory", seconds=2)
        floor = (replace(ours, client=FLOOR),)
        work = "get, 10,000 tasks, default pool"
        yield Row(f"{work}: p99 / p50", "itself", long, (), tail, 3)
        each = beyond("peak_kib", scale=10_000 / 1024)
        yield Row(f"{work}: memory per call", "the floor", ours, floor, each, 2048, unit=" bytes")
    for loop in LOOPS:
        ours = Run(OURS, tasks=256, loop=loop)
        thread = (replace(ours, driver="thread"),)
        work = "get, 256 tasks: loop driver to thread driver"
        yield Row(work, "the thread driver", ours, thread, ratio("ops_per_s"), 1.4, unit="x")


def of_turns():
    many = Run(OURS, tasks=1024, watch="turns")
    large = Run(OURS, "mixed", tasks=32, size=1_000_000, watch="turns")
    small_work, large_work = "one turn, 1,024 tasks", "one turn, 32 tasks move 1 MB values"
    for name, key in [("", "turn"), (" (CPU time)", "turn_cpu")]:
        held = own(f"{key}_p99_us", scale=1000)
        yield Row(f"{small_work}: p99{name}", "the loop", many, (), held, 1, unit=" ms")
        held = own(f"{key}_max_us", scale=1000)
        yield Row(f"{large_work}: longest{name}", "the loop", large, (), held, 5, unit=" ms")


def of_idle():
    """Run beside each other, as they sleep: not in the rounds."""
    ours, floor = Run(OURS, "idle"), (Run(FLOOR, "idle"),)
    work = "idle for 10 s: wake-ups"
    yield Row(work, "a sleep", ours, floor, beyond("wakeups"), 0)
    work = "steady state: threads that could wait for a lock"
    yield Row(work, "the loop's own", ours, (), own("threads"), 1)


def in_rounds():
    for part in (of_the_design, of_large_values, of_many_nodes, of_the_rest, of_turns):
        yield from part()
