"""The client: one class, long because it documents every command.

The methods give arguments their meaning and pass them to the core, which does the work.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, overload

from ._address import ALL_NODES, Address, AllNodes, Node
from ._checks import check_bools
from ._cluster import ClusterEvents, ClusterManagment, NodeDirectory
from ._emcache import CoreClient, CoreMeta
from ._errors import ClientClosedError, ConnectionFailedError
from ._hints import CLIENT_METHODS, HintedABC, with_hints
from ._item import Item
from ._lifecycle import CoreOwner
from ._memcached.addresses import format_address, to_endpoint
from ._meta_commands import MetaCommands
from ._options import stats_arguments
from ._routing import NodeNames, NodeRouting, NodeWeights
from ._snapshots import Snapshots
from ._types import Exptime, ManyOutcome, OnError, Value

if TYPE_CHECKING:
    from . import _migration as migration
    from . import _results as results
    from . import discovery, metrics
    from .discovery._watcher import Watcher
else:
    # Annotations name these modules. Only programs that use or resolve them pay for the import.
    from ._lazy import discovery, metrics, migration, results

_CONNECT_POLL = 0.01
"""Seconds between two checks of whether new nodes are connected."""


@with_hints(CLIENT_METHODS)
class Client(MetaCommands, CoreOwner, metaclass=HintedABC):
    """A memcached client; create one with :func:`emcache.create_client`.

    Every method may raise the following errors, in addition to those that it lists:

    - ``RuntimeError``: the client is closed (:class:`ClientClosedError`), or it belongs to another
      event loop;
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

    Each method names its section of memcached's doc/protocol.txt as its source.
    """

    _routing: NodeRouting
    _migration: "migration.Migration | None" = None

    def __init__(self) -> None:
        if type(self) is Client:
            raise TypeError("a Client cannot be created directly; use await create_client(...)")

    @classmethod
    def _open(
        cls,
        addresses: list[Address],
        cluster_events: ClusterEvents | None,
        close_timeout: float,
        make_core: Callable[[Callable[[int, str, str | None], object]], CoreClient],
        routing: NodeRouting,
        gutter: Sequence[Address] = (),
    ) -> Self:
        """Create a client in the running loop. ``make_core`` receives the callback for changes."""
        client = cls.__new__(cls)
        client._routing = routing
        client._set_up(addresses, cluster_events, close_timeout, make_core, gutter)
        return client

    def _set_up(
        self,
        addresses: list[Address],
        cluster_events: ClusterEvents | None,
        close_timeout: float,
        make_core: Callable[[Callable[[int, str, str | None], object]], CoreClient],
        gutter: Sequence[Address],
    ) -> None:
        # Imported here, because importing the package does not need it.
        from ._events import EventDispatcher

        # In the order of the core's indexes. Nodes that join later follow, also for a router, which
        # has the same list.
        addresses.extend(gutter)
        self._addresses = addresses
        self._close_timeout = close_timeout
        self._routing: NodeRouting
        self._watcher: Watcher | None = None
        self._watch_task: asyncio.Task[None] | None = None
        self._directory = NodeDirectory(addresses, len(gutter))
        self._dispatcher = EventDispatcher(self._directory, cluster_events)
        # A strong reference from the core would keep an unclosed client alive for ever.
        client = weakref.ref(self)

        def on_change(index: int, change: str, reason: str | None) -> None:
            if (alive := client()) is None:
                return
            if change in ("healthy", "unhealthy"):
                alive._directory.node_changed(index, change == "healthy")
            alive._dispatcher.node_changed(addresses[index], change, reason)
            if change == "unhealthy" and alive._watcher is not None:
                alive._watcher.hurry()

        self._core = make_core(on_change)
        self._core_meta = CoreMeta(self._core)
        self._snapshots = Snapshots(self._core, asyncio.get_running_loop())
        self._directory.attach(self._core, self._snapshots)

    def _watch(
        self,
        source: "discovery.Discovery",
        current: "discovery.Topology",
        interval: float,
        connect_timeout: float,
        *,
        is_listed: bool,
    ) -> None:
        """Poll ``source`` for the nodes of the cluster until the client is closed or collected."""
        for index, node in enumerate(current.nodes):
            self._core.set_ip(index, node.ip)
        client = weakref.ref(self)

        from .discovery._watcher import Watcher

        async def apply(topology: "discovery.Topology") -> None:
            if (alive := client()) is not None:
                await alive._apply(topology, connect_timeout)

        self._watcher = Watcher(source, current, interval, apply, is_listed=is_listed)
        loop = asyncio.get_running_loop()
        self._watch_task = loop.create_task(self._watcher.run(), name="emcache autodiscovery")
        task = weakref.ref(self._watch_task)

        def end() -> None:
            # The garbage collector may call this on any thread.
            with contextlib.suppress(RuntimeError):
                if (running := task()) is not None:
                    loop.call_soon_threadsafe(running.cancel)

        weakref.finalize(self, end).atexit = False

    async def _apply(self, topology: "discovery.Topology", connect_timeout: float) -> None:
        """Replace the nodes with those of ``topology``, once the new nodes are connected."""
        old = {self._addresses[index]: index for index in self._directory.indexes()}
        new = {node.address: node for node in topology.nodes}
        joining = []
        for address, node in new.items():
            if address in old:
                self._core.set_ip(old[address], node.ip)
            else:
                # The core gives out indexes in the order of this list, so no other code may run
                # between these two calls.
                joining.append(self._core.add_node(to_endpoint(address), node.ip))
                self._addresses.append(address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(connect_timeout):
                for index in joining:
                    while not self._core.is_connected(index):  # noqa: ASYNC110 - it has no event
                        await asyncio.sleep(_CONNECT_POLL)
        # Even a node that cannot be reached gets its keys, because clients must agree on routing.
        leaving = [index for address, index in old.items() if address not in new]
        indexes = old | dict(zip((a for a in new if a not in old), joining, strict=True))
        changed = self._routing.update(topology)
        updates = [
            (indexes[node.address], node.ip, *self._routing.spec(node.address)) for node in changed
        ]
        self._core.change_nodes(joining, leaving, [indexes[address] for address in new], updates)
        self._directory.refresh()
        if joining or leaving:
            self._dispatcher.topology_changed(list(old), list(new), topology.version)
        weighted = [node.address for node in changed if node.address in old]
        if weighted:
            self._dispatcher.specs_changed(weighted)

    def __repr__(self) -> str:
        if not hasattr(self, "_core"):
            return super().__repr__()
        self._directory.refresh()
        up, down = (
            ", ".join(map(format_address, nodes))
            for nodes in (self._directory.healthy_nodes(), self._directory.unhealthy_nodes())
        )
        return f"<emcache.Client {'closed' if self.closed else 'open'} up=[{up}] down=[{down}]>"

    def _node_index(self, node: Node) -> int:
        """Return the index of a node in the core."""
        if self.closed:
            raise ClientClosedError("Emcache client is closed")
        return self._directory.index(node)

    def _nodes_by_index(self) -> dict[int, Address]:
        """Return all nodes by their index in the core."""
        if self.closed:
            raise ClientClosedError("Emcache client is closed")
        return self._directory.by_index()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._core.closed

    async def close(self) -> None:
        """Close all connections; pending calls raise :class:`ClientClosedError`.

        The call first waits for the replies to commands that were sent with ``noreply``, so that
        the commands are not lost. It waits for at most ``timeout``. A second call does nothing.

        Each :class:`emcache.Cache` of this client first gives back its leases, so that other
        processes can compute the values at once. Its background refreshes are cancelled. Both take
        at most 1 s. Computations continue for their callers, and are not stored.
        """
        if self._watch_task is not None:
            self._watch_task.cancel()
        try:
            await self._drain()
        finally:
            # Health and counters stay readable after the close.
            self._directory.refresh()
            self._snapshots.take()
            self._core.close()
            self._dispatcher.close()

    def cluster_managment(self) -> ClusterManagment:
        """Return the object that reports on the nodes; it is the same object each time."""
        return self._directory

    def node_for(self, key: bytes) -> Address:
        """Return the node that a key is routed to at present; nothing is sent.

        During a migration, this is the node that is asked first.
        """
        return self._addresses[self._core.node_for(key)]

    async def migrate(
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

        return await start_migration(
            self, node_addresses, routing, weights, names, phase, drain, unknown_ttl
        )

    @property
    def migration(self) -> "migration.Migration | None":
        """The migration that is under way, or None."""
        found = self._migration
        return None if found is None or self.closed or found.phase is None else found

    def metrics(self) -> "metrics.ClientMetrics":
        """Return the counters since the client was created, as a snapshot that does not change.

        Nothing is sent. You can call this from any thread. On the client's event loop the counters
        are current. On another thread the call waits for the loop, for at most 1 s. If the loop is
        blocked for longer or is not running, the call returns the last snapshot; ``taken`` is the
        time of that snapshot, or 0.0 if there is none. After a close it returns the counters at
        the time of the close.
        """
        from .metrics import read_metrics

        return read_metrics(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def get(self, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item.

        Returns:
            The item, or None on a miss. Its ``cas`` is None, and so is its ``flags`` without
            ``return_flags``.

        Raises:
            CommandError: the server answered with an error.

        Wire: ``get <key>*`` Source: "Retrieval command".
        """
        return await self._core.get(key, return_flags)

    async def gets(self, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item with its ``cas`` token, for :meth:`cas`; otherwise like :meth:`get`.

        Wire: ``gets <key>*`` Source: "Retrieval command".
        """
        return await self._core.gets(key, return_flags)

    @overload
    async def get_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["raise"] = ...
    ) -> dict[bytes, Item]: ...
    @overload
    async def get_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["partial"]
    ) -> "results.PartialResult[bytes, Item]": ...
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
            return await self._get_partial("get", 0, keys, return_flags, on_error)
        return await self._core.get_many(keys, return_flags)

    @overload
    async def gets_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["raise"] = ...
    ) -> dict[bytes, Item]: ...
    @overload
    async def gets_many(
        self, keys: Iterable[bytes], return_flags: bool = False, *, on_error: Literal["partial"]
    ) -> "results.PartialResult[bytes, Item]": ...
    async def gets_many(
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
            return await self._get_partial("gets", 0, keys, return_flags, on_error)
        return await self._core.gets_many(keys, return_flags)

    async def gat(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item and update its ``exptime``; otherwise like :meth:`get`.

        Some proxies do not support ``gat``. There the client sends ``get`` and ``touch`` instead.
        These two steps are not atomic, and each has its own ``timeout``.

        Wire: ``gat <exptime> <key>+`` Source: "Get And Touch".
        """
        try:
            return await self._core.gat(exptime, key, return_flags)
        except ConnectionFailedError as error:
            return await self._get_and_touch("gat", error, exptime, key, return_flags)

    async def gats(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        """Get one item with its ``cas`` token and update its ``exptime``; see :meth:`gat`.

        Wire: ``gats <exptime> <key>+`` Source: "Get And Touch".
        """
        try:
            return await self._core.gats(exptime, key, return_flags)
        except ConnectionFailedError as error:
            return await self._get_and_touch("gats", error, exptime, key, return_flags)

    @overload
    async def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["raise"] = ...,
    ) -> dict[bytes, Item]: ...
    @overload
    async def gat_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["partial"],
    ) -> "results.PartialResult[bytes, Item]": ...
    async def gat_many(
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
            return await self._get_partial("gat", exptime, keys, return_flags, on_error)
        return await self._get_and_touch_many("gat", exptime, keys, return_flags)

    @overload
    async def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["raise"] = ...,
    ) -> dict[bytes, Item]: ...
    @overload
    async def gats_many(
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: Literal["partial"],
    ) -> "results.PartialResult[bytes, Item]": ...
    async def gats_many(
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
            return await self._get_partial("gats", exptime, keys, return_flags, on_error)
        return await self._get_and_touch_many("gats", exptime, keys, return_flags)

    async def _get_and_touch(
        self,
        verb: Literal["gat", "gats"],
        error: ConnectionFailedError,
        exptime: Exptime,
        key: bytes,
        return_flags: bool,
    ) -> Item | None:
        from ._fallbacks import fall_back, get_and_touch

        return await fall_back(
            error, lambda: get_and_touch(self._core, verb, exptime, key, return_flags)
        )

    async def _get_and_touch_many(
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
            return await gat_many(exptime, keys, return_flags)
        except ConnectionFailedError as error:
            from ._fallbacks import fall_back, get_and_touch_many

            return await fall_back(
                error, lambda: get_and_touch_many(self._core, verb, exptime, keys, return_flags)
            )

    async def _get_partial(
        self,
        verb: Literal["get", "gets", "gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
        on_error: OnError,
    ) -> "results.PartialResult[bytes, Item]":
        if on_error != "partial":
            raise ValueError("on_error must be 'raise' or 'partial'")
        from ._results import PartialResult

        items, errors = await self._core.fetch_partial(verb, exptime, keys, return_flags)
        if verb in ("gat", "gats") and errors:
            from ._fallbacks import get_and_touch_partial

            items, errors = await get_and_touch_partial(
                self._core, verb, exptime, items, errors, return_flags
            )
        return PartialResult(items, errors)

    async def set(
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
        await self._core.set(key, value, flags, exptime, noreply)

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
            StorageCommandError: the server refused.

        Wire: ``add <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """
        await self._core.add(key, value, flags, exptime, noreply)

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
            StorageCommandError: the server refused.

        Wire: ``replace <key> <flags> <exptime> <bytes>`` Source: "Storage commands".
        """
        await self._core.replace(key, value, flags, exptime, noreply)

    async def append(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        """Add bytes to the end of an existing value; its flags and expiry time stay.

        Raises:
            NotStoredStorageCommandError: the key does not exist.
            StorageCommandError: the server refused.

        Wire: ``append <key> 0 0 <bytes>`` Source: "Storage commands".
        """
        await self._core.append(key, value, 0, 0, noreply)

    async def prepend(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        """Add bytes to the start of an existing value; otherwise like :meth:`append`.

        Wire: ``prepend <key> 0 0 <bytes>`` Source: "Storage commands".
        """
        await self._core.prepend(key, value, 0, 0, noreply)

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
        await self._core.cas(key, value, cas, flags, exptime, noreply)

    async def delete(self, key: bytes, *, noreply: bool = False) -> None:
        """Delete one item.

        Raises:
            NotFoundCommandError: the key does not exist.

        Wire: ``delete <key>`` Source: "Deletion".
        """
        await self._core.delete(key, noreply)

    async def increment(
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
            return await self._count_from("incr", key, value, noreply, initial, exptime)
        return await self._core.increment(key, value, noreply)

    async def decrement(
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
            return await self._count_from("decr", key, value, noreply, initial, exptime)
        return await self._core.decrement(key, value, noreply)

    async def _count_from(
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

        return await count_from(self._core, verb, key, value, initial, exptime)

    async def touch(self, key: bytes, exptime: Exptime, *, noreply: bool = False) -> None:
        """Update the ``exptime`` of an item without reading it.

        Raises:
            NotFoundCommandError: the key does not exist.

        Wire: ``touch <key> <exptime>`` Source: "Touch".
        """
        await self._core.touch(key, exptime, noreply)

    async def set_many(
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
        before their replies arrive. If the call is cancelled, the keys that were not sent yet are
        dropped and do not appear in :meth:`metrics`.

        Wire: ``set <key> <flags> <exptime> <bytes>`` for each key Source: "Storage commands".
        """
        return _many_result(await self._core.store_many("set", items, flags, exptime, noreply))

    async def add_many(
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
        return _many_result(await self._core.store_many("add", items, flags, exptime, noreply))

    async def delete_many(
        self, keys: Iterable[bytes], *, noreply: bool = False
    ) -> "results.ManyResult":
        """Delete many items; otherwise like :meth:`set_many`. A repeated key counts once.

        Returns:
            As :meth:`set_many`, with the keys that do not exist in ``missed``.

        Wire: ``delete <key>`` for each key Source: "Deletion".
        """
        return _many_result(await self._core.delete_many(keys, noreply))

    async def touch_many(
        self, keys: Iterable[bytes], exptime: Exptime, *, noreply: bool = False
    ) -> "results.ManyResult":
        """Update the ``exptime`` of many items; otherwise like :meth:`delete_many`.

        Wire: ``touch <key> <exptime>`` for each key Source: "Touch".
        """
        return _many_result(await self._core.touch_many(keys, exptime, noreply))

    async def ping(self) -> dict[Address, float | Exception]:
        """Measure the round trip to all nodes at once.

        Returns:
            For each node, the seconds until its answer arrived, or an exception that says why none
            arrived. The call waits for nodes that are still connecting, for at most ``timeout``. A
            proxy counts as up if any of its servers answers: after a quarter of ``timeout`` the
            client also requests other keys.

        Wire: ``get emcache:probe:<number>`` Source: "Retrieval command".
        """
        from ._node_queries import ping

        return await ping(self._core, self._nodes_by_index, self._close_timeout)

    async def wait_ready(
        self,
        timeout: float,  # noqa: ASYNC109 - the error says which nodes are missing
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

        await wait_ready(self._core, self._nodes_by_index, timeout, min_nodes, self._close_timeout)

    async def flush_all(
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
            await self._core.flush_all(self._node_index(memcached_host_address), delay, noreply)
            return
        from ._node_queries import query_all

        if self.migration is not None:
            # An item may be on its way to a node that is flushed before it arrives.
            await query_all(
                self._nodes_by_index, lambda node: self._core.flush_all(node, delay, noreply)
            )
        answers = await query_all(
            self._nodes_by_index, lambda node: self._core.flush_all(node, delay, noreply)
        )
        answers.raise_errors()

    async def version(self, memcached_host_address: Node) -> str | None:
        """Return the version of one node's server, such as ``"1.6.18"``.

        Wire: ``version`` Source: "Other commands".
        """
        return await self._core.version(self._node_index(memcached_host_address))

    @overload
    async def stats(self, memcached_host_address: Node, *args: str) -> dict[str, str]: ...
    @overload
    async def stats(
        self, memcached_host_address: AllNodes = ALL_NODES, *args: str
    ) -> "results.PartialResult[Address, dict[str, str]]": ...
    async def stats(
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
            return await self._core.stats(index, stats_arguments(args))
        from ._node_queries import query_all

        words = stats_arguments(args)
        return await query_all(self._nodes_by_index, lambda node: self._core.stats(node, words))

    async def verbosity(
        self, memcached_host_address: Node, level: int, *, noreply: bool = False
    ) -> None:
        """Set how much one node's server logs: 0 to 2**32 - 1; memcached reads more than 2 as 2.

        Wire: ``verbosity <level>`` Source: "Other commands".
        """
        await self._core.verbosity(self._node_index(memcached_host_address), level, noreply)

    async def cache_memlimit(
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
        await self._core.cache_memlimit(self._node_index(memcached_host_address), value, noreply)


def _many_result(outcome: ManyOutcome | None) -> "results.ManyResult":
    from ._results import ManyResult

    return ManyResult(*(outcome or ([], [], {})))
