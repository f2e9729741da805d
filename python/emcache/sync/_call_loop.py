"""Runs coroutines of the cache on the calling thread, with a client whose calls do not suspend.

The logic of :class:`emcache.Cache` exists once, as coroutines. A :class:`CallLoop` is an event loop
without sockets: what it waits for are timers, and now and then a thread that compresses a value.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from .._client import Client as AsyncClient
from .._errors import EmcacheError, OperationTimeoutError
from .._memcached.times import EXPIRED
from ..cache._values import is_stub
from ._gate import Gate
from ._signals import current, undeferred, wait_at

T = TypeVar("T")

_REST = 1.0
"""Seconds that a call waits for tasks that it has started, such as the removal of a value."""


_EXITS = (KeyboardInterrupt, SystemExit)
"""asyncio ends its loop with these, even if a task raises them."""


class _Waiting:
    """Takes the place of a selector."""

    def __init__(self, interrupt: Callable[[BaseException], None]) -> None:
        self.woken = Gate()
        self._interrupt = interrupt

    def select(self, timeout: float | None = None) -> list[Any]:
        try:
            wait_at(self.woken, None if timeout is None else max(timeout, 0))
        except BaseException as error:
            self._interrupt(error)
        return []


class CallLoop(asyncio.BaseEventLoop):
    """An event loop of one thread, which runs only during calls."""

    _emcache_blocking = True
    """Calls of a synchronous client are allowed: see ``bridge/blocking.rs``."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Waiting(self.interrupt)
        # Plain functions run in its tasks, as long as they take.
        self.slow_callback_duration = math.inf
        self.is_usable = True
        self._interruption: BaseException | None = None
        self.main: asyncio.Task[Any] | None = None
        self._end_of_clean_up: asyncio.TimerHandle | None = None
        self._is_broken = False
        """Whether an exception was raised at any point of a call, for example in asyncio's code."""

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._selector.woken.open()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "handle" in context:
            # asyncio would log what a signal handler raised in one of its callbacks.
            self._interruption, self._is_broken = context.get("exception"), True
            self.stop()
        elif self._interruption is None and not isinstance(context.get("exception"), _EXITS):
            super().call_exception_handler(context)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and what it has started.

        If a signal handler raises, the coroutine is cancelled as when its caller leaves. In a
        thread, or if the handler could not be deferred, the exception may have been raised at any
        point; then the loop is not used again.
        """
        self.is_usable = self._is_broken = False
        self._interruption = None
        task = self.main = self.create_task(coroutine)
        error: BaseException | None = None
        try:
            try:
                self.run_until_complete(task)
            finally:
                if task.done():
                    self._run_rest(_REST)
        except BaseException as raised:
            error = raised
        try:
            interruption = self._find_interruption(task, error)
            if interruption is not None:
                self._end_tasks(interruption)
            if self._end_of_clean_up is not None:
                self._end_of_clean_up.cancel()
                self._end_of_clean_up = None
            self.is_usable = not self._is_broken
            error = interruption or error
            if error is not None:
                raise error
            result: T = task.result()
            return result
        finally:
            # The traceback refers to this frame, which would be a reference cycle.
            del error, task
            interruption = self._interruption = self.main = None

    def _find_interruption(
        self, task: "asyncio.Task[Any]", error: BaseException | None
    ) -> BaseException | None:
        deferral = current()
        if deferral is not None and deferral.raised is not None:
            self._is_broken = True
            self._interruption, deferral.raised = deferral.raised, None
        elif self._interruption is None and error is not None and not _is_outcome(task, error):
            self._is_broken = True
            self._interruption = error
        return self._interruption

    def _end_tasks(self, interruption: BaseException) -> None:
        """End the tasks of an interrupted call, but not for long."""
        if all(task.done() for task in asyncio.all_tasks(self)):
            return
        self._is_broken = True
        assert self.main is not None
        self.main.cancel()
        self._clean_up(interruption)
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def interrupt(self, error: BaseException) -> None:
        """Cancel the call because of what a signal handler has raised between two steps of it."""
        assert self.main is not None
        deferral = current()
        if deferral is not None:
            deferral.raised = None
        if self._interruption is not None:
            # The second one ends the clean-up.
            self._interruption = error
            self.stop()
            return
        self._interruption = error
        if deferral is not None:
            deferral.until = time.monotonic() + _REST
        self._end_of_clean_up = self.call_later(_REST, self.stop)
        if asyncio.current_task(self) is not self.main:
            self.main.cancel()

    def _run_rest(self, timeout: float) -> None:
        if rest := [task for task in asyncio.all_tasks(self) if not task.done()]:
            self.run_until_complete(asyncio.wait(rest, timeout=timeout))

    def _clean_up(self, interruption: BaseException) -> None:
        """Run all tasks to their end, but not for long."""
        until = self.time() + _REST
        with contextlib.suppress(RuntimeError):  # The loop was interrupted in its own state.
            while (left := until - self.time()) > 0:
                try:
                    self._run_rest(left)
                    break
                except _EXITS as error:
                    # Each task in which it is raised ends the loop again.
                    if error is not interruption:
                        raise

    def __del__(self) -> None:
        # It holds nothing that has to be closed.
        pass


def _is_outcome(task: "asyncio.Task[Any]", error: BaseException) -> bool:
    """Whether a task has ended with this error, and not because of a signal."""
    if not isinstance(error, Exception) or not task.done() or task.cancelled():
        return False
    return task.exception() is error


def outside(function: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """Return a coroutine function that calls a plain one, for which no event loop runs."""

    async def call(*args: Any, **kwargs: Any) -> T:
        loop = asyncio._get_running_loop()
        # An exception of a signal handler may be raised in one of the two clauses.
        try:
            try:
                asyncio._set_running_loop(None)
                return undeferred(functools.partial(function, *args, **kwargs))
            finally:
                asyncio._set_running_loop(loop)
        except BaseException as error:
            asyncio._set_running_loop(loop)
            if not _interrupts(error):
                raise
            cast(CallLoop, loop).interrupt(error)
        raise asyncio.CancelledError

    return call


def _interrupts(error: BaseException) -> bool:
    """Whether a function of the user was interrupted, and has not just failed."""
    if isinstance(error, asyncio.CancelledError):
        return False
    deferral = current()
    was_raised = deferral is not None and deferral.raised is error
    return was_raised or not isinstance(error, Exception)


class Facade(AsyncClient):
    """A synchronous client behind the interface of the asynchronous one."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._before_close = ()
        self.is_usable = True
        """Whether no call of its caches was interrupted; its state may be incomplete otherwise."""
        self.doubtful: list[bytes] = []
        """Keys whose leases an interrupted call may have won."""

    def __repr__(self) -> str:
        # The reference is weak, and its own repr does not show the client.
        try:
            return str(self._client)
        except ReferenceError:
            return "<emcache.sync.Client closed>"

    def end_doubtful_leases(self) -> None:
        """End the leases that an interrupted call may have won, or another process just now."""
        names, self.doubtful = self.doubtful, []
        if (deferral := current()) is not None:
            deferral.until = time.monotonic() + _REST
        with contextlib.suppress(EmcacheError):
            items = self._client.gets_many(names, return_flags=True)
            for name, item in items.items():
                if is_stub(item.value, item.flags) and item.cas:
                    self._client.cas(name, b"", item.cas, exptime=EXPIRED)

    def __del__(self) -> None:
        # It does not own the core.
        pass

    @property
    def closed(self) -> bool:
        return bool(self._client.closed)

    def _server_epoch(self, key: bytes) -> tuple[int, int]:
        epoch: tuple[int, int] = self._client._server_epoch(key)
        return epoch


