"""A server without meta commands, as memcached 1.5 or a proxy: a real one behind a filter."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

import emcache

from .memcached import Memcached
from .scripted import Connection, scripted

META = (b"mn", b"mg", b"ms", b"md", b"ma", b"me")
Answer = Literal["ERROR", "close"]


@contextlib.asynccontextmanager
async def without_meta(
    server: Memcached, answer: Answer
) -> AsyncIterator[tuple[emcache.MemcachedHostAddress, list[bytes]]]:
    """Yield the address, and the meta commands that have come: each is answered like this."""
    refused: list[bytes] = []

    async def serve(connection: Connection) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        passing = asyncio.create_task(_pass(reader, connection.writer))
        try:
            while line := await connection.reader.readline():
                words = line.split()
                if words and words[0] in META:
                    refused.append(line)
                    if answer == "close":
                        return
                    await connection.send(b"ERROR\r\n")
                    continue
                writer.write(line)
                if words and words[0] in (b"set", b"add", b"replace", b"cas"):
                    writer.write(await connection.reader.readexactly(int(words[4]) + 2))
                await writer.drain()
        finally:
            passing.cancel()
            writer.close()

    async with scripted(serve) as peer:
        yield peer.address, refused


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
