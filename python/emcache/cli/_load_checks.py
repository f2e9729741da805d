"""Checks of `doctor` based on two samples of a node's statistics, and on pings in between."""

from dataclasses import dataclass

from ._finding import Finding, ok, warn
from ._units import duration, milliseconds, number, percent, plural, size

Stats = dict[str, str]

SLOW_MS = 5.0
LATE_MS = 100.0
LOW_HIT_RATIO = 0.5
FALLEN_BY = 0.2
ENOUGH_GETS = 1000
ENOUGH_RECENT_GETS = 100
JUST_STARTED = 600
BUSY = 0.8
FREE = 0.5
UNBALANCED = 2.0
UNBALANCED_MIN_RATE = 500.0


def whole(stats: Stats, name: str) -> int | None:
    """Return a statistic as a number; None if the server does not report it."""
    text = stats.get(name, "")
    return int(text) if text.isdigit() else None


@dataclass(frozen=True)
class Samples:
    """Statistics of one node, at the begin and at the end of some seconds."""

    before: Stats
    after: Stats
    seconds: float

    def total(self, *names: str) -> int:
        """Return the sum of counters since the start of the server."""
        return sum(whole(self.after, name) or 0 for name in names)

    def recent(self, *names: str) -> int:
        """Return by how much the counters grew."""
        return sum(
            max((whole(self.after, name) or 0) - (whole(self.before, name) or 0), 0)
            for name in names
        )

    def rate(self, *names: str) -> float:
        """Return by how much the counters grew in a second."""
        return self.recent(*names) / self.seconds if self.seconds else 0.0


def check_latency(pings: list[float]) -> list[Finding]:
    """Judge the times of pings, in ms."""
    if not pings:
        return []
    p50, slowest = sorted(pings)[len(pings) // 2], max(pings)
    text = f"{milliseconds(p50)} ms, at most {milliseconds(slowest)} ms"
    text += f" ({plural(len(pings), 'ping')})"
    if p50 > SLOW_MS:
        advice = "is this machine in the node's zone? Check the node's CPU and the network"
        return [warn("latency", text, advice)]
    if slowest > LATE_MS:
        advice = "some answers are late: check the node for swapping, CPU limits and packet loss"
        return [warn("latency", text, advice)]
    return [ok("latency", text)]


def check_hit_ratio(samples: Samples) -> list[Finding]:
    """Judge the share of the gets that find a value."""
    hits, misses = samples.total("get_hits"), samples.total("get_misses")
    gets = hits + misses
    if not gets:
        return [ok("hit ratio", "no gets yet")]
    overall = hits / gets
    text = f"{percent(overall)} of {number(gets)} gets"
    recent_hits = samples.recent("get_hits")
    recent_gets = recent_hits + samples.recent("get_misses")
    recent = recent_hits / recent_gets if recent_gets else overall
    if recent_gets >= ENOUGH_RECENT_GETS:
        text += f", {percent(recent)} at present"
    uptime = whole(samples.after, "uptime")
    if gets >= ENOUGH_GETS and overall < LOW_HIT_RATIO:
        advice = (
            "look for evictions (memory), short expiry times, and keys that are never stored: "
            "'emcache watch --misses'"
        )
    elif recent_gets >= ENOUGH_RECENT_GETS and recent < overall - FALLEN_BY:
        advice = (
            "it has fallen: was something flushed or deployed, or do clients have other nodes or "
            "another order? See 'emcache watch --misses'"
        )
    else:
        return [ok("hit ratio", text)]
    if uptime is not None and uptime < JUST_STARTED:
        advice = f"the server started {duration(uptime)} ago, so it is still filling; wait"
    return [warn("hit ratio", text, advice)]


def check_memory(samples: Samples, items: Stats) -> list[Finding]:
    """Report memory use and evictions; ``items`` is the answer to ``stats items``."""
    stats = samples.after
    used, limit = whole(stats, "bytes"), whole(stats, "limit_maxbytes")
    if used is None or not limit:
        return []
    text = f"{size(used)} of {size(limit)} ({used * 100 // limit}%)"
    evicted, stored = samples.total("evictions"), samples.total("total_items")
    if not evicted:
        return [ok("memory", f"{text}, no evictions")]
    share = evicted / max(stored, evicted)
    unread = samples.total("evicted_unfetched")
    text += f"; {number(evicted)} evicted of {number(stored)} stored in "
    text += f"{duration(whole(stats, 'uptime'))}, {unread * 100 // evicted}% of them never read"
    if samples.seconds:
        text += f"; {number(round(samples.rate('evictions'), 1))} per second at present"
    if (age := _youngest_evicted(items)) is not None:
        text += f"; the last ones were unused for {duration(age)}"
    if share < 0.01:
        return [ok("memory", text)]
    if used < FREE * limit:
        advice = (
            "memory is free, but belongs to items of other sizes ('emcache stats slabs'): start "
            "it with -o slab_automove=2, or restart it if the sizes of values have changed"
        )
    else:
        advice = (
            "use more memory (-m) or nodes, shorter expiry times, or fewer values; "
            "'emcache keys --sort size' shows the largest"
        )
    return [warn("memory", text, advice)]


def _youngest_evicted(items: Stats) -> int | None:
    """Return the shortest time without use of the items that slab classes evicted last."""
    ages = [
        int(value)
        for name, value in items.items()
        if name.endswith(":evicted_time")
        and value.isdigit()
        and items.get(name.replace(":evicted_time", ":evicted"), "0") != "0"
    ]
    return min(ages, default=None)


def check_cpu(samples: Samples, server: Stats) -> list[Finding]:
    """Judge how busy the server's threads are."""
    threads = whole(server, "num_threads")
    if not samples.seconds or not threads:
        return []
    try:
        used = sum(
            float(samples.after[name]) - float(samples.before[name])
            for name in ("rusage_user", "rusage_system")
        )
    except (KeyError, ValueError):
        return []
    share = max(used, 0.0) / samples.seconds / threads
    text = f"{share:.0%} of {plural(threads, 'thread')}"
    if share > BUSY:
        advice = "add nodes, or threads (-t) if the machine has CPUs left; 'emcache hot' shows what"
        return [warn("cpu", text, f"{advice} is fetched")]
    return [ok("cpu", text)]


def check_balance(rates: dict[str, float]) -> list[Finding]:
    """Compare the gets per second of all nodes."""
    if len(rates) < 2:
        return []
    mean = sum(rates.values()) / len(rates)
    node, most = max(rates.items(), key=lambda pair: pair[1])
    text = f"{node} gets {number(most)} of {number(sum(rates.values()))} gets per second"
    if most < UNBALANCED_MIN_RATE or most <= UNBALANCED * mean:
        return []
    advice = f"look for a hot key: 'emcache hot -s {node}'; see docs/caching-patterns.md"
    return [warn("balance", text, advice)]
