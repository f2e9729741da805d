"""The exceptions of the package.

::

    EmcacheError
    ├─ InvalidKeyError                  also ValueError
    ├─ SerializationError               also ValueError
    ├─ ClientClosedError                also RuntimeError
    ├─ ClusterNoAvailableNodes
    ├─ OverloadedError                  the queue of a node is full
    ├─ UnsupportedError                 the node lacks the command or an option of it
    ├─ OperationTimeoutError            also TimeoutError (asyncio.TimeoutError)
    ├─ LockTimeoutError                 also TimeoutError (asyncio.TimeoutError)
    ├─ LockLostError
    ├─ ConnectionFailedError            also ConnectionError and TimeoutError
    │  ├─ NodeUnavailableError          the node is known to be down: fails at once
    │  ├─ ProtocolError                 the server sent an unexpected reply
    │  └─ DiscoveryError                no list of nodes to start with
    └─ CommandError                     the server answered with an error or a negative reply
       ├─ StorageCommandError
       │  └─ NotStoredStorageCommandError
       ├─ NotFoundCommandError
       ├─ ArithmeticCommandError        also ValueError
       └─ AuthenticationError

In emcache 1.3 a lost connection raised ``asyncio.TimeoutError``; handlers for that still catch it.
"""

import asyncio
from typing import TypeVar

E = TypeVar("E", bound=Exception)


class EmcacheError(Exception):
    """Root of all exceptions of this package."""

    node: str | None = None
    """The node, as ``host:port`` or path; None if the error is not about one node."""
    command: str | None = None
    """The command that failed, by memcached's name (``get``, ``incr``); None without one."""
    status: str | None = None
    """The first word of the server's reply (``NOT_STORED``, ``EXISTS``, ``NOT_FOUND``, ``ERROR``,
    ``CLIENT_ERROR``, ``SERVER_ERROR``); None if the server did not reply."""
    _reason: str | None = None
    """The cause in one word, where the class and the status do not tell it: ``unauthenticated``,
    ``unanswered`` (the node closes connections for this one command, so another command may
    work), ``tls``, ``too_many_connections`` or ``timeout``."""
    _cli_text: str | None = None
    """The message with options of the command line instead of arguments of ``create_client``; None
    if it names none. A ``ValueError`` about TLS options has it too."""
    _down_because: str | None = None
    """Why the node is down, if that is the error."""


class InvalidKeyError(EmcacheError, ValueError):
    """memcached does not accept the key; nothing was sent."""


class SerializationError(EmcacheError, ValueError):
    """A value cannot be stored, or read back; raised by :class:`emcache.Cache`."""


class LeaseLostError(EmcacheError, TimeoutError):
    """Another process has been computing the value of a key for too long.

    Only ``get_or_set`` and cached functions with ``on_lost="raise"`` raise it.
    """


class ClientClosedError(EmcacheError, RuntimeError):
    """The client is closed, or was closed during the call."""


class ClusterNoAvailableNodes(EmcacheError):
    """All nodes are unhealthy, and ``purge_unhealthy_nodes`` does not route keys to them."""


class OverloadedError(EmcacheError):
    """Too many requests, or bytes, wait for one node; nothing was sent."""


class UnsupportedError(EmcacheError):
    """The node does not know a command or one of its options; nothing was sent."""


class OperationTimeoutError(EmcacheError, asyncio.TimeoutError):
    """The server did not reply within the client's timeout. A write may have happened."""


class LockTimeoutError(EmcacheError, asyncio.TimeoutError):
    """A lock was not free in time; raised by ``async with cache.lock(...)``."""


class LockLostError(EmcacheError):
    """A lock was lost before its release; raised at the end of ``async with cache.lock(...)``."""


class ConnectionFailedError(EmcacheError, ConnectionError, asyncio.TimeoutError):
    """The connection was lost before the reply. A write may have happened."""


class NodeUnavailableError(ConnectionFailedError):
    """The node is known to be down; nothing was sent."""


class ProtocolError(ConnectionFailedError):
    """The server sent an unexpected reply, and the connection was closed."""


class DiscoveryError(ConnectionFailedError):
    """Autodiscovery did not find the nodes, so no client was created."""


class CommandError(EmcacheError):
    """The server refused a command."""


class StorageCommandError(CommandError):
    """The server refused to store a value."""


class NotStoredStorageCommandError(StorageCommandError):
    """The condition of a storage command was not met."""


class NotFoundCommandError(CommandError):
    """The key does not exist."""


class ArithmeticCommandError(CommandError, ValueError):
    """The value is not a number, or the server refused the delta."""


class AuthenticationError(CommandError):
    """The server did not accept the credentials."""


def with_origin(error: E, node: str | None, command: str | None, status: str | None = None) -> E:
    """Set the node, the command and the status of an exception, and return it."""
    vars(error).update(node=node, command=command, status=status)
    return error


def is_unanswered(error: BaseException) -> bool:
    """Whether a proxy closed the connection for one command, so that another command may work."""
    return isinstance(error, ConnectionFailedError) and error._reason == "unanswered"


def is_missing(error: CommandError) -> bool:
    """Whether the key has no item. A ``cas`` of such a key has no exception class of its own."""
    return error.status == "NOT_FOUND"


# The core raises the classes of the first import, so a reload of this module keeps them.
_FIRST: dict[str, object] = globals().get("_FIRST", {})
for _name in [name for name, each in globals().items() if isinstance(each, type)]:
    globals()[_name] = _FIRST.setdefault(_name, globals()[_name])
