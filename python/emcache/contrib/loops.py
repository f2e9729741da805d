"""Clients for programs with several event loops, or without one.

A client belongs to the loop in which it was created. :class:`ClientPerLoop` manages one client for
each loop. :class:`BackgroundLoop` runs a loop for synchronous code.
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

from .._client import Client
from .._failures import copy_exception

T = TypeVar("T")

_EXIT_TIMEOUT = 5.0
"""Seconds that the exit of the process waits for a background loop."""


class ClientPerLoop:
    """A client for each event loop: created at its first use, closed at the end of the loop.

    ``asyncio.run``, ``asyncio.Runner``, and servers that use them close the client, and so does
    everything else that calls ``loop.shutdown_asyncgens()``. A ``ClientPerLoop`` may be used from
    any thread, and in processes that fork.

    Args:
        create: creates a client, such as ``lambda: emcache.create_client(...)``.
    """

    def __init__(self, create: Callable[[], Awaitable[Client]]) -> None:
        if not callable(create):
            raise TypeError(
                f"create must be a function that creates a client, not {type(create).__name__}; "
                "write lambda: emcache.create_client(...)"
            )
        self._create = create
        # Each loop uses only its own entry, so no lock is needed.
        self._entries: dict[asyncio.AbstractEventLoop, _Entry] = {}

    async def get(self) -> Client:
        """Return the running loop's client.

        Raises:
            DiscoveryError, ValueError, TypeError, OSError: the client cannot be created; the next
                call tries again.
        """
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        if entry is not None and entry.client is not None:
            if not entry.client.closed:
                return entry.client
            # A caller closed the client itself.
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
        # The entry holds this function; a strong reference would be a cycle.
        this = weakref.ref(self)

        def forget(client: Client) -> None:
            if (alive := this()) is None or (entry := alive._entries.get(loop)) is None:
                return
            if entry.client is client:
                del alive._entries[loop]

        return forget

    async def _forget_closed_loops(self) -> None:
        """Drop the clients of loops that were closed without ``shutdown_asyncgens()``."""
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
        # Discovery takes time. Callers that wait for a failing attempt fail with it. If each of
        # them tried again, the last one would wait for all attempts.
        failures = self._failures
        async with self._opening:
            if self.client is None:
                if failures:
                    failure, traceback = failures[0]
                    raise copy_exception(failure).with_traceback(traceback)
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
    """Hold a client as a generator, because a loop closes its generators when it ends."""
    client = await create()
    if not isinstance(client, Client):
        raise TypeError(f"create must return an emcache.Client, not {type(client).__name__}")
    try:
        yield client
    finally:
        forget(client)
        await client.close()


class BackgroundLoop:
    """An event loop in a background thread, started at its first use and ended with the process.

    The child of a fork starts its own loop, so servers may preload the application.
    """

    def __init__(self) -> None:
        # Reentrant, because a signal handler may use the loop while this thread holds the lock.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._calls: set[_Call[Any]] = set()
        self._stop: asyncio.Event
        _all.add(self)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it, from any thread but the loop's own.

        Returns:
            The result of the coroutine. Its exception is raised, and
            ``concurrent.futures.CancelledError`` if it is cancelled, for example by :meth:`close`.
            If the wait is interrupted, the coroutine is cancelled.

        Raises:
            RuntimeError: called in the loop itself, which would be a deadlock.
            TypeError: not a coroutine.
        """
        if not asyncio.iscoroutine(coroutine):
            raise TypeError(f"run() needs a coroutine, not {type(coroutine).__name__}")
        call = _Call(coroutine)
        try:
            self._submit(call)
            call.wait()
        except BaseException:
            call.abandon()
            raise
        return call.result()

    def close(self) -> None:
        """End the loop: cancel its tasks and close its clients of :class:`ClientPerLoop`.

        Does nothing if the loop was not started. :meth:`run` starts a new one.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
            if thread is not threading.current_thread():
                thread.join(_EXIT_TIMEOUT)

    def _reset_after_fork(self) -> None:
        # The loop of the parent's thread is not closed: that would remove the parent's descriptors
        # from the selector that both processes share.
        self._lock = threading.RLock()
        self._thread = None
        # If a signal handler forked, it returns to a wait for a call that no thread will finish.
        for call in list(self._calls):
            call.finish(asyncio.CancelledError())

    def _submit(self, call: "_Call[Any]") -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError("BackgroundLoop.run() was called in the loop itself; use await")
        # Not during close(), because a loop that stops may not run new calls.
        with self._lock:
            if self._thread is None or self._loop.is_closed():
                self._thread = self._begin()
            call.submit(self._loop, self._calls)

    def _begin(self) -> threading.Thread:
        started = concurrent.futures.Future[None]()
        thread = threading.Thread(
            target=self._work, args=(started,), name="emcache background loop", daemon=True
        )
        thread.start()
        started.result()
        return thread

    def _work(self, started: "concurrent.futures.Future[None]") -> None:
        calls: set[_Call[Any]] = set()
        try:
            asyncio.run(self._until_stopped(started, calls))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        finally:
            # Calls that arrived while the loop ended, or were cancelled before their first step.
            for call in list(calls):
                call.end()

    async def _until_stopped(
        self, started: "concurrent.futures.Future[None]", calls: "set[_Call[Any]]"
    ) -> None:
        stop = asyncio.Event()
        self._loop, self._stop, self._calls = asyncio.get_running_loop(), stop, calls
        started.set_result(None)
        await stop.wait()


class _Call(Generic[T]):
    """A coroutine in a loop, and the thread that waits for it.

    As ``asyncio.run_coroutine_threadsafe``, whose two futures and callbacks would make an empty
    call take half as long again.
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
        """Run the coroutine in a loop; it is in ``calls`` until it has ended."""
        self._loop, self._calls = loop, calls
        calls.add(self)
        loop.call_soon_threadsafe(self._start)

    def wait(self) -> None:
        """Wait until the coroutine has ended."""
        self._running.acquire()

    def result(self) -> T:
        """Return the result of the coroutine, or raise its exception; call this once."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            if isinstance(error, asyncio.CancelledError):
                raise concurrent.futures.CancelledError from error
            raise error
        finally:
            # The traceback refers to this frame, which would be a reference cycle.
            del error

    def abandon(self) -> None:
        """Cancel the coroutine, because its caller does not wait any more."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)
                return
        self._calls.discard(self)
        self._close()

    def end(self) -> None:
        """Finish a call that the loop will not finish: it is closed, or the task never ran."""
        if not self._has_ended:
            self.finish(asyncio.CancelledError())
            self._close()

    def finish(self, error: BaseException | None) -> None:
        """Wake the waiting thread; only the first call has an effect."""
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
        # The last step of the task wakes the thread; a callback would need one more loop iteration.
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
        # An exception here has no receiver, and other calls must still be finished.
        with contextlib.suppress(BaseException):
            self._coroutine.close()


_all: "weakref.WeakSet[BackgroundLoop]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for background in list(_all):
        background.close()


def _after_fork() -> None:
    for background in list(_all):
        background._reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
