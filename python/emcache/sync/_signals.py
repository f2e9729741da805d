"""Signal handlers during a call of a cache.

Python runs a handler between any two instructions of the main thread. One that raises in the middle
of asyncio's own code, or between the reply of a server and the note of it, would leave a lease or a
lock behind. So handlers run where a call waits, where it calls a function of the user, and at its
end; asyncio.run() defers SIGINT in the same way.
"""

import _signal  # type: ignore[import-not-found]
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, TypeVar

from .._errors import OperationTimeoutError
from ._gate import Gate

R = TypeVar("R")

_PATIENCE = 0.025
"""Seconds of computing, as in a slow serializer, after which a handler runs in any case."""

_NOT_DEFERRED = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGSTOP")
_NUMBERS = sorted(
    {int(number) for number in signal.valid_signals()}
    - {int(getattr(signal, name)) for name in _NOT_DEFERRED if hasattr(signal, name)}
)

# Those of the module signal convert to enumerations, which takes ten times as long.
_getsignal: Callable[[int], Any] = _signal.getsignal
_setsignal: Callable[[int, Any], Any] = _signal.signal


class _Handler:
    """Takes the place of a handler."""

    __slots__ = ("_deferral", "original")

    def __init__(self, deferral: "Deferral", original: Callable[..., Any]) -> None:
        self._deferral = deferral
        self.original = original

    def __call__(self, number: int, frame: FrameType | None) -> None:
        deferral = self._deferral
        if deferral.is_deferring and time.thread_time() - deferral.since < _PATIENCE:
            deferral.pending.append((self.original, number, frame))
        else:
            deferral.run(self.original, number, frame)


class Deferral:
    """The signals of one call of the main thread."""

    def __init__(self) -> None:
        self.thread = get_ident()
        self.is_deferring = False
        self.since = 0.0
        """The ``time.thread_time()`` at which handlers could run last."""
        self.pending: deque[tuple[Callable[..., Any], int, FrameType | None]] = deque()
        self.raised: BaseException | None = None
        """What a handler raised, until the call has seen it."""
        self.until: float | None = None
        """The ``time.monotonic()`` at which the clean-up of an interrupted call ends."""
        self._installed: list[tuple[int, _Handler]] = []

    def begin(self) -> None:
        """Take the places of all handlers."""
        self.since = time.thread_time()
        self.is_deferring = True
        for number, original in zip(_NUMBERS, map(_getsignal, _NUMBERS), strict=True):
            if callable(original):
                handler = _Handler(self, original)
                self._installed.append((number, handler))
                _setsignal(number, handler)

    def end(self) -> None:
        """Let the handlers run, and give them their places back."""
        try:
            self.let_run()
        finally:
            installed = self._installed
            while installed:
                number, handler = installed[-1]
                if _getsignal(number) is handler:
                    _setsignal(number, handler.original)
                installed.pop()

    def let_run(self) -> None:
        """Run handlers from now on, and those of signals that have arrived."""
        self.is_deferring = False
        while self.pending:
            call = self.pending[0]
            try:
                self.run(*call)
            finally:
                self.pending.popleft()

    def defer(self) -> None:
        """Defer handlers from now on."""
        self.since = time.thread_time()
        self.is_deferring = True

    def run(self, original: Callable[..., Any], number: int, frame: FrameType | None) -> None:
        """Run a handler."""
        global _current
        calling, _current = _current, None
        try:
            original(number, frame)
        except BaseException as error:
            self.raised = error
            raise
        finally:
            _current = calling

    def check(self) -> None:
        """Do what is due in the middle of a wait for a server."""
        try:
            self.let_run()
        finally:
            self.defer()
        if self.until is not None and time.monotonic() > self.until:
            raise OperationTimeoutError("the call was interrupted, and its clean-up took too long")


_current: Deferral | None = None
"""That of the main thread, while no function of the user runs."""


def current() -> Deferral | None:
    """Return the deferral of the call that runs on this thread."""
    deferral = _current
    return deferral if deferral is not None and deferral.thread == get_ident() else None


def check() -> None:
    """Do what is due; the core calls this every 30 ms of a wait."""
    if (deferral := current()) is not None:
        deferral.check()


def deferred(call: Callable[[], R]) -> R:
    """Call a function that handlers of signals do not interrupt, except where it lets them run."""
    global _current
    if _current is not None or not _is_main_thread():
        return call()
    deferral = Deferral()
    # A handler may raise in one of the two clauses.
    try:
        try:
            deferral.begin()
            _current = deferral
            return call()
        finally:
            _current = None
            deferral.end()
    finally:
        _current = None
        deferral.end()


def undeferred(call: Callable[[], R]) -> R:
    """Call a function of the user in the middle of a call, with its own handlers."""
    global _current
    if (deferral := current()) is None:
        return call()
    try:
        try:
            _current = None
            deferral.end()
            return call()
        finally:
            deferral.begin()
            _current = deferral
    except BaseException as error:
        if is_interruption(error):
            deferral.raised = error
        if _current is not deferral:
            deferral.begin()
            _current = deferral
        raise


def wait_at(gate: Gate, timeout: float | None) -> bool:
    """Wait as :meth:`Gate.pass_through`, and let handlers run meanwhile."""
    if (deferral := current()) is None:
        return gate.pass_through(timeout)
    try:
        deferral.let_run()
        return gate.pass_through(timeout)
    finally:
        deferral.defer()


def is_interruption(error: BaseException) -> bool:
    """Whether a handler of a signal has raised an exception, or it ends the program."""
    if not isinstance(error, Exception):
        return True
    handlers = {_code(handler) for handler in map(_getsignal, _NUMBERS) if callable(handler)}
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code not in handlers:
        place = place.tb_next
    return place is not None


def _code(handler: Any) -> Any:
    if isinstance(handler, _Handler):
        return _code(handler.original)
    function = getattr(handler, "__func__", handler)
    return getattr(function, "__code__", None) or getattr(type(handler).__call__, "__code__", None)


def _is_main_thread() -> bool:
    return threading.main_thread().ident == get_ident()


def after_fork() -> None:
    """Give the handlers their places back in a child that another thread has forked."""
    global _current
    deferral = _current
    if deferral is not None and deferral.thread != get_ident():
        _current = None
        deferral.pending.clear()
        deferral.end()
