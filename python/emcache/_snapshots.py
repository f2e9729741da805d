"""Snapshots of a client's counters, readable from any thread."""

import asyncio
import concurrent.futures
import contextlib
import time
from typing import TYPE_CHECKING, Any

from ._emcache import CoreClient

if TYPE_CHECKING:
    from ._emcache import CoreMigration, _RawSnapshot
else:
    # Only the stub defines this name, and annotations are evaluated at run time.
    _RawSnapshot = tuple

LOOP_TIMEOUT = 1.0
"""Seconds that another thread waits for the client's loop."""


class Snapshots:
    """Takes snapshots on the thread of the client's loop, and keeps the last for other threads."""

    def __init__(self, core: CoreClient, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self._loop = loop
        self._last: tuple[float, _RawSnapshot] | None = None
        self.core_migration: CoreMigration | None = None
        self.migration_status: dict[str, Any] | None = None
        """That of the last snapshot."""
        self.failover: tuple[int, ...] | None = None
        """The counters of failover in the last snapshot."""

    def take(self) -> bool:
        """Take a snapshot, if the client is open and this is the thread of its loop."""
        with contextlib.suppress(RuntimeError):
            if self.core_migration is not None:
                self.migration_status = self.core_migration.status()
            self._last = time.time(), self._core.snapshot()
            self.failover = self._core.failover_counters()
            return True
        return False

    def latest(self, loop_timeout: float = LOOP_TIMEOUT) -> tuple[float, _RawSnapshot] | None:
        """Return current counters, or else the last snapshot, with its time; None without one.

        Another thread waits for a running loop, at most ``loop_timeout`` seconds.
        """
        # In the child of a fork the loop appears to be running, but is not.
        is_open = not self._core.closed and not self._core.forked
        if is_open and not self.take() and self._loop.is_running():
            self._take_in_loop(loop_timeout)
        return self._last

    def _take_in_loop(self, loop_timeout: float) -> None:
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def take() -> None:
            self.take()
            done.set_result(None)

        # The loop may just have been closed (RuntimeError), or be blocked (TimeoutError).
        with contextlib.suppress(RuntimeError, TimeoutError):
            self._loop.call_soon_threadsafe(take)
            done.result(loop_timeout)
