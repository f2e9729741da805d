# Written by tools/make_sync.py from emcache/_client.py.
"""The synchronous client: the commands of :class:`emcache.Client`."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, overload

from .._address import ALL_NODES, Address, AllNodes, Node
from .._checks import check_bools
from .._errors import ConnectionFailedError
from .._item import Item
from .._options import stats_arguments
from .._routing import NodeNames, NodeWeights
from .._types import Exptime, ManyOutcome, OnError, Value
from ._meta_commands import MetaCommands

if TYPE_CHECKING:
    from .. import _results as results
    from . import _migration as migration
else:
    # Annotations name these modules. Only programs that use or resolve them pay for the import.
    from .._lazy import migration, results

from ._client_base import ClientBase


class Client(MetaCommands, ClientBase):
    """A memcached client; create one with :func:`emcache.sync.create_client`.

    Every method may raise the following errors, in addition to those that it lists:

    - ``RuntimeError``: the client is closed (:class:`ClientClosedError`), or an event loop runs
      in the calling thread, which the call would block;
    - :class:`OperationTimeoutError`: no reply within ``timeout``; a write may have happened;
    - :class:`ConnectionFailedError`: the connection was lost before the reply; a write may have
      happened. Reads are retried once on another connection before this is raised;
    - :class:`NodeUnavailableError`: the node is known to be down; nothing was sent;
    - :class:`OverloadedError`: too many requests wait for the node; nothing was sent;
    - :class:`ClusterNoAvailableNodes`: all nodes are down and ``purge_unhealthy_nodes`` is set;
    - ``ValueError``, ``TypeError``: memcached would not accept an argument; nothing was sent.

    A key is 1 to 250 bytes without whitespace and control bytes (no byte <= 0x20, no 0x7f).

    ``exptime`` is in seconds. With 0 an item never expires, and with a negative number it expires
    at once. Numbers up to 2,592,000 (30 days) count from now; the server reads larger ones as Unix
    time. The number must fit in a signed 32-bit integer. You can also pass a ``timedelta`` of any
    length, or a ``datetime`` with a time zone. Both are sent as seconds from now if they end within
    30 days, and as Unix time otherwise. Fractions of a second round up, and a time in the past
    expires at once. An item with a time after 2038-01-19 expires on that day.

    ``flags`` is an unsigned 32-bit integer that the server stores with the item. A value is
    bytes-like. Servers refuse items that are larger than their limit (1 MiB unless started with
    ``-I``).

    With ``noreply`` a call returns as soon as its command is on a connection, and raises if it
    cannot be sent. Errors from the server are counted but not raised. While more than 1,024 such
    commands are unanswered, a call waits for its reply.

    Meta commands (``meta_*`` and ``ttl``) accept keys of any bytes. A key with whitespace or
    control bytes is sent in base64, has at most 186 bytes, and is invisible to other commands.
    They raise :class:`UnsupportedError` before anything is sent if the node does not know the
    command or an option of it, because servers ignore some unknown options without an error;
    the client asks each node once after it connects. They are never retried once they were
    sent, because a lost reply may have told its caller that it is the one to compute a value.

    A program may subclass this class to write a test double. A subclass overrides the methods that
    the tests need, and is created without arguments.

    Threads may share a client. Calls of different threads run at the same time, each on
    connections of its own, so ``min_connections`` and ``max_connections`` count for each call that
    is under way. A client that was created before a fork works in the child, on new connections.

    Each method names its section of memcached's doc/protocol.txt as its source.
    """

    def migrate(
        self,
        node_addresses: Node | Iterable[Node],
        *,
        routing: str | None = None,
        weights: NodeWeights | None = None,
        names: NodeNames | None = None,
        phase: Literal["prepare", "move", "finish"] = "move",
        drain: float | None = None,
        unknown_ttl: int = 60,
    ) -> "migration.Migration":
        """Change the nodes, their weights or the routing rule without losing the items.

        Reads that miss at an item's new node find it at its old one, and it is moved in the
        background. The page on migration describes what holds meanwhile, and the phases that
        several processes need.

        Args:
            node_addresses: the new nodes.
            routing: their rule; None for that of the client.
            weights: their weights. None: without ``routing``, each node keeps its own.
            names: their names; None as for ``weights``.
            phase: the phase to continue to; see :class:`emcache.Cluster`. The client takes the
                phase ``"prepare"`` first, for ``timeout`` seconds.
            drain: see :class:`emcache.Cluster`.
            unknown_ttl: see :class:`emcache.Cluster`.

        Raises:
            RuntimeError: a migration is under way.
            ValueError, TypeError: an argument is not valid, or the client has ``autodiscovery``.

        Wire: ``gets``, ``add``, ``cas``, ``delete``, and ``mg`` where the node knows it
        """
        from ._migration import start_migration

        return start_migration(
            self, node_addresses, routing, weights, names, phase, drain, unknown_ttl
        )

    @property
    def migration(self) -> "migration.Migration | None":
        """The migration that is under way, or None."""
        found = self._migration
        return None if found is None or self.closed or found.phase is None else found

    def get(self, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item.

        Returns:
            The item, or None on a miss. Its ``cas`` is None, and so is its ``flags`` without
            ``return_flags``.

        Raises:
            CommandError: the server answered with an error.

        Wire: ``get <key>*`` Source: "Retrieval command".
        """
        return self._core.get(key, return_flags)

    def gets(self, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item with its ``cas`` token, for :meth:`cas`; otherwise like :meth:`get`.

        Wire: ``gets <key>*`` Source: "Retrieval command".
        """
        return self._core.gets(key, return_flags)

    @overload
    def get_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["raise"] = ...
    ) -> dict[bytes, Item]: ...
    @overload
    def get_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["partial"]
    ) -> "results.PartialResult[bytes, Item]": ...
    def get_many(
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
            on_error: with ``"raise"``, an error of one node fails the call. With ``"partial"``, the
                call returns an :class:`emcache.PartialResult`: a dict of the items that arrived.
                Its ``errors`` holds an exception for each key that got no answer. Keys in neither
                are misses.

        Returns:
            The items by key, without the misses. A repeated key counts once. No keys give ``{}``.

        Raises:
            CommandError: a server answered with an error.

        Wire: ``get <key>*`` (lines of at most 1,000 bytes, or 8 KiB) Source: "Retrieval command".
        """
        if on_error != "raise":
            return self._get_partial("get", 0, keys, return_flags, on_error)
        return self._core.get_many(keys, return_flags)

    @overload
    def gets_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["raise"] = ...
    ) -> dict[bytes, Item]: ...
    @overload
    def gets_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["partial"]
    ) -> "results.PartialResult[bytes, Item]": ...
    def gets_many(
        self,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items with their ``cas`` tokens; otherwise like :meth:`get_many`.

        Wire: ``gets <key>*`` Source: "Retrieval command".
        """
        if on_error != "raise":
            return self._get_partial("gets", 0, keys, return_flags, on_error)
        return self._core.gets_many(keys, return_flags)

    def gat(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item and update its ``exptime``; otherwise like :meth:`get`.

        Some proxies do not support ``gat``. There the client sends ``get`` and ``touch`` instead.
        These two steps are not atomic, and each has its own ``timeout``.

        Wire: ``gat <exptime> <key>+`` Source: "Get And Touch".
        """
        try:
            return self._core.gat(exptime, key, return_flags)
        except ConnectionFailedError as error:
            return self._get_and_touch("gat", error, exptime, key, return_flags)

    def gats(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item with its ``cas`` token and update its ``exptime``; see :meth:`gat`.

        Wire: ``gats <exptime> <key>+`` Source: "Get And Touch".
        """
        try:
            return self._core.gats(exptime, key, return_flags)
        except ConnectionFailedError as error:
            return self._get_and_touch("gats", error, exptime, key, return_flags)

    @overload
    def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["raise"] = ...,
    ) -> dict[bytes, Item]: ...
    @overload
    def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["partial"],
    ) -> "results.PartialResult[bytes, Item]": ...
    def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items and update their ``exptime``; otherwise like :meth:`get_many`.

        Wire: ``gat <exptime> <key>+`` Source: "Get And Touch".
        """
        if on_error != "raise":
            return self._get_partial("gat", exptime, keys, return_flags, on_error)
        return self._get_and_touch_many("gat", exptime, keys, return_flags)

    @overload
    def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["raise"] = ...,
    ) -> dict[bytes, Item]: ...
    @overload
    def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["partial"],
    ) -> "results.PartialResult[bytes, Item]": ...
    def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        """Get many items with ``cas`` tokens and update their ``exptime``; see :meth:`get_many`.

        Wire: ``gats <exptime> <key>+`` Source: "Get And Touch".
        """
        if on_error != "raise":
            return self._get_partial("gats", exptime, keys, return_flags, on_error)
        return self._get_and_touch_many("gats", exptime, keys, return_flags)

    def _get_and_touch(
        self,
        verb: Literal["gat", "gats"],
        error: ConnectionFailedError,
        exptime: Exptime,
        key: bytes,
        return_flags: bool,
    ) -> Item | None:
        from ._fallbacks import fall_back, get_and_touch

        return fall_back(error, lambda: get_and_touch(self._core, verb, exptime, key, return_flags))

    def _get_and_touch_many(
        self,
        verb: Literal["gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
    ) -> dict[bytes, Item]:
        # The fallback iterates a second time.
        keys = list(keys) if hasattr(keys, "__next__") else keys
        gat_many = self._core.gat_many if verb == "gat" else self._core.gats_many
        try:
            return gat_many(exptime, keys, return_flags)
        except ConnectionFailedError as error:
            from ._fallbacks import fall_back, get_and_touch_many

            return fall_back(
                error, lambda: get_and_touch_many(self._core, verb, exptime, keys, return_flags)
            )

    def _get_partial(
        self,
        verb: Literal["get", "gets", "gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
        on_error: OnError,
    ) -> "results.PartialResult[bytes, Item]":
        if on_error != "partial":
            raise ValueError("on_error must be 'raise' or 'partial'")
        from .._results import PartialResult

        items, errors = self._core.fetch_partial(verb, exptime, keys, return_flags)
        if verb in ("gat", "gats") and errors:
            from ._fallbacks import get_and_touch_partial

            items, errors = get_and_touch_partial(
                self._core, verb, exptime, items, errors, return_flags
            )
        return PartialResult(items, errors)

    def set(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        """Store a value, whether or not the key exists.

        Raises:
            StorageCommandError: the server refused. A value over its item limit also deletes the
                previous item of the key.

        Wire: ``set <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """
        self._core.set(key, value, flags, exptime, noreply)

    def add(
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
            StorageCommandError: the server refused.

        Wire: ``add <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """
        self._core.add(key, value, flags, exptime, noreply)

    def replace(
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
            StorageCommandError: the server refused.

        Wire: ``replace <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """
        self._core.replace(key, value, flags, exptime, noreply)

    def append(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        """Add bytes to the end of an existing value; its flags and expiry time stay.

        Raises:
            NotStoredStorageCommandError: the key does not exist.
            StorageCommandError: the server refused.

        Wire: ``append <key> 0 0 <bytes>`` Source: "Storage commands".
        """
        self._core.append(key, value, 0, 0, noreply)

    def prepend(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        """Add bytes to the start of an existing value; otherwise like :meth:`append`.

        Wire: ``prepend <key> 0 0 <bytes>`` Source: "Storage commands".
        """
        self._core.prepend(key, value, 0, 0, noreply)

    def cas(
        self,
        key: bytes,
        value: Value,
        cas: int,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        """Store a value only if the item has not changed since its ``cas`` token was read.

        Args:
            key: see :class:`Client`.
            value: see :class:`Client`.
            cas: the token from :meth:`gets`, 0 to 2**64 - 1; 0 is a token like any other.
            flags: see :class:`Client`.
            exptime: see :class:`Client`.
            noreply: see :class:`Client`.

        Raises:
            NotStoredStorageCommandError: the item has changed.
            StorageCommandError: the key does not exist (``status`` is ``"NOT_FOUND"``), or the
                server refused.

        Wire: ``cas <key> <flags> <exptime> <bytes> <cas>`` Source: "Storage commands".
        """
        self._core.cas(key, value, cas, flags, exptime, noreply)

    def delete(self, key: bytes, *, noreply: bool = False) -> None:
        """Delete one item.

        Raises:
            NotFoundCommandError: the key does not exist.

        Wire: ``delete <key>`` Source: "Deletion".
        """
        self._core.delete(key, noreply)

    def increment(
        self,
        key: bytes,
        value: int,
        *,
        noreply: bool = False,
        initial: int | None = None,
        exptime: Exptime = 0,
    ) -> int | None:
        """Add to a counter; it wraps at 2**64.

        Args:
            key: see :class:`Client`.
            value: the number to add, 0 to 2**64 - 1.
            noreply: see :class:`Client`; not together with ``initial``.
            initial: the first number of a counter that does not exist, 0 to 2**64 - 1. The call
                that creates the counter returns ``initial``; ``value`` is added by later calls.
            exptime: for a counter that is created; an existing counter keeps its expiry time.

        Returns:
            The new number; None with ``noreply``.

        Raises:
            NotFoundCommandError: the key does not exist, and ``initial`` is None.
            ArithmeticCommandError: the value is not a decimal number (also a ``ValueError``).

        With ``initial`` the call takes one atomic round trip if the server is memcached 1.6.9 or
        later, or if the login is SASL. The client requests the version once after each connect.
        On older servers the call takes up to three steps (``incr``, ``add``, ``incr``), each with
        its own ``timeout``. No increment is lost there either, but a call that raises may have
        created the counter.

        Wire: ``incr <key> <value>``, or ``ma <key> MI N<exptime> J<initial> D<value> v``
        Source: "Increment/Decrement", "Meta Arithmetic".
        """
        if initial is not None or exptime != 0:
            return self._count_from("incr", key, value, noreply, initial, exptime)
        return self._core.increment(key, value, noreply)

    def decrement(
        self,
        key: bytes,
        value: int,
        *,
        noreply: bool = False,
        initial: int | None = None,
        exptime: Exptime = 0,
    ) -> int | None:
        """Subtract from a counter, which stops at 0; otherwise like :meth:`increment`.

        The server does not shorten the stored digits: after 100 - 1, :meth:`get` returns
        ``b"99 "``.

        Wire: ``decr <key> <value>``, or ``ma <key> MD N<exptime> J<initial> D<value> v``
        Source: "Increment/Decrement", "Meta Arithmetic".
        """
        if initial is not None or exptime != 0:
            return self._count_from("decr", key, value, noreply, initial, exptime)
        return self._core.decrement(key, value, noreply)

    def _count_from(
        self,
        verb: Literal["incr", "decr"],
        key: bytes,
        value: int,
        noreply: bool,
        initial: int | None,
        exptime: Exptime,
    ) -> int:
        check_bools(noreply=noreply)
        if initial is None:
            raise ValueError("exptime applies only when a counter is created; pass initial as well")
        if noreply:
            raise ValueError("initial and noreply exclude each other, because the reply is needed")
        from ._counters import count_from

        return count_from(self._core, verb, key, value, initial, exptime)

    def touch(self, key: bytes, exptime: Exptime, *, noreply: bool = False) -> None:
        """Update the ``exptime`` of an item without reading it.

        Raises:
            NotFoundCommandError: the key does not exist.

        Wire: ``touch <key> <exptime>`` Source: "Touch".
        """
        self._core.touch(key, exptime, noreply)

    def set_many(
        self,
        items: Mapping[bytes, Value],
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> "results.ManyResult":
        """Store many values, whether or not their keys exist, on all their nodes at once.

        An error of one key or node does not stop the others and is not raised. Check the result,
        or call its ``raise_errors()``.

        Args:
            items: the values by key.
            flags: for all of them; see :class:`Client`.
            exptime: for all of them; see :class:`Client`.
            noreply: see :class:`Client`. The result is empty, and the error of the first key that
                could not be sent is raised.

        Returns:
            ``done``: the keys that were stored. ``missed``: empty. ``errors``: the other keys, each
            with its exception, such as a :class:`StorageCommandError` or a
            :class:`NodeUnavailableError`.

        Raises:
            ValueError, TypeError: an argument is not valid; nothing is sent for any key.

        The client's ``timeout`` applies to the whole call. At most 16,384 keys, or 16 MiB, are sent
        before their replies arrive. If a signal handler raises, the keys that were not sent
        yet are dropped and do not appear in :meth:`metrics`.

        Wire: ``set <key> <flags> <exptime> <bytes>`` for each key Source: "Storage commands".
        """
        return _many_result(self._core.store_many("set", items, flags, exptime, noreply))

    def add_many(
        self,
        items: Mapping[bytes, Value],
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> "results.ManyResult":
        """Store many values, each only if its key does not exist; otherwise like :meth:`set_many`.

        Returns:
            As :meth:`set_many`, with the existing keys in ``missed``.

        Wire: ``add <key> <flags> <exptime> <bytes>`` for each key Source: "Storage commands".
        """
        return _many_result(self._core.store_many("add", items, flags, exptime, noreply))

    def delete_many(self, keys: Iterable[bytes], *, noreply: bool = False) -> "results.ManyResult":
        """Delete many items; otherwise like :meth:`set_many`. A repeated key counts once.

        Returns:
            As :meth:`set_many`, with the keys that do not exist in ``missed``.

        Wire: ``delete <key>`` for each key Source: "Deletion".
        """
        return _many_result(self._core.delete_many(keys, noreply))

    def touch_many(
        self, keys: Iterable[bytes], exptime: Exptime, *, noreply: bool = False
    ) -> "results.ManyResult":
        """Update the ``exptime`` of many items; otherwise like :meth:`delete_many`.

        Wire: ``touch <key> <exptime>`` for each key Source: "Touch".
        """
        return _many_result(self._core.touch_many(keys, exptime, noreply))

    def ping(self) -> dict[Address, float | Exception]:
        """Measure the round trip to all nodes at once.

        Returns:
            For each node, the seconds until its answer arrived, or an exception that says why none
            arrived. The call waits for nodes that are still connecting, for at most ``timeout``. A
            proxy counts as up if any of its servers answers: after a quarter of ``timeout`` the
            client also requests other keys.

        Wire: ``get emcache:probe:<number>`` Source: "Retrieval command".
        """
        from ._node_queries import ping

        return ping(self._core, self._nodes_by_index, self._close_timeout)

    def wait_ready(
        self,
        timeout: float,
        *,
        min_nodes: int | None = None,
    ) -> None:
        """Wait until nodes have answered; call this when a program starts.

        Args:
            timeout: in seconds, > 0.
            min_nodes: the number of nodes to wait for, 1 to all of them; None for all. Nodes that
                leave the cluster in the meantime are not waited for.

        Raises:
            OperationTimeoutError: too few nodes answered in time. It is a ``TimeoutError``, and its
                message gives the reason for each missing node.

        Wire: as :meth:`ping`.
        """
        from ._node_queries import wait_ready

        wait_ready(self._core, self._nodes_by_index, timeout, min_nodes, self._close_timeout)

    def flush_all(
        self,
        memcached_host_address: Node | AllNodes = ALL_NODES,
        delay: int = 0,
        *,
        noreply: bool = False,
    ) -> None:
        """Invalidate all items of one node, or of all nodes.

        Args:
            memcached_host_address: one of the client's nodes, as an address or its text, or
                ``emcache.ALL_NODES``.
            delay: in seconds from now, 0 to 2**32 - 1; the server reads numbers above 2,592,000 as
                Unix time.
            noreply: see :class:`Client`; the first such call to a node waits for the reply.

        Raises:
            ValueError: not a node of this client.
            CommandError: the server refused.
            ConnectionFailedError: the node did not answer. Proxies close the connection instead.
            ExceptionGroup: some of all nodes failed. The group has an exception for each of them,
                with the node in ``node``. The other nodes were flushed.

        Wire: ``flush_all [<delay>]`` Source: "Other commands".
        """
        if memcached_host_address is not ALL_NODES:
            self._core.flush_all(self._node_index(memcached_host_address), delay, noreply)
            return
        from ._node_queries import query_all

        if self.migration is not None:
            # An item may be on its way to a node that is flushed before it arrives.
            query_all(self._nodes_by_index, lambda node: self._core.flush_all(node, delay, noreply))
        answers = query_all(
            self._nodes_by_index, lambda node: self._core.flush_all(node, delay, noreply)
        )
        answers.raise_errors()

    def version(self, memcached_host_address: Node) -> str | None:
        """Return the version of one node's server, such as ``"1.6.18"``.

        Wire: ``version`` Source: "Other commands".
        """
        return self._core.version(self._node_index(memcached_host_address))

    @overload
    def stats(self, memcached_host_address: Node, *args: str) -> dict[str, str]: ...
    @overload
    def stats(
        self, memcached_host_address: AllNodes = ALL_NODES, *args: str
    ) -> "results.PartialResult[Address, dict[str, str]]": ...
    def stats(
        self, memcached_host_address: Node | AllNodes = ALL_NODES, *args: str
    ) -> "dict[str, str] | results.PartialResult[Address, dict[str, str]]":
        """Return the statistics of one node, or of all nodes.

        Args:
            memcached_host_address: one of the client's nodes, as an address or its text, or
                ``emcache.ALL_NODES``.
            *args: none for general statistics, or words such as ``"settings"`` or ``"items"``.

        Returns:
            The statistics by name. For all nodes, an :class:`emcache.PartialResult` with the
            statistics of each node by its address, and the exceptions of nodes without an answer in
            ``errors``.

        Raises:
            CommandError: the server does not know an argument. ``"reset"`` resets the counters and
                raises this as well (as in 1.3).

        Wire: ``stats[ <args>]`` Source: "Statistics".
        """
        if memcached_host_address is not ALL_NODES:
            index = self._node_index(memcached_host_address)
            return self._core.stats(index, stats_arguments(args))
        from ._node_queries import query_all

        words = stats_arguments(args)
        return query_all(self._nodes_by_index, lambda node: self._core.stats(node, words))

    def verbosity(self, memcached_host_address: Node, level: int, *, noreply: bool = False) -> None:
        """Set how much one node's server logs: 0 to 2**32 - 1; memcached reads more than 2 as 2.

        Wire: ``verbosity <level>`` Source: "Other commands".
        """
        self._core.verbosity(self._node_index(memcached_host_address), level, noreply)

    def cache_memlimit(
        self, memcached_host_address: Node, value: int, *, noreply: bool = False
    ) -> None:
        """Set how much memory one node may use.

        Args:
            memcached_host_address: one of the client's nodes, as an address or its text.
            value: in MiB; servers refuse less than 8.
            noreply: see :class:`Client`.

        Raises:
            CommandError: the server refused.

        Wire: ``cache_memlimit <value>`` Source: "Other commands".
        """
        self._core.cache_memlimit(self._node_index(memcached_host_address), value, noreply)


def _many_result(outcome: ManyOutcome | None) -> "results.ManyResult":
    from .._results import ManyResult

    return ManyResult(*(outcome or ([], [], {})))
