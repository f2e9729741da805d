"""The memcached client for asyncio."""

import typing

# First: it says where emcache does not work, and brings back the exceptions of an earlier import.
from . import _emcache as _emcache  # isort: split

from ._address import ALL_NODES, MemcachedHostAddress, MemcachedUnixSocketPath
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
    SerializationError,
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
    from ._many import ManyResult, PartialResult
    from .cache import Cache, cached
    from .discovery import CallableDiscovery, DiscoveredNode, Discovery, DnsDiscovery, Topology
    from .metrics import ClientMetrics, CommandMetrics, LatencyHistogram, NodeMetrics

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
    "ManyResult",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "NodeMetrics",
    "NodeUnavailableError",
    "NotFoundCommandError",
    "NotStoredStorageCommandError",
    "OperationTimeoutError",
    "OverloadedError",
    "PartialResult",
    "ProtocolError",
    "SerializationError",
    "StorageCommandError",
    "Topology",
    "__version__",
    "cached",
    "create_client",
]

_LATER = {
    "Cache": "cache",
    "cached": "cache",
    "CallableDiscovery": "discovery",
    "ClientMetrics": "metrics",
    "CommandMetrics": "metrics",
    "DiscoveredNode": "discovery",
    "Discovery": "discovery",
    "DnsDiscovery": "discovery",
    "LatencyHistogram": "metrics",
    "ManyResult": "_many",
    "NodeMetrics": "metrics",
    "PartialResult": "_many",
    "Topology": "discovery",
}
"""What few programs need, and the module that has it."""

_SUBMODULES = {
    "autobatching",
    "cache",
    "client_errors",
    "discovery",
    "metrics",
    "node",
    "protocol",
    "timeout",
}
"""Attributes as well, because in emcache 1.3 all modules were."""


def __getattr__(name: str) -> object:
    """Import what few programs need when somebody asks for it."""
    if name in _LATER or name in _SUBMODULES:
        from importlib import import_module

        module = import_module(f".{_LATER.get(name, name)}", __name__)
        return getattr(module, name) if name in _LATER else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_SUBMODULES})
