"""A memcached client for asyncio."""

import sys
import typing

# Must come first: it refuses sub-interpreters, and restores the exceptions of an earlier import.
from . import _emcache as _emcache  # isort: split

from ._address import ALL_NODES, MemcachedHostAddress, MemcachedUnixSocketPath
from ._client import Client
from ._cluster import ClusterEvents, ClusterManagement, ClusterManagment
from ._create import create_client
from ._emcache import __version__
from ._errors import (
    ArithmeticCommandError,
    AuthenticationError,
    ClientClosedError,
    ClusterNoAvailableNodes,
    CommandError,
    ConnectionFailedError,
    DiscoveryError,
    EmcacheError,
    InvalidKeyError,
    LeaseLostError,
    LockLostError,
    LockTimeoutError,
    NodeUnavailableError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    OperationTimeoutError,
    OverloadedError,
    ProtocolError,
    SerializationError,
    StorageCommandError,
    UnsupportedError,
)
from ._item import Item
from ._lazy import PUBLIC as _PUBLIC
from ._lazy import SUBMODULES as _SUBMODULES
from ._memcached.addresses import parse_nodes
from ._pool_metrics import ConnectionPoolMetrics
from .default_values import (
    DEFAULT_AUTOBATCHING_ENABLED,
    DEFAULT_AUTOBATCHING_MAX_KEYS,
    DEFAULT_CONNECTION_TIMEOUT,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_PURGE_UNHEALTHY_NODES,
    DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER,
    DEFAULT_SSL,
    DEFAULT_SSL_VERIFY,
    DEFAULT_TIMEOUT,
)

if typing.TYPE_CHECKING:
    from ._failover import Gutter, NextNode
    from ._meta import MetaDebug, MetaDeleted, MetaItem, MetaNumber, MetaReply, MetaStored
    from ._migration import Cluster, Migration, MigrationMetrics
    from ._results import ManyResult, PartialResult
    from ._router import Router, RouterNode
    from ._url import from_url
    from .cache import Cache, cached
    from .connection_pool import ConnectionPool
    from .discovery import CallableDiscovery, DiscoveredNode, Discovery, DnsDiscovery, Topology
    from .metrics import (
        CacheMetrics,
        ClientMetrics,
        CommandMetrics,
        FailoverMetrics,
        HotKey,
        LatencyHistogram,
        NodeMetrics,
    )

__all__ = [
    "ALL_NODES",
    "DEFAULT_AUTOBATCHING_ENABLED",
    "DEFAULT_AUTOBATCHING_MAX_KEYS",
    "DEFAULT_CONNECTION_TIMEOUT",
    "DEFAULT_MAX_CONNECTIONS",
    "DEFAULT_PURGE_UNHEALTHY_NODES",
    "DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER",
    "DEFAULT_SSL",
    "DEFAULT_SSL_VERIFY",
    "DEFAULT_TIMEOUT",
    "ArithmeticCommandError",
    "AuthenticationError",
    "Cache",
    "CacheMetrics",
    "CallableDiscovery",
    "Client",
    "ClientClosedError",
    "ClientMetrics",
    "Cluster",
    "ClusterEvents",
    "ClusterManagement",
    "ClusterManagment",
    "ClusterNoAvailableNodes",
    "CommandError",
    "CommandMetrics",
    "ConnectionFailedError",
    "ConnectionPool",
    "ConnectionPoolMetrics",
    "DiscoveredNode",
    "Discovery",
    "DiscoveryError",
    "DnsDiscovery",
    "EmcacheError",
    "FailoverMetrics",
    "Gutter",
    "HotKey",
    "InvalidKeyError",
    "Item",
    "LatencyHistogram",
    "LeaseLostError",
    "LockLostError",
    "LockTimeoutError",
    "ManyResult",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "MetaDebug",
    "MetaDeleted",
    "MetaItem",
    "MetaNumber",
    "MetaReply",
    "MetaStored",
    "Migration",
    "MigrationMetrics",
    "NextNode",
    "NodeMetrics",
    "NodeUnavailableError",
    "NotFoundCommandError",
    "NotStoredStorageCommandError",
    "OperationTimeoutError",
    "OverloadedError",
    "PartialResult",
    "ProtocolError",
    "Router",
    "RouterNode",
    "SerializationError",
    "StorageCommandError",
    "Topology",
    "UnsupportedError",
    "__version__",
    "cached",
    "create_client",
    "from_url",
    "parse_nodes",
]


def __getattr__(name: str) -> object:
    """Import a lazy name or submodule when it is first used."""
    if name in _PUBLIC or name in _SUBMODULES:
        from ._lazy import load

        module = load(_PUBLIC.get(name, name))
        return getattr(module, name) if name in _PUBLIC else module
    from ._hints import MODULE_NAMES

    text = f"module {__name__!r} has no attribute {name!r}"
    if hint := MODULE_NAMES.get(name):
        raise AttributeError(f"{text}; use {hint}")
    # With the name and the module, Python adds a similar name.
    raise AttributeError(text, name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    found = {name for name in globals() if not name.startswith("_") or name.endswith("__")}
    return sorted({*found, *__all__, *_SUBMODULES} - {"sys", "typing"})
