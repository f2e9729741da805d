"""Decompression in threads: only a few at once, as each may need as much memory as one value."""

import asyncio
import weakref
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

AT_ONCE = 2
"""The most threads of one event loop that decompress at the same time."""

_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
    weakref.WeakKeyDictionary()
)


async def in_few_threads(work: Callable[[], R]) -> R:
    """Run ``work`` in a thread of the loop's executor when a slot is free."""
    slots = _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    await slots.acquire()
    task = asyncio.ensure_future(asyncio.to_thread(work))

    def ended(task: asyncio.Task[R]) -> None:
        slots.release()
        # The caller may have been cancelled; asyncio must not log an unretrieved exception.
        if not task.cancelled():
            task.exception()

    task.add_done_callback(ended)
    # A thread cannot be cancelled, so it keeps its slot until it has ended.
    await asyncio.wait([task])
    return task.result()
