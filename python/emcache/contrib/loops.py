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
from typing import Any, TypeVar

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
        self._failures: list[Exception] = []

    async def open(self, begin: Callable[[], AsyncGenerator[Client]]) -> Client:
        # Discovery takes time. Who waits for it fails with it: to try one after the other would
        # take each the longer, the more there are.
        failures = self._failures
        async with self._opening:
            if self.client is None:
                if failures:
                    raise failures[0]
                await self._begin(begin())
            assert self.client is not None
            return self.client

    async def _begin(self, lifetime: AsyncGenerator[Client]) -> None:
        try:
            self.client = await anext(lifetime)
        except Exception as error:
            self._failures.append(error)
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
        self._stop: asyncio.Event
        _all.add(self)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it; from any thread but the loop's own.

        Returns:
            What the coroutine returns; what it raises is raised. If the wait is interrupted, the
            coroutine is cancelled.

        Raises:
            RuntimeError: called in the loop itself, which would wait for ever.
            TypeError: not a coroutine.
        """
        if not asyncio.iscoroutine(coroutine):
            raise TypeError(
                "BackgroundLoop.run() takes a coroutine, as an async function returns it, not "
                f"{type(coroutine).__name__}"
            )
        try:
            future = self._submit(coroutine)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

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

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        if threading.current_thread() is self._thread:
            raise RuntimeError("BackgroundLoop.run() was called in the loop itself: use await")
        # Not while close() is under way: a loop that is told to stop may not look again.
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = self._begin()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _begin(self) -> threading.Thread:
        begun = concurrent.futures.Future[None]()
        thread = threading.Thread(
            target=self._work, args=(begun,), name="emcache background loop", daemon=True
        )
        thread.start()
        begun.result()
        return thread

    def _work(self, begun: "concurrent.futures.Future[None]") -> None:
        try:
            asyncio.run(self._until_stopped(begun))
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    async def _until_stopped(self, begun: "concurrent.futures.Future[None]") -> None:
        stop = asyncio.Event()
        self._loop, self._stop = asyncio.get_running_loop(), stop
        begun.set_result(None)
        await stop.wait()


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
