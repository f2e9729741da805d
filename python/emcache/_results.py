"""Results of calls for many keys or nodes, of which some may fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ._failures import copy_exception

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class ManyResult:
    """The outcome for each key of a call that writes many keys; empty with ``noreply``."""

    done: list[bytes]
    """Keys that were stored, deleted or touched."""
    missed: list[bytes]
    """Keys with a negative reply: they exist (``add_many``) or do not exist (the other calls)."""
    errors: dict[bytes, Exception]
    """Errors by key: the exception that a call for this key alone would have raised."""

    def raise_errors(self) -> None:
        """Raise the errors, if any, as a group with one exception for each distinct error.

        Raises:
            ExceptionGroup: at least one key failed.
        """
        total = len(self.done) + len(self.missed) + len(self.errors)
        raise_distinct(f"{len(self.errors)} of {total} keys failed", self.errors)


class PartialResult(dict[K, V]):
    """A dict of the answers, with the errors of the keys or nodes that did not answer.

    Keys that are neither in the dict nor in ``errors`` are misses.
    """

    __slots__ = ("errors",)

    errors: dict[K, Exception]
    """Errors by key, or by node."""

    def __init__(self, answers: Mapping[K, V], errors: dict[K, Exception]) -> None:
        super().__init__(answers)
        self.errors = errors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()}, errors={self.errors!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (dict(self), self.errors)

    def raise_errors(self) -> None:
        """Raise the errors, if any, as a group with one exception for each distinct error.

        Raises:
            ExceptionGroup: at least one key or node failed.
        """
        raise_distinct(f"{len(self.errors)} failed, {len(self)} answered", self.errors)


def raise_distinct(message: str, errors: Mapping[K, Exception]) -> None:
    """Raise a group of the distinct errors, so that a dead node counts once and not per key."""
    if errors:
        distinct = {(type(error), str(error)): error for error in errors.values()}
        raise ExceptionGroup(message, [copy_exception(error) for error in distinct.values()])
