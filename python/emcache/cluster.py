"""The nodes of a client as its user sees them."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from ._address import Address
from ._arguments import address_text
from ._emcache import CoreClient
from ._node_log import NodeLog
from .base import ClusterEvents, ClusterManagment
from .connection_pool import ConnectionPoolMetrics, metrics_of

logger: logging.Logger = logging.getLogger("emcache")

MAX_EVENTS = 1000


class _ClusterManagment(ClusterManagment):
    def __init__(self, addresses: list[Address]) -> None:
        # Grows with the nodes that are discovered; those that left stay in it.
        self._addresses = addresses
        self._core: CoreClient | None = None
        self._last = list(range(len(addresses))), list[int]()

    def attach(self, core: CoreClient) -> None:
        self._core = core

    def _health(self) -> tuple[list[int], list[int]]:
        if self._core is not None and not self._core.closed:
            self._last = self._core.health()
        return self._last

    def known(self) -> tuple[list[Address], list[Address]]:
        """Tell whoever asks which nodes are up and down: as last seen, where the core is not."""
        with contextlib.suppress(RuntimeError):
            self._health()
        up, down = self._last
        return [self._addresses[node] for node in up], [self._addresses[node] for node in down]

    def node_changed(self, index: int, healthy: bool) -> None:
        """Remember it for those who cannot ask the core."""
        up, down = ([node for node in some if node != index] for some in self._last)
        (up if healthy else down).append(index)
        self._last = up, down

    def members(self) -> list[int]:
        """Give the indexes of the nodes, those that left not among them."""
        healthy, unhealthy = self._health()
        return healthy + unhealthy

    def nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self.members()]

    def healthy_nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self._health()[0]]

    def unhealthy_nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self._health()[1]]

    def connection_pool_metrics(self) -> dict[Address, ConnectionPoolMetrics]:
        if self._core is None or self._core.closed:
            return {}
        return {
            self._addresses[index]: metrics_of(self._core, index)
            for index in sorted(self.members())
        }


class EventDispatcher:
    """Calls the user's :class:`ClusterEvents`, one event at a time and in order.

    A task runs only while there are events.
    """

    def __init__(self, management: _ClusterManagment, events: ClusterEvents | None) -> None:
        self._management = management
        self._events = events
        self._waiting: deque[Callable[[ClusterEvents], Awaitable[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._log = NodeLog()

    def node_changed(self, address: Address, what: str, why: str | None) -> None:
        """Log a change and queue the event."""
        self._log.changed(address_text(address), what, why)
        management = self._management
        if what == "healthy":
            self._tell(lambda events: events.on_node_healthy(management, address))
        elif what == "unhealthy":
            self._tell(lambda events: events.on_node_unhealthy(management, address))

    def topology_changed(self, old: list[Address], new: list[Address], version: int | None) -> None:
        """Log a change and queue the event."""
        added = [address_text(address) for address in new if address not in old]
        removed = [address_text(address) for address in old if address not in new]
        logger.info("nodes added: %s; removed: %s (version %s)", added, removed, version)
        management = self._management
        self._tell(lambda events: events.on_topology_change(management, old, new, version))

    def _tell(self, event: Callable[[ClusterEvents], Awaitable[None]]) -> None:
        if self._events is None:
            return
        if len(self._waiting) >= MAX_EVENTS:
            logger.warning("%d cluster events wait, one is dropped", MAX_EVENTS)
            return
        self._waiting.append(event)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._dispatch())

    async def _dispatch(self) -> None:
        events = cast(ClusterEvents, self._events)
        try:
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    await event(events)
                except Exception:
                    logger.exception("a cluster event handler failed")
        finally:
            self._task = None

    def close(self) -> None:
        """Deliver nothing more."""
        self._log.close()
        self._waiting.clear()
        # A handler may close the client, and goes on after that.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
