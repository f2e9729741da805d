"""The life of a synchronous client: created, used by threads, closed."""

import functools
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from .._address import Address
from .._client import Client as AsyncClient
from .._cluster import ClusterManagment, NodeDirectory
from .._emcache import CoreClient, CoreMeta, CoreMigration
from .._errors import ClientClosedError
from .._lifecycle import CoreOwner
from .._memcached.addresses import format_address
from .._routing import NodeRouting
from ._core import SyncCore, SyncCoreMeta
from ._events import ClusterEvents, EventDispatcher
from ._snapshots import SyncSnapshots

if TYPE_CHECKING:
    from .. import discovery, metrics
    from . import _migration as migration
    from ._watcher import Watcher
else:
    from .._lazy import discovery, metrics, migration

T = TypeVar("T")


class ClientBase(CoreOwner):
    """What a client has besides the commands."""

    _core: SyncCore  # type: ignore[assignment]
    _core_meta: SyncCoreMeta
    _routing: NodeRouting
    _is_shared: bool
    """Whether all calls use one core: its nodes keep their indexes."""
    _former: SyncCore | None = None
    """The cores that calls used before a migration."""
    _migration: "migration.Migration | None" = None

    def __init__(self) -> None:
        if type(self).__module__.startswith("emcache.sync"):
            raise TypeError("a Client cannot be created directly; use create_client(...)")

    @classmethod
    def _open(
        cls,
        addresses: list[Address],
        cluster_events: ClusterEvents | None,
        close_timeout: float,
        make_core: Callable[..., CoreClient],
        routing: NodeRouting,
        gutter: Sequence[Address] = (),
    ) -> Self:
        """Create a client. ``make_core`` receives the callback for changes of nodes."""
        client = cls.__new__(cls)
        client._routing = routing
        client._set_up(addresses, cluster_events, close_timeout, make_core, gutter)
        return client

    def _set_up(
        self,
        addresses: list[Address],
        cluster_events: ClusterEvents | None,
        close_timeout: float,
        make_core: Callable[..., CoreClient],
        gutter: Sequence[Address],
    ) -> None:
        addresses.extend(gutter)
        self._addresses = addresses
        self._close_timeout = close_timeout
        self._watcher: Watcher | None = None
        self._directory = SyncNodeDirectory(addresses, len(gutter))
        self._dispatcher = EventDispatcher(self._directory, cluster_events)
        # A strong reference from the core would keep an unclosed client alive for ever.
        reference = weakref.ref(self)

        def on_change(index: int, change: str, reason: str | None) -> None:
            if (alive := reference()) is not None:
                alive._node_changed(index, change, reason)

        self._make_core = functools.partial(make_core, on_change)
        self._use(self._make_core())

    def _use(self, core: CoreClient) -> None:
        self._core = cast(SyncCore, core)
        self._core_meta = cast(SyncCoreMeta, CoreMeta(core))
        self._is_shared = core.driver == "shared"
        self._snapshots = SyncSnapshots(core)
        self._directory.attach(core, self._snapshots)  # type: ignore[arg-type]

    def _share(self) -> None:
        """Let all calls use one core from now on; those that are under way end as before."""
        if self._is_shared:
            return
        former = self._core
        self._use(self._make_core(shared=True))
        self._former = former
        # The replies to commands with ``noreply`` arrive before other threads read what they wrote.
        end = time.monotonic() + self._close_timeout
        while former.noreply_unanswered and time.monotonic() < end:
            _ = former.noreply_errors
            time.sleep(0.001)

    def _make_migration(self, client: Any, core: CoreMigration) -> "migration.Migration":
        from ._migration import Migration

        return Migration(client, core)

    def _node_changed(self, index: int, change: str, reason: str | None) -> None:
        if change in ("healthy", "unhealthy"):
            self._directory.node_changed(index, change == "healthy")
        if index < len(self._addresses):
            self._dispatcher.node_changed(self._addresses[index], change, reason)
        if change == "unhealthy" and self._watcher is not None:
            self._watcher.hurry()

    def __repr__(self) -> str:
        if not hasattr(self, "_core"):
            return super().__repr__()
        self._directory.refresh()
        up, down = (
            ", ".join(map(format_address, nodes))
            for nodes in (self._directory.healthy_nodes(), self._directory.unhealthy_nodes())
        )
        state = "closed" if self.closed else "open"
        return f"<emcache.sync.Client {state} up=[{up}] down=[{down}]>"

    def _node_index(self, address: Address) -> int:
        """Return the index of a node in the core."""
        if self.closed:
            raise ClientClosedError("Emcache client is closed")
        return self._directory.index(address)

    def _nodes_by_index(self) -> dict[int, Address]:
        """Return all nodes by their index in the core."""
        if self.closed:
            raise ClientClosedError("Emcache client is closed")
        return self._directory.by_index()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._core.closed

    def close(self) -> None:
        """Close all connections; pending calls of other threads raise :class:`ClientClosedError`.

        The call first waits for the replies to commands that were sent with ``noreply``, so that
        the commands are not lost. It waits for at most ``timeout``. A second call does nothing.
        """
        if self.closed:
            return
        for prepare in self._before_close:
            prepare()
        # Health and counters stay readable after the close.
        self._directory.refresh()
        if self._is_shared:
            self._snapshots.latest()
        self._core.close()
        if self._former is not None:
            self._former.close()
        self._snapshots.latest()
        self._dispatcher.close()

    def cluster_managment(self) -> ClusterManagment:
        """Return the object that reports on the nodes; it is the same object each time."""
        return self._directory

    def node_for(self, key: bytes) -> Address:
        """Return the node that a key is routed to at present; nothing is sent."""
        return self._addresses[self._core.node_for(key)]

    def metrics(self) -> "metrics.ClientMetrics":
        """Return the counters since the client was created, as a snapshot that does not change.

        Nothing is sent. Counters of calls that are under way in other threads are included once
        those calls end; the call waits for that, for at most 1 s. After a close it returns the
        counters at the time of the close. The child of a fork counts from 0.
        """
        from ..metrics import read_metrics

        return read_metrics(self)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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
        from ._watcher import Watcher, endpoints

        self._connect_timeout = connect_timeout
        if self._is_shared:
            for index, node in enumerate(current.nodes):
                self._core.set_ip(index, node.ip)
        elif any(node.ip for node in current.nodes):
            self._core.set_nodes(endpoints(current))
        self._watcher = Watcher(self, source, current, interval, is_listed=is_listed)

    async def _apply(self, topology: "discovery.Topology") -> None:
        """Replace the nodes with those of ``topology``; calls that are under way end as before."""
        if self._is_shared:
            await AsyncClient._apply(cast(AsyncClient, self), topology, self._connect_timeout)
            return
        from ._watcher import endpoints

        old = self._directory.nodes()
        new = [node.address for node in topology.nodes]
        changed = self._routing.update(topology)
        # New nodes are connected to by the calls that need them.
        self._core.set_nodes(endpoints(topology), await self._routing.for_nodes(new, topology))
        self._addresses[:] = new
        self._directory.replaced()
        if set(old) != set(new):
            self._dispatcher.topology_changed(old, new, topology.version)
        weighted = [node.address for node in changed if node.address in old]
        if weighted:
            self._dispatcher.specs_changed(weighted)


class SyncNodeDirectory(NodeDirectory):
    """The nodes of a synchronous client, which numbers them anew when they change."""

    def replaced(self) -> None:
        """Forget the health of the former nodes."""
        self._last_health = list(range(len(self._addresses))), []
