"""Runs coroutines of the cache on the calling thread, with a client whose calls do not suspend.

The logic of :class:`emcache.Cache` exists once, as coroutines. A :class:`CallLoop` is an event loop
without sockets: what it waits for are timers, and now and then a thread that compresses a value.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .._client import Client as AsyncClient
from ._gate import Gate

T = TypeVar("T")

_REST = 1.0
"""Seconds that a call waits for tasks that it has started, such as the removal of a value."""


_EXITS = (KeyboardInterrupt, SystemExit)
"""asyncio ends its loop with these, even if a task raises them."""


class _Waiting:
    """Takes the place of a selector."""

    def __init__(self) -> None:
        self.woken = Gate()

    def select(self, timeout: float | None = None) -> list[Any]:
        self.woken.pass_through(None if timeout is None else max(timeout, 0))
        return []


class CallLoop(asyncio.BaseEventLoop):
    """An event loop of one thread, which runs only during calls."""

    _emcache_blocking = True
    """Calls of a synchronous client are allowed: see ``bridge/blocking.rs``."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Waiting()
        # Plain functions run in its tasks, as long as they take.
        self.slow_callback_duration = math.inf
        self.is_usable = True
        self._interruption: BaseException | None = None

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._selector.woken.open()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if "handle" in context:
            # asyncio would log what a signal handler raised in one of its callbacks.
            self._interruption = context.get("exception")
            self.stop()
        elif self._interruption is None and not isinstance(context.get("exception"), _EXITS):
            super().call_exception_handler(context)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and what it has started.

        A signal handler may raise at any point. Then the coroutine is cancelled as when its caller
        leaves, and the loop is not used again.
        """
        self.is_usable = False
        task = self.create_task(coroutine)
        try:
            try:
                result = self.run_until_complete(task)
            finally:
                if task.done():
                    self._run_rest(_REST)
        except BaseException as error:
            if self._interruption is None and _is_outcome(task, error):
                self.is_usable = True
                raise
            interruption = self._interruption or error
        else:
            if self._interruption is None:
                self.is_usable = True
                return result
            interruption = self._interruption
        task.cancel()
        self._clean_up(interruption)
        raise interruption

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
        # A signal handler may raise in one of the two clauses.
        try:
            try:
                asyncio._set_running_loop(None)
                return function(*args, **kwargs)
            finally:
                asyncio._set_running_loop(loop)
        finally:
            asyncio._set_running_loop(loop)

    return call


class Facade(AsyncClient):
    """A synchronous client behind the interface of the asynchronous one."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._before_close = ()
        self.is_usable = True
        """Whether no call of its caches was interrupted; its state may be incomplete otherwise."""

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
        return getattr(self._client, name)(*args, **kwargs)

    return call


for _name in (
    *("get", "gets", "get_many", "gets_many", "gat", "gats", "gat_many", "gats_many", "set", "add"),
    *("replace", "append", "prepend", "cas", "delete", "increment", "decrement", "touch"),
    *("set_many", "add_many", "delete_many", "touch_many", "ttl", "meta_get", "meta_get_many"),
    *("meta_set", "meta_delete", "meta_arithmetic", "meta_debug", "meta_noop", "meta_raw"),
):
    setattr(Facade, _name, _awaitable(_name))
