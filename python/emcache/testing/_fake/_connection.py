"""The socket of one connection of a fake server."""

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections import deque
from typing import Protocol, cast

from ._session import Session

_RESET = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """The server of a connection."""

    delay: float
    _lock: "threading.RLock"

    @property
    def paused(self) -> bool: ...
    def _connected(self, connection: "Connection") -> None: ...
    def _disconnected(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """Executes what arrives, unless the server is paused, and sends the answers."""

    def __init__(self, server: Owner, session: Session) -> None:
        self._server = server
        self._session = session
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._late: deque[tuple[float, bytes, bool]] = deque()
        """Answers that are delayed, each with the time when it is due."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are not of this class.
        self._transport = cast(asyncio.Transport, transport)
        self._server._connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._server._disconnected(self)

    def data_received(self, data: bytes) -> None:
        data, self._held = self._held + data, b""
        if self._server.paused:
            self._held = data
            # The kernel buffers the rest, as for a process that is stopped.
            self._reading(False)
            return
        with self._server._lock:
            answer, is_over = self._session.receive(data)
        self._send(answer, is_over)

    def resume(self) -> None:
        """Execute what arrived during the pause."""
        self._reading(True)
        if self._held:
            self.data_received(b"")

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
        delay = self._server.delay
        if not self._late and delay <= 0:
            self._write(answer, is_over)
            return
        loop = asyncio.get_running_loop()
        self._late.append((loop.time() + delay, answer, is_over))
        if len(self._late) == 1:
            loop.call_later(delay, self._send_late)

    def _send_late(self) -> None:
        """Send the answers that are due, in order: one that was delayed more holds up the rest."""
        loop = asyncio.get_running_loop()
        while self._late and self._late[0][0] <= loop.time():
            _, answer, is_over = self._late.popleft()
            self._write(answer, is_over)
        if self._late:
            loop.call_at(self._late[0][0], self._send_late)

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
