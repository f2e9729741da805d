"""One connection of a fake server: cuts bytes into commands, and returns the answers."""

from collections.abc import Callable

from ._meta import MetaCommands
from ._text import BAD_CHUNK, ERROR, RefusedError, TextCommands, Upload, Words, guarded

_LONGEST_LINE = 2048
"""Longer lines must be retrievals, as in memcached."""

Fault = bytes | None
"""The answer of a command that a test makes fail; None closes the connection."""


class CloseError(Exception):
    """The connection is to be closed."""


class Session:
    """The state of one connection.

    Args:
        text: the classic commands.
        meta: the meta commands.
        fault: returns a list with the failure of a command by its name, or an empty list.
    """

    def __init__(
        self, text: TextCommands, meta: MetaCommands, fault: Callable[[str], list[Fault]]
    ) -> None:
        self._table = text.table | meta.table
        self._uploads = text.uploads | meta.uploads
        self._fault = fault
        self._received = bytearray()
        self._upload: Upload | None = None
        self._words: Words = ()

    def receive(self, data: bytes) -> tuple[bytes, bool]:
        """Execute the commands that are complete; return their answers, and whether to close."""
        self._received += data
        answers = []
        try:
            while (answer := self._step()) is not None:
                answers.append(answer)
        except CloseError:
            return b"".join(answers), True
        return b"".join(answers), False

    def _step(self) -> bytes | None:
        """Execute one command; return None if it is not complete."""
        if self._upload is not None:
            size = self._upload.length + 2
            if len(self._received) < size:
                return None
            value = self._take(size)
            upload, self._upload = self._upload, None
            return self._quiet(self._run(lambda: _stored(upload, value)))
        end = self._received.find(b"\n")
        if end < 0:
            if len(self._received) > _LONGEST_LINE and not self._received.startswith(b"get"):
                raise CloseError
            return None
        line = self._take(end + 1)[:-1].removesuffix(b"\r")
        self._words = [word for word in line.split(b" ") if word]
        return self._line()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _line(self) -> bytes:
        name = self._words[0] if self._words else b""
        if name == b"quit":
            raise CloseError
        try:
            if name in self._uploads:
                self._upload = self._uploads[name](self._words)
                return b""
            if name not in self._table:
                return ERROR
            return self._quiet(self._run(lambda: self._table[name](self._words)))
        except RefusedError as error:
            return self._quiet(error.line)

    def _run(self, execute: Callable[[], bytes]) -> bytes:
        if faults := self._fault(self._words[0].decode(errors="replace")):
            if faults[0] is None:
                raise CloseError
            return faults[0]
        return guarded(execute)

    def _quiet(self, answer: bytes) -> bytes:
        """Drop the answer to a command with `noreply`."""
        is_meta = len(self._words[0]) == 2
        return b"" if self._words[-1] == b"noreply" and not is_meta else answer


def _stored(upload: Upload, value: bytes) -> bytes:
    if upload.refusal is not None:
        return upload.refusal
    if not value.endswith(b"\r\n"):
        return BAD_CHUNK
    return upload.store(value[:-2])
