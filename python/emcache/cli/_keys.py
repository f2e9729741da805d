"""keys: lists the keys of servers with ``lru_crawler metadump``."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import click

from .._address import Address
from .._errors import CommandError, EmcacheError, ProtocolError
from .._memcached.keys import is_valid
from ._commands import Command, runs
from ._exit_codes import ServerLacksError, text_of
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text, json_text
from ._raw import RawConnection, raw_connection
from ._settings import Settings, node_name
from ._values import KEY

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
        unquote_to_bytes(key),
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
    where = node_name(node)
    if line.startswith(b"key="):
        try:
            return parse(line)
        except ValueError:
            raise ProtocolError(f"{where} sent an invalid list of keys") from None
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


class _Printer:
    """Prints items one by one, also as JSON, without a list in memory."""

    def __init__(self, output: Output, is_long: bool, limit: int | None) -> None:
        self._output = output
        self._is_long = is_long
        self._limit = limit
        self._count = 0
        self._stdout = sys.stdout
        self._bytes = sys.stdout.buffer

    @property
    def is_full(self) -> bool:
        return self._limit is not None and self._count >= self._limit

    def begin(self) -> None:
        if self._output.as_json:
            self._stdout.write('{"keys": [')

    def item(self, item: Listed, node: str) -> None:
        if self._output.as_json:
            self._stdout.write(",\n" if self._count else "\n")
            self._stdout.write(json_text(_fields(item, node)))
        elif self._is_long:
            self._stdout.write(f"{_expiry(item):>10}  {item.size or 0:>9}  {_word(item.key)}\n")
        elif self._output.is_terminal or not is_valid(item.key):
            self._stdout.write(_word(item.key) + "\n")
        else:
            self._bytes.write(item.key + b"\n")
        self._count += 1

    def end(self, nodes: list[dict[str, object]]) -> None:
        if self._output.as_json:
            rest = json_text({"limited": self.is_full, "nodes": nodes})
            self._stdout.write("\n], " + rest[1:] + "\n")
        self._stdout.flush()
        self._bytes.flush()


def _fields(item: Listed, node: str) -> dict[str, object]:
    return {
        **bytes_fields("key", item.key),
        "node": node,
        "size": item.size,
        "expires": item.expires,
        "last_access": item.last_access,
    }


def _word(key: bytes) -> str:
    """Return a key as one word, with other characters escaped."""
    return bytes_text(key).replace(" ", "\\x20")


def _expiry(item: Listed) -> str:
    if item.expires is None:
        return "never"
    return f"{max(item.expires - int(time.time()), 0)}s"


@click.command("keys", cls=Command)
@click.option("--prefix", type=KEY, default=b"", help="Only keys that begin so.")
@click.option("--limit", type=click.IntRange(min=1), help="The most keys.")
@click.option("--long", "-l", "is_long", is_flag=True, help="Print time to live and size as well.")
@runs
async def keys(
    settings: Settings, output: Output, prefix: bytes, limit: int | None, is_long: bool
) -> int:
    """List the keys of all nodes, as they arrive.

    The servers scan all their items, so do not run this every second. Piped, the output has the raw
    bytes of one key on each line. Keys with spaces or control characters are escaped; use --json
    for them.
    """
    nodes, failures = await nodes_that_answer(settings)
    printer = _Printer(output, is_long, limit)
    printer.begin()
    for node in nodes:
        if node in failures or printer.is_full:
            continue
        try:
            await _print(printer, settings, node, prefix)
        except EmcacheError as error:
            failures[node] = error
    printer.end([outcome_fields(node, failures.get(node)) for node in nodes])
    for failure in failures.values():
        click.echo(f"emcache: {text_of(failure)}", err=True)
    return worst_code(failures.values())


async def nodes_that_answer(
    settings: Settings,
) -> tuple[list[Address], dict[Address, EmcacheError]]:
    """Return all nodes, and the errors of nodes that do not answer."""
    async with await settings.client() as client:
        nodes = client.cluster_managment().nodes()
        failures: dict[Address, EmcacheError] = {}
        for node in nodes:
            try:
                # This also finds out whether the node accepts the login.
                await client.version(node)
            except EmcacheError as error:
                failures[node] = error
    return nodes, failures


async def _print(printer: _Printer, settings: Settings, node: Address, prefix: bytes) -> None:
    name = node_name(node)
    async with aclosing(listed(settings, node)) as parts:
        async for items in parts:
            for item in items:
                if item.key.startswith(prefix):
                    printer.item(item, name)
                    if printer.is_full:
                        return


def outcome_fields(node: Address, error: EmcacheError | None) -> dict[str, object]:
    """Return the JSON of a node's outcome."""
    return {
        "node": node_name(node),
        "ok": error is None,
        "error": None if error is None else text_of(error),
    }


COMMANDS = [keys]
