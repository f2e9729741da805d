"""What a client counts, for whoever asks from wherever."""

import asyncio
import concurrent.futures
import contextlib
import time
from typing import TYPE_CHECKING

from ._emcache import CoreClient

if TYPE_CHECKING:
    from ._emcache import _RawSnapshot
else:
    # Only the stub has this name, and annotations are evaluated at run time.
    _RawSnapshot = tuple

WAIT = 1.0
"""Seconds for which another thread waits for the client's loop."""


class Snapshots:
    """Takes snapshots on the thread of the client's loop, and keeps the last one for others."""

    def __init__(self, core: CoreClient, loop: asyncio.AbstractEventLoop) -> None:
        self._core = core
        self._loop = loop
        self._last: tuple[float, _RawSnapshot] | None = None

    def take(self) -> bool:
        """Take one, if this is the thread to do it on and the client is open."""
        with contextlib.suppress(RuntimeError):
            self._last = time.time(), self._core.snapshot()
            return True
        return False

    def latest(self, wait: float = WAIT) -> tuple[float, _RawSnapshot] | None:
        """Give the counts of now, or the last that were taken, and when; None: never.

        Another thread waits so many seconds for a loop that runs.
        """
        # In the child of a fork its loop seems to run, and does not.
        is_open = not self._core.closed and not self._core.forked
        if is_open and not self.take() and self._loop.is_running():
            self._take_there(wait)
        return self._last

    def _take_there(self, wait: float) -> None:
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def take() -> None:
            self.take()
            done.set_result(None)

        # A loop that was closed just now refuses; one that is blocked does not answer in time.
        with contextlib.suppress(RuntimeError, TimeoutError):
            self._loop.call_soon_threadsafe(take)
            done.result(wait)
