"""What the logger ``emcache`` says of nodes: changes, each once, and not too many."""

import asyncio
import contextlib
import logging
import time
from collections import deque

logger = logging.getLogger("emcache")

MAX_LINES = 10
"""Of one node, in"""
WINDOW = 60.0
"""seconds."""

_TEXTS = {
    "healthy": (logging.INFO, "node %s is healthy"),
    "unhealthy": (logging.WARNING, "node %s is unhealthy: %s"),
    "login_failing": (logging.WARNING, "node %s does not let us in: %s"),
    "login_recovered": (logging.INFO, "node %s lets us in again"),
}


class _Node:
    def __init__(self) -> None:
        self.said: deque[float] = deque(maxlen=MAX_LINES)
        """When its last lines were written."""
        self.kept_back = 0
        self.last: tuple[str, str | None] | None = None
        """What is to be said of it when there may be a line again."""
        self.timer: asyncio.TimerHandle | None = None


class NodeLog:
    """Writes on the thread of whoever calls: the loop's."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def changed(self, name: str, what: str, why: str | None) -> None:
        """Say what became of a node, or keep it back if too much was said of it lately."""
        node = self._nodes.setdefault(name, _Node())
        now = time.monotonic()
        if node.timer is None and (len(node.said) < MAX_LINES or now - node.said[0] >= WINDOW):
            node.said.append(now)
            _write(name, what, why)
            return
        node.kept_back += 1
        node.last = what, why
        if node.timer is None:
            later = max(0.0, WINDOW - (now - node.said[0]))
            # A loop that is over tells no more.
            with contextlib.suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                node.timer = loop.call_later(later, self._catch_up, name)

    def _catch_up(self, name: str) -> None:
        """Nobody is left with what was true a while ago."""
        node = self._nodes[name]
        kept_back, node.kept_back, node.timer = node.kept_back, 0, None
        if node.last is not None:
            node.said.append(time.monotonic())
            _write(name, *node.last, f" ({kept_back} changes, this one included, came too fast)")

    def close(self) -> None:
        """Say nothing more."""
        for node in self._nodes.values():
            if node.timer is not None:
                node.timer.cancel()
        self._nodes.clear()


def _write(name: str, what: str, why: str | None, more: str = "") -> None:
    level, text = _TEXTS[what]
    logger.log(level, text + more, *([name] if why is None else [name, why]))
