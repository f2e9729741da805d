"""Warnings about a cache that fails, not more than one a minute of a kind."""

import logging
import time

logger = logging.getLogger("emcache")

EVERY = 60.0
"""Seconds between two warnings of one kind."""

_kinds: dict[tuple[str, type], tuple[float, int]] = {}
"""When the last was written, and how many were not since."""


def complain(what: str, error: Exception) -> None:
    """Say once a minute what the cache failed at."""
    kind = what, type(error)
    now = time.monotonic()
    last, unsaid = _kinds.get(kind, (-EVERY, 0))
    if now - last < EVERY:
        _kinds[kind] = last, unsaid + 1
        return
    _kinds[kind] = now, 0
    more = f" ({unsaid} more since the last warning)" if unsaid else ""
    logger.warning("%s: %s: %s%s", what, type(error).__name__, error, more)
