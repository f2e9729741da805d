"""Runs coroutines of the cache on the calling thread, with a client whose calls do not suspend.

The logic of :class:`emcache.Cache` exists once, as coroutines. A :class:`CallLoop` is an event loop
without sockets: what it waits for are timers, and now and then a thread that compresses a value.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .._client import Client as AsyncClient

T = TypeVar("T")

_REST = 1.0
"""Seconds that a call waits for tasks that it has started, such as the removal of a value."""


class _Waiting:
    """Takes the place of a selector."""

    def __init__(self) -> None:
        self.woken = threading.Event()

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.woken.wait(timeout)
        self.woken.clear()
        return []


class CallLoop(asyncio.BaseEventLoop):
    """An event loop of one thread, which runs only during calls."""

    _emcache_blocking = True
    """Calls of a synchronous client are allowed: see ``bridge/blocking.rs``."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Waiting()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._selector.woken.set()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and what it has started."""
        try:
            return self.run_until_complete(coroutine)
        finally:
            if rest := [task for task in asyncio.all_tasks(self) if not task.done()]:
                self.run_until_complete(asyncio.wait(rest, timeout=_REST))

    def __del__(self) -> None:
        # It holds nothing that has to be closed.
        pass


def outside(function: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """Return a coroutine function that calls a plain one, for which no event loop runs."""

    async def call(*args: Any, **kwargs: Any) -> T:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return function(*args, **kwargs)
        finally:
            asyncio._set_running_loop(loop)

    return call


class Facade(AsyncClient):
    """A synchronous client behind the interface of the asynchronous one."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._before_close = ()

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
