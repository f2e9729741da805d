"""What a check of `doctor` found."""

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    state: State
    check: str
    text: str
    advice: str | None = None
    """What to do about it."""
    node: str | None = None
    """None: it concerns all."""

    def fields(self) -> dict[str, object]:
        """Give what JSON says of it."""
        return asdict(self)


def found(check: str, text: str) -> Finding:
    """Give what is in order."""
    return Finding("ok", check, text)


def doubt(check: str, text: str, advice: str) -> Finding:
    """Give what may do harm."""
    return Finding("warn", check, text, advice)


def fault(check: str, text: str, advice: str) -> Finding:
    """Give what is out of order."""
    return Finding("fail", check, text, advice)
