"""Detection of computations that would wait for themselves."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar


class Run:
    """One computation, and the computations that it waits for."""

    __slots__ = ("waits_for",)

    def __init__(self) -> None:
        self.waits_for: list[Run] = []

    def begin(self) -> None:
        """Mark the current task, and all tasks that it starts, as part of this computation."""
        _current.set(self)

    def needs(self, other: "Run") -> bool:
        """Return whether this computation waits for another, directly or indirectly."""
        seen, pending = {self}, [self]
        while pending:
            run = pending.pop()
            if run is other:
                return True
            # Several tasks of a run may wait for the same computation.
            new = set(run.waits_for) - seen
            seen |= new
            pending += new
        return False


_current: ContextVar[Run | None] = ContextVar("emcache_computation", default=None)


@contextlib.contextmanager
def waiting_for(run: Run) -> Iterator[None]:
    """Record, for the duration of the block, that the caller's computation waits for ``run``.

    Raises:
        RuntimeError: the caller's computation would wait for itself.
    """
    caller = _current.get()
    if caller is None:
        yield
        return
    if run.needs(caller):
        raise RuntimeError(
            "deadlock: this computation requests its own key, directly or through another cached "
            "function"
        )
    caller.waits_for.append(run)
    try:
        yield
    finally:
        caller.waits_for.remove(run)
