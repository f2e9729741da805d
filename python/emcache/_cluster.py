"""The nodes of a client as its users see them: health, counters, events."""

import contextlib
from abc import ABCMeta, abstractmethod

from ._address import Address, Node
from ._emcache import CoreClient
from ._memcached.addresses import parse_address
from ._pool_metrics import ConnectionPoolMetrics
from ._snapshots import Snapshots


class ClusterManagment(metaclass=ABCMeta):
    """The nodes of a client, their health and their counters; the spelling is that of 1.3.

    The methods may be called from any thread, whether the event loop runs or not. On the thread of
    the client's event loop the answers are current. On other threads the health is the last that
    was observed; the counters are current if the loop answers within 1 s, or else those of the last
    snapshot.
    """

    @abstractmethod
    def nodes(self) -> list[Address]:
        """Return all nodes, the healthy ones first."""

    @abstractmethod
    def healthy_nodes(self) -> list[Address]:
        """Return the nodes that are not known to be down."""

    @abstractmethod
    def unhealthy_nodes(self) -> list[Address]:
        """Return the nodes to which three connection attempts in a row have failed."""

    @abstractmethod
    def connection_pool_metrics(self) -> dict[Address, ConnectionPoolMetrics]:
        """Return a copy of the counters of each node."""


ClusterManagement = ClusterManagment


class ClusterEvents(metaclass=ABCMeta):
    """Handlers that a client calls when a node becomes healthy or unhealthy.

    The handlers are called one at a time, in the order of the events. An exception of a handler is
    logged, and the next event is delivered, also after a handler was cancelled. At most 1,000
    events are queued; further events are dropped with a warning in the log.
    """

    @abstractmethod
    async def on_node_healthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        """Handle the reconnection of a node that was unhealthy."""

    @abstractmethod
    async def on_node_unhealthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        """Handle the failure of a node: three connection attempts failed, and none is open."""

    async def on_topology_change(  # noqa: B027 - programs of 1.3 do not have it
        self,
        cluster_managment: ClusterManagment,
        old: list[Address],
        new: list[Address],
        version: int | None,
    ) -> None:
        """Handle nodes that autodiscovery has added or removed; keys are already routed to ``new``.

        ``version`` is the cluster's own number of the list of nodes, if it has one.
        """


class NodeDirectory(ClusterManagment):
    """The nodes of one client by their index in the core."""

    def __init__(self, addresses: list[Address], gutter_count: int) -> None:
        # Grows with each discovered node; nodes that have left the cluster keep their index.
        self._addresses = addresses
        members = len(addresses) - gutter_count
        self._gutter: range = range(members, len(addresses))
        self._core: CoreClient | None = None
        self._snapshots: Snapshots | None = None
        self._last_health = list(range(members)), list[int]()

    def attach(self, core: CoreClient, snapshots: Snapshots) -> None:
        """Set where health and counters are read from."""
        self._core, self._snapshots = core, snapshots

    def _health(self) -> tuple[list[int], list[int]]:
        if self._core is not None and not self._core.closed:
            # The core answers only on the thread of its loop. Other threads get the last answer,
            # which `node_changed` keeps up to date.
            with contextlib.suppress(RuntimeError):
                self._last_health = self._core.health()
        return self._last_health

    def refresh(self) -> None:
        """Read the health from the core, for other threads and for the time after a close."""
        self._health()

    def node_changed(self, index: int, healthy: bool) -> None:
        """Record a change for threads that cannot ask the core."""
        if index in self._gutter:
            return
        up, down = ([node for node in nodes if node != index] for nodes in self._last_health)
        (up if healthy else down).append(index)
        self._last_health = up, down

    def indexes(self) -> list[int]:
        """Return the indexes of all nodes, without those that have left the cluster."""
        healthy, unhealthy = self._health()
        return healthy + unhealthy

    def index(self, node: Node) -> int:
        """Return the index of a node.

        Raises:
            ValueError: not a node of this client.
        """
        address = parse_address(node) if isinstance(node, str) else node
        known: list[int] = [*self.indexes(), *self._gutter]
        for index in known:
            if self._addresses[index] == address:
                return index
        raise ValueError(f"{address} can not be found")

    def by_index(self) -> dict[int, Address]:
        """Return all nodes by their index."""
        return {index: self._addresses[index] for index in sorted(self.indexes())}

    def nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self.indexes()]

    def healthy_nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self._health()[0]]

    def unhealthy_nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self._health()[1]]

    def connection_pool_metrics(self) -> dict[Address, ConnectionPoolMetrics]:
        if self._snapshots is None or (latest := self._snapshots.latest()) is None:
            return {}
        nodes = latest[1][2]
        return {
            self._addresses[index]: ConnectionPoolMetrics(**pool)  # type: ignore[arg-type]
            for index, _, pool, _ in nodes
        }
