"""Times to live as other libraries have them."""

import math
import time
from datetime import timedelta

_LONGEST_RELATIVE = 30 * 24 * 3600
_LATEST = 2**31 - 1


def seconds_of(name: str, value: float | str | timedelta | None) -> float | None:
    """Give an argument in seconds: a number, the text of one (from a URL), or a timedelta.

    Raises:
        ValueError, TypeError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} must be a number of seconds or a timedelta, not {value!r:.40}"
        ) from None


def exptime_of(ttl: float | timedelta | None) -> int:
    """Give what memcached takes for a time to live, in seconds or a timedelta.

    None never expires, 0 and less expire at once, fractions are rounded up. The server would take
    more than 30 days for a date long past, so those become the date that is meant; what lies beyond
    2038 becomes its last second.

    Raises:
        ValueError: not a finite number of seconds.
        TypeError: neither a number nor a timedelta.
    """
    if ttl is None:
        return 0
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    try:
        is_finite = math.isfinite(seconds)
    except TypeError:
        raise TypeError(
            "a time to live must be a number of seconds, a timedelta or None, not "
            f"{type(seconds).__name__}"
        ) from None
    if not is_finite:
        raise ValueError(f"{seconds} is no time to live: None never expires")
    if seconds <= 0:
        return -1
    relative = math.ceil(seconds)
    if relative <= _LONGEST_RELATIVE:
        return relative
    return min(int(time.time()) + relative, _LATEST)
