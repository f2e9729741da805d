"""Times of Python's as the server counts them; imported when the first one is used."""

import math
import time
from datetime import UTC, datetime, timedelta

THIRTY_DAYS = 60 * 60 * 24 * 30
"""The longest time that servers count from now; above that they read Unix time."""
LAST = 2**31 - 1
"""The last second that servers know (2038-01-19); what expires later would be gone at once."""
GONE = -1
"""Expires at once."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def in_seconds(exptime: object, name: str = "exptime") -> int:
    """Give an exptime as an ``int``; integers stay as they are.

    A part of a second counts as a whole one.
    """
    match exptime:
        case timedelta():
            return _of_duration(exptime)
        case datetime():
            return _of_moment(exptime, name)
        case int() if not isinstance(exptime, bool):
            return exptime
    raise TypeError(
        f"Argument {name!r} has incorrect type "
        f"(expected int, timedelta or datetime, got {type(exptime).__name__})"
    )


def _of_duration(duration: timedelta) -> int:
    if duration <= timedelta(0):
        return GONE
    seconds = _whole(duration)
    if seconds <= THIRTY_DAYS:
        return seconds
    return min(math.ceil(time.time()) + seconds, LAST)


def _whole(duration: timedelta) -> int:
    seconds, rest = divmod(duration, _SECOND)
    return seconds + bool(rest)


def _of_moment(moment: datetime, name: str) -> int:
    if moment.utcoffset() is None:
        raise ValueError(
            f"{name} is a datetime without a time zone: say datetime.now(UTC), or use astimezone()"
        )
    seconds = _whole(moment - _EPOCH)
    if seconds <= time.time():
        return GONE
    return min(seconds, LAST)
