"""Results of the checks of `doctor`."""

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the output."""

    state: State
    check: str
    text: str
    advice: str | None = None
    """How to solve the problem."""
    node: str | None = None
    """None if it is about all nodes."""

    def fields(self) -> dict[str, object]:
        """Return the JSON of the finding."""
        return asdict(self)


def ok(check: str, text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding("ok", check, text)


def warn(check: str, text: str, advice: str) -> Finding:
    """Return a warning."""
    return Finding("warn", check, text, advice)


def fail(check: str, text: str, advice: str) -> Finding:
    """Return a failure."""
    return Finding("fail", check, text, advice)
