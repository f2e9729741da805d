"""Counters of a client: :meth:`emcache.Client.metrics` returns a :class:`ClientMetrics`."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ._address import Address
from ._emcache import LATENCY_BOUNDS
from ._pool_metrics import ConnectionPoolMetrics
from ._snapshots import LOOP_TIMEOUT, Snapshots

if TYPE_CHECKING:
    from . import _migration as migrations
    from ._emcache import _RawSnapshot
else:
    from ._lazy import migration as migrations

__all__ = [
    "CacheMetrics",
    "ClientMetrics",
    "CommandMetrics",
    "FailoverMetrics",
    "HotKey",
    "LatencyHistogram",
    "NodeMetrics",
]


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
class CacheMetrics:
    """Counters of one cache, or of one cached function."""

    hits: int = 0
    """Lookups that found a value, fresh or stale."""
    local: int = 0
    """Hits of the local cache, which sent nothing; see :class:`emcache.cache.LocalCache`."""
    misses: int = 0
    """Lookups that found none."""
    stale: int = 0
    """Hits that returned a stale value."""
    computed: int = 0
    """Calls of a factory or of the function, successful or not, also for a refresh."""
    refreshed: int = 0
    """Calls of these while the old value was returned to others."""
    waited: int = 0
    """Callers that got a value that another caller or process computed."""
    not_stored: Mapping[str, int] = field(default_factory=dict)
    """Computed values that were not stored, by reason. ``docs/observability.md`` lists the
    reasons."""
    seconds: float = 0.0
    """The total duration of the computations."""


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key that this client requests often; see ``hot_keys`` of :func:`emcache.create_client`.

    Reads and writes count. Both figures are lower bounds, estimated from a sample, of about the
    last 20 seconds.
    """

    key: bytes = field(repr=False)
    """Not shown by ``repr()``, because keys may be private."""
    node: Address | None
    """The node of the key; None if no node takes keys."""
    share: float
    """The part of all requests of this client, 0 to 1."""
    rate: float
    """Requests per second."""


@dataclass(frozen=True, slots=True)
class FailoverMetrics:
    """Counters of failover."""

    reads: int = 0
    """Keys that were read at a substitute."""
    writes: int = 0
    """Writes that went to a substitute."""
    outdated_keys: int = 0
    """Keys that are to be deleted at a node before it serves them, at present."""
    deleted: int = 0
    """Outdated copies that were deleted."""
    flushes: int = 0
    """Nodes that were flushed because of too many outdated keys."""


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
    caches: Mapping[str, CacheMetrics] = field(default_factory=dict)
    """By the name of the :class:`emcache.Cache` or of the cached function."""
    migration: "migrations.MigrationMetrics | None" = None
    """The migration that is under way, if there is one."""
    hot_keys: tuple[HotKey, ...] = ()
    """The hottest key first; empty without ``hot_keys`` of :func:`emcache.create_client`."""
    failover: FailoverMetrics | None = None
    """None without the option ``failover``."""

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


def lookups(cache: CacheMetrics) -> dict[str, int]:
    """Return the lookups of a cache by result."""
    fresh = cache.hits - cache.stale - cache.local
    return {"hit": fresh, "local": cache.local, "stale": cache.stale, "miss": cache.misses}


def computations(cache: CacheMetrics) -> dict[str, int]:
    """Return the computations of a cache by their cause."""
    return {"miss": cache.computed - cache.refreshed, "refresh": cache.refreshed}


class _Client(Protocol):
    """The parts of a client that are read here."""

    _snapshots: Snapshots
    _addresses: list[Address]


def read_metrics(client: _Client, loop_timeout: float = LOOP_TIMEOUT) -> ClientMetrics:
    """Return the counters of a client; wait at most ``loop_timeout`` seconds for its loop."""
    latest = client._snapshots.latest(loop_timeout)
    if latest is None:
        return ClientMetrics(caches=_cache_metrics(client))
    taken, raw = latest
    counters = client._snapshots.failover
    failover = None if counters is None else FailoverMetrics(*counters)
    metrics = _from_raw(taken, raw, client._addresses, _cache_metrics(client), failover)
    if client._snapshots.migration_status is None:
        return metrics
    from ._migration import read_status

    status = read_status(client._snapshots.migration_status, client._addresses)
    return replace(metrics, migration=status)


def _cache_metrics(client: _Client) -> dict[str, CacheMetrics]:
    # Not imported: without a cache there is nothing to count.
    module = sys.modules.get("emcache.cache._counts")
    if module is None:
        return {}
    # A list: the loop may add a cache while another thread reads.
    by_name = list(module.all_counts(client).items())
    return {name: _from_counts(counts) for name, counts in by_name}


def _from_counts(counts: Any) -> CacheMetrics:
    values = {each.name: getattr(counts, each.name) for each in fields(CacheMetrics)}
    return CacheMetrics(**values | {"not_stored": dict(counts.not_stored)})


def _from_raw(
    taken: float,
    raw: "_RawSnapshot",
    addresses: Sequence[Address],
    caches: Mapping[str, CacheMetrics],
    failover: FailoverMetrics | None,
) -> ClientMetrics:
    min_connections, max_connections, nodes, hot = raw
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
    hot_keys = tuple(
        HotKey(key, None if index is None else addresses[index], share, rate)
        for key, index, share, rate in hot
    )
    return ClientMetrics(
        tuple(converted),
        taken,
        min_connections,
        max_connections,
        caches,
        hot_keys=hot_keys,
        failover=failover,
    )
