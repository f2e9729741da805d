"""Runs the coroutines that create clients, where that is allowed."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def created(create: Coroutine[Any, Any, T]) -> T:
    """Run the creation of a client to its end."""
    try:
        refuse_green_threads()
    except RuntimeError:
        create.close()
        raise
    return run(create)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own, in another thread if a loop runs in this one."""
    if asyncio._get_running_loop() is None:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()
    outcome: list[T | BaseException] = []

    def in_thread() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=in_thread, name="emcache-create", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def refuse_green_threads() -> None:
    """Refuse to work where a call would block all green threads of the program.

    Raises:
        RuntimeError: gevent or eventlet has replaced the modules of the standard library.
    """
    for library in ("gevent", "eventlet"):
        patcher = sys.modules.get(f"{library}.{'monkey' if library == 'gevent' else 'patcher'}")
        is_patched = None
        with contextlib.suppress(AttributeError):
            name = "is_module_patched" if library == "gevent" else "is_monkey_patched"
            is_patched = getattr(patcher, name)("socket")
        if is_patched:
            raise RuntimeError(
                f"{library} has patched this process, and emcache's calls would block all of its "
                "green threads; use a thread worker, or a client in pure Python such as pymemcache"
            )
