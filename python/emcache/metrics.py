"""What a client counts: :meth:`emcache.Client.metrics` gives a :class:`ClientMetrics`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

import emcache

from ._address import Address
from ._emcache import LATENCY_BOUNDS
from ._snapshots import WAIT
from .connection_pool import ConnectionPoolMetrics

if TYPE_CHECKING:
    from ._emcache import _RawSnapshot

__all__ = ["ClientMetrics", "CommandMetrics", "LatencyHistogram", "NodeMetrics"]


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """Seconds from a call to its answer, as the client saw them.

    What counts is each request: a ``get_many`` is one to each of its nodes. In it are requests that
    were answered, by an error too, that timed out, and that lost their connection; not in it are
    those that failed without being sent, and those whose caller was cancelled before the deadline
    and that were never answered.
    """

    counts: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    """How many were in each bucket, lower buckets not included; the last is above all bounds."""
    sum: float = 0.0
    """Seconds of all together."""
    bounds: ClassVar[tuple[float, ...]] = LATENCY_BOUNDS
    """Seconds that each bucket but the last reaches up to, itself included."""

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile, such as 0.99, in seconds; None: there is nothing in it.

        It is right to the bucket: within one, times are taken to be spread evenly. What is above
        the last bound is given as that.

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
    """One of memcached's commands."""

    results: Mapping[str, int] = field(default_factory=dict)
    """How many ended in which way; those that never happened are absent.

    Retrievals count once for each key (``hit``, ``miss``, and errors too), all other commands once.
    ``docs/observability.md`` lists them.
    """
    latency: LatencyHistogram = LatencyHistogram()

    @property
    def count(self) -> int:
        """How many ended, in whatever way."""
        return sum(self.results.values())

    def __add__(self, other: "CommandMetrics") -> "CommandMetrics":
        results = dict(self.results)
        for name, count in other.results.items():
            results[name] = results.get(name, 0) + count
        return CommandMetrics(results, self.latency + other.latency)


@dataclass(frozen=True, slots=True)
class NodeMetrics:
    """One node."""

    address: Address
    healthy: bool
    commands: Mapping[str, CommandMetrics]
    """By memcached's word for them: ``get``, ``gets``, ``gat``, ``set``, ``incr``, ...; those that
    were never used are absent."""
    pool: ConnectionPoolMetrics


@dataclass(frozen=True, slots=True)
class ClientMetrics:
    """All of a client, since it was made. A node that left takes its counts with it."""

    nodes: tuple[NodeMetrics, ...] = ()
    """In no order that means anything."""
    taken: float = 0.0
    """When, as ``time.time()`` tells; 0.0: never."""
    min_connections: int = 0
    """The client's limits, for each node."""
    max_connections: int = 0

    @property
    def commands(self) -> dict[str, CommandMetrics]:
        """The commands of all nodes together."""
        return added_up(node.commands for node in self.nodes)


def added_up(many: Iterable[Mapping[str, CommandMetrics]]) -> dict[str, CommandMetrics]:
    """Add commands to those of the same name."""
    total: dict[str, CommandMetrics] = {}
    for commands in many:
        for name, command in commands.items():
            total[name] = total[name] + command if name in total else command
    return total


def pools_added_up(pools: Sequence[ConnectionPoolMetrics]) -> dict[str, int]:
    """Add the counters of pools by their names."""
    names = [each.name for each in fields(ConnectionPoolMetrics)]
    countable = [name for name in names if not name.startswith("create_connection_")]
    return {name: sum(getattr(pool, name) for pool in pools) for name in countable}


def metrics_of_client(client: "emcache.client._Client", wait: float = WAIT) -> ClientMetrics:
    """Do what :meth:`emcache.Client.metrics` says, and wait so many seconds for the loop."""
    counted = client._snapshots.latest(wait)
    if counted is None:
        return ClientMetrics()
    taken, raw = counted
    return _typed(taken, raw, client._addresses)


def _typed(taken: float, raw: "_RawSnapshot", addresses: Sequence[Address]) -> ClientMetrics:
    min_connections, max_connections, nodes = raw
    typed = (
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
    return ClientMetrics(tuple(typed), taken, min_connections, max_connections)
