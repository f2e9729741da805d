"""Refreshing a value that is still served: by one caller in all processes."""

import asyncio
import contextlib
import time
from typing import Generic, TypeVar

from .._errors import EmcacheError, NotStoredStorageCommandError
from ._computing import Computing, UnusableError
from ._counts import Reason
from ._flights import MISSING, Missing
from ._late_stores import NONE_OUTDATED
from ._leases import Guard, ValueGuard
from ._marks import REFRESH, mark_name
from ._refreshes import TRY_AGAIN
from ._storage import Read
from ._tasks import in_task

T = TypeVar("T")


class Refresh(Generic[T]):
    """One refresh of one key."""

    def __init__(self, computing: Computing[T]) -> None:
        self.computing = computing
        self.not_stored: Reason | None = None
        self._client = computing.storage.client
        self._mark = mark_name(computing.name, REFRESH)
        self._ends = 0.0

    async def run(self) -> T | Missing:
        """Compute and store the value, if no other process does."""
        policy = self.computing.policy
        self._ends = time.monotonic() + policy.lease_seconds
        adding = in_task(self._client.add(self._mark, b"1", exptime=policy.lease_exptime))
        try:
            await asyncio.shield(adding)
        except NotStoredStorageCommandError:
            return MISSING
        except asyncio.CancelledError:
            in_task(self._undo(adding))
            raise
        marks = self.computing.storage.refreshes.marks
        marks.add(self._remove_mark)
        try:
            return await self._marked()
        finally:
            marks.discard(self._remove_mark)

    async def _marked(self) -> T | Missing:
        """Compute and store the value while the mark is this process's."""
        try:
            value = await self._compute()
        except asyncio.CancelledError:
            await self._remove_mark()
            raise
        except BaseException:
            await self._shorten_mark()
            raise
        if self.not_stored == "refused":
            await self._shorten_mark()
        else:
            await self._remove_mark()
        return value

    async def _compute(self) -> T | Missing:
        computing = self.computing
        name, counts = computing.name, computing.counts
        leases = computing.storage.leases
        epoch = leases.epoch(name)
        item = await self._client.gets(name, return_flags=True)
        read = await computing.storage.read(name, item, NONE_OUTDATED, computing.tags)
        if read is None or read.freshness == "fresh":
            # It was dropped, or another process has just refreshed it.
            return MISSING
        await computing.read_tags()
        try:
            value = await computing.call()
        except UnusableError as error:
            raise error.error from None
        counts.refreshed += 1
        guard = ValueGuard(leases, name, read.item.cas or 0, epoch)
        try:
            self.not_stored = await self._store(read, guard, value)
        finally:
            computing.storage.flights.local.forget(name)
        if self.not_stored is not None:
            counts.count_not_stored(self.not_stored)
        return value

    async def _store(self, read: Read[T], guard: Guard, value: T) -> Reason | None:
        expires = self.computing.exptime(value)
        if expires is None:
            return "refused"
        data, flags = self.computing.dump(value)
        sealed = await self.computing.seal(data, flags, expires)
        if not guard.cas:
            return await self._store_unguarded(read, *sealed)
        stored = await guard.store(*sealed)
        if stored == "stored":
            return None
        self.computing.storage.discard(self.computing.name, *sealed[:2])
        return stored

    async def _store_unguarded(
        self, read: Read[T], data: bytes, flags: int, expires: int
    ) -> Reason | None:
        """Store on ``memcached -C``, unless the value has changed; a write after that is lost."""
        name, put = self.computing.name, self._client.set
        item = await self._client.get(name)
        if item is None or item.value != read.item.value:
            return "invalidated" if item is None else "replaced"
        late = self.computing.storage.flights.late
        await late.store(name, data, lambda: put(name, data, flags=flags, exptime=expires))
        return None

    async def _undo(self, adding: "asyncio.Task[None]") -> None:
        """Remove a mark that is being added."""
        with contextlib.suppress(EmcacheError):
            await adding
            await self._remove_mark()

    async def _shorten_mark(self) -> None:
        """Let the next refresh begin soon, but not with the next read."""
        with contextlib.suppress(EmcacheError):
            await self._client.touch(self._mark, TRY_AGAIN)

    async def _remove_mark(self) -> None:
        # Later the mark may be another process's.
        if time.monotonic() >= self._ends:
            return
        self._ends = 0.0
        with contextlib.suppress(EmcacheError):
            await self._client.delete(self._mark)
