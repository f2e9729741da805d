"""Log lines about nodes: each change once, and a limited number in a minute."""

import asyncio
import contextlib
import logging

from ._memcached.rate_limits import RateLimit

logger = logging.getLogger("emcache")

MAX_LINES = 10
"""Lines about one node in any ``WINDOW``."""
WINDOW = 60.0
"""Seconds."""

_TEXTS = {
    "healthy": (logging.INFO, "node %s is healthy"),
    "unhealthy": (logging.WARNING, "node %s is unhealthy: %s"),
    "login_failing": (logging.WARNING, "node %s rejects connections: %s"),
    "login_recovered": (logging.INFO, "node %s accepts connections again"),
    "returning": (
        logging.INFO,
        "node %s gets its keys back, except %s that changed meanwhile: they are deleted first",
    ),
    "overflowed": (
        logging.WARNING,
        "node %s has more than %s outdated keys (max_keys), so it gets no keys until it is flushed",
    ),
    "kept_out": (
        logging.WARNING,
        "node %s is up but kept out because of its outdated keys; flush it with client.flush_all",
    ),
    "flushed": (logging.WARNING, "node %s was flushed because of its outdated keys"),
}


class _Node:
    def __init__(self) -> None:
        self.limit = RateLimit(MAX_LINES, WINDOW)
        self.pending: tuple[str, str | None] | None = None
        """The last change that was suppressed; it is logged when the limit allows a line again."""
        self.timer: asyncio.TimerHandle | None = None


class NodeLog:
    """Logs the changes of nodes, on the thread of the client's loop."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def changed(self, name: str, change: str, reason: str | None) -> None:
        """Log a change, or suppress it if too many lines were logged about this node."""
        node = self._nodes.setdefault(name, _Node())
        if node.timer is not None:
            node.limit.suppressed += 1
        elif node.limit.acquire():
            _write(name, change, reason)
            return
        node.pending = change, reason
        if node.timer is None:
            # A loop that is closed logs nothing more.
            with contextlib.suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                node.timer = loop.call_later(node.limit.wait(), self._catch_up, name)

    def _catch_up(self, name: str) -> None:
        """Log the last suppressed change, so that the log ends with the current state."""
        node = self._nodes[name]
        node.timer = None
        suppressed = node.limit.take_suppressed()
        if node.pending is not None:
            node.limit.record()
            _write(name, *node.pending, f" ({suppressed} changes since the last line)")

    def close(self) -> None:
        """Log nothing more."""
        for node in self._nodes.values():
            if node.timer is not None:
                node.timer.cancel()
        self._nodes.clear()


def _write(name: str, change: str, reason: str | None, suffix: str = "") -> None:
    level, text = _TEXTS[change]
    arguments = [name] if reason is None else [name, reason]
    # For structured logs, whose readers look for fields.
    logger.log(level, text + suffix, *arguments, extra={"node": name, "reason": reason})
