"""The metrics of :mod:`emcache.contrib.opentelemetry`."""

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from .._client import Client
from .._memcached.addresses import format_address
from ..metrics import CacheMetrics, ClientMetrics, NodeMetrics, computations, lookups, sum_pools
from ..version import __version__

BOUNDS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]
"""Seconds: the conventions' buckets from 1 ms on, and finer ones below, as caches are fast."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.33.0"
"""The semantic conventions whose names are used: those of databases are stable since then."""

_FRESH = 0.2
"""Seconds for which all gauges of one collection share a snapshot."""

Read = Callable[[ClientMetrics, dict[str, int]], dict[str | None, int]]
"""Converts the counters of a node to values by state (None without states)."""


ReadCache = Callable[[CacheMetrics], Mapping[str, float]]
"""Converts the counters of a cache to values by the attribute of the metric."""


class Meters:
    """The instruments of one meter provider, with weak references to the clients."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("emcache", __version__, SCHEMA_URL)
        self.duration = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._taken: weakref.WeakKeyDictionary[Client, tuple[float, ClientMetrics]] = (
            weakref.WeakKeyDictionary()
        )
        make = meter.create_observable_up_down_counter
        for name, unit, description, read in (
            ("count", "{connection}", "Connections, by state.", _count),
            ("idle.min", "{connection}", "Connections that are kept open.", _min_connections),
            ("max", "{connection}", "The most connections that may be open.", _max_connections),
            ("pending_requests", "{request}", "Requests that wait for a connection.", _pending),
        ):
            callbacks = [self._callback(read)]
            make(f"db.client.connection.{name}", callbacks, unit=unit, description=description)

        count = meter.create_observable_counter
        for name, unit, description, attribute, read_cache in (
            ("lookups", "{lookup}", "Lookups of a cache, by result.", "result", lookups),
            ("computations", "{computation}", "Computed values, by cause.", "cause", computations),
            ("computation.time", "s", "Total duration of the computations.", None, _seconds),
            (
                "waits",
                "{caller}",
                "Callers that got a value computed for another one.",
                None,
                _waits,
            ),
            ("not_stored", "{value}", "Computed values, by reason.", "reason", _not_stored),
        ):
            callbacks = [self._cache_callback(read_cache, attribute)]
            count(f"emcache.cache.{name}", callbacks, unit=unit, description=description)

    def add(self, client: Client) -> None:
        """Start to observe a client."""
        if client not in self._clients:
            with self._lock:
                self._clients.add(client)

    def remove(self, client: Client) -> None:
        """Stop observing a client."""
        with self._lock:
            self._clients.discard(client)

    def clear(self) -> None:
        """Stop observing all clients."""
        with self._lock:
            self._clients.clear()

    def _callback(self, read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            sums: dict[tuple[str, str | None], int] = {}
            for name, metrics, node in self._nodes():
                for state, value in read(metrics, sum_pools([node.pool])).items():
                    sums[name, state] = sums.get((name, state), 0) + value
            for (name, state), value in sums.items():
                attributes = {"db.client.connection.pool.name": name}
                if state is not None:
                    attributes["db.client.connection.state"] = state
                yield Observation(value, attributes)

        return observe

    def _cache_callback(
        self, read: ReadCache, attribute: str | None
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            sums: dict[tuple[str, str], float] = {}
            for metrics in self._open():
                for name, cache in metrics.caches.items():
                    for value, count in read(cache).items():
                        sums[name, value] = sums.get((name, value), 0) + count
            for (name, value), total in sums.items():
                attributes = {"emcache.cache.name": name}
                if attribute is not None:
                    attributes[f"emcache.cache.{attribute}"] = value
                yield Observation(total, attributes)

        return observe

    def _nodes(self) -> Iterator[tuple[str, ClientMetrics, NodeMetrics]]:
        for metrics in self._open():
            for node in metrics.nodes:
                yield format_address(node.address), metrics, node

    def _open(self) -> Iterator[ClientMetrics]:
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            if not client.closed:
                yield self._metrics(client)

    def _metrics(self, client: Client) -> ClientMetrics:
        now = time.monotonic()
        with self._lock:
            taken = self._taken.get(client)
        if taken is None or now - taken[0] > _FRESH:
            taken = now, client.metrics()
            with self._lock:
                self._taken[client] = taken
        return taken[1]


def _count(_: ClientMetrics, pool: dict[str, int]) -> dict[str | None, int]:
    idle = pool["connections_idle"]
    return {"idle": idle, "used": pool["cur_connections"] - idle}


def _min_connections(metrics: ClientMetrics, _: dict[str, int]) -> dict[str | None, int]:
    return {None: metrics.min_connections}


def _max_connections(metrics: ClientMetrics, _: dict[str, int]) -> dict[str | None, int]:
    return {None: metrics.max_connections}


def _pending(_: ClientMetrics, pool: dict[str, int]) -> dict[str | None, int]:
    return {None: pool["requests_queued"]}


def _seconds(cache: CacheMetrics) -> dict[str, float]:
    return {"": cache.seconds}


def _waits(cache: CacheMetrics) -> dict[str, float]:
    return {"": cache.waited}


def _not_stored(cache: CacheMetrics) -> Mapping[str, float]:
    return cache.not_stored


_BY_PROVIDER: weakref.WeakKeyDictionary[MeterProvider, Meters] = weakref.WeakKeyDictionary()


def meters_for(provider: MeterProvider) -> Meters:
    """Return the instruments of a provider, which can be created only once."""
    if provider not in _BY_PROVIDER:
        _BY_PROVIDER[provider] = Meters(provider)
    return _BY_PROVIDER[provider]
