"""Locks that processes share: one key on one node, with a time to live."""

import asyncio
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self

from .._checks import check_float
from .._client import Client
from .._errors import EmcacheError, LockLostError, LockTimeoutError
from .._memcached.times import THIRTY_DAYS
from ._lock_items import Held, add_item, extend_item, new_token, remove_item
from ._tasks import in_task
from ._warnings import warn

_FIRST_PAUSE, _FACTOR, _LONGEST_PAUSE = 0.01, 1.6, 0.25
_MIN_TTL = 2
"""Seconds; the server ends a ``ttl`` of 1 at its next tick, which may be at once."""
_TICK = 1
"""Seconds by which the server may end an item early, because its clock counts whole seconds."""


class Lock:
    """A lock that processes share; created by :meth:`emcache.Cache.lock`.

    One object belongs to one task at a time. ``async with`` acquires and releases it. It raises
    :class:`emcache.LockTimeoutError` if the lock is not free in time, and
    :class:`emcache.LockLostError` if the block succeeded but the lock was lost before its end.

    The lock is an item in memcached, so it is not safe for correctness: two tasks hold it if the
    first one takes longer than ``ttl``, or if the server evicts the item, is restarted or flushed.
    """

    def __init__(
        self,
        client: Client,
        key: bytes,
        ttl: int | timedelta,
        wait: float | timedelta | None,
    ) -> None:
        self._client = client
        self._key = key
        self._ttl = _whole_seconds(ttl)
        self._wait = _checked_wait(wait)
        self._held: Held | None = None
        self._ends_at = 0.0
        self._was_lost = False
        self._is_acquiring = False

    def __repr__(self) -> str:
        state = "owned" if self.owned else "not owned"
        return f"<emcache.cache.Lock {self._key!r} ttl={self._ttl} {state}>"

    @property
    def owned(self) -> bool:
        """Whether this object holds the lock, as far as its clock tells; asks no server."""
        return self._held is not None and time.monotonic() < self._ends_at

    async def acquire(self) -> bool:
        """Acquire the lock; return False if it is not free within ``wait`` seconds.

        Raises:
            RuntimeError: this object holds the lock already, or is acquiring it.
        """
        if self._is_acquiring or self.owned:
            raise RuntimeError(
                f"this lock object is in use; call cache.lock() for each task: {self!r}"
            )
        self._is_acquiring = True
        try:
            return await self._acquire()
        finally:
            self._is_acquiring = False

    async def _acquire(self) -> bool:
        started = time.monotonic()
        for pause in _pauses():
            if await self._try():
                return True
            if self._wait is not None:
                rest = started + self._wait - time.monotonic()
                if rest <= 0:
                    return False
                pause = min(pause, rest)
            await asyncio.sleep(pause)
        raise AssertionError("the pauses have no end")

    async def _try(self) -> bool:
        token, asked_at = new_token(), time.monotonic()
        adding = in_task(add_item(self._client, self._key, token, self._ttl))
        try:
            held = await asyncio.shield(adding)
        except BaseException:
            # The server may have stored the token, or may still do it.
            in_task(self._undo(adding, token))
            raise
        if held is None:
            return False
        self._hold(held, asked_at, self._ttl)
        return True

    def _hold(self, held: Held, asked_at: float, ttl: int) -> None:
        self._held, self._ends_at = held, asked_at + ttl - _TICK
        self._was_lost = False

    async def _undo(self, adding: "asyncio.Task[Held | None]", token: bytes) -> None:
        try:
            held = await adding
        except EmcacheError:
            held = Held(token, None)
        if held is not None:
            try:
                await remove_item(self._client, self._key, held)
            except EmcacheError as error:
                warn("releasing a lock failed; it ends with its ttl", error)

    async def release(self) -> bool:
        """Release the lock; return False if this object had lost it.

        If it raises, you can call it again. Otherwise the lock ends with its ``ttl``.

        Raises:
            RuntimeError: this object has not acquired the lock.
        """
        releasing = in_task(remove_item(self._client, self._key, self._required()))
        try:
            was_ours = await asyncio.shield(releasing)
        except asyncio.CancelledError:
            # The release goes on, so that the lock is not left to its ttl.
            self._held = None
            raise
        self._held = None
        return was_ours

    async def extend(self, ttl: int | timedelta | None = None) -> bool:
        """Let the lock end ``ttl`` seconds from now; return False if this object had lost it.

        Args:
            ttl: see :meth:`emcache.Cache.lock`; None for the ``ttl`` of the lock.

        Raises:
            RuntimeError: this object has not acquired the lock.
        """
        seconds = self._ttl if ttl is None else _whole_seconds(ttl)
        held, asked_at = self._required(), time.monotonic()
        try:
            extended = await extend_item(self._client, self._key, held, seconds)
        except BaseException:
            # The server may have done it; then the item has another CAS, and the same token.
            self._held = Held(held.token, None)
            raise
        if extended is None:
            self._held, self._was_lost = None, True
            return False
        self._hold(extended, asked_at, seconds)
        return True

    def _required(self) -> Held:
        if self._held is None:
            raise RuntimeError(f"this lock object does not hold the lock: {self!r}")
        return self._held

    async def __aenter__(self) -> Self:
        if not await self.acquire():
            raise LockTimeoutError(f"the lock {self._key!r} was not free within {self._wait} s")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_lost = self._was_lost
        if self._held is not None:
            try:
                was_lost = not await self.release()
            except EmcacheError as failure:
                if error is None:
                    raise
                warn("releasing a lock failed; it ends with its ttl", failure)
                return
        if was_lost and error is None:
            raise LockLostError(
                f"the lock {self._key!r} was lost before its release: its ttl of {self._ttl} s "
                "ended, or the server dropped it"
            )


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(pause * _FACTOR, _LONGEST_PAUSE)


def _whole_seconds(ttl: int | timedelta) -> int:
    if isinstance(ttl, bool) or not isinstance(ttl, int | timedelta):
        raise TypeError(f"ttl must be an int or a timedelta, not {type(ttl).__name__}")
    seconds = -(-ttl // timedelta(seconds=1)) if isinstance(ttl, timedelta) else ttl
    if not _MIN_TTL <= seconds <= THIRTY_DAYS:
        raise ValueError(f"ttl of a lock must be {_MIN_TTL} s to 30 days, not {ttl}")
    return seconds


def _checked_wait(wait: float | timedelta | None) -> float | None:
    if wait is None:
        return None
    if isinstance(wait, bool) or not isinstance(wait, int | float | timedelta):
        raise TypeError(f"wait must be a number of seconds or None, not {type(wait).__name__}")
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    check_float("wait", seconds)
    if not seconds >= 0:
        raise ValueError(f"wait must be 0 or more seconds, not {wait}")
    return seconds
