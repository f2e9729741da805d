"""Tasks that begin within `create_task`, as `asyncio.eager_task_factory` makes them."""

import asyncio
import contextvars
import sys


def make_eager(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Let a loop begin its tasks at once."""
    loop.set_task_factory(_eager if sys.version_info >= (3, 12) else _as_in_312)
    return loop


def _eager(loop, coroutine, eager_start=True, **options):
    """Do what `asyncio.eager_task_factory` does.

    Under uvloop 0.23.0 that one fails on 3.13 and does not start tasks eagerly on 3.14.
    """
    return asyncio.Task(coroutine, loop=loop, eager_start=True, **options)


def _as_in_312(loop, coroutine, **options):
    """What 3.11 lacks: a task asks its loop for the first step, which is taken here and now.

    As in 3.12, only while the loop runs.
    """
    if not loop.is_running():
        return asyncio.Task(coroutine, loop=loop, **options)
    steps = []
    loop.call_soon = lambda step, *args, context=None: steps.append((step, args, context))
    try:
        task = asyncio.Task(coroutine, loop=loop, **options)
    finally:
        del loop.call_soon
    [(step, args, context)] = steps
    outer = asyncio.current_task(loop)
    if outer is not None:
        asyncio.tasks._leave_task(loop, outer)
    try:
        (context or contextvars.copy_context()).run(step, *args)
    finally:
        if outer is not None:
            asyncio.tasks._enter_task(loop, outer)
    return task
