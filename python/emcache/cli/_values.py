"""Parameter types for keys and times."""

import os
import re
import time
from typing import Any

import click

from .._memcached.times import LAST_SECOND, THIRTY_DAYS, ttl_to_exptime

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


# Not generic at runtime before click 8.4.
class Key(click.ParamType):  # type: ignore[type-arg]
    """A key, byte for byte as the shell passes it."""

    name = "key"

    def convert(self, value: Any, param: Any, ctx: Any) -> bytes:  # noqa: ARG002
        """Return the bytes of the argument; the client checks them."""
        return value if isinstance(value, bytes) else os.fsencode(value)


class Exptime(click.ParamType):  # type: ignore[type-arg]
    """Seconds, ``10m``, ``2h``, ``7d``, or a Unix time; 0 never expires."""

    name = "exptime"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Convert a time to an exptime; a time with a unit always counts from now."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(-?[0-9]{1,12})([smhd]?)", value)
        if match is None:
            self.fail(f"{value!r} is not a time; use seconds, or 10m, 2h, 7d", param, ctx)
        seconds = int(match[1]) * _SECONDS[match[2]]
        if abs(seconds) > LAST_SECOND:
            self.fail(
                f"{value!r} is too far in the future; servers count to {LAST_SECOND}", param, ctx
            )
        if match[2] and seconds:
            return ttl_to_exptime(seconds)
        if THIRTY_DAYS < seconds <= time.time():
            self.fail(
                f"{seconds} is above 30 days, so servers read it as a Unix time, which is in the "
                f"past; use {seconds}s to count from now",
                param,
                ctx,
            )
        return seconds


KEY = Key()
EXPTIME = Exptime()
