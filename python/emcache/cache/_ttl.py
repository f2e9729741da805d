"""Times to live."""

from datetime import datetime, timedelta

from .._arguments import check_between
from .._times import LAST, in_seconds

Ttl = int | timedelta | datetime


def exptime(ttl: Ttl) -> int:
    """Give a time to live as memcached takes it, checked before anything is computed."""
    seconds = in_seconds(ttl)
    check_between("ttl", seconds, -LAST - 1, LAST)
    return seconds
