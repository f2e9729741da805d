"""What clients count, for Prometheus (``pip install 'emcache[prometheus]'``).

::

    from prometheus_client import REGISTRY
    from emcache.contrib.prometheus import EmcacheCollector

    REGISTRY.register(EmcacheCollector(client))

Nothing is done between two scrapes. A scrape may come on any thread: where it is not the client's
loop's, that is waited for, at most 1 s, and then the last counts are given
(``emcache_snapshot_age_seconds`` tells how old).
"""

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

from .._arguments import address_text
from .._snapshots import WAIT
from ..base import Client
from ..client import _Client
from ..metrics import (
    ClientMetrics,
    LatencyHistogram,
    NodeMetrics,
    added_up,
    metrics_of_client,
    pools_added_up,
)

__all__ = ["EmcacheCollector"]


class EmcacheCollector(Collector):
    """Collects the metrics of one client, or of several.

    It holds no client alive. One that was closed, or that nobody holds, is left out. Register one
    collector for each registry, and :meth:`add` further clients to it: a second one of the same
    namespace is refused by the registry.

    Args:
        client: the first client; None: they are added later.
        name: the label ``client``.
        namespace: what the names of all metrics begin with.

    Raises:
        ValueError: ``namespace`` cannot be part of a metric's name.
    """

    def __init__(
        self, client: Client | None = None, name: str = "default", namespace: str = "emcache"
    ) -> None:
        if not isinstance(namespace, str):
            raise TypeError(f"namespace must be a str, not {type(namespace).__name__}")
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", namespace):
            raise ValueError(f"namespace must be letters, digits and underscores: {namespace!r}")
        self._namespace = namespace
        self._clients: dict[str, weakref.ref[_Client]] = {}
        self._lock = threading.Lock()
        if client is not None:
            self.add(client, name)

    def add(self, client: Client, name: str) -> None:
        """Collect the metrics of a further client.

        Raises:
            ValueError: a client that is open has this name.
            TypeError: not a client of :func:`emcache.create_client`.
        """
        if not isinstance(client, _Client):
            raise TypeError(f"client must be one of create_client(), not {type(client).__name__}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        with self._lock:
            known = self._clients[name]() if name in self._clients else None
            if known is not None and known is not client and not known.closed:
                raise ValueError(f"there is a client {name!r} already")
            self._clients[name] = weakref.ref(client)

    def remove(self, name: str) -> None:
        """Leave a client out from now on; one that is not known too."""
        with self._lock:
            self._clients.pop(name, None)

    def describe(self) -> list[Metric]:
        """Give the names of all metrics, without asking a client."""
        return _Families(self._namespace).all()

    def collect(self) -> Iterator[Metric]:
        """Take snapshots of all clients."""
        families = _Families(self._namespace)
        # Together they wait no longer than one alone: most are of the same loop.
        until = time.monotonic() + WAIT
        for name, client in self._open():
            left = max(0.0, until - time.monotonic())
            families.add_client(name, metrics_of_client(client, left))
        yield from families.all()

    def _open(self) -> list[tuple[str, _Client]]:
        with self._lock:
            alive = [(name, client()) for name, client in self._clients.items()]
        return [(name, client) for name, client in alive if client and not client.closed]


class _Families:
    """The metrics of one scrape."""

    def __init__(self, namespace: str) -> None:
        def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
            labels = ("client", "node", *labels)
            return CounterMetricFamily(f"{namespace}_{name}", text, labels=labels)

        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"{namespace}_{name}", text, labels=("client", *labels))

        self.operations = counter(
            "operations", "What was asked for, by how it ended.", "op", "result"
        )
        self.durations = HistogramMetricFamily(
            f"{namespace}_operation_duration_seconds",
            "From a call to its answer.",
            labels=("client", "node", "op"),
        )
        self.connections = gauge("connections", "Open connections.", "node", "state")
        self.in_flight = gauge("requests_in_flight", "Requests without an answer.", "node")
        self.queue = gauge("queue_length", "Requests that wait for a connection.", "node")
        self.abandoned = gauge(
            "abandoned_replies", "Answers to come that nobody waits for any more.", "node"
        )
        self.up = gauge("node_up", "1: the node is healthy.", "node")
        self.bytes = counter("bytes", "Bytes over the network, before TLS.", "direction")
        self.timeouts = counter("timeouts", "Requests without an answer in time.")
        self.reconnects = counter("reconnects", "Connections in the place of lost ones.")
        self.failed_connects = counter("failed_connects", "Connects that failed.")
        self.retries = counter("retries", "Reads that were asked again.")
        self.protocol_errors = counter(
            "protocol_errors", "Connections closed because what came was no reply."
        )
        self.age = gauge("snapshot_age_seconds", "Above 0: the event loop did not answer in time.")

    def all(self) -> list[Metric]:
        return list(vars(self).values())

    def add_client(self, client: str, metrics: ClientMetrics) -> None:
        if metrics.taken:
            self.age.add_metric([client], max(0.0, time.time() - metrics.taken))
        by_name: dict[str, list[NodeMetrics]] = {}
        for node in metrics.nodes:
            by_name.setdefault(address_text(node.address), []).append(node)
        for name, nodes in by_name.items():
            self._add_commands([client, name], nodes)
            self._add_pool([client, name], nodes)

    def _add_commands(self, labels: list[str], nodes: Sequence[NodeMetrics]) -> None:
        for op, command in added_up(node.commands for node in nodes).items():
            for result, count in command.results.items():
                self.operations.add_metric([*labels, op, result], count)
            latency = command.latency
            self.durations.add_metric([*labels, op], _cumulative(latency), latency.sum)

    def _add_pool(self, labels: list[str], nodes: Sequence[NodeMetrics]) -> None:
        pool = pools_added_up([node.pool for node in nodes])
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
