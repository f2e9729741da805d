"""The faults that a `FaultProxy` applies to bytes."""

import dataclasses
from dataclasses import dataclass, field

CHUNK = 64 * 1024
"""The most bytes that are forwarded at once."""


_OPTIONAL = ("rate", "split", "stall_after", "reset_after", "fin_after")
_WHOLE = ("split", "stall_after", "reset_after", "fin_after")
_POSITIVE = ("rate", "split")


@dataclass(slots=True)
class Faults:
    """The faults of one direction. By default all bytes are forwarded at once.

    Limits count the bytes of each connection from its start, including those that were forwarded
    before the limit was set.
    """

    delay: float = 0.0
    """Seconds before each segment."""
    jitter: float = 0.0
    """The most additional seconds, chosen at random."""
    rate: float | None = None
    """Bytes per second."""
    split: int | None = None
    """The longest segment in bytes; each segment is written separately."""
    coalesce: float = 0.0
    """Seconds for which bytes are collected into one segment."""
    stall_after: int | None = None
    """Stop after this many bytes, until this is None; 0 for a black hole."""
    reset_after: int | None = None
    """Send RST after this many bytes; 0 for before the first byte."""
    fin_after: int | None = None
    """Send FIN after this many bytes; 0 for before the first byte."""

    def __setattr__(self, name: str, value: float | None) -> None:
        if value is not None or name not in _OPTIONAL:
            _check(name, value)
        object.__setattr__(self, name, value)

    def clear(self) -> None:
        """Remove all faults."""
        for each in dataclasses.fields(self):
            setattr(self, each.name, each.default)

    def _stalls(self, passed: int) -> bool:
        return self.stall_after is not None and passed >= self.stall_after

    def _room(self, passed: int) -> int:
        """Return how many bytes may be forwarded before the next fault."""
        limits = (self.stall_after, self.reset_after, self.fin_after)
        return min((limit - passed for limit in limits if limit is not None), default=CHUNK)

    def _ended(self, passed: int) -> bool:
        ends = (self.reset_after, self.fin_after)
        return any(end is not None and passed >= end for end in ends)


def _check(name: str, value: float | None) -> None:
    kinds = int if name in _WHOLE else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = "an int" if name in _WHOLE else "a number"
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
    if value < 0 or (value == 0 and name in _POSITIVE):
        raise ValueError(f"{name} must be {'> 0, or None' if name in _POSITIVE else '>= 0'}")


@dataclass
class Link:
    """The faults of one connection: of its requests, and of its answers."""

    requests: Faults = field(default_factory=Faults)
    answers: Faults = field(default_factory=Faults)

    def _is_reset(self) -> bool:
        return self.requests.reset_after is not None or self.answers.reset_after is not None
