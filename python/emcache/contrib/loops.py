"""Clients for programs with several event loops, or with none.

A client belongs to the loop that it was created in. :class:`ClientPerLoop` keeps one for each loop,
:class:`BackgroundLoop` gives synchronous code a loop to use one in.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

from .._failures import copied
from ..base import Client

T = TypeVar("T")

_PATIENCE = 5.0
"""Seconds that the end of the process waits for a background loop."""


class ClientPerLoop:
    """A client for each event loop: created when first asked for, closed when the loop ends.

    It is closed by what ends loops in an orderly way: ``asyncio.run``, ``asyncio.Runner``, servers
    that use them, and all else that calls ``loop.shutdown_asyncgens()``. It may be used from any
    thread, and by processes that fork.

    Args:
        create: makes a client, as ``lambda: emcache.create_client(...)``.
    """

    def __init__(self, create: Callable[[], Awaitable[Client]]) -> None:
        if not callable(create):
            raise TypeError(
                f"create must be a function that makes a client, not {type(create).__name__}: "
                "write lambda: emcache.create_client(...)"
            )
        self._create = create
        # Each loop has an entry of its own, so there is nothing to lock.
        self._entries: dict[asyncio.AbstractEventLoop, _Entry] = {}

    async def get(self) -> Client:
        """Return the running loop's client.

        Raises:
            DiscoveryError, ValueError, TypeError, OSError: it cannot be created; the next call
                tries again.
        """
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        if entry is not None and entry.client is not None:
            if not entry.client.closed:
                return entry.client
            # By whoever was handed it.
            await self._end(loop, entry)
        await self._forget_closed_loops()
        entry = self._entries.setdefault(loop, _Entry())
        return await entry.open(lambda: _lifetime(self._create, self._forget(loop)))

    async def close(self) -> None:
        """Close the running loop's client, if there is one; :meth:`get` creates another."""
        loop = asyncio.get_running_loop()
        if (entry := self._entries.get(loop)) is not None:
            await self._end(loop, entry)

    async def _end(self, loop: asyncio.AbstractEventLoop, entry: "_Entry") -> None:
        if self._entries.get(loop) is entry:
            del self._entries[loop]
            await entry.close()

    def _forget(self, loop: asyncio.AbstractEventLoop) -> Callable[[Client], None]:
        # Held by what the entry holds: a cycle would keep clients that nobody can reach.
        this = weakref.ref(self)

        def forget(client: Client) -> None:
            if (alive := this()) is None or (entry := alive._entries.get(loop)) is None:
                return
            if entry.client is client:
                del alive._entries[loop]

        return forget

    async def _forget_closed_loops(self) -> None:
        """Let go of the clients of loops that ended in no orderly way."""
        for loop in list(self._entries):
            if loop.is_closed() and (entry := self._entries.pop(loop, None)) is not None:
                await entry.abandon()


class _Entry:
    def __init__(self) -> None:
        self.client: Client | None = None
        self._lifetime: AsyncGenerator[Client] | None = None
        self._opening = asyncio.Lock()
        self._failures: list[tuple[Exception, TracebackType | None]] = []

    async def open(self, begin: Callable[[], AsyncGenerator[Client]]) -> Client:
        # Discovery takes time. Who waits for it fails with it: to try one after the other would
        # take each the longer, the more there are.
        failures = self._failures
        async with self._opening:
            if self.client is None:
                if failures:
                    failure, traceback = failures[0]
                    raise copied(failure).with_traceback(traceback)
                await self._begin(begin())
            assert self.client is not None
            return self.client

    async def _begin(self, lifetime: AsyncGenerator[Client]) -> None:
        try:
            self.client = await anext(lifetime)
        except Exception as error:
            self._failures.append((error, error.__traceback__))
            self._failures = []
            raise
        self._lifetime = lifetime

    async def close(self) -> None:
        async with self._opening:
            if self._lifetime is not None:
                await self._lifetime.aclose()

    async def abandon(self) -> None:
        if self.client is not None:
            with contextlib.suppress(RuntimeError):
                await self.client.close()


async def _lifetime(
    create: Callable[[], Awaitable[Client]], forget: Callable[[Client], None]
) -> AsyncGenerator[Client]:
    """Hold a client. Loops close the generators that were begun in them when they end."""
    client = await create()
    if not isinstance(client, Client):
        raise TypeError(f"create must make an emcache.Client, not {type(client).__name__}")
    try:
        yield client
    finally:
        forget(client)
        await client.close()


