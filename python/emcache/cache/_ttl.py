"""Times to live of cached values."""

from datetime import datetime, timedelta

from .._checks import check_range
from .._memcached.times import LAST_SECOND, THIRTY_DAYS, to_exptime

_FIRST_DATE = 10**9
"""2001. A smaller number of seconds is meant as a duration, not as a Unix time."""

Ttl = int | timedelta | datetime


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
