"""watch: prints what the servers log about fetches, changes, evictions and connections."""

import asyncio
import datetime
import re
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import click

from .._address import Address
from .._client import Client
from .._errors import EmcacheError
from ._commands import Command, runs
from ._exit_codes import text_of
from ._keys import nodes_that_answer
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text, json_text
from ._raw import raw_connection
from ._server_log import dropped_lines, start_watching
from ._settings import Settings, node_name
from ._units import duration, plural, size
from ._values import KEY

KINDS = ("fetchers", "mutations", "evictions", "deletions", "connevents")
DEFAULT_KINDS = ("fetchers", "mutations", "evictions")
_FIELD = re.compile(rb"(\w+)=(\S*)")
_NUMBERS = {"size", "ttl", "la", "clsid", "cfd", "rport"}
_INTEGER = re.compile("-?[0-9]{1,18}")
_WITHOUT_END = 100 * 365 * 86400.0
_CHECK_DROPPED_EVERY = 1.0
_TEXTS = {
    "item_get": "get",
    "item_store": "store",
    "eviction": "evict",
    "conn_new": "connect",
    "conn_close": "close",
    "deleted": "delete",
}
_STYLES = {"miss": "yellow", "evict": "red", "too_large": "red", "no_memory": "red"}


@dataclass
class Event:
    """One line of the log of a server."""

    node: str
    kind: str
    time: float | None
    key: bytes | None
    details: dict[str, str]

    def fields(self) -> dict[str, object]:
        """Return the JSON of the event, with the field names of memcached."""
        key = {} if self.key is None else bytes_fields("key", self.key)
        details = {
            name: int(value) if name in _NUMBERS and _INTEGER.fullmatch(value) else value
            for name, value in self.details.items()
        }
        return {"time": self.time, "node": self.node, "type": self.kind, **key, **details}


def parse(line: bytes, node: str) -> Event | None:
    """Parse a line such as ``ts=1700000000.1 gid=1 type=item_get key=a status=found``.

    Returns None for a line that is not an event.
    """
    found = dict(_FIELD.findall(line))
    kind = found.pop(b"type", None)
    if kind is None:
        return None
    at = found.pop(b"ts", b"")
    key = found.pop(b"key", None)
    found.pop(b"gid", None)
    details = {bytes_text(name): bytes_text(value) for name, value in found.items()}
    when = float(at) if re.fullmatch(rb"[0-9]{1,12}(\.[0-9]{1,9})?", at) else None
    return Event(
        node, bytes_text(kind), when, None if key is None else unquote_to_bytes(key), details
    )


def _verb(event: Event) -> str:
    """Return the command, or what happened."""
    if event.kind == "item_store":
        return event.details.get("cmd", "store")
    return _TEXTS.get(event.kind, event.kind)


def _outcome(event: Event) -> str:
    match event.kind, event.details:
        case "item_get", {"status": status}:
            return {"found": "hit", "not_found": "miss"}.get(status, status)
        case "eviction", {"fetch": "no"}:
            return "unread"
        case _, {"status": status}:
            return status
        case _, {"reason": reason}:
            return reason
    return ""


def _rest(event: Event) -> list[str]:
    """Return the details that people want to know, with units."""
    details = event.details
    texts = []
    if event.kind == "conn_new" or event.kind == "conn_close":
        texts.append(f"{details.get('rip', '?')}:{details.get('rport', '?')}")
    if (bytes_ := details.get("size", "")).isdigit() and bytes_ != "0":
        texts.append(size(int(bytes_)))
    if event.kind == "item_store" and (ttl := details.get("ttl", "")).lstrip("-").isdigit():
        texts.append("no ttl" if int(ttl) <= 0 else f"ttl {duration(int(ttl))}")
    if event.kind == "eviction" and (unused := details.get("la", "")).isdigit():
        texts.append(f"unused for {duration(int(unused))}")
    return texts


class Printer:
    """Prints events.

    Args:
        output: the output of the command.
        node_width: the width of the column of nodes on a terminal; 0 for no such column.
    """

    def __init__(self, output: Output, node_width: int) -> None:
        self._output = output
        self._node_width = node_width

    def event(self, event: Event) -> None:
        """Print an event on one line."""
        if self._output.as_json:
            sys.stdout.write(json_text(event.fields()) + "\n")
        elif self._output.is_terminal:
            self._for_people(event)
        else:
            details = " ".join(f"{name}={value}" for name, value in event.details.items())
            when = "-" if event.time is None else f"{event.time:.6f}"
            key = "-" if event.key is None else bytes_text(event.key)
            columns = (when, event.node, event.kind, _outcome(event) or "-", key, details)
            sys.stdout.write("\t".join(columns) + "\n")

    def _for_people(self, event: Event) -> None:
        clock = "" if event.time is None else f"{datetime.datetime.fromtimestamp(event.time):%T.%f}"
        node = f"{event.node:<{self._node_width}}  " if self._node_width else ""
        verb, outcome = _verb(event), _outcome(event)
        key = "" if event.key is None else bytes_text(event.key)
        rest = ", ".join(_rest(event))
        text = f"{clock[:-3]:<12}  {node}{verb:<7}  {outcome:<6}  {key}{'  ' if key else ''}{rest}"
        style = _STYLES.get(outcome) or _STYLES.get(verb, "")
        self._output.line(text.rstrip(), style)

    def flush(self) -> None:
        """Write what was printed."""
        sys.stdout.flush()


