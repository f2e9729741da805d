"""What a client is, and what it tells its user about its nodes."""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, overload

# For annotations: what few programs need is imported when they are resolved.
import emcache

from ._address import ALL_NODES, Address, AllNodes
from ._arguments import Exptime, OnError, Value
from ._emcache import Item as Item
from .connection_pool import ConnectionPoolMetrics


# Without methods, which nobody calls: making them is a tenth of what importing this costs.
@dataclass(init=False, repr=False, eq=False)
class _ItemFields:
    """Without this text one would be made, slowly."""

    value: bytes
    flags: int | None
    cas: int | None


# `dataclasses.fields`, `asdict` and `replace` take an Item for the dataclass that it was under 1.3.
Item.__dataclass_fields__ = _ItemFields.__dataclass_fields__
Item.__dataclass_params__ = _ItemFields.__dataclass_params__  # type: ignore[attr-defined]


class ClusterManagment(metaclass=ABCMeta):
    """The nodes of a client and how they are; the spelling is that of 1.3.

    May be asked from any thread, whether the loop runs or not. On the thread of the client's loop
    the answers are of now. On other threads health is what was seen last, and counters are those
    of now if the loop runs and answers within 1 s, else the last that were read.
    """

    @abstractmethod
    def nodes(self) -> list[Address]:
        """Return all nodes: the healthy ones first."""

    @abstractmethod
    def healthy_nodes(self) -> list[Address]:
        """Return the nodes that can be reached, as far as is known."""

    @abstractmethod
    def unhealthy_nodes(self) -> list[Address]:
        """Return the nodes that could not be connected three times in a row."""

    @abstractmethod
    def connection_pool_metrics(self) -> dict[Address, ConnectionPoolMetrics]:
        """Return a copy of each node's counters."""


ClusterManagement = ClusterManagment


class ClusterEvents(metaclass=ABCMeta):
    """Told when a node turns healthy or unhealthy.

    The methods are called one at a time, in the order in which it happened. An exception is logged
    and the next event is delivered, also after a handler was cancelled. At most 1,000 events
    wait; more are dropped with a warning.
    """

    @abstractmethod
    async def on_node_healthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        """Tell that a node that was unhealthy has been connected again."""

    @abstractmethod
    async def on_node_unhealthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        """Tell that three connects in a row failed and no connection to the node is left."""

    async def on_topology_change(  # noqa: B027 - programs of 1.3 do not have it
        self,
        cluster_managment: ClusterManagment,
        old: list[Address],
        new: list[Address],
        version: int | None,
    ) -> None:
        """Tell that nodes were added or removed by autodiscovery; by now ``new`` get the keys.

        ``version`` is the cluster's own number of the list, where it has one.
        """


