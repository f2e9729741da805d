"""The exceptions of the package.

::

    EmcacheError
    ├─ InvalidKeyError                  also ValueError
    ├─ SerializationError               also ValueError
    ├─ ClientClosedError                also RuntimeError
    ├─ ClusterNoAvailableNodes
    ├─ OverloadedError                  queues to a node are full
    ├─ OperationTimeoutError            also TimeoutError (asyncio.TimeoutError)
    ├─ ConnectionFailedError            also ConnectionError and TimeoutError
    │  ├─ NodeUnavailableError          known to be down: fails at once
    │  ├─ ProtocolError                 the server sent what is no answer
    │  └─ DiscoveryError                no list of nodes to begin with
    └─ CommandError                     the server answered no
       ├─ StorageCommandError
       │  └─ NotStoredStorageCommandError
       ├─ NotFoundCommandError
       ├─ ArithmeticCommandError        also ValueError
       └─ AuthenticationError

Under emcache 1.3 a lost connection showed as ``asyncio.TimeoutError``; handlers written for that
still catch it.
"""

import asyncio
from typing import TypeVar

E = TypeVar("E", bound=Exception)


class EmcacheError(Exception):
    """Root of all exceptions of this package."""

    node: str | None = None
    """The node it happened with, as ``host:port`` or path; None if it is not about one node."""
    command: str | None = None
    """The command that failed, in memcached's word (``get``, ``incr``); None if there is none."""
    status: str | None = None
    """The first word of the server's reply (``NOT_STORED``, ``EXISTS``, ``NOT_FOUND``, ``ERROR``,
    ``CLIENT_ERROR``, ``SERVER_ERROR``); None if there was no reply."""
    _reason: str | None = None
    """The cause in one word, where the class and the status do not tell it: ``unauthenticated``,
    ``unanswered`` (the connection was closed instead of a reply to this one command, or is known
    to be: another command may work), ``tls``, ``too_many_connections`` or ``timeout``."""


class InvalidKeyError(EmcacheError, ValueError):
    """A key that memcached does not take; nothing was sent."""


class SerializationError(EmcacheError, ValueError):
    """A value that cannot be stored as it is, or read back; raised by :class:`emcache.Cache`."""


class ClientClosedError(EmcacheError, RuntimeError):
    """The client is closed, or was closed while the call was under way."""


class ClusterNoAvailableNodes(EmcacheError):
    """All nodes are unhealthy, and ``purge_unhealthy_nodes`` keeps keys from them."""


class OverloadedError(EmcacheError):
    """Too many requests, or bytes, wait for one node; nothing was sent."""


class OperationTimeoutError(EmcacheError, asyncio.TimeoutError):
    """No reply within the client's timeout. A write may have happened all the same."""


class ConnectionFailedError(EmcacheError, ConnectionError, asyncio.TimeoutError):
    """The connection was lost before the reply. A write may have happened all the same."""


class NodeUnavailableError(ConnectionFailedError):
    """The node is known to be down; nothing was sent."""


class ProtocolError(ConnectionFailedError):
    """The server sent what is no reply to what was asked. The connection was closed."""


class DiscoveryError(ConnectionFailedError):
    """The nodes of a cluster could not be found out, so there is no client."""


class CommandError(EmcacheError):
    """The server refused a command."""


class StorageCommandError(CommandError):
    """The server refused to store a value."""


class NotStoredStorageCommandError(StorageCommandError):
    """The condition of a storage command was not met."""


class NotFoundCommandError(CommandError):
    """There is no item with this key."""


class ArithmeticCommandError(CommandError, ValueError):
    """The item's value is not a number, or the server refused the delta."""


class AuthenticationError(CommandError):
    """The server did not accept the credentials."""


def attributed(error: E, node: str | None, command: str | None, status: str | None = None) -> E:
    """Set which node, command and reply an exception is about."""
    vars(error).update(node=node, command=command, status=status)
    return error


def is_unanswered(error: BaseException) -> bool:
    """Whether a proxy closed the connection for one command, so that another command may work."""
    return isinstance(error, ConnectionFailedError) and error._reason == "unanswered"


def is_missing(error: CommandError) -> bool:
    """Whether the key has no item; of ``cas`` too, which has no exception class for it."""
    return error.status == "NOT_FOUND"


# The core raises the classes of the first import. They stay the same if this module is reloaded.
_FIRST: dict[str, object] = globals().get("_FIRST", {})
for _name in [name for name, each in globals().items() if isinstance(each, type)]:
    globals()[_name] = _FIRST.setdefault(_name, globals()[_name])
