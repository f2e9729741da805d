"""Times to live."""

from datetime import datetime, timedelta

from .._arguments import check_between
from .._times import LAST, THIRTY_DAYS, to_exptime

_FIRST_DATE = 10**9
"""2001: a whole number below it is no date that anybody means, but a time of many days."""

Ttl = int | timedelta | datetime


def exptime(ttl: Ttl) -> int:
    """Give a time to live as memcached takes it, checked before anything is computed."""
    seconds = to_exptime(ttl, "ttl")
    if isinstance(ttl, int) and THIRTY_DAYS < ttl < _FIRST_DATE:
        raise ValueError(
            f"ttl={ttl}: memcached reads more than {THIRTY_DAYS} seconds (30 days) as a date, and "
            f"would drop the value at once; use timedelta(seconds={ttl})"
        )
    check_between("ttl", seconds, -LAST - 1, LAST)
    return seconds
