"""A TLS end before a real memcached that notes what each TLS record of the client holds."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import emcache

RECORD = 16 * 1024
"""The longest plaintext of a record."""
_STORES = (b"set", b"add", b"replace", b"append", b"prepend", b"cas")


class RecordedTls:
    def __init__(self, upstream: int, context: ssl.SSLContext) -> None:
        self.port = 0
        self.records: list[list[bytes]] = []
        """For each connection the plaintext of its records."""
        self.pause = 0.0
        """Seconds before each record is read."""
        self._upstream = upstream
        self._context = context

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(received, to_send, server_side=True)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        records: list[bytes] = []
        self.records.append(records)

        async def record() -> None:
            header = await reader.readexactly(5)
            received.write(header + await reader.readexactly(int.from_bytes(header[3:])))

        async def answers() -> None:
            while answer := await server_reader.read(65536):
                tls.write(answer)
                writer.write(to_send.read())
                await writer.drain()
            writer.close()

        async def requests() -> None:
            while True:
                await asyncio.sleep(self.pause)
                await record()
                with contextlib.suppress(ssl.SSLWantReadError):
                    if plaintext := tls.read(2 * RECORD):
                        records.append(plaintext)
                        server_writer.write(plaintext)
                        await server_writer.drain()

        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(to_send.read())
                    await record()
            writer.write(to_send.read())
            group.create_task(answers())
            try:
                await requests()
            finally:
                server_writer.close()


@contextlib.asynccontextmanager
async def recorded_tls(upstream: int, context: ssl.SSLContext) -> AsyncIterator[RecordedTls]:
    """Run one before the server on this port."""
    relay = RecordedTls(upstream, context)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        # The client has gone.
        ended = (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)
        with contextlib.suppress(*ended, asyncio.CancelledError, ExceptionGroup):
            await relay.serve(reader, writer)
        writer.close()
        tasks.discard(task)

    # Little room, so that clients see full sockets.
    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=RECORD)
    relay.port = listener.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def text_ends(stream: bytes) -> list[int]:
    """Where each text command ends."""
    ends, at = [], 0
    while at < len(stream):
        end = stream.index(b"\r\n", at) + 2
        words = stream[at:end].split()
        if words[0] in _STORES:
            end += int(words[4]) + 2
        ends.append(at := end)
    return ends


def binary_ends(stream: bytes) -> list[int]:
    """Where each request of the binary protocol ends."""
    ends, at = [], 0
    while at < len(stream):
        at += 24 + int.from_bytes(stream[at + 8 : at + 12])
        ends.append(at)
    return ends


def broken_records(records: list[bytes], ends: list[int]) -> list[str]:
    """Records that hold a part of a command together with others, or of one that would fit."""
    starts = [0, *ends[:-1]]
    commands = dict(zip(starts, ends, strict=True))
    found, at, boundaries = [], 0, {0, *ends}
    for record in records:
        end = at + len(record)
        if not {at, end} <= boundaries:
            start = max(start for start in starts if start <= at)
            if end > commands[start]:
                found.append(f"{at}..{end} goes on into the command after {commands[start]}")
            elif commands[start] - start <= RECORD:
                found.append(f"{at}..{end} is a part of {start}..{commands[start]}, which fits")
        at = end
    return found
