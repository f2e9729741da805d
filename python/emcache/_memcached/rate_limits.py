"""Limits on how often the same warning is logged."""

import logging
import time
from collections import deque
from collections.abc import Hashable


class RateLimit:
    """Allows at most ``lines`` events in any ``seconds``."""

    __slots__ = ("_seconds", "_times", "suppressed")

    def __init__(self, lines: int, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=lines)
        self.suppressed = 0
        """Events that were refused since the last one that was allowed."""

    def acquire(self) -> bool:
        """Count an event; return whether it is allowed now."""
        if self.wait() > 0:
            self.suppressed += 1
            return False
        self.record()
        return True

    def record(self) -> None:
        """Count an event that happens whatever the limit is."""
        self._times.append(time.monotonic())

    def wait(self) -> float:
        """Return the seconds until the next event is allowed; 0.0 now."""
        if len(self._times) < (self._times.maxlen or 0):
            return 0.0
        return max(0.0, self._times[0] + self._seconds - time.monotonic())

    def take_suppressed(self) -> int:
        """Return how many events were refused, and start counting again."""
        count, self.suppressed = self.suppressed, 0
        return count


class RateLimitedLogger:
    """Logs one warning of a kind in ``seconds``, with the number of warnings left out."""

    def __init__(self, logger: logging.Logger, seconds: float) -> None:
        self._logger = logger
        self._seconds = seconds
        self._limits: dict[Hashable, RateLimit] = {}

    def warning(self, kind: Hashable, message: str, *args: object) -> None:
        """Log ``message % args`` unless a warning of this kind was logged just before."""
        limit = self._limits.setdefault(kind, RateLimit(1, self._seconds))
        if not limit.acquire():
            return
        count = limit.take_suppressed()
        more = f" ({count} similar warnings suppressed)" if count else ""
        self._logger.warning(message + more, *args)

    def reset(self) -> None:
        """Forget what was logged."""
        self._limits.clear()
