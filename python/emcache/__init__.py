"""The memcached client for asyncio."""

import typing

from ._address import MemcachedHostAddress, MemcachedUnixSocketPath
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
    NodeUnavailableError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    OperationTimeoutError,
    OverloadedError,
    ProtocolError,
    StorageCommandError,
)
from .base import Client, ClusterEvents, ClusterManagement, ClusterManagment, Item
from .client import create_client
from .connection_pool import ConnectionPool, ConnectionPoolMetrics
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
from .version import __version__

if typing.TYPE_CHECKING:
    from .discovery import CallableDiscovery, DiscoveredNode, Discovery, DnsDiscovery, Topology
    from .metrics import ClientMetrics, CommandMetrics, LatencyHistogram, NodeMetrics

__all__ = [
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
    "CallableDiscovery",
    "Client",
    "ClientClosedError",
    "ClientMetrics",
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
    "InvalidKeyError",
    "Item",
    "LatencyHistogram",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "NodeMetrics",
    "NodeUnavailableError",
    "NotFoundCommandError",
    "NotStoredStorageCommandError",
    "OperationTimeoutError",
    "OverloadedError",
    "ProtocolError",
    "StorageCommandError",
    "Topology",
    "__version__",
    "create_client",
]

_OF_DISCOVERY = {"CallableDiscovery", "DiscoveredNode", "Discovery", "DnsDiscovery", "Topology"}
_OF_METRICS = {"ClientMetrics", "CommandMetrics", "LatencyHistogram", "NodeMetrics"}


def __getattr__(name: str) -> object:
    """Import what not everybody needs when somebody asks for it."""
    if name in _OF_DISCOVERY:
        from . import discovery

        return getattr(discovery, name)
    if name in _OF_METRICS:
        from . import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
