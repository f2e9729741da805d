"""Delivery of cluster events to the user's handlers and to the log."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from ._address import Address
from ._cluster import ClusterEvents, ClusterManagment
from ._memcached.addresses import format_address
from ._node_log import NodeLog

logger: logging.Logger = logging.getLogger("emcache")

MAX_EVENTS = 1000


class EventDispatcher:
    """Calls the user's :class:`ClusterEvents`, one event at a time and in order.

    The task that does this exists only while events are queued.
    """

    _AFTER_CANCEL = 0.05
    """Seconds until delivery continues after a handler was cancelled. A loop that cancels all
    tasks because it is ending has ended by then."""

    def __init__(self, management: ClusterManagment, events: ClusterEvents | None) -> None:
        self._management = management
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Callable[[ClusterEvents], Awaitable[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._start: asyncio.Handle | None = None
        self._log = NodeLog()

    def node_changed(self, address: Address, change: str, reason: str | None) -> None:
        """Log a change of a node and queue its event."""
        self._log.changed(format_address(address), change, reason)
        management = self._management
        if change == "healthy":
            self._enqueue(lambda events: events.on_node_healthy(management, address))
        elif change == "unhealthy":
            self._enqueue(lambda events: events.on_node_unhealthy(management, address))

    def topology_changed(self, old: list[Address], new: list[Address], version: int | None) -> None:
        """Log a change of the list of nodes and queue its event."""
        before, after = set(old), set(new)
        added = [format_address(address) for address in new if address not in before]
        removed = [format_address(address) for address in old if address not in after]
        logger.info("nodes added: %s; removed: %s (version %s)", added, removed, version)
        management = self._management
        self._enqueue(lambda events: events.on_topology_change(management, old, new, version))

    def specs_changed(self, nodes: list[Address]) -> None:
        """Log nodes whose weight or name has changed; they get other keys now."""
        logger.info("weights or names changed: %s", [format_address(node) for node in nodes])

    def _enqueue(self, event: Callable[[ClusterEvents], Awaitable[None]]) -> None:
        if self._events is None:
            return
        if len(self._queue) >= MAX_EVENTS:
            logger.warning("%d cluster events are queued; one was dropped", MAX_EVENTS)
            return
        self._queue.append(event)
        self._schedule(0)

    def _schedule(self, delay: float) -> None:
        """Start the task later, unless it runs or is scheduled.

        An eager task that started now would call the handler inside a callback of the core.
        """
        if self._queue and self._task is None and self._start is None:
            # A closed loop calls no handlers.
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
        # The loop has raised the exception already (KeyboardInterrupt, SystemExit); asyncio must
        # not report it a second time.
        task.cancelled() or task.exception()
        self._task = None
        self._schedule(self._AFTER_CANCEL)

    async def _dispatch(self) -> None:
        events, task = cast(ClusterEvents, self._events), asyncio.current_task()
        while self._queue:
            event = self._queue.popleft()
            try:
                await event(events)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise
                logger.exception("a cluster event handler failed")
            if task and task.cancelling():
                # The next handler would receive this cancellation.
                return

    def close(self) -> None:
        """Drop queued events and stop the task."""
        self._log.close()
        self._queue.clear()
        if self._start is not None:
            self._start.cancel()
        # A handler may close the client, and continues after that.
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
