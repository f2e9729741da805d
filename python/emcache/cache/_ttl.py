"""Times to live of cached values."""

import math
import random
import time
from datetime import datetime, timedelta

from .._checks import check_range
from .._memcached.times import LAST_SECOND, THIRTY_DAYS, to_exptime
from ._envelope import NEVER, Envelope, now_ms

_FIRST_DATE = 10**9
"""2001. A smaller number of seconds is meant as a duration, not as a Unix time."""

Ttl = int | timedelta | datetime

ONE_HOUR = 3600
"""The default of caches, so that no value stays for ever by accident."""


def exptime(ttl: Ttl) -> int:
    """Convert a time to live to memcached's exptime, before anything is computed or sent.

    Raises:
        ValueError: out of range, or a number of seconds above 30 days that is not a date.
        TypeError: neither an int, a timedelta nor a datetime.
    """
    seconds = to_exptime(ttl, "ttl")
    if isinstance(ttl, int) and THIRTY_DAYS < ttl < _FIRST_DATE:
        raise ValueError(
            f"ttl={ttl}: memcached reads more than {THIRTY_DAYS} seconds (30 days) as a date, and "
            f"would drop the value at once; use timedelta(seconds={ttl})"
        )
    check_range("ttl", seconds, -LAST_SECOND - 1, LAST_SECOND)
    return seconds


def shortened(expires: int, jitter: float) -> int:
    """Return an exptime that is at random up to the fraction ``jitter`` earlier.

    A Unix time and "never" stay as they are.
    """
    if not jitter or not 0 < expires <= THIRTY_DAYS:
        return expires
    return max(math.ceil(expires * (1 - jitter * random.random())), 1)


def soft_end(
    expires: int, refresh: float | None, stale_for: float | None
) -> tuple[int, Envelope | None]:
    """Return the exptime of an item that outlives its ttl, and the envelope with that ttl.

    A value is refreshed in the second half of its life at the earliest.
    """
    if (refresh is None and stale_for is None) or expires < 0:
        return expires, None
    if expires == 0:
        return expires, Envelope(NEVER, NEVER)
    life = expires if expires <= THIRTY_DAYS else expires - time.time()
    if life <= 0:
        return expires, None
    now = now_ms()
    fresh_until = now + int(life * 1000)
    refresh_from = NEVER
    if refresh is not None:
        refresh_from = fresh_until - int(min(refresh, life / 2) * 1000)
    if stale_for:
        expires = to_exptime(timedelta(seconds=life + stale_for))
    return expires, Envelope(refresh_from, fresh_until)
