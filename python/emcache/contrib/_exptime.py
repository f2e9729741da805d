"""Times to live as other libraries have them."""

import math
import time

_LONGEST_RELATIVE = 30 * 24 * 3600
_LATEST = 2**31 - 1


def exptime_of(seconds: float | None) -> int:
    """Give what memcached takes for a time to live.

    None never expires, 0 and less expire at once, fractions are rounded up. The server would take
    more than 30 days for a date long past, so those become the date that is meant; what lies beyond
    2038 becomes its last second.

    Raises:
        ValueError: not a number of seconds.
    """
    if seconds is None:
        return 0
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is no time to live: None never expires")
    if seconds <= 0:
        return -1
    relative = math.ceil(seconds)
    if relative <= _LONGEST_RELATIVE:
        return relative
    return min(int(time.time()) + relative, _LATEST)
