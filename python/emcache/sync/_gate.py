"""A gate for threads in which a signal handler may raise at any point."""

import contextlib
import threading


class Gate:
    """Closed at first. :class:`threading.Event` can keep its lock if a handler raises in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let one thread through; that thread, or a later call, lets the next one through."""
        with contextlib.suppress(RuntimeError):  # It is open.
            self._lock.release()

    def pass_through(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds, close the gate, and return whether it was open."""
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)
