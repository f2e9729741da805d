"""The socket of one connection of a fake server."""

import asyncio
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, cast

from ._session import Session

if TYPE_CHECKING:
    from ._server import FakeServer

_RESET = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Executes what arrives, unless the server is paused, and sends the answers."""

    def __init__(self, server: "FakeServer", session: Session) -> None:
        self._server = server
        self._session = session
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._last_due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are not of this class.
        self._transport = cast(asyncio.Transport, transport)
        self._server._connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._server._disconnected(self)

    def data_received(self, data: bytes) -> None:
        if self._server.paused:
            self._held += data
            # The kernel buffers the rest, as for a process that is stopped.
            self._reading(False)
            return
        with self._server._lock:
            answer, is_over = self._session.receive(data)
        self._send(answer, is_over)

    def resume(self) -> None:
        """Execute what arrived during the pause."""
        held, self._held = self._held, b""
        self._reading(True)
        if held:
            self.data_received(held)

    def pause_writing(self) -> None:
        """Execute nothing for a client that does not read its answers."""
        self._reading(False)

    def resume_writing(self) -> None:
        self._reading(True)

    def _reading(self, reading: bool) -> None:
        if self._transport is not None and not self._transport.is_closing():
            # Both calls do nothing if they were made before.
            (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def _send(self, answer: bytes, is_over: bool) -> None:
        loop = asyncio.get_running_loop()
        # An answer that was delayed more comes before the next one all the same.
        due = max(loop.time() + self._server.delay, self._last_due)
        if due <= loop.time():
            self._write(answer, is_over)
        else:
            self._last_due = due
            loop.call_at(due, self._write, answer, is_over)

    def _write(self, answer: bytes, is_over: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if answer:
            self._transport.write(answer)
        if is_over:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once, by RST on TCP."""
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            if sock.family != socket.AF_UNIX:
                # A transport's socket has no setsockopt on all event loops.
                with socket.socket(fileno=os.dup(sock.fileno())) as own:
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
