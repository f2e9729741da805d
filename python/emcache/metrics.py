"""Counters of a client: :meth:`emcache.Client.metrics` returns a :class:`ClientMetrics`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from ._address import Address
from ._emcache import LATENCY_BOUNDS
from ._snapshots import LOOP_TIMEOUT, Snapshots
from .connection_pool import ConnectionPoolMetrics

if TYPE_CHECKING:
    from ._emcache import _RawSnapshot

__all__ = ["ClientMetrics", "CommandMetrics", "LatencyHistogram", "NodeMetrics"]


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """Seconds from a call to its reply, as the client measured them.

    Each request counts: a ``get_many`` is one request to each of its nodes. The histogram contains
    requests with a reply (errors too), requests that timed out, and requests that lost their
    connection. It does not contain requests that failed before they were sent, and requests without
    a reply whose caller was cancelled before the deadline.
    """

    counts: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    """Requests in each bucket, without those of lower buckets; the last is above all bounds."""
    sum: float = 0.0
    """The sum of all latencies, in seconds."""
    bounds: ClassVar[tuple[float, ...]] = LATENCY_BOUNDS
    """The upper bound of each bucket but the last, in seconds, inclusive."""

    @property
    def count(self) -> int:
        """The number of requests."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile, such as 0.99, in seconds; None without requests.

        The bucket is exact; within it, latencies are assumed to be spread evenly. A quantile above
        the last bound is returned as that bound.

        Raises:
            ValueError: ``q`` is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            raise ValueError("a quantile must be between 0 and 1")
        if not self.count:
            return None
        rank, below, lower = q * self.count, 0, 0.0
        for upper, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= rank:
                return lower + (upper - lower) * (rank - below) / count
            below, lower = below + count, upper
        return self.bounds[-1]

    def __add__(self, other: "LatencyHistogram") -> "LatencyHistogram":
        counts = tuple(map(sum, zip(self.counts, other.counts, strict=True)))
        return LatencyHistogram(counts, self.sum + other.sum)


@dataclass(frozen=True, slots=True)
class CommandMetrics:
    """Counters of one command of memcached."""

    results: Mapping[str, int] = field(default_factory=dict)
    """Counts by result; results that never happened are absent.

    Retrievals count once for each key (``hit``, ``miss``, and errors too), other commands once.
    ``docs/observability.md`` lists the results.
    """
    latency: LatencyHistogram = LatencyHistogram()

    @property
    def count(self) -> int:
        """The number of all results."""
        return sum(self.results.values())

    def __add__(self, other: "CommandMetrics") -> "CommandMetrics":
        results = dict(self.results)
        for name, count in other.results.items():
            results[name] = results.get(name, 0) + count
        return CommandMetrics(results, self.latency + other.latency)


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """Counters of one node."""

    address: Address
    healthy: bool
    commands: Mapping[str, CommandMetrics]
    """By memcached's name: ``get``, ``gets``, ``gat``, ``set``, ``incr``, ...; unused commands are
    absent."""
    pool: ConnectionPoolMetrics


@dataclass(frozen=True, slots=True)
class ClientMetrics:
    """Counters of a client since it was created, without those of nodes that left the cluster."""

    nodes: tuple[NodeMetrics, ...] = ()
    """In no particular order."""
    taken: float = 0.0
    """The time of the snapshot, as ``time.time()``; 0.0 without one."""
    min_connections: int = 0
    """The client's limits for each node."""
    max_connections: int = 0

    @property
    def commands(self) -> dict[str, CommandMetrics]:
        """The commands of all nodes, added up."""
        return sum_commands(node.commands for node in self.nodes)


def sum_commands(many: Iterable[Mapping[str, CommandMetrics]]) -> dict[str, CommandMetrics]:
    """Add up the commands of the same name."""
    total: dict[str, CommandMetrics] = {}
    for commands in many:
        for name, command in commands.items():
            total[name] = total[name] + command if name in total else command
    return total


def sum_pools(pools: Sequence[ConnectionPoolMetrics]) -> dict[str, int]:
    """Add up the counters of pools by name, without the connect times."""
    names = [each.name for each in fields(ConnectionPoolMetrics)]
    countable = [name for name in names if not name.startswith("create_connection_")]
    return {name: sum(getattr(pool, name) for pool in pools) for name in countable}


def read_metrics(
    snapshots: Snapshots, addresses: Sequence[Address], loop_timeout: float = LOOP_TIMEOUT
) -> ClientMetrics:
    """Return the counters of a client; wait at most ``loop_timeout`` seconds for its loop."""
    latest = snapshots.latest(loop_timeout)
    if latest is None:
        return ClientMetrics()
    taken, raw = latest
    return _from_raw(taken, raw, addresses)


def _from_raw(taken: float, raw: "_RawSnapshot", addresses: Sequence[Address]) -> ClientMetrics:
    min_connections, max_connections, nodes = raw
    converted = (
        NodeMetrics(
            addresses[index],
            healthy,
            {
                name: CommandMetrics(results, LatencyHistogram(counts, total))
                for name, (results, counts, total) in commands.items()
            },
            ConnectionPoolMetrics(**pool),  # type: ignore[arg-type]
        )
        for index, healthy, pool, commands in nodes
    )
    return ClientMetrics(tuple(converted), taken, min_connections, max_connections)
