"""What calls return that ask for many things at once, of which some may fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ._failures import copied

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class ManyResult:
    """What became of each key of a call that changes many; empty with ``noreply``."""

    done: list[bytes]
    """Stored, deleted, or touched."""
    missed: list[bytes]
    """The server's ordinary no: ``add`` found the key there, the others did not find it."""
    errors: dict[bytes, Exception]
    """The exception that a call for this key alone would have raised; each key has its own."""

    def raise_errors(self) -> None:
        """Raise an ``ExceptionGroup`` if there are errors, with one exception for each reason."""
        asked = len(self.done) + len(self.missed) + len(self.errors)
        raise_all(f"{len(self.errors)} of {asked} keys failed", self.errors)


class PartialResult(dict[K, V]):
    """A dict of what was answered, with why the rest was not.

    What is neither in it nor in ``errors`` is a miss.
    """

    __slots__ = ("errors",)

    errors: dict[K, Exception]
    """By key, or by node."""

    def __init__(self, answered: Mapping[K, V], errors: dict[K, Exception]) -> None:
        super().__init__(answered)
        self.errors = errors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()}, errors={self.errors!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (dict(self), self.errors)

    def raise_errors(self) -> None:
        """Raise an ``ExceptionGroup`` if there are errors, with one exception for each reason."""
        raise_all(f"{len(self.errors)} failed, {len(self)} answered", self.errors)


def raise_all(message: str, errors: Mapping[K, Exception]) -> None:
    """Raise a group with one exception for each reason, so that a dead node is one of them."""
    if errors:
        reasons = {(type(error), str(error)): error for error in errors.values()}
        raise ExceptionGroup(message, [copied(error) for error in reasons.values()])
