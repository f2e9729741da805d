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
from ._leases import store_with_cas
from ._marks import REFRESH, mark_name
from ._refreshes import TRY_AGAIN
from ._storage import Read

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
        try:
            await self._client.add(self._mark, b"1", exptime=policy.lease_exptime)
        except NotStoredStorageCommandError:
            return MISSING
        marks = self.computing.storage.refreshes.marks
        marks.add(self._remove_mark)
        try:
            try:
                value = await self._compute()
            except BaseException as error:
                await self._leave_mark(error)
                raise
            await self._remove_mark()
            return value
        finally:
            marks.discard(self._remove_mark)

    async def _compute(self) -> T | Missing:
        computing = self.computing
        name, counts = computing.name, computing.counts
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
        self.not_stored = await self._store(read, value)
        if self.not_stored is not None:
            counts.count_not_stored(self.not_stored)
        return value

    async def _store(self, read: Read[T], value: T) -> Reason | None:
        expires = self.computing.exptime(value)
        if expires is None:
            return "refused"
        data, flags = self.computing.dump(value)
        sealed = await self.computing.seal(data, flags, expires)
        name, cas = self.computing.name, read.item.cas or 0
        stored = await store_with_cas(self._client, name, cas, *sealed)
        return None if stored == "stored" else stored

    async def _leave_mark(self, error: BaseException) -> None:
        """Let the next refresh begin soon: at once if this one was cancelled."""
        if isinstance(error, asyncio.CancelledError):
            await self._remove_mark()
            return
        with contextlib.suppress(EmcacheError):
            await self._client.touch(self._mark, TRY_AGAIN)

    async def _remove_mark(self) -> None:
        # Later the mark may be another process's.
        if time.monotonic() >= self._ends:
            return
        self._ends = 0.0
        with contextlib.suppress(EmcacheError):
            await self._client.delete(self._mark)
