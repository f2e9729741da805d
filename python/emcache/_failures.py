"""One failure for several callers, or raised again and again: each time it is a new exception."""

import copy
from types import TracebackType
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class SharedFailure:
    """What a computation failed with, for each of its callers.

    An exception that is raised in several tasks collects the frames of all of them, so that the
    last of many logs the longest traceback.
    """

    __slots__ = ("_error", "_is_taken", "_traceback")

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._traceback: TracebackType | None = error.__traceback__
        self._is_taken = False

    def take(self) -> BaseException:
        """Give the exception for the next caller: the first time as it is, then a copy."""
        error = copied(self._error) if self._is_taken else self._error
        self._is_taken = True
        return error.with_traceback(self._traceback)


def copied(error: E) -> E:
    """Copy an exception; one that cannot be copied is returned as it is."""
    kind = type(error)
    if any("__slots__" in vars(each) for each in kind.__mro__ if each.__module__ != "builtins"):
        return error
    try:
        made = _made_again(error)
    except Exception:
        return error
    if type(made) is not kind or made.args != error.args:
        return error
    made.__cause__ = error.__cause__
    made.__context__ = error.__context__
    made.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        made.__notes__ = list(notes)
    return made


def _made_again(error: E) -> E:
    kind = type(error)
    builtins = [each for each in kind.__mro__ if each.__module__ == "builtins"]
    if any(each.__basicsize__ > BaseException.__basicsize__ for each in builtins):
        # It has fields in C, as an OSError its errno.
        return copy.copy(error)
    # Not by calling the class: its own __init__ may take other arguments, and do more.
    made = kind.__new__(kind, *error.args)
    made.args = error.args
    vars(made).update(vars(error))
    return made
