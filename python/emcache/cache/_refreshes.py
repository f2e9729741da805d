"""Which keys are being refreshed, as far as this process knows."""

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from .._client import Client
from .._errors import ClientClosedError
from .._lifecycle import before_close
from ._counts import Reason
from ._deadlock import Run
from ._flights import MISSING, Missing
from ._late_stores import LAST_TRY
from ._tasks import in_task
from ._warnings import warn

R = TypeVar("R", covariant=True)
T = TypeVar("T")

LOOK_AGAIN = 1.0
"""Seconds for which a process remembers that another one refreshes a value."""
TRY_AGAIN = 2
"""Seconds until the next refresh, in all processes, if one failed or its value was refused."""


class Refreshing(Protocol[R]):
    """One refresh; see ``Refresh``."""

    not_stored: Reason | None

    async def run(self) -> R | Missing:
        """Compute and store the value, if no other process does."""
        ...


class Refreshes:
    """The refreshes of one client."""

    def __init__(self, client: Client) -> None:
        self._busy: set[bytes] = set()
        """Keys that this process refreshes, or knows another process to refresh."""
        self.marks: set[Callable[[], Awaitable[None]]] = set()
        """Remove the marks that this process holds."""
        self._tasks: set[asyncio.Task[None]] = set()
        before_close(client, self.end)

    def is_busy(self, name: bytes) -> bool:
        """Return whether a caller of this process need not refresh a key."""
        return name in self._busy

    def start(self, name: bytes, refresh: Refreshing[object]) -> None:
        """Refresh in a task of its own."""
        self._busy.add(name)

        async def in_background() -> None:
            # The caller that started it does not wait for it.
            Run().begin()
            await self.run(name, refresh)

        task = in_task(in_background(), f"emcache refreshes {name!r}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Cancel the background refreshes, and remove all marks, before the client is closed."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._tasks if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        removals = [remove() for remove in self.marks]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY):
                await asyncio.gather(*removals, *tasks, return_exceptions=True)

    async def run(self, name: bytes, refresh: Refreshing[T]) -> T | Missing:
        """Refresh in the caller's task; return ``MISSING`` if another process does it.

        A failure of the factory or of the cache is a warning: the old value is still there.
        """
        pause: float = LOOK_AGAIN
        self._busy.add(name)
        try:
            value = await refresh.run()
        except ClientClosedError:
            return MISSING
        except Exception as error:
            pause = TRY_AGAIN
            warn("refreshing a cached value failed, and the old one is served", error)
            return MISSING
        else:
            if refresh.not_stored == "refused":
                # The old value stays, so every read would compute another one.
                pause = TRY_AGAIN
            elif not isinstance(value, Missing):
                pause = 0.0
            return value
        finally:
            if pause:
                asyncio.get_running_loop().call_later(pause, self._busy.discard, name)
            else:
                self._busy.discard(name)


_BY_CLIENT: weakref.WeakKeyDictionary[Client, Refreshes] = weakref.WeakKeyDictionary()


def refreshes_of(client: Client) -> Refreshes:
    """Return the refreshes of a client, which all caches on top of it share."""
    refreshes = _BY_CLIENT.get(client)
    if refreshes is None:
        refreshes = _BY_CLIENT[client] = Refreshes(client)
    return refreshes
