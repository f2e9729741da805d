"""Which computation waits for which: one that would wait for itself would wait for ever."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar


class Run:
    """One computation, and those that it waits for."""

    __slots__ = ("waits_for",)

    def __init__(self) -> None:
        self.waits_for: list[Run] = []

    def begin(self) -> None:
        """Mark the running task, and all that it starts, as part of this computation."""
        _inside.set(self)

    def needs(self, other: "Run") -> bool:
        """Whether it cannot end before another does."""
        seen, left = {self}, [self]
        while left:
            run = left.pop()
            if run is other:
                return True
            # The same may be waited for by several tasks.
            new = set(run.waits_for) - seen
            seen |= new
            left += new
        return False


_inside: ContextVar[Run | None] = ContextVar("emcache_computation", default=None)


@contextlib.contextmanager
def waiting_for(run: Run) -> Iterator[None]:
    """Remember, for as long as it lasts, that the computation around the caller waits.

    Raises:
        RuntimeError: it would wait for itself.
    """
    around = _inside.get()
    if around is None:
        yield
        return
    if run.needs(around):
        raise RuntimeError(
            "the function waits for itself: it asks for the key it computes, or for one whose "
            "computation asks for it"
        )
    around.waits_for.append(run)
    try:
        yield
    finally:
        around.waits_for.remove(run)