def _awaitable(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: Facade, *args: Any, **kwargs: Any) -> Any:
        if (deferral := current()) is None:
            return getattr(self._client, name)(*args, **kwargs)
        if deferral.pending:
            await asyncio.sleep(0)
        deferral.defer()
        try:
            return getattr(self._client, name)(*args, **kwargs)
        except BaseException:
            if (error := deferral.raised) is None:
                raise
        # A handler has raised while the call waited for a server.
        if _takes_lease(name, args, kwargs):
            self.doubtful.extend([args[0]] if isinstance(args[0], bytes) else args[0])
        loop = cast(CallLoop, asyncio.get_running_loop())
        loop.interrupt(error)
        if asyncio.current_task() is loop.main:
            raise asyncio.CancelledError
        raise OperationTimeoutError("the call was interrupted before the reply arrived")

    return call


def _takes_lease(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    is_stored = name in ("add", "cas", "meta_set") and args[1] == b""
    return is_stored or kwargs.get("vivify") is not None


for _name in (
    *("get", "gets", "get_many", "gets_many", "gat", "gats", "gat_many", "gats_many", "set", "add"),
    *("replace", "append", "prepend", "cas", "delete", "increment", "decrement", "touch"),
    *("set_many", "add_many", "delete_many", "touch_many", "ttl", "meta_get", "meta_get_many"),
    *("meta_set", "meta_delete", "meta_arithmetic", "meta_debug", "meta_noop", "meta_raw"),
):
    setattr(Facade, _name, _awaitable(_name))
