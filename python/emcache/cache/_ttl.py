"""Times to live as memcached takes them."""

import math
import time
from datetime import datetime, timedelta

from .._arguments import check_between

Ttl = int | timedelta | datetime

MONTH = 30 * 24 * 3600
LATEST = 2**31 - 1


def exptime(ttl: Ttl) -> int:
    """Give seconds from now, or above 30 days the Unix time."""
    if isinstance(ttl, datetime):
        if ttl.tzinfo is None:
            raise ValueError("a datetime needs a time zone")
        ttl = ttl - datetime.now(ttl.tzinfo)
    if not isinstance(ttl, timedelta):
        check_between("ttl", ttl, -LATEST - 1, LATEST)
        return ttl
    seconds = math.ceil(ttl.total_seconds())
    if seconds <= 0:
        return -1
    return seconds if seconds <= MONTH else min(int(time.time()) + seconds, LATEST)
