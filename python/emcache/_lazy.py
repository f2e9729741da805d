"""Modules that are imported when a public name of theirs is first used."""

from typing import Any

PUBLIC = {
    "Cache": "cache",
    "cached": "cache",
    "CacheMetrics": "metrics",
    "CallableDiscovery": "discovery",
    "ClientMetrics": "metrics",
    "Cluster": "_migration",
    "CommandMetrics": "metrics",
    "ConnectionPool": "connection_pool",
    "DiscoveredNode": "discovery",
    "Discovery": "discovery",
    "DnsDiscovery": "discovery",
    "HotKey": "metrics",
    "FailoverMetrics": "metrics",
    "Gutter": "_failover",
    "LatencyHistogram": "metrics",
    "ManyResult": "_results",
    "MetaDebug": "_meta",
    "MetaDeleted": "_meta",
    "MetaItem": "_meta",
    "MetaNumber": "_meta",
    "MetaReply": "_meta",
    "MetaStored": "_meta",
    "Migration": "_migration",
    "MigrationMetrics": "_migration",
    "NextNode": "_failover",
    "NodeMetrics": "metrics",
    "PartialResult": "_results",
    "Router": "_router",
    "RouterNode": "_router",
    "Topology": "discovery",
    "from_url": "_url",
}
"""Names of the package that most programs do not use, and their modules."""

SUBMODULES = {
    "autobatching",
    "base",
    "cache",
    "client",
    "client_errors",
    "cluster",
    "connection_pool",
    "discovery",
    "metrics",
    "node",
    "protocol",
    "timeout",
    "version",
}
"""Attributes of the package without an import, as all modules were in emcache 1.3."""


def load(name: str) -> Any:
    """Import a module of the package."""
    from importlib import import_module

    return import_module(f"emcache.{name}")


class LazyModule:
    """A module for annotations: it is imported when a tool resolves them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(load(self._name), attribute)


discovery = LazyModule("discovery")
failovers = LazyModule("_failover")
meta = LazyModule("_meta")
metrics = LazyModule("metrics")
migration = LazyModule("_migration")
results = LazyModule("_results")
router = LazyModule("_router")
