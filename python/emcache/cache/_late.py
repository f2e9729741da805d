"""Computed values on their way to the server, where the key may be written or deleted meanwhile."""

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping

from .._errors import (
    ClientClosedError,
    ClusterNoAvailableNodes,
    CommandError,
    EmcacheError,
    NodeUnavailableError,
    NotFoundCommandError,
    OverloadedError,
)
from .._owner import CoreOwner
from ..base import Client
from ._complaints import complain

DOUBT = 10.0
"""Seconds for which a store that failed may still reach the server.

The pool closes a silent connection 5 s and two timeouts after the deadline of its oldest request.
"""
PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
"""Seconds before each check that an outdated value is not in the cache: more than DOUBT in all."""
LAST_TRY = 1.0
"""Seconds for the removal by a task that is cancelled, as when the event loop ends."""

_NOT_STORED = (
    ClusterNoAvailableNodes,
    CommandError,
    NodeUnavailableError,
    OverloadedError,
    TypeError,
    ValueError,
)
"""What a store fails with that did not and will not happen."""


class LateStore:
    """A value on its way to the server."""

    __slots__ = ("_hash", "_length", "cleaning", "outdated", "unknown")

    def __init__(self, data: bytes) -> None:
        # Not the value itself: after an outage many of them wait for the end of DOUBT.
        self._length = len(data)
        self._hash = hash(data)
        self.outdated = False
        """Whether the key was written or deleted since."""
        self.unknown = False
        """Whether the store failed in a way that leaves open if it happens, and when."""
        self.cleaning = False

    def wrote(self, data: bytes) -> bool:
        """Tell whether a value that was read is this one."""
        return len(data) == self._length and hash(data) == self._hash


Outdated = Mapping[bytes, tuple[LateStore, ...]]
"""The outdated values that may be in the cache, by key."""

_NONE: Outdated = {}


class LateStores:
    """Those of one client, by the key on the wire."""

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)
        self._stores: dict[bytes, list[LateStore]] = {}
        self._outdated: dict[bytes, tuple[LateStore, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        if isinstance(client, CoreOwner):
            client._settled = self.settled

    async def settled(self) -> None:
        """Wait for the end of stores that are outdated, and of their removal.

        Not of those whose outcome is unknown: that may take all of DOUBT.
        """
        while any(not store.unknown for stores in self._outdated.values() for store in stores):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def outdated(self, keys: Iterable[bytes]) -> Outdated:
        """Give what a read that begins now must not return."""
        if not self._outdated:
            return _NONE
        return {key: self._outdated[key] for key in keys if key in self._outdated}

    def outdate(self, key: bytes) -> None:
        """Mark what is on its way as outdated."""
        if not self._stores or (stores := self._stores.get(key)) is None:
            return
        self._outdated[key] = tuple(stores)
        for store in stores:
            store.outdated = True
            if store.unknown:
                self._start_cleaning(key, store)

    async def store(self, key: bytes, data: bytes, put: Callable[[], Awaitable[None]]) -> None:
        """Store a value, and remove it again if it was outdated by the time it was there."""
        late = LateStore(data)
        self._stores.setdefault(key, []).append(late)
        try:
            await put()
        except _NOT_STORED:
            self._settle(key, late)
            raise
        except BaseException as error:
            late.unknown = True
            self._wake()
            await self._doubt(key, late, error)
            raise
        if late.outdated:
            try:
                await self._clean(key, late)
            except BaseException as error:
                await self._doubt(key, late, error)
                raise
        self._settle(key, late)

    async def _doubt(self, key: bytes, late: LateStore, error: BaseException) -> None:
        """See to it that the value does not stay if it is outdated, now or later."""
        if isinstance(error, ClientClosedError | GeneratorExit):
            self._settle(key, late)
            return
        asyncio.get_running_loop().call_later(DOUBT, self._expire, key, late)
        if not late.outdated:
            return
        if not isinstance(error, asyncio.CancelledError):
            self._start_cleaning(key, late)
            return
        # The loop may be ending: it would not run another task.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(LAST_TRY):
                await self._clean(key, late)

    def _start_cleaning(self, key: bytes, late: LateStore) -> None:
        if late.cleaning:
            return
        late.cleaning = True
        name = f"emcache removes an outdated {key!r}"
        task = asyncio.get_running_loop().create_task(self._keep_clean(key, late), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_clean(self, key: bytes, late: LateStore) -> None:
        failure: EmcacheError | None = None
        try:
            for pause in PAUSES:
                await asyncio.sleep(pause)
                try:
                    await self._clean(key, late)
                    failure = None
                except ClientClosedError:
                    return
                except EmcacheError as error:
                    failure = error
                if failure is None and not late.unknown:
                    return
        finally:
            self._settle(key, late)
        if failure is not None:
            complain("an outdated value may be in the cache", failure)

    async def _clean(self, key: bytes, late: LateStore) -> None:
        """Remove the value, if it is what the cache holds: a newer one stays."""
        if (client := self._client()) is None:
            return
        item = await client.get(key)
        if item is not None and late.wrote(item.value):
            with contextlib.suppress(NotFoundCommandError):
                await client.delete(key)

    def _expire(self, key: bytes, late: LateStore) -> None:
        if not late.cleaning:
            self._settle(key, late)

    def _settle(self, key: bytes, late: LateStore) -> None:
        stores = self._stores.get(key, [])
        if late not in stores:
            return
        stores.remove(late)
        if not stores:
            del self._stores[key]
        if late.outdated:
            self._wake()
            rest = tuple(store for store in stores if store.outdated)
            if rest:
                self._outdated[key] = rest
            else:
                self._outdated.pop(key, None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
