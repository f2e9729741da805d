"""What befalls the bytes on their way through a `FaultProxy`."""

import dataclasses
from dataclasses import dataclass, field

CHUNK = 64 * 1024
"""The most bytes that are passed on at once."""


@dataclass
class Faults:
    """What befalls one direction; without any, all bytes pass at once.

    Limits count the bytes of each connection from its start. What was passed on stays passed on.
    """

    delay: float = 0.0
    """Seconds before each piece."""
    jitter: float = 0.0
    """At most so many seconds more."""
    rate: float | None = None
    """Bytes a second."""
    split: int | None = None
    """The longest piece, in bytes; each is written by itself."""
    coalesce: float = 0.0
    """Seconds for which bytes are collected, to leave in one piece."""
    stall_after: int | None = None
    """Nothing is read or passed on after so many bytes, until this is None; 0: a black hole."""
    reset_after: int | None = None
    """RST after so many bytes; 0: instead of the first."""
    fin_after: int | None = None
    """FIN after so many bytes; 0: instead of the first."""

    def __post_init__(self) -> None:
        for name in ("delay", "jitter", "coalesce", "stall_after", "reset_after", "fin_after"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be >= 0")
        for name in ("rate", "split"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be > 0, or None")

    def clear(self) -> None:
        """Let all bytes pass at once again."""
        for each in dataclasses.fields(self):
            setattr(self, each.name, each.default)

    def _stalls(self, passed: int) -> bool:
        return self.stall_after is not None and passed >= self.stall_after

    def _room(self, passed: int) -> int:
        """How many bytes may pass before the next fault."""
        limits = (self.stall_after, self.reset_after, self.fin_after)
        return min((limit - passed for limit in limits if limit is not None), default=CHUNK)

    def _ended(self, passed: int) -> bool:
        ends = (self.reset_after, self.fin_after)
        return any(end is not None and passed >= end for end in ends)


@dataclass
class Link:
    """One connection: what befalls its requests, and what its answers."""

    requests: Faults = field(default_factory=Faults)
    answers: Faults = field(default_factory=Faults)

    def _is_reset(self) -> bool:
        return self.requests.reset_after is not None or self.answers.reset_after is not None
