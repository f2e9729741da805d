"""Delivery of cluster events to handlers that are plain functions, and to the log."""

import inspect
import logging
import threading
from abc import ABCMeta, abstractmethod
from collections.abc import Callable

from .._address import Address
from .._cluster import ClusterManagment
from .._memcached.addresses import format_address
from .._node_log import NodeLog

logger = logging.getLogger("emcache")


class ClusterEvents(metaclass=ABCMeta):
    """Handlers that a synchronous client calls when a node becomes healthy or unhealthy.

    The thread whose call noticed the change calls the handler, before its call returns. One handler
    at a time runs. An exception of a handler is logged.
    """

    @abstractmethod
    def on_node_healthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        """Handle the reconnection of a node that was unhealthy."""

    @abstractmethod
    def on_node_unhealthy(self, cluster_managment: ClusterManagment, host: Address) -> None:
        """Handle the failure of a node: three connection attempts failed, and none is open."""

    def on_topology_change(  # noqa: B027 - as in the asynchronous client
        self,
        cluster_managment: ClusterManagment,
        old: list[Address],
        new: list[Address],
        version: int | None,
    ) -> None:
        """Handle nodes that autodiscovery has added or removed; keys are already routed to ``new``.

        ``version`` is the cluster's own number of the list of nodes, if it has one.
        """


class EventDispatcher:
    """Reports each change of a node once, although each core of a client notices it."""

    def __init__(self, management: ClusterManagment, events: ClusterEvents | None) -> None:
        if inspect.iscoroutinefunction(getattr(events, "on_node_unhealthy", None)):
            raise TypeError("cluster_events must be an emcache.sync.ClusterEvents: plain functions")
        self._management = management
        self._events = events
        self._log = NodeLog()
        # A handler may use the client, and notice another change.
        self._lock = threading.RLock()
        self._down: set[Address] = set()
        self._login_failing: set[Address] = set()

    def node_changed(self, address: Address, change: str, reason: str | None) -> None:
        """Log a change of a node and call its handler, unless it was reported already."""
        with self._lock:
            if not self._is_news(address, change):
                return
            self._log.changed(format_address(address), change, reason)
            management = self._management
            if change == "healthy":
                self._call(lambda events: events.on_node_healthy(management, address))
            elif change == "unhealthy":
                self._call(lambda events: events.on_node_unhealthy(management, address))

    def _is_news(self, address: Address, change: str) -> bool:
        nodes = self._down if change in ("healthy", "unhealthy") else self._login_failing
        is_bad = change in ("unhealthy", "login_failing")
        if is_bad == (address in nodes):
            return False
        (nodes.add if is_bad else nodes.discard)(address)
        return True

    def topology_changed(self, old: list[Address], new: list[Address], version: int | None) -> None:
        """Log a change of the list of nodes and call its handler."""
        added = [format_address(address) for address in new if address not in old]
        removed = [format_address(address) for address in old if address not in new]
        logger.info("nodes added: %s; removed: %s (version %s)", added, removed, version)
        management = self._management
        with self._lock:
            self._call(lambda events: events.on_topology_change(management, old, new, version))

    def specs_changed(self, nodes: list[Address]) -> None:
        """Log nodes whose weight or name has changed; they get other keys now."""
        logger.info("weights or names changed: %s", [format_address(node) for node in nodes])

    def _call(self, event: Callable[[ClusterEvents], None]) -> None:
        if self._events is None:
            return
        try:
            event(self._events)
        except Exception:
            logger.exception("a cluster event handler failed")

    def close(self) -> None:
        """Log nothing more."""
        self._log.close()
