"""What users type for keys and times."""

import os
import re
import time
from typing import Any

import click

from .._times import LAST, THIRTY_DAYS, duration_to_exptime

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


# Not generic at runtime before click 8.4.
class Key(click.ParamType):  # type: ignore[type-arg]
    """A key, byte for byte as the shell gives it."""

    name = "key"

    def convert(self, value: Any, param: Any, ctx: Any) -> bytes:  # noqa: ARG002
        """Take the bytes of the argument; the client checks them."""
        return value if isinstance(value, bytes) else os.fsencode(value)


class Exptime(click.ParamType):  # type: ignore[type-arg]
    """Seconds, ``10m``, ``2h``, ``7d``, or a Unix time; 0 never expires."""

    name = "exptime"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Give what goes over the wire; a time with a unit always counts from now."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(-?[0-9]{1,12})([smhd]?)", value)
        if match is None:
            self.fail(f"{value!r} is no time: write seconds, or 10m, 2h, 7d", param, ctx)
        seconds = int(match[1]) * _SECONDS[match[2]]
        if abs(seconds) > LAST:
            self.fail(f"{value!r} is too far away: servers count to {LAST}", param, ctx)
        if match[2] and seconds:
            return duration_to_exptime(seconds)
        if THIRTY_DAYS < seconds <= time.time():
            self.fail(
                f"{seconds} is above 30 days, so servers read it as a Unix time, and that is "
                f"in the past. From now on: {seconds}s",
                param,
                ctx,
            )
        return seconds


KEY = Key()
EXPTIME = Exptime()
