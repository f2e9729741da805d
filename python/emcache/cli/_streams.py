"""The standard streams of a process whose output may be closed, full, or read by nobody."""

import errno
import io
import os
import sys
from typing import Any

BROKEN_PIPE = 141
UNWRITABLE = 2


class OutputError(Exception):
    """Stdout cannot be written. It discards what is written to it from then on.

    Not an ``OSError``, which could be one of the network.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"the output cannot be written: {cause.strerror}")
        self.exit_code = BROKEN_PIPE if cause.errno == errno.EPIPE else UNWRITABLE
        self.is_silent = cause.errno == errno.EPIPE
        """Whoever read has read enough, as ``head`` has: that is no reason for a message."""


class _Output(io.FileIO):
    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_lost = False

    def write(self, data: Any) -> int:
        if self._is_lost:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            # Else Python fails once more when it flushes what is left at its end.
            self._is_lost = True
            raise OutputError(error) from error


class _Messages(io.FileIO):
    """Stderr: a message that nobody can read is no reason to fail otherwise than without it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def take_over() -> None:
    """Replace the standard streams by ones that do not fail at the end of the process."""
    # Reading what was closed fails, writing to it does not. A socket that got the number of a
    # standard stream would be sent what is printed.
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        _reopen_if_closed(descriptor, mode)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)))
    sys.stdout = _text(_Output(1), sys.stdout)
    sys.stderr = _text(_Messages(2), sys.stderr)


def _reopen_if_closed(descriptor: int, mode: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _text(raw: io.FileIO, before: Any) -> io.TextIOWrapper:
    # What a terminal has no letters for is no reason to fail.
    encoding = getattr(before, "encoding", None)
    is_terminal = raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=is_terminal or raw.fileno() == 2,
    )


def finish(code: int) -> int:
    """Write what is left, and give the exit code: ``code``, or that of an output that is lost."""
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OutputError as error:
        return code_of_lost(error)
    return code


def code_of_lost(error: OutputError) -> int:
    """Say that the output is lost, if that is news, and give the exit code."""
    if not error.is_silent:
        sys.stderr.write(f"emcache: {error}\n")
    return error.exit_code
