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
from ._snapshots import Snapshots
from .base import ClusterEvents, ClusterManagment
from .connection_pool import ConnectionPoolMetrics

logger: logging.Logger = logging.getLogger("emcache")

MAX_EVENTS = 1000


class _ClusterManagment(ClusterManagment):
    def __init__(self, addresses: list[Address]) -> None:
        # Grows with the nodes that are discovered; those that left stay in it.
        self._addresses = addresses
        self._core: CoreClient | None = None
        self._snapshots: Snapshots | None = None
        self._last = list(range(len(addresses))), list[int]()

    def attach(self, core: CoreClient, snapshots: Snapshots) -> None:
        self._core, self._snapshots = core, snapshots

    def _health(self) -> tuple[list[int], list[int]]:
        if self._core is not None and not self._core.closed:
            # The core answers on its loop's thread only. Other threads get what was seen there
            # last, and `node_changed` keeps that up to date.
            with contextlib.suppress(RuntimeError):
                self._last = self._core.health()
        return self._last

    def known(self) -> tuple[list[Address], list[Address]]:
        """Tell which nodes are up and down."""
        up, down = self._health()
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
        if self._snapshots is None or (counted := self._snapshots.latest()) is None:
            return {}
        _, (_, _, nodes) = counted
        return {
            self._addresses[index]: ConnectionPoolMetrics(**pool)  # type: ignore[arg-type]
            for index, _, pool, _ in nodes
        }


class EventDispatcher:
    """Calls the user's :class:`ClusterEvents`, one event at a time and in order.

    A task runs only while there are events.
    """

    _AFTER_CANCEL = 0.05
    """Seconds until events continue after a handler was cancelled. A loop that cancels all tasks
    because it ends has ended by then."""

    def __init__(self, management: _ClusterManagment, events: ClusterEvents | None) -> None:
        self._management = management
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[ClusterEvents], Awaitable[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._start: asyncio.Handle | None = None
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
        self._schedule(0)

    def _schedule(self, delay: float) -> None:
        """Start the task, unless it runs or is about to.

        Not at once: an eager task would call the handler inside the callback of the core.
        """
        if self._waiting and self._task is None and self._start is None:
            # A loop that is closed calls no handlers.
            with contextlib.suppress(RuntimeError):
                self._start = self._loop.call_later(delay, self._run)

    def _run(self) -> None:
        self._start = None
        task = self._loop.create_task(self._dispatch())
        # An eager task may have ended already.
        if task.done():
            self._ended(task)
        else:
            self._task = task
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        # What it raised was raised by the loop too, and is not reported again.
        task.cancelled() or task.exception()
        self._task = None
        self._schedule(self._AFTER_CANCEL)

    async def _dispatch(self) -> None:
        events, task = cast(ClusterEvents, self._events), asyncio.current_task()
        while self._waiting:
            event = self._waiting.popleft()
            try:
                await event(events)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise
                logger.exception("a cluster event handler failed")
            if task and task.cancelling():
                # The next handler would get the cancellation.
                return

    def close(self) -> None:
        """Deliver nothing more."""
        self._log.close()
        self._waiting.clear()
        if self._start is not None:
            self._start.cancel()
        # A handler may close the client, and goes on after that.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
