"""Conversion of times to memcached's ``exptime``; imported when the first time is converted."""

import math
import time
from datetime import UTC, datetime, timedelta

THIRTY_DAYS = 60 * 60 * 24 * 30
"""The longest relative ``exptime``, in seconds; servers read larger numbers as Unix time."""
LAST_SECOND = 2**31 - 1
"""2038-01-19, the last time that servers represent; later times would expire at once."""
EXPIRED = -1
"""Expires at once. The core sends a past Unix time instead, which every proxy accepts."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000


def to_exptime(value: object, name: str = "exptime") -> int:
    """Convert the argument ``name``; integers are returned unchanged, as the server reads them.

    Raises:
        TypeError: neither an int, a timedelta nor a datetime.
        ValueError: a datetime without a time zone.
    """
    match value:
        case timedelta():
            return _from_duration(value // _MICROSECOND, _now())
        case datetime():
            return _from_datetime(value, name)
        case int() if not isinstance(value, bool):
            return value
    raise TypeError(
        f"Argument {name!r} has incorrect type "
        f"(expected int, timedelta or datetime, got {type(value).__name__})"
    )


def ttl_to_exptime(ttl: float | timedelta | None) -> int:
    """Convert a time to live, in seconds or as a timedelta, as other libraries define it.

    None never expires; 0 and negative numbers expire at once. A number above 30 days is a duration
    as well, never Unix time.

    Raises:
        ValueError: not a finite number of seconds.
        TypeError: neither a number nor a timedelta.
    """
    if ttl is None:
        return 0
    if isinstance(ttl, timedelta):
        return to_exptime(ttl)
    try:
        # No integer is infinite, but some are too large for `isfinite`.
        is_finite = isinstance(ttl, int) or math.isfinite(ttl)
    except TypeError:
        raise TypeError(
            "a time to live must be a number of seconds, a timedelta or None, not "
            f"{type(ttl).__name__}"
        ) from None
    if not is_finite:
        raise ValueError(f"{ttl} is not a time to live; pass None for a value that never expires")
    if ttl <= 0:
        return EXPIRED
    # `or 1`: a duration that rounds to 0 us must not become "never expires".
    return _from_duration(round(min(ttl, LAST_SECOND) * _SECOND) or 1, _now())


def to_seconds(name: str, value: float | str | timedelta | None) -> float | None:
    """Convert the argument ``name`` to seconds: a number, a number as text, or a timedelta.

    Raises:
        ValueError: a text that is not a number, or a number that no float can represent.
        TypeError: another type.
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
        raise ValueError(f"{name} is too large to be a number of seconds") from None


def _from_datetime(moment: datetime, name: str) -> int:
    if moment.utcoffset() is None:
        raise ValueError(
            f"{name} is a datetime without a time zone; use datetime.now(UTC) or astimezone()"
        )
    now = _now()
    return _from_duration((moment - _EPOCH) // _MICROSECOND - now, now)


def _from_duration(duration: int, now: int) -> int:
    """Convert a duration that starts at ``now``, both in microseconds.

    Durations up to 30 days stay relative, so that only the server's clock matters. Fractions of a
    second round up, because 0 would mean "never expires".
    """
    if duration <= 0:
        return EXPIRED
    if duration <= THIRTY_DAYS * _SECOND:
        return math.ceil(duration / _SECOND)
    return min(-(-(now + duration) // _SECOND), LAST_SECOND)


def _now() -> int:
    return round(time.time() * _SECOND)
