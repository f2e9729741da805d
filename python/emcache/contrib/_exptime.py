"""Times to live as other libraries have them."""

import math
from datetime import timedelta

from .._times import duration_to_exptime


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
    except OverflowError:
        raise ValueError(f"{name} is too large: no number of seconds has so many digits") from None


def exptime_of(ttl: float | timedelta | None) -> int:
    """Convert a time to live, in seconds or a timedelta, to memcached's exptime.

    None never expires, and 0 and less expire at once. A number of more than 30 days is a duration
    as well, never Unix time. The rest is the conversion that the client uses.

    Raises:
        ValueError: not a finite number of seconds.
        TypeError: neither a number nor a timedelta.
    """
    if ttl is None:
        return 0
    try:
        # Of integers there are some that no float holds, but none is infinite.
        is_finite = isinstance(ttl, timedelta | int) or math.isfinite(ttl)
    except TypeError:
        raise TypeError(
            "a time to live must be a number of seconds, a timedelta or None, not "
            f"{type(ttl).__name__}"
        ) from None
    if not is_finite:
        raise ValueError(f"{ttl} is not a time to live: pass None for one that never expires")
    return duration_to_exptime(ttl)
