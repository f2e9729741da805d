"""The memcached client for asyncio."""

from ._address import MemcachedHostAddress, MemcachedUnixSocketPath
from ._errors import (
    ArithmeticCommandError,
    AuthenticationError,
    ClientClosedError,
    ClusterNoAvailableNodes,
    CommandError,
    ConnectionFailedError,
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
    "Client",
    "ClientClosedError",
    "ClusterEvents",
    "ClusterManagement",
    "ClusterManagment",
    "ClusterNoAvailableNodes",
    "CommandError",
    "ConnectionFailedError",
    "ConnectionPool",
    "ConnectionPoolMetrics",
    "EmcacheError",
    "InvalidKeyError",
    "Item",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "NodeUnavailableError",
    "NotFoundCommandError",
    "NotStoredStorageCommandError",
    "OperationTimeoutError",
    "OverloadedError",
    "ProtocolError",
    "StorageCommandError",
    "__version__",
    "create_client",
]