@dataclass
class Watch:
    """What is to be watched, and until when."""

    kinds: tuple[str, ...]
    prefix: bytes
    misses_only: bool
    seconds: float
    limit: int | None
    printer: Printer
    printed: int = 0
    is_full: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, line: bytes, node: str) -> None:
        """Print a line of the log."""
        event = parse(line, node)
        if event is None or self.is_full.is_set() or not self._wants(event):
            return
        self.printer.event(event)
        self.printed += 1
        if self.printed == self.limit:
            self.is_full.set()

    def _wants(self, event: Event) -> bool:
        if self.misses_only and event.details.get("status") != "not_found":
            return False
        return not self.prefix or (event.key or b"").startswith(self.prefix)


async def _watch_node(settings: Settings, watch: Watch, node: Address) -> None:
    name = node_name(node)
    async with raw_connection(settings, node) as connection:
        await start_watching(connection, *watch.kinds)
        async for chunk in connection.chunks_for(watch.seconds):
            for line in chunk.splitlines():
                watch.take(line, name)
            watch.printer.flush()


class DroppedLines:
    """Reports the lines that servers have dropped, for all who watch them, and silent servers."""

    def __init__(self, client: Client, nodes: list[Address]) -> None:
        self._client = client
        self._nodes = list(nodes)
        self._before: dict[Address, int] = {}
        self._silent: set[Address] = set()

    def forget(self, node: Address) -> None:
        """Check a node no longer."""
        self._nodes.remove(node)

    async def check(self) -> None:
        """Report what was dropped since the last time."""
        for node in list(self._nodes):
            try:
                now = await dropped_lines(self._client, node)
            except EmcacheError as error:
                if node not in self._silent:
                    self._silent.add(node)
                    _report([error])
                continue
            self._silent.discard(node)
            before = self._before.get(node, now)
            self._before[node] = now
            if now > before:
                text = f"{node_name(node)} dropped {now - before:,} lines of its log"
                click.echo(f"emcache: {text}", err=True)

    async def check_always(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_CHECK_DROPPED_EVERY)


async def _until_full(
    is_full: asyncio.Event, watching: list[Coroutine[Any, Any, None]], dropped: DroppedLines
) -> None:
    """Watch all nodes, until they have ended or the limit is reached."""

    async def all_nodes() -> None:
        await asyncio.gather(*watching)

    async def limit() -> None:
        await is_full.wait()

    await dropped.check()
    tasks = [asyncio.create_task(all_nodes()), asyncio.create_task(limit())]
    checking = asyncio.create_task(dropped.check_always())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, checking):
            task.cancel()
        results = await asyncio.gather(*tasks, checking, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    await dropped.check()


def _report(errors: Iterable[EmcacheError]) -> None:
    for error in errors:
        click.echo(f"emcache: {text_of(error)}", err=True)


@click.command("watch", cls=Command)
@click.argument("kinds", metavar="[KIND]...", nargs=-1, type=click.Choice(KINDS))
@click.option("--prefix", type=KEY, default=b"", help="Only keys that begin so.")
@click.option("--misses", is_flag=True, help="Only fetches that find nothing.")
@click.option("--limit", type=click.IntRange(min=1), help="End after this many lines.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, _WITHOUT_END, min_open=True),
    help="How long to watch. [default: until Ctrl-C]",
)
@runs
async def watch(
    settings: Settings,
    output: Output,
    kinds: tuple[str, ...],
    prefix: bytes,
    misses: bool,
    limit: int | None,
    seconds: float | None,
) -> int:
    """Print what the servers do, as they log it.

    KIND is fetchers, mutations, evictions (these three by default), deletions (of
    newer servers) or connevents. Servers that are too busy drop lines, which is reported; their
    gets cost more while they log. A set counts as a fetch as well, because the server looks for the
    old item.
    """
    kinds = ("fetchers",) if misses and not kinds else kinds or DEFAULT_KINDS
    nodes, failures = await nodes_that_answer(settings)
    width = max(map(len, map(node_name, nodes))) if len(nodes) > 1 else 0
    watched = [node for node in nodes if node not in failures]
    what = Watch(kinds, prefix, misses, seconds or _WITHOUT_END, limit, Printer(output, width))
    if watched and output.is_terminal:
        until = f"for {seconds:g} s" if seconds else "until Ctrl-C"
        click.echo(
            f"watching {', '.join(kinds)} of {plural(len(watched), 'node')} {until}", err=True
        )
    _report(failures.values())

    async with await settings.client() as client:
        dropped = DroppedLines(client, watched)

        async def one(node: Address) -> None:
            try:
                await _watch_node(settings, what, node)
            except EmcacheError as error:
                failures[node] = error
                dropped.forget(node)
                _report([error])

        await _until_full(what.is_full, [one(node) for node in watched], dropped)
    return worst_code(failures.values())


COMMANDS = [watch]
