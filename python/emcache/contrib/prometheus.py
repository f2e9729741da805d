"""Metrics of clients for Prometheus: ``pip install 'emcache[prometheus]'``.

::

    from prometheus_client import REGISTRY
    from emcache.contrib.prometheus import EmcacheCollector

    REGISTRY.register(EmcacheCollector(client))

There is no work between scrapes, except with ``loop_lag``. A scrape may run on any thread. On a
thread other than that of the client's loop it waits for the loop, at most 1 s, and then reports the
last snapshot; ``emcache_snapshot_age_seconds`` is its age.
"""

import functools
import math
import re
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
except ImportError as _missing:
    raise ImportError(
        "emcache.contrib.prometheus needs prometheus_client: pip install 'emcache[prometheus]'"
    ) from _missing

from .._checks import check_bools
from .._client import Client
from .._memcached.addresses import format_address
from .._snapshots import LOOP_TIMEOUT
from ..metrics import (
    CacheMetrics,
    ClientMetrics,
    FailoverMetrics,
    LatencyHistogram,
    NodeMetrics,
    computations,
    lookups,
    read_metrics,
    sum_commands,
    sum_pools,
)
from ._loop_lag import LoopLag
from ._real_client import check_real_client

__all__ = ["EmcacheCollector"]


class EmcacheCollector(Collector):
    """Collects the metrics of one client, or of several.

    The collector keeps weak references, and leaves out clients that were closed or collected as
    garbage. Register one collector for each registry and :meth:`add` further clients to it, because
    a registry refuses a second collector with the same namespace.

    Args:
        client: the first client; None to add clients later.
        name: the label ``client`` of the first client.
        namespace: the prefix of all metric names.
        loop_lag: also measure ten times a second how late the event loop of each client runs its
            callbacks. This tells a busy program from a slow server.

    Raises:
        ValueError: ``namespace`` is not a valid prefix.
        RuntimeError: ``loop_lag`` with a client outside of a running event loop.
    """

    def __init__(
        self,
        client: Client | None = None,
        name: str = "default",
        namespace: str = "emcache",
        *,
        loop_lag: bool = False,
    ) -> None:
        if not isinstance(namespace, str):
            raise TypeError(f"namespace must be a str, not {type(namespace).__name__}")
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", namespace):
            raise ValueError(
                f"namespace must be letters, digits and underscores, not {namespace!r}"
            )
        check_bools(loop_lag=loop_lag)
        self._namespace = namespace
        self._loop_lag = loop_lag
        self._clients: dict[str, weakref.ref[Client]] = {}
        self._lags: dict[str, LoopLag] = {}
        self._lock = threading.Lock()
        if client is not None:
            self.add(client, name)

    def add(self, client: Client, name: str) -> None:
        """Collect the metrics of another client.

        With ``loop_lag``, call this in the event loop of the client.

        Raises:
            ValueError: an open client has this name already.
            TypeError: not a client of :func:`emcache.create_client`.
            RuntimeError: ``loop_lag``, and no event loop is running.
        """
        check_real_client(client)
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        with self._lock:
            known = self._clients[name]() if name in self._clients else None
            if known is not None and known is not client and not known.closed:
                raise ValueError(f"a client with the name {name!r} exists already")
            if self._loop_lag and (known is not client or name not in self._lags):
                lag = _loop_lag(client)
                self._forget_lag(name)
                self._lags[name] = lag
            self._clients[name] = weakref.ref(client)

    def remove(self, name: str) -> None:
        """Stop collecting a client; does nothing if the name is unknown."""
        with self._lock:
            self._clients.pop(name, None)
            self._forget_lag(name)

    def describe(self) -> list[Metric]:
        """Return all metrics without values."""
        return self._families().all()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all clients."""
        families = self._families()
        # All clients share one time limit, because most of them belong to the same loop.
        deadline = time.monotonic() + LOOP_TIMEOUT
        for name, client in self._open():
            loop_timeout = max(0.0, deadline - time.monotonic())
            metrics = read_metrics(client, loop_timeout)
            families.add_client(name, metrics)
            lag = self._lags.get(name)
            if lag is not None:
                families.add_lag(name, lag.read())
        yield from families.all()

    def _families(self) -> "_Families":
        return _Families(self._namespace, self._loop_lag)

    def _forget_lag(self, name: str) -> None:
        lag = self._lags.pop(name, None)
        if lag is not None:
            lag.stop()

    def _open(self) -> list[tuple[str, Client]]:
        with self._lock:
            alive = [(name, client()) for name, client in self._clients.items()]
        return [(name, client) for name, client in alive if client and not client.closed]


def _loop_lag(client: Client) -> LoopLag:
    try:
        return LoopLag(client)
    except RuntimeError:
        raise RuntimeError("with loop_lag, add a client in its running event loop") from None


class _Families:
    """The metrics of one scrape."""

    def __init__(self, namespace: str, loop_lag: bool) -> None:
        def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            labels = ("client", "node", *labels)
            return CounterMetricFamily(f"{namespace}_{name}", text, labels=labels)

        def cache_counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            labels = ("client", "cache", *labels)
            return CounterMetricFamily(f"{namespace}_cache_{name}", text, labels=labels)

        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"{namespace}_{name}", text, labels=("client", *labels))

        self.operations = counter("operations", "Operations by result.", "op", "result")
        self.durations = HistogramMetricFamily(
            f"{namespace}_operation_duration_seconds",
            "Time from a call to its reply.",
            labels=("client", "node", "op"),
        )
        self.connections = gauge("connections", "Open connections.", "node", "state")
        self.in_flight = gauge("requests_in_flight", "Requests without a reply.", "node")
        self.queue = gauge("queue_length", "Requests that wait for a connection.", "node")
        self.abandoned = gauge(
            "abandoned_replies", "Replies to come whose caller timed out or was cancelled.", "node"
        )
        self.up = gauge("node_up", "1 if the node is healthy.", "node")
        self.bytes = counter("bytes", "Bytes over the network, before TLS.", "direction")
        self.timeouts = counter("timeouts", "Requests that timed out.")
        self.reconnects = counter("reconnects", "Connections that replaced a lost one.")
        self.failed_connects = counter("failed_connects", "Connection attempts that failed.")
        self.retries = counter("retries", "Reads that were retried.")
        self.protocol_errors = counter(
            "protocol_errors", "Connections closed because of an unexpected reply."
        )
        self.lookups = cache_counter("lookups", "Lookups of a cache by result.", "result")
        self.computations = cache_counter("computations", "Computed values by cause.", "cause")
        self.computation_seconds = cache_counter(
            "computation_seconds", "Total duration of the computations."
        )
        self.waits = cache_counter("waits", "Callers that got a value computed for another one.")
        self.not_stored = cache_counter(
            "not_stored", "Computed values that were not stored, by reason.", "reason"
        )
        client_counter = functools.partial(CounterMetricFamily, labels=("client",))
        self.failover_requests = CounterMetricFamily(
            f"{namespace}_failover_requests",
            "Requests at the substitute of a node that is down.",
            labels=("client", "kind"),
        )
        self.outdated_keys = gauge(
            "failover_outdated_keys", "Keys to delete at a node before it serves them."
        )
        self.failover_deleted = client_counter(
            f"{namespace}_failover_deleted", "Outdated copies that were deleted."
        )
        self.failover_flushes = client_counter(
            f"{namespace}_failover_flushes", "Nodes flushed because of too many outdated keys."
        )
        self.age = gauge(
            "snapshot_age_seconds",
            "Age of the metrics; above 0: the loop did not answer.",
        )
        if loop_lag:
            self.lag = HistogramMetricFamily(
                f"{namespace}_event_loop_lag_seconds",
                "How late the event loop runs its callbacks.",
                labels=("client",),
            )

    def all(self) -> list[Metric]:
        return list(vars(self).values())

    def add_client(self, client: str, metrics: ClientMetrics) -> None:
        if metrics.taken:
            self.age.add_metric([client], max(0.0, time.time() - metrics.taken))
        by_name: dict[str, list[NodeMetrics]] = {}
        for node in metrics.nodes:
            by_name.setdefault(format_address(node.address), []).append(node)
        for name, nodes in by_name.items():
            self._add_commands([client, name], nodes)
            self._add_pool([client, name], nodes)
        for cache, counts in metrics.caches.items():
            self._add_cache([client, cache], counts)
        if metrics.failover is not None:
            self._add_failover(client, metrics.failover)

    def add_lag(self, client: str, lag: LatencyHistogram) -> None:
        self.lag.add_metric([client], _cumulative(lag), lag.sum)

    def _add_failover(self, client: str, counts: FailoverMetrics) -> None:
        self.failover_requests.add_metric([client, "read"], counts.reads)
        self.failover_requests.add_metric([client, "write"], counts.writes)
        self.outdated_keys.add_metric([client], counts.outdated_keys)
        self.failover_deleted.add_metric([client], counts.deleted)
        self.failover_flushes.add_metric([client], counts.flushes)

    def _add_cache(self, labels: list[str], counts: CacheMetrics) -> None:
        for result, count in lookups(counts).items():
            self.lookups.add_metric([*labels, result], count)
        for cause, count in computations(counts).items():
            self.computations.add_metric([*labels, cause], count)
        self.computation_seconds.add_metric(labels, counts.seconds)
        self.waits.add_metric(labels, counts.waited)
        for reason, count in counts.not_stored.items():
            self.not_stored.add_metric([*labels, reason], count)

    def _add_commands(self, labels: list[str], nodes: Sequence[NodeMetrics]) -> None:
        for op, command in sum_commands(node.commands for node in nodes).items():
            for result, count in command.results.items():
                self.operations.add_metric([*labels, op, result], count)
            latency = command.latency
            self.durations.add_metric([*labels, op], _cumulative(latency), latency.sum)

    def _add_pool(self, labels: list[str], nodes: Sequence[NodeMetrics]) -> None:
        pool = sum_pools([node.pool for node in nodes])
        idle = pool["connections_idle"]
        self.connections.add_metric([*labels, "idle"], idle)
        self.connections.add_metric([*labels, "used"], pool["cur_connections"] - idle)
        self.in_flight.add_metric(labels, pool["requests_in_flight"])
        self.queue.add_metric(labels, pool["requests_queued"])
        self.abandoned.add_metric(labels, pool["requests_abandoned"])
        self.up.add_metric(labels, float(all(node.healthy for node in nodes)))
        self.bytes.add_metric([*labels, "read"], pool["bytes_read"])
        self.bytes.add_metric([*labels, "written"], pool["bytes_written"])
        self.timeouts.add_metric(labels, pool["requests_timed_out"])
        self.reconnects.add_metric(labels, pool["reconnects"])
        self.failed_connects.add_metric(labels, pool["connections_created_with_error"])
        self.retries.add_metric(labels, pool["requests_retried"])
        self.protocol_errors.add_metric(labels, pool["protocol_errors"])


def _cumulative(latency: LatencyHistogram) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip((*latency.bounds, math.inf), latency.counts, strict=True):
        so_far += count
        buckets.append((str(floatToGoString(bound)), so_far))  # type: ignore[no-untyped-call]
    return buckets
