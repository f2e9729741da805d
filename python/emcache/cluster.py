"""The nodes of a client as its user sees them."""

import asyncio
import logging
from collections import deque
from typing import cast

from ._address import Address
from ._emcache import CoreClient
from .base import ClusterEvents, ClusterManagment
from .connection_pool import ConnectionPoolMetrics, metrics_of

logger = logging.getLogger("emcache")
logger.addHandler(logging.NullHandler())

MAX_EVENTS = 1000


class _ClusterManagment(ClusterManagment):
    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._core: CoreClient | None = None

    def attach(self, core: CoreClient) -> None:
        self._core = core

    def _health(self) -> tuple[list[int], list[int]]:
        if self._core is None or self._core.closed:
            return list(range(len(self._addresses))), []
        return self._core.health()

    def nodes(self) -> list[Address]:
        healthy, unhealthy = self._health()
        return [self._addresses[index] for index in healthy + unhealthy]

    def healthy_nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self._health()[0]]

    def unhealthy_nodes(self) -> list[Address]:
        return [self._addresses[index] for index in self._health()[1]]

    def connection_pool_metrics(self) -> dict[Address, ConnectionPoolMetrics]:
        if self._core is None or self._core.closed:
            return {}
        return {
            address: metrics_of(self._core, index) for index, address in enumerate(self._addresses)
        }


class EventDispatcher:
    """Calls the user's :class:`ClusterEvents`, one event at a time and in order.

    A task runs only while there are events.
    """

    def __init__(self, management: _ClusterManagment, events: ClusterEvents | None) -> None:
        self._management = management
        self._events = events
        self._waiting: deque[tuple[Address, bool]] = deque()
        self._task: asyncio.Task[None] | None = None

    def node_changed(self, address: Address, healthy: bool) -> None:
        """Log a change and queue the event."""
        level = logging.INFO if healthy else logging.WARNING
        logger.log(level, "node %s is %s", address, "healthy" if healthy else "unhealthy")
        if self._events is None:
            return
        if len(self._waiting) >= MAX_EVENTS:
            logger.warning("%d cluster events wait, one is dropped", MAX_EVENTS)
            return
        self._waiting.append((address, healthy))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._dispatch())

    async def _dispatch(self) -> None:
        events = cast(ClusterEvents, self._events)
        try:
            while self._waiting:
                address, healthy = self._waiting.popleft()
                handler = events.on_node_healthy if healthy else events.on_node_unhealthy
                try:
                    await handler(self._management, address)
                except Exception:
                    logger.exception("a cluster event handler failed (%s)", address)
        finally:
            self._task = None

    def close(self) -> None:
        """Deliver nothing more."""
        self._waiting.clear()
        # A handler may close the client, and goes on after that.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
