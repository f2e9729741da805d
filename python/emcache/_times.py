"""The one conversion of times to memcached's ``exptime``; imported when the first one is used."""

import math
import time
from datetime import UTC, datetime, timedelta

THIRTY_DAYS = 60 * 60 * 24 * 30
"""The longest time that servers count from now; above that they read Unix time."""
LAST = 2**31 - 1
"""The last second that servers know (2038-01-19); what expires later would be gone at once."""
GONE = -1
"""Expires at once. The core sends a time in the past instead, which every proxy accepts."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000


def to_exptime(value: object, name: str = "exptime") -> int:
    """Convert an argument; integers stay as they are, because the server reads them."""
    match value:
        case timedelta():
            return _after(value // _MICROSECOND, _now())
        case datetime():
            return _at(value, name)
        case int() if not isinstance(value, bool):
            return value
    raise TypeError(
        f"Argument {name!r} has incorrect type "
        f"(expected int, timedelta or datetime, got {type(value).__name__})"
    )


def duration_to_exptime(seconds: float | timedelta) -> int:
    """Convert a finite number of seconds from now, however many: never Unix time."""
    if isinstance(seconds, timedelta):
        return to_exptime(seconds)
    if seconds <= 0:
        return GONE
    # However short it is, it is more than nothing.
    return _after(round(min(seconds, LAST) * _SECOND) or 1, _now())


def _at(moment: datetime, name: str) -> int:
    if moment.utcoffset() is None:
        raise ValueError(
            f"{name} is a datetime without a time zone: use datetime.now(UTC) or astimezone()"
        )
    now = _now()
    return _after((moment - _EPOCH) // _MICROSECOND - now, now)


def _after(duration: int, now: int) -> int:
    """Convert a duration from ``now``, both in microseconds.

    Up to 30 days it is sent as such, so that only the server's clock counts. Fractions of a second
    round up, so that what is to live for less than a second is not stored for ever.
    """
    if duration <= 0:
        return GONE
    if duration <= THIRTY_DAYS * _SECOND:
        return math.ceil(duration / _SECOND)
    return min(-(-(now + duration) // _SECOND), LAST)


def _now() -> int:
    return round(time.time() * _SECOND)
