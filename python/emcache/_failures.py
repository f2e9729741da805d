"""One failure for several callers: each of them gets an exception object of its own."""

import copy
from types import TracebackType
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


class SharedFailure:
    """The exception of a computation that several callers wait for.

    An exception object that is raised in several tasks collects the frames of all of them, so the
    last caller would log the longest traceback.
    """

    __slots__ = ("_error", "_is_taken", "_traceback")

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._traceback: TracebackType | None = error.__traceback__
        self._is_taken = False

    def take(self) -> BaseException:
        """Return the exception for the next caller: the original once, then copies."""
        error = copy_exception(self._error) if self._is_taken else self._error
        self._is_taken = True
        return error.with_traceback(self._traceback)


def copy_exception(error: E) -> E:
    """Copy an exception; an exception that cannot be copied is returned itself."""
    kind = type(error)
    if any("__slots__" in vars(each) for each in kind.__mro__ if each.__module__ != "builtins"):
        return error
    try:
        duplicate = _duplicate(error)
    except Exception:
        return error
    if type(duplicate) is not kind or duplicate.args != error.args:
        return error
    duplicate.__cause__ = error.__cause__
    duplicate.__context__ = error.__context__
    duplicate.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        duplicate.__notes__ = list(notes)
    return duplicate


def _duplicate(error: E) -> E:
    kind = type(error)
    builtins = [each for each in kind.__mro__ if each.__module__ == "builtins"]
    if any(each.__basicsize__ > BaseException.__basicsize__ for each in builtins):
        # The exception has fields in C, such as the errno of an OSError.
        return copy.copy(error)
    # Without a call of the class: its __init__ may take other arguments and have side effects.
    duplicate = kind.__new__(kind, *error.args)
    duplicate.args = error.args
    vars(duplicate).update(vars(error))
    return duplicate