class BackgroundLoop:
    """An event loop on a thread of its own, begun when first needed and ended with the process.

    After a fork the child begins one of its own, so servers may be preloaded.
    """

    def __init__(self) -> None:
        # Signal handlers come in anywhere, and may use it too.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._calls: set[_Call[Any]] = set()
        self._stop: asyncio.Event
        _all.add(self)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it; from any thread but the loop's own.

        Returns:
            What the coroutine returns; what it raises is raised, and
            ``concurrent.futures.CancelledError`` if it is cancelled, as by :meth:`close`. If the
            wait is interrupted, the coroutine is cancelled.

        Raises:
            RuntimeError: called in the loop itself, which would wait for ever.
            TypeError: that is no coroutine.
        """
        if not asyncio.iscoroutine(coroutine):
            raise TypeError(f"run() takes a coroutine, not {type(coroutine).__name__}")
        call = _Call(coroutine)
        try:
            self._submit(call)
            call.wait()
        except BaseException:
            call.abandon()
            raise
        return call.result()

    def close(self) -> None:
        """End the loop: tasks are cancelled, clients of :class:`ClientPerLoop` are closed.

        Does nothing if it was not begun; :meth:`run` begins another.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
            if thread is not threading.current_thread():
                thread.join(_PATIENCE)

    def _begin_anew(self) -> None:
        # What belongs to a thread that a fork left behind is left alone: closing its loop would
        # take the parent's descriptors out of the selector that both share.
        self._lock = threading.RLock()
        self._thread = None
        # A signal handler that forks comes back to the wait that it interrupted.
        for call in list(self._calls):
            call.finish(asyncio.CancelledError())

    def _submit(self, call: "_Call[Any]") -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("BackgroundLoop.run() was called in the loop itself: use await")
        # Not while close() is under way: a loop that is told to stop may not look again.
        with self._lock:
            if self._thread is None or self._loop.is_closed():
                self._thread = self._begin()
            call.submit(self._loop, self._calls)

    def _begin(self) -> threading.Thread:
        begun = concurrent.futures.Future[None]()
        thread = threading.Thread(
            target=self._work, args=(begun,), name="emcache background loop", daemon=True
        )
        thread.start()
        begun.result()
        return thread

    def _work(self, begun: "concurrent.futures.Future[None]") -> None:
        calls: set[_Call[Any]] = set()
        try:
            asyncio.run(self._until_stopped(begun, calls))
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)
        finally:
            # They came while the loop was ending, or were cancelled before their first step.
            for call in list(calls):
                call.end()

    async def _until_stopped(
        self, begun: "concurrent.futures.Future[None]", calls: "set[_Call[Any]]"
    ) -> None:
        stop = asyncio.Event()
        self._loop, self._stop, self._calls = asyncio.get_running_loop(), stop, calls
        begun.set_result(None)
        await stop.wait()


class _Call(Generic[T]):
    """A coroutine in a loop, and the thread that waits for it.

    As ``asyncio.run_coroutine_threadsafe``, with whose two futures and their callbacks an empty
    call takes half as long again.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[_Call[Any]] = set()
        self._task: asyncio.Task[None] | None = None
        self._value: T
        self._error: BaseException | None = None
        self._has_ended = False
        self._running = threading.Lock()
        self._running.acquire()

    def submit(self, loop: asyncio.AbstractEventLoop, calls: "set[_Call[Any]]") -> None:
        """Run it in a loop. It is one of ``calls`` from before the loop knows it to its end."""
        self._loop, self._calls = loop, calls
        calls.add(self)
        loop.call_soon_threadsafe(self._start)

    def wait(self) -> None:
        """Wait until it has ended."""
        self._running.acquire()

    def result(self) -> T:
        """Return what the coroutine returned, or raise what it raised; once."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            if isinstance(error, asyncio.CancelledError):
                raise concurrent.futures.CancelledError from error
            raise error
        finally:
            # Its traceback refers to this frame.
            del error

    def abandon(self) -> None:
        """Cancel it, as nobody waits any more."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)
                return
        self._calls.discard(self)
        self._close()

    def end(self) -> None:
        """End it where the loop will not: it is closed, or the task had no step."""
        if not self._has_ended:
            self.finish(asyncio.CancelledError())
            self._close()

    def finish(self, error: BaseException | None) -> None:
        """Let the thread go on; the first time counts."""
        if self._has_ended:
            return
        self._has_ended, self._error = True, error
        self._calls.discard(self)
        self._running.release()

    def _start(self) -> None:
        assert self._loop is not None
        run = self._run()
        try:
            self._task = self._loop.create_task(run)
        except BaseException as error:
            run.close()
            self.finish(error)
            self._close()

    async def _run(self) -> None:
        # The task's last step tells, no callback: that would take the loop another turn.
        try:
            self._value = await self._coroutine
        except BaseException as error:
            self.finish(error)
        else:
            self.finish(None)

    def _cancel(self) -> None:
        if self._task is None:
            self.end()
            return
        self._task.cancel()
        self._task.add_done_callback(lambda _: self.end())

    def _close(self) -> None:
        # There is nobody to tell, and others are still to be ended.
        with contextlib.suppress(BaseException):
            self._coroutine.close()


_all: "weakref.WeakSet[BackgroundLoop]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for background in list(_all):
        background.close()


def _after_fork() -> None:
    for background in list(_all):
        background._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