class Client(metaclass=ABCMeta):
    """A memcached client; :func:`emcache.create_client` makes one.

    Every method below may raise, besides what it lists:

    - ``RuntimeError``: the client is closed (:class:`ClientClosedError`) or of another loop;
    - :class:`OperationTimeoutError`: no reply within ``timeout``; a write may have happened;
    - :class:`ConnectionFailedError`: the connection was lost before the reply; a write may have
      happened. Reads are asked once more on another connection before that;
    - :class:`NodeUnavailableError`: the node is known to be down; nothing was sent;
    - :class:`OverloadedError`: too much waits for the node; nothing was sent;
    - :class:`ClusterNoAvailableNodes`: all nodes are down and ``purge_unhealthy_nodes`` is set;
    - ``ValueError``, ``TypeError``: an argument that memcached would not take; nothing was sent.

    A key is 1 to 250 bytes without whitespace and control bytes (no byte <= 0x20, no 0x7f).
    ``exptime`` is in seconds: 0 never expires, a negative number expires at once, up to 2,592,000
    (30 days) counts from now, above that the server reads it as Unix time; it must fit 32 bits with
    sign. It may also be a ``timedelta`` of any length, or a ``datetime`` with a time zone. These
    are sent as seconds from now if they end within 30 days, and as Unix time otherwise. Fractions
    of a second round up, a time that is not in the future expires at once, and one after
    2038-01-19 expires then. ``flags`` are 32 bits that the server keeps with the item. A value is
    bytes-like; servers refuse items over their limit (1 MiB unless started with ``-I``). With
    ``noreply`` a call returns when its command is on a connection and raises if it cannot be;
    errors of the server are counted but not raised. With more than 1,024 such commands unanswered
    it waits for the answer.

    Sources: memcached doc/protocol.txt, by the section named in each method.
    """

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""

    @abstractmethod
    async def close(self) -> None:
        """Close all connections; calls under way raise :class:`ClientClosedError`.

        Waits, at most for ``timeout``, for the answers to commands with ``noreply``, so that they
        are not lost. Does nothing the second time.
        """

    @abstractmethod
    def cluster_managment(self) -> ClusterManagment:
        """Return what tells about the nodes; the same object each time."""

    def node_for(self, key: bytes) -> Address:
        """Return the node that a key belongs to as things stand; nothing is sent."""
        raise NotImplementedError

    def metrics(self) -> "emcache.ClientMetrics":
        """Return what was counted since the client was made: a snapshot that does not change.

        Nothing is sent. May be called from any thread. On the client's loop the counts are of now.
        On another thread this waits for the loop, at most 1 s; of a loop that is blocked for
        longer, or not running, it returns the last snapshot that was taken (``taken`` says when,
        0.0 that there is none). So it does for a client that was closed: the counts when that
        happened.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def get(self, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item.

        Returns:
            The item, its ``cas`` None, its ``flags`` None unless ``return_flags``; None on a miss.

        Raises:
            CommandError: the server answered with an error.

        Wire: ``get <key>*`` Source: "Retrieval command".
        """

    @abstractmethod
    async def gets(self, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item with its ``cas`` token, for :meth:`cas`; else as :meth:`get`.

        Wire: ``gets <key>*`` Source: "Retrieval command".
        """

    @overload
    @abstractmethod
    async def get_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["raise"] = ...
    ) -> dict[bytes, Item]: ...

    @overload
    @abstractmethod
    async def get_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["partial"]
    ) -> "emcache.PartialResult[bytes, Item]": ...

    @abstractmethod
    async def get_many(
        self,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items, from all their nodes at once.

        Args:
            keys: see :class:`Client`.
            return_flags: see :meth:`get`.
            on_error: with ``"raise"`` one failing node fails the call. With ``"partial"`` what came
                is returned as an :class:`emcache.PartialResult`, a dict whose ``errors`` hold the
                exception for each key that got no answer; keys in neither are misses.

        Returns:
            The items by key; misses are absent, a repeated key counts once; ``{}`` for no keys.

        Raises:
            CommandError: a server answered with an error.

        Wire: ``get <key>*`` (lines of at most 1,000 bytes, or 8 KiB) Source: "Retrieval command".
        """

    @overload
    @abstractmethod
    async def gets_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["raise"] = ...
    ) -> dict[bytes, Item]: ...

    @overload
    @abstractmethod
    async def gets_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["partial"]
    ) -> "emcache.PartialResult[bytes, Item]": ...

    @abstractmethod
    async def gets_many(
        self,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items with their ``cas`` tokens; else as :meth:`get_many`.

        Wire: ``gets <key>*`` Source: "Retrieval command".
        """

    @abstractmethod
    async def gat(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item and set its ``exptime`` anew; else as :meth:`get`.

        Where the node does not answer ``gat``, as some proxies, it is done by ``get`` and
        ``touch``: two steps, each with its own ``timeout``, and not atomic.

        Wire: ``gat <exptime> <key>+`` Source: "Get And Touch".
        """

    @abstractmethod
    async def gats(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item with its ``cas`` token and set its ``exptime`` anew; else as :meth:`get`.

        Wire: ``gats <exptime> <key>+`` Source: "Get And Touch".
        """

    @overload
    @abstractmethod
    async def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["raise"] = ...,
    ) -> dict[bytes, Item]: ...

    @overload
    @abstractmethod
    async def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["partial"],
    ) -> "emcache.PartialResult[bytes, Item]": ...

    @abstractmethod
    async def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items and set their ``exptime`` anew; else as :meth:`get_many`.

        Wire: ``gat <exptime> <key>+`` Source: "Get And Touch".
        """

    @overload
    @abstractmethod
    async def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["raise"] = ...,
    ) -> dict[bytes, Item]: ...

    @overload
    @abstractmethod
    async def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["partial"],
    ) -> "emcache.PartialResult[bytes, Item]": ...

    @abstractmethod
    async def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items with ``cas`` tokens and set their ``exptime`` anew; else as `get_many`.

        Wire: ``gats <exptime> <key>+`` Source: "Get And Touch".
        """

    @abstractmethod
    async def set(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        """Store a value, whatever was there.

        Raises:
            StorageCommandError: refused; a value over the server's item limit also deletes what the
                key had.

        Wire: ``set <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """

    @abstractmethod
    async def add(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        """Store a value only if the key does not exist.

        Raises:
            NotStoredStorageCommandError: the key exists.
            StorageCommandError: refused.

        Wire: ``add <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """

    @abstractmethod
    async def replace(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        """Store a value only if the key exists.

        Raises:
            NotStoredStorageCommandError: the key does not exist.
            StorageCommandError: refused.

        Wire: ``replace <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """

    @abstractmethod
    async def append(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        """Add bytes behind an existing value; its flags and expiry stay.

        Raises:
            NotStoredStorageCommandError: the key does not exist.
            StorageCommandError: refused.

        Wire: ``append <key> 0 0 <bytes>`` Source: "Storage commands".
        """

    @abstractmethod
    async def prepend(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        """Add bytes before an existing value; else as :meth:`append`.

        Wire: ``prepend <key> 0 0 <bytes>`` Source: "Storage commands".
        """

    @abstractmethod
    async def cas(
        self,
        key: bytes,
        value: Value,
        cas: int,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        """Store a value only if nobody changed the item since its ``cas`` token was read.

        Args:
            key: see :class:`Client`.
            value: see :class:`Client`.
            cas: the token of :meth:`gets`; 0 to 2**64 - 1, and 0 is a token like any other.
            flags: see :class:`Client`.
            exptime: see :class:`Client`.
            noreply: see :class:`Client`.

        Raises:
            NotStoredStorageCommandError: the item was changed.
            StorageCommandError: the key does not exist, or refused.

        Wire: ``cas <key> <flags> <exptime> <bytes> <cas>`` Source: "Storage commands".
        """

    @abstractmethod
    async def delete(self, key: bytes, *, noreply: bool = False) -> None:
        """Delete one item.

        Raises:
            NotFoundCommandError: the key does not exist.

        Wire: ``delete <key>`` Source: "Deletion".
        """

    @abstractmethod
    async def increment(
        self,
        key: bytes,
        value: int,
        *,
        noreply: bool = False,
        initial: int | None = None,
        exptime: Exptime = 0,
    ) -> int | None:
        """Add to a number; it wraps at 2**64.

        Args:
            key: see :class:`Client`.
            value: what to add, 0 to 2**64 - 1.
            noreply: see :class:`Client`; not together with ``initial``.
            initial: what a counter that does not exist begins with, 0 to 2**64 - 1: the first call
                creates it and returns just that, ``value`` is added from the second one on.
            exptime: that of a counter that is created; the ``exptime`` of one that is there stays.

        Returns:
            The new number; None with ``noreply``.

        Raises:
            NotFoundCommandError: the key does not exist, and there is no ``initial``.
            ArithmeticCommandError: the item is not a decimal number (also a ``ValueError``).

        With ``initial`` it is one round trip and atomic where the server is memcached 1.6.9 or
        later, or the login is SASL; which it is, is asked once after each connect. Older servers
        are asked in up to three steps (``incr``, ``add``, ``incr``), each with the client's
        ``timeout``: no increment is lost there either, but one that raises may have created the
        counter.

        Wire: ``incr <key> <value>``, or ``ma <key> MI N<exptime> J<initial> D<value> v``
        Source: "Increment/Decrement", "Meta Arithmetic".
        """

    @abstractmethod
    async def decrement(
        self,
        key: bytes,
        value: int,
        *,
        noreply: bool = False,
        initial: int | None = None,
        exptime: Exptime = 0,
    ) -> int | None:
        """Subtract from a number; it stops at 0. Else as :meth:`increment`.

        The server does not shorten the stored digits: after 100 - 1 :meth:`get` returns ``b"99 "``.

        Wire: ``decr <key> <value>``, or ``ma <key> MD N<exptime> J<initial> D<value> v``
        Source: "Increment/Decrement", "Meta Arithmetic".
        """

    @abstractmethod
    async def touch(self, key: bytes, exptime: Exptime, *, noreply: bool = False) -> None:
        """Set the ``exptime`` of an item anew without reading it.

        Raises:
            NotFoundCommandError: the key does not exist.

        Wire: ``touch <key> <exptime>`` Source: "Touch".
        """

    async def set_many(
        self,
        items: Mapping[bytes, Value],
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> "emcache.ManyResult":
        """Store many values, whatever was there, at all their nodes at once.

        A key that fails, or a node, keeps no other from being stored, and raises nothing: look at
        the result, or call its ``raise_errors()``.

        Args:
            items: the values by key.
            flags: of all of them; see :class:`Client`.
            exptime: of all of them; see :class:`Client`.
            noreply: see :class:`Client`; the result is empty, and the error of the first key that
                could not be sent is raised.

        Returns:
            ``done``, the keys that were stored; ``missed``, empty; ``errors``, by key why not, such
            as a :class:`StorageCommandError` or a :class:`NodeUnavailableError`.

        Raises:
            ValueError, TypeError: for one of the arguments; then nothing is sent for any key.

        The client's ``timeout`` is that of the whole call. Of more than 16,384 keys, or 16 MiB, the
        rest is sent when these are answered. If the call is cancelled before that, the rest is not
        sent, and in no count of :meth:`metrics`.

        Wire: ``set <key> <flags> <exptime> <bytes>`` for each key Source: "Storage commands".
        """
        raise NotImplementedError

    async def add_many(
        self,
        items: Mapping[bytes, Value],
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> "emcache.ManyResult":
        """Store many values, each only if its key does not exist; else as :meth:`set_many`.

        ``missed`` are the keys that exist.

        Wire: ``add <key> <flags> <exptime> <bytes>`` for each key Source: "Storage commands".
        """
        raise NotImplementedError

    async def delete_many(
        self, keys: Iterable[bytes], *, noreply: bool = False
    ) -> "emcache.ManyResult":
        """Delete many items; else as :meth:`set_many`. A repeated key counts once.

        ``missed`` are the keys that do not exist.

        Wire: ``delete <key>`` for each key Source: "Deletion".
        """
        raise NotImplementedError

    async def touch_many(
        self, keys: Iterable[bytes], exptime: Exptime, *, noreply: bool = False
    ) -> "emcache.ManyResult":
        """Set the ``exptime`` of many items anew; else as :meth:`delete_many`.

        Wire: ``touch <key> <exptime>`` for each key Source: "Touch".
        """
        raise NotImplementedError

    async def ping(self) -> dict[Address, float | Exception]:
        """Ask all nodes at once whether they answer.

        Returns:
            By node the seconds until its answer came, or the exception that says why none did. A
            node that is being connected is waited for, at most for ``timeout``. A proxy answers if
            any of its servers does: other keys are asked for if the first takes a quarter of it.

        Wire: ``get emcache:probe:<number>`` Source: "Retrieval command".
        """
        raise NotImplementedError

    async def wait_ready(
        self,
        timeout: float,  # noqa: ASYNC109 - it says why
        *,
        min_nodes: int | None = None,
    ) -> None:
        """Return as soon as nodes have answered: for the start of a program.

        Args:
            timeout: in seconds, > 0.
            min_nodes: so many nodes are enough, 1 to all of them; None: all. Nodes that leave
                meanwhile are not waited for.

        Raises:
            OperationTimeoutError: they did not all answer in time; a ``TimeoutError``, which says
                for each of the others why.

        Wire: as :meth:`ping`.
        """
        raise NotImplementedError

    @abstractmethod
    async def flush_all(
        self,
        memcached_host_address: Address | AllNodes = ALL_NODES,
        delay: int = 0,
        *,
        noreply: bool = False,
    ) -> None:
        """Invalidate all items of one node, or of all nodes.

        Args:
            memcached_host_address: one of the client's nodes, or ``emcache.ALL_NODES``.
            delay: in seconds, from now; above 2,592,000 the server reads it as Unix time. 0 to
                2**32 - 1.
            noreply: see :class:`Client`; the first time the reply is waited for all the same.

        Raises:
            ValueError: not a node of this client.
            CommandError: refused.
            ConnectionFailedError: not answered; a proxy closes the connection.
            ExceptionGroup: of all nodes, some failed; with an exception for each, whose ``node`` is
                its name. The others did it.

        Wire: ``flush_all [<delay>]`` Source: "Other commands".
        """

    @abstractmethod
    async def version(self, memcached_host_address: Address) -> str | None:
        """Return the version of one node's server, such as ``"1.6.18"``.

        Wire: ``version`` Source: "Other commands".
        """

    @overload
    @abstractmethod
    async def stats(self, memcached_host_address: Address, *args: str) -> dict[str, str]: ...

    @overload
    @abstractmethod
    async def stats(
        self, memcached_host_address: AllNodes = ALL_NODES, *args: str
    ) -> "emcache.PartialResult[Address, dict[str, str]]": ...

    @abstractmethod
    async def stats(
        self, memcached_host_address: Address | AllNodes = ALL_NODES, *args: str
    ) -> "dict[str, str] | emcache.PartialResult[Address, dict[str, str]]":
        """Return statistics by name, of one node or of all.

        Args:
            memcached_host_address: one of the client's nodes, or ``emcache.ALL_NODES``.
            *args: none for the general ones, or words such as ``"settings"`` or ``"items"``.

        Returns:
            Those of one node, or those of each node by its address, in an
            :class:`emcache.PartialResult` whose ``errors`` say of which nodes they are missing,
            and why.

        Raises:
            CommandError: an argument that the server does not know; ``"reset"`` too, although it is
                done (as in 1.3).

        Wire: ``stats[ <args>]`` Source: "Statistics".
        """

    @abstractmethod
    async def verbosity(
        self, memcached_host_address: Address, level: int, *, noreply: bool = False
    ) -> None:
        """Set how much one node's server logs; 0 to 2**32 - 1, above 2 means no more than 2.

        Wire: ``verbosity <level>`` Source: "Other commands".
        """

    @abstractmethod
    async def cache_memlimit(
        self, memcached_host_address: Address, value: int, *, noreply: bool = False
    ) -> None:
        """Set how much memory one node may use.

        Args:
            memcached_host_address: one of the client's nodes.
            value: in MiB; servers refuse less than 8.
            noreply: see :class:`Client`.

        Raises:
            CommandError: refused.

        Wire: ``cache_memlimit <value>`` Source: "Other commands".
        """


__all__ = [
    "Client",
    "ClusterEvents",
    "ClusterManagement",
    "ClusterManagment",
    "Item",
]
