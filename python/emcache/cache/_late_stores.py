"""Stores of computed values that may reach the server after a later write of the same key."""

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping

from .._client import Client
from .._errors import (
    ClientClosedError,
    ClusterNoAvailableNodes,
    CommandError,
    EmcacheError,
    NodeUnavailableError,
    NotFoundCommandError,
    OverloadedError,
)
from .._lifecycle import before_close
from ._warnings import warn

UNCERTAIN = 10.0
"""Seconds in which a failed store may still reach the server.

The pool closes a silent connection 5 s and two timeouts after the deadline of its oldest request.
"""
PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
"""Seconds before each check for an outdated value; in total more than ``UNCERTAIN``."""
LAST_TRY = 1.0
"""Seconds for the removal by a task that was cancelled, for example at the end of the loop."""

_NOT_STORED = (
    ClusterNoAvailableNodes,
    CommandError,
    NodeUnavailableError,
    OverloadedError,
    TypeError,
    ValueError,
)
"""Errors of stores that have not happened and will not happen."""


class LateStore:
    """One store of a computed value."""

    __slots__ = ("_hash", "_length", "cleaning", "outdated", "unknown")

    def __init__(self, data: bytes) -> None:
        # Not the value itself, because after an outage many stores are remembered for 10 s.
        self._length = len(data)
        self._hash = hash(data)
        self.outdated = False
        """Whether the key was written or deleted after this store began."""
        self.unknown = False
        """Whether the store failed, but may still happen."""
        self.cleaning = False

    def wrote(self, data: bytes) -> bool:
        """Return whether ``data`` is the value of this store."""
        return len(data) == self._length and hash(data) == self._hash


Outdated = Mapping[bytes, tuple[LateStore, ...]]
"""Stores by key whose values may be in the cache, but are outdated."""

NONE_OUTDATED: Outdated = {}


class LateStores:
    """The stores of one client, by the key on the wire."""

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)
        self._stores: dict[bytes, list[LateStore]] = {}
        self.all_outdated: dict[bytes, tuple[LateStore, ...]] = {}
        """The stores whose values may be in the cache, but are outdated; usually none."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        before_close(client, self.wait_outdated)

    async def wait_outdated(self) -> None:
        """Wait until outdated stores have ended and their values are removed.

        Stores with an unknown outcome are not waited for, because that may take 10 s.
        """
        while any(not store.unknown for stores in self.all_outdated.values() for store in stores):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def outdated(self, keys: Iterable[bytes]) -> Outdated:
        """Return the stores whose values a read that begins now must not return."""
        if not self.all_outdated:
            return NONE_OUTDATED
        return {key: self.all_outdated[key] for key in keys if key in self.all_outdated}

    def outdate(self, key: bytes) -> None:
        """Mark all stores of a key as outdated."""
        if not self._stores or (stores := self._stores.get(key)) is None:
            return
        self.all_outdated[key] = tuple(stores)
        for store in stores:
            store.outdated = True
            if store.unknown:
                self._start_cleaning(key, store)

    async def store(self, key: bytes, data: bytes, put: Callable[[], Awaitable[None]]) -> None:
        """Store a value, and remove it if it became outdated in the meantime."""
        late = LateStore(data)
        self._stores.setdefault(key, []).append(late)
        try:
            await put()
        except _NOT_STORED:
            self._finish(key, late)
            raise
        except BaseException as error:
            late.unknown = True
            self._wake()
            await self._watch_uncertain(key, late, error)
            raise
        if late.outdated:
            try:
                await self._clean(key, late)
            except BaseException as error:
                await self._watch_uncertain(key, late, error)
                raise
        self._finish(key, late)

    async def _watch_uncertain(self, key: bytes, late: LateStore, error: BaseException) -> None:
        """Remember a store with an unknown outcome, and remove its value if it is outdated."""
        if isinstance(error, ClientClosedError | GeneratorExit):
            self._finish(key, late)
            return
        asyncio.get_running_loop().call_later(UNCERTAIN, self._expire, key, late)
        if not late.outdated:
            return
        if not isinstance(error, asyncio.CancelledError):
            self._start_cleaning(key, late)
            return
        # The loop may be ending, and would not run another task.
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
            self._finish(key, late)
        if failure is not None:
            warn("removing an outdated value from the cache failed", failure)

    async def _clean(self, key: bytes, late: LateStore) -> None:
        """Delete the key if it holds this value; a newer value stays."""
        if (client := self._client()) is None:
            return
        item = await client.get(key)
        if item is not None and late.wrote(item.value):
            with contextlib.suppress(NotFoundCommandError):
                await client.delete(key)

    def _expire(self, key: bytes, late: LateStore) -> None:
        if not late.cleaning:
            self._finish(key, late)

    def _finish(self, key: bytes, late: LateStore) -> None:
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
                self.all_outdated[key] = rest
            else:
                self.all_outdated.pop(key, None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
