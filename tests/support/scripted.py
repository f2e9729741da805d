"""A peer that answers as a test says: what a healthy server never does.

Runs in the test's own loop. A script is an `async def script(connection)`, called for each
connection that is accepted; `connection.number` counts them from 0.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import emcache


class Connection:
    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def line(self) -> bytes:
        """The next line without CRLF; b"" at the end."""
        return (await self.reader.readline()).removesuffix(b"\r\n")

    async def command(self) -> tuple[list[bytes], bytes]:
        """The next command: its words, and its value if it is a storage command."""
        words = (await self.line()).split(b" ")
        value = b""
        if words[0] in (b"set", b"add", b"replace", b"append", b"prepend", b"cas"):
            value = (await self.reader.readexactly(int(words[4]) + 2))[:-2]
        elif words[0] == b"ms":
            value = (await self.reader.readexactly(int(words[2]) + 2))[:-2]
        return words, value

    async def send(self, *pieces: bytes, pause: float = 0.0) -> None:
        """Send the pieces one by one, each in a segment of its own."""
        for piece in pieces:
            if self.writer.transport.is_closing():
                # uvloop's streams raise RuntimeError for it.
                raise ConnectionResetError("the client is gone")
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause)

    def abort(self) -> None:
        """RST."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """RST, whatever was read: a plain abort sends FIN if nothing is left unread."""
        fd = self.writer.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(fd)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """FIN."""
        self.writer.close()


Script = Callable[[Connection], Awaitable[None]]


class Scripted:
    def __init__(self) -> None:
        self.accepted = 0
        self.port = 0
        self.failures: list[BaseException] = []

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)


async def settled() -> None:
    """Let the loop do what it has begun.

    A listener of Python 3.11 that is closed while it accepts leaves the connection open, and a
    transport needs an iteration to close.
    """
    for _ in range(10):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def scripted(
    script: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Scripted]:
    """Serve `script`, on a free port if none is given; a failing script fails the test."""
    server = Scripted()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        connection = Connection(server.accepted, reader, writer)
        server.accepted += 1
        try:
            await script(connection)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception as error:
            server.failures.append(error)
        finally:
            writer.close()
            tasks.discard(task)

    listener = await asyncio.start_server(serve, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await settled()
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await settled()
        await listener.wait_closed()
        if server.failures:
            raise server.failures[0]


async def hold(connection: Connection) -> None:
    """A script that reads and never answers."""
    while await connection.reader.read(65536):
        pass
