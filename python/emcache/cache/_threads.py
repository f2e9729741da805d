"""Work in threads of which only a few go on at once: each may take as much memory as one value."""

import asyncio
import weakref
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

AT_ONCE = 2
"""Threads of one event loop that decompress at once."""

_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
    weakref.WeakKeyDictionary()
)


async def in_few_threads(work: Callable[[], R]) -> R:
    """Run it in a thread of the loop's executor, when it is its turn."""
    slots = _slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    await slots.acquire()
    task = asyncio.ensure_future(asyncio.to_thread(work))

    def ended(task: asyncio.Task[R]) -> None:
        slots.release()
        # Whoever wanted it may have gone: nobody is to be told that nobody asked.
        if not task.cancelled():
            task.exception()

    task.add_done_callback(ended)
    # A thread cannot be cancelled: it holds its place until it has ended.
    await asyncio.wait([task])
    return task.result()
