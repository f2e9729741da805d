"""Standard streams that may be closed, full, or without a reader."""

import errno
import io
import os
import sys
from typing import Any

BROKEN_PIPE = 141
UNWRITABLE = 2


class OutputError(Exception):
    """Writing to stdout failed; later output is discarded.

    Not an ``OSError``, which could be an error of the network.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"writing the output failed: {cause.strerror}")
        self.exit_code = BROKEN_PIPE if cause.errno == errno.EPIPE else UNWRITABLE
        self.is_silent = cause.errno == errno.EPIPE
        """Whether the reader has closed the pipe, as ``head`` does; that needs no message."""


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
            # Otherwise the flush at the exit of Python would fail again.
            self._is_lost = True
            raise OutputError(error) from error


class _Messages(io.FileIO):
    """Stderr, whose errors are ignored."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def take_over() -> None:
    """Replace the standard streams by ones that do not fail at the end of the process."""
    # A closed standard stream becomes /dev/null; otherwise a socket could get its number, and would
    # receive the output.
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
    # Characters that the encoding lacks are escaped.
    encoding = getattr(before, "encoding", None)
    is_terminal = raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=is_terminal or raw.fileno() == 2,
    )


def finish(code: int) -> int:
    """Flush the output; return ``code``, or the code of an output error."""
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OutputError as error:
        return code_of_output_error(error)
    return code


def code_of_output_error(error: OutputError) -> int:
    """Report an output error unless it is silent, and return its exit code."""
    if not error.is_silent:
        sys.stderr.write(f"emcache: {error}\n")
    return error.exit_code
