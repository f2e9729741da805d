"""Lists of a server's items, by ``lru_crawler metadump``."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from .._address import Address
from .._errors import CommandError, ProtocolError
from ._exit_codes import ServerLacksError
from ._output import bytes_text
from ._raw import RawConnection, raw_connection
from ._settings import Settings, node_name

_BUSY_PAUSE = 0.2
_LINE = re.compile(
    rb"key=(\S+)(?:.*? exp=(-?[0-9]{1,18}))?(?:.*? la=([0-9]{1,18}))?(?:.*? size=([0-9]{1,18}))?"
)


@dataclass(slots=True)
class Listed:
    """One line of a list of keys."""

    key: bytes
    expires: int | None
    """Unix time; None for never."""
    last_access: int | None
    size: int | None
    """Size in bytes on the server, with key and header."""


def parse(line: bytes) -> Listed:
    """Parse one line, such as ``key=a%20b exp=-1 la=1700000000 cas=1 fetch=no cls=1 size=61``.

    Raises:
        ValueError: not such a line.
    """
    match = _LINE.match(line)
    if match is None:
        raise ValueError("a line of a list of keys must begin with key=")
    key, expires, last_access, size = match.groups()
    return Listed(
        unquote_to_bytes(key) if b"%" in key else key,
        None if expires is None or expires.startswith(b"-") else int(expires),
        None if last_access is None else int(last_access),
        None if size is None else int(size),
    )


async def listed(settings: Settings, node: Address) -> AsyncGenerator[list[Listed], None]:
    """Yield the items of one node in batches, so that memory stays bounded.

    Raises:
        ServerLacksError: the server does not support or allow this, or is busy with another list.
    """
    async with raw_connection(settings, node) as connection:
        # "hash" lists each item once. "all" (older servers have only this) reads the LRU lists, in
        # which items move in the meantime. While its hash table grows, a server returns nothing.
        for source in (b"hash", b"all"):
            is_empty = True
            async with aclosing(_dump(connection, source, settings.timeout)) as parts:
                async for lines in parts:
                    is_empty = False
                    yield [_item(line, node) for line in lines]
            if not is_empty:
                return


async def _dump(
    connection: RawConnection, source: bytes, busy_timeout: float
) -> AsyncGenerator[list[bytes], None]:
    """Send the command until the server is not busy; yield nothing if it does not support it."""
    deadline = time.monotonic() + busy_timeout
    while True:
        connection.send(b"lru_crawler metadump %b\r\n" % source)
        async with aclosing(_until_end(connection)) as parts:
            first = await anext(parts, None)
            if first is None or first[0].startswith(b"BADCLASS"):
                return
            if not first[0].startswith(b"BUSY"):
                yield first
                async for lines in parts:
                    yield lines
                return
        if time.monotonic() > deadline:
            name = node_name(connection.address)
            raise ServerLacksError(f"{name} is busy with another list of keys; try again later")
        await asyncio.sleep(_BUSY_PAUSE)


async def _until_end(connection: RawConnection) -> AsyncGenerator[list[bytes], None]:
    is_first = True
    async with aclosing(connection.lines()) as parts:
        async for lines in parts:
            # Newer servers (1.6.45) send OK before the list.
            if is_first and lines[0] == b"OK":
                lines.pop(0)
            is_first = False
            if not lines:
                continue
            if lines[-1] == b"END":
                lines.pop()
                if lines:
                    yield lines
                return
            yield lines
            if lines[0].startswith((b"BUSY", b"BADCLASS")):
                return


def _item(line: bytes, node: Address) -> Listed:
    if line.startswith(b"key="):
        try:
            return parse(line)
        except ValueError:
            raise ProtocolError(f"{node_name(node)} sent an invalid list of keys") from None
    where = node_name(node)
    if b"disabled" in line:
        raise ServerLacksError(
            f"{where} cannot list keys: its LRU crawler is disabled; use 'lru_crawler enable', or "
            "start it with -o lru_crawler"
        )
    if b"not allowed" in line:
        raise ServerLacksError(f"{where} cannot list keys: it was started with -X")
    if line.startswith(b"ERROR"):
        raise ServerLacksError(
            f"{where} cannot list keys: 'lru_crawler metadump' is not supported (memcached before "
            "1.4.31, a proxy, or a hosted service)"
        )
    raise CommandError(f"{where} answered {bytes_text(line[:100])!r}")
