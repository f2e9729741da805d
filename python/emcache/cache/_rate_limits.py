"""Rate limits that processes share: a counter for each window of time."""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from .._checks import check_range
from .._client import Client
from .._errors import EmcacheError, InvalidKeyError
from .._memcached.times import THIRTY_DAYS
from ._keys import Key, Keys, encode
from ._warnings import warn

Window = Literal["fixed", "sliding"]
OnLimitError = Literal["raise", "allow"]

LARGEST = 2**53
"""The largest limit; floats are exact up to here."""
_MARGIN = 60
"""Seconds by which a counter outlives its use, for clocks that differ."""


@dataclass(frozen=True, slots=True)
class RateLimitResult:
    """The answer to one :meth:`RateLimit.hit`; true if it is allowed."""

    allowed: bool
    remaining: int
    """Further hits that would be allowed now; 0 if this one is refused."""
    retry_after: float
    """Seconds until a hit of the same cost can be allowed; 0.0 if this one is."""

    def __bool__(self) -> bool:
        return self.allowed


class RateLimit:
    """A limit of hits in a window of time; created by :meth:`emcache.Cache.rate_limit`.

    Windows begin at multiples of ``per`` of the Unix time, so all processes need correct clocks.
    In no window are more than ``limit`` hits allowed, whatever the number of processes, unless the
    server evicts the counter, is restarted or flushed.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        name: Key,
        limit: int,
        per: float | timedelta,
        window: Window,
        on_error: OnLimitError,
    ) -> None:
        check_range("limit", limit, 1, LARGEST)
        if window not in ("fixed", "sliding"):
            raise ValueError("window must be 'fixed' or 'sliding'")
        if on_error not in ("raise", "allow"):
            raise ValueError("on_error must be 'raise' or 'allow'")
        self._client = client
        self._keys = keys
        self._name = encode("name", name)
        self._limit = limit
        self._per = _seconds(per)
        self._is_sliding = window == "sliding"
        self._on_error = on_error
        lifetime = self._per * (2 if self._is_sliding else 1) + _MARGIN
        self._lifetime = timedelta(seconds=math.ceil(lifetime))

    def __repr__(self) -> str:
        window = "sliding" if self._is_sliding else "fixed"
        return f"<emcache.cache.RateLimit {self._name!r} {self._limit} per {self._per} s {window}>"

    async def hit(self, cost: int = 1) -> RateLimitResult:
        """Count a hit, and return whether it is allowed.

        Args:
            cost: how many hits it counts as, 1 to ``limit``.
        """
        check_range("cost", cost, 1, self._limit)
        index, elapsed = divmod(time.time(), self._per)
        current = self._counter(int(index))
        try:
            if not self._is_sliding:
                count = await self._count(current, cost)
                return await self._fixed(current, count, cost, elapsed)
            # In one loop iteration, so that both are sent together.
            before, count = await asyncio.gather(
                self._read(self._counter(int(index) - 1)), self._count(current, cost)
            )
            return await self._sliding(current, before, count, cost, elapsed)
        except EmcacheError as error:
            if self._on_error == "raise" or isinstance(error, InvalidKeyError):
                raise
            warn("a rate limit failed and allows all hits", error)
            return RateLimitResult(True, self._limit - cost, 0.0)

    def _counter(self, index: int) -> bytes:
        # A limit with another `per` has other windows, so it must not share the counter.
        return self._keys.wire(b"#limit:%b:%.15g:%d" % (self._name, self._per, index))

    async def _count(self, key: bytes, cost: int) -> int:
        increment = self._client.increment
        return await increment(key, cost, initial=cost, exptime=self._lifetime) or 0

    async def _read(self, key: bytes) -> int:
        item = await self._client.get(key)
        # The server pads numbers that became shorter. Anything else is another program's.
        if item is None or not (digits := item.value.strip()).isdigit():
            return 0
        return min(int(digits), self._limit)

    async def _fixed(self, key: bytes, count: int, cost: int, elapsed: float) -> RateLimitResult:
        if count <= self._limit:
            return RateLimitResult(True, self._limit - count, 0.0)
        await self._take_back(key, count, cost)
        return RateLimitResult(False, 0, self._per - elapsed)

    async def _sliding(
        self, key: bytes, before: int, count: int, cost: int, elapsed: float
    ) -> RateLimitResult:
        share = 1 - elapsed / self._per
        weighted = before * share + count
        if weighted <= self._limit:
            return RateLimitResult(True, int(self._limit - weighted), 0.0)
        await self._take_back(key, count, cost)
        return RateLimitResult(False, 0, self._wait(before, count - cost, cost, elapsed))

    def _wait(self, before: int, count: int, cost: int, elapsed: float) -> float:
        """Return the seconds until a hit fits that is refused now, if no others come."""
        room = self._limit - cost - count
        if room >= 0:
            return max(0.0, self._per * (1 - room / before) - elapsed)
        # Not in this window; in the next one these hits are those of the window before.
        return self._per * (2 - (self._limit - cost) / count) - elapsed

    async def _take_back(self, key: bytes, count: int, cost: int) -> None:
        """Subtract a refused hit, so that smaller or later ones still find room."""
        if count - cost < self._limit:
            # If this is lost, the limit is only stricter, so the reply is not needed.
            with contextlib.suppress(EmcacheError):
                await self._client.decrement(key, cost, noreply=True)


def _seconds(per: float | timedelta) -> float:
    if isinstance(per, bool) or not isinstance(per, int | float | timedelta):
        raise TypeError(f"per must be a number of seconds or a timedelta, not {type(per).__name__}")
    seconds = per.total_seconds() if isinstance(per, timedelta) else float(per)
    if not 0 < seconds <= THIRTY_DAYS:
        raise ValueError(f"per must be more than 0 and at most 30 days, not {per}")
    return seconds
