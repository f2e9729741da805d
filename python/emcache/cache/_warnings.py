"""Warnings about a cache that fails, at most one of a kind in a minute."""

import logging

from .._memcached.rate_limits import RateLimitedLogger

LOG = RateLimitedLogger(logging.getLogger("emcache"), 60.0)


def warn(message: str, error: Exception) -> None:
    """Log ``message`` with the error, once a minute for each type of error."""
    kind = message, type(error)
    LOG.warning(kind, "%s: %s: %s", message, type(error).__name__, error)
