"""Locks that processes share: one key on one node, with a time to live."""

import asyncio
import random
import secrets
import time
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from .._checks import check_float
from .._client import Client
from .._errors import (
    EmcacheError,
    LockLostError,
    LockTimeoutError,
    NotStoredStorageCommandError,
    StorageCommandError,
    is_missing,
)
from .._memcached.times import THIRTY_DAYS
from ._warnings import warn

T = TypeVar("T")

_EXPIRED = -1
_FIRST_PAUSE, _FACTOR, _LONGEST_PAUSE = 0.01, 1.6, 0.25
_MIN_TTL = 2
"""Seconds; the server ends a ``ttl`` of 1 at its next tick, which may be at once."""
_TICK = 1
"""Seconds by which the server may end an item early, because its clock counts whole seconds."""

_TASKS: set[asyncio.Task[Any]] = set()


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
        self._token: bytes | None = None
        self._ends_at = 0.0
        self._was_lost = False
        self._is_acquiring = False

    def __repr__(self) -> str:
        state = "owned" if self.owned else "not owned"
        return f"<emcache.cache.Lock {self._key!r} ttl={self._ttl} {state}>"

    @property
    def owned(self) -> bool:
        """Whether this object holds the lock, as far as its clock tells; asks no server."""
        return self._token is not None and time.monotonic() < self._ends_at

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
        token, asked_at = secrets.token_bytes(16).hex().encode(), time.monotonic()
        adding = _spawn(self._add(token))
        try:
            is_ours = await asyncio.shield(adding)
        except BaseException:
            # The server may have stored the token, or may still do it.
            _spawn(self._undo(adding, token))
            raise
        if is_ours:
            self._hold(token, asked_at, self._ttl)
        return is_ours

    def _hold(self, token: bytes, asked_at: float, ttl: int) -> None:
        self._token, self._ends_at = token, asked_at + ttl - _TICK
        self._was_lost = False

    async def _add(self, token: bytes) -> bool:
        try:
            await self._client.add(self._key, token, exptime=self._ttl)
        except NotStoredStorageCommandError:
            return False
        return True

    async def _undo(self, adding: "asyncio.Task[bool]", token: bytes) -> None:
        try:
            is_ours = await adding
        except EmcacheError:
            is_ours = True
        if is_ours:
            try:
                await self._replace(token, _EXPIRED)
            except EmcacheError as error:
                warn("releasing a lock failed; it ends with its ttl", error)

    async def release(self) -> bool:
        """Release the lock; return False if this object had lost it.

        If it raises, you can call it again. Otherwise the lock ends with its ``ttl``.

        Raises:
            RuntimeError: this object has not acquired the lock.
        """
        token = self._held()
        releasing = _spawn(self._replace(token, _EXPIRED))
        try:
            was_ours = await asyncio.shield(releasing)
        except asyncio.CancelledError:
            # The release goes on, so that the lock is not left to its ttl.
            self._token = None
            raise
        self._token = None
        return was_ours

    async def extend(self, ttl: int | timedelta | None = None) -> bool:
        """Let the lock end ``ttl`` seconds from now; return False if this object had lost it.

        Args:
            ttl: see :meth:`emcache.Cache.lock`; None for the ``ttl`` of the lock.

        Raises:
            RuntimeError: this object has not acquired the lock.
        """
        seconds = self._ttl if ttl is None else _whole_seconds(ttl)
        token, asked_at = self._held(), time.monotonic()
        is_ours = await self._replace(token, seconds)
        if is_ours:
            self._hold(token, asked_at, seconds)
        else:
            self._token, self._was_lost = None, True
        return is_ours

    def _held(self) -> bytes:
        if self._token is None:
            raise RuntimeError(f"this lock object does not hold the lock: {self!r}")
        return self._token

    async def _replace(self, token: bytes, exptime: int) -> bool:
        """Set the time to live of our token; return whether it was still there."""
        item = await self._client.gets(self._key)
        if item is None or item.value != token or item.cas is None:
            return False
        try:
            await self._client.cas(self._key, token, item.cas, exptime=exptime)
        except NotStoredStorageCommandError:
            return False
        except StorageCommandError as error:
            if is_missing(error):
                return False
            raise
        return True

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
        if self._token is not None:
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


def _spawn(call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Run a call in a task of its own, which ends even if all its callers are cancelled."""
    task = asyncio.get_running_loop().create_task(call)
    _TASKS.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: "asyncio.Task[Any]") -> None:
    _TASKS.discard(task)
    # The caller may be gone; asyncio must not log an unretrieved exception.
    if not task.cancelled():
        task.exception()


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
