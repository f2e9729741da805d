"""Tasks that outlive the call that started them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

_running: set["asyncio.Task[Any]"] = set()


def in_task(call: Coroutine[Any, Any, R], name: str | None = None) -> "asyncio.Task[R]":
    """Start a call that goes on when its caller is cancelled."""
    task = asyncio.get_running_loop().create_task(call, name=name)
    # The loop has only a weak reference.
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: "asyncio.Task[Any]") -> None:
    _running.discard(task)
    # Its caller may have left; asyncio must not log an unretrieved exception.
    if not task.cancelled():
        task.exception()
