"""hot: the keys that are fetched most often, from the servers' own log (``watch fetchers``)."""

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import click

from .._address import Address
from .._client import Client
from .._errors import CommandError, EmcacheError
from ._capabilities import if_supported
from ._commands import Command, runs
from ._exit_codes import ServerLacksError, text_of
from ._keys import nodes_that_answer, outcome_fields
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text, plain_table
from ._raw import RawConnection, raw_connection
from ._settings import Settings, node_name

_FETCH = re.compile(rb" type=item_get key=(\S+) status=(\w+)")
_MOST_KEYS = 200_000
"""The most keys of a node that are counted at a time."""


@dataclass
class Fetches:
    """The fetches of one node that its log showed, and the number of those that it dropped."""

    counts: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    """By key, as the server writes it, and status."""
    forgotten: Counter[bytes] = field(default_factory=Counter)
    """By prefix: keys that were fetched too rarely to be counted any longer."""
    forgotten_hits: Counter[bytes] = field(default_factory=Counter)
    seen: int = 0
    dropped: int = 0
    seconds: float = 0.0


@dataclass
class Row:
    """The fetches of one key or prefix."""

    name: bytes
    node: str | None
    count: int = 0
    hits: int = 0
    rate: float = 0.0

    def fields(self, name: str, total: float) -> dict[str, object]:
        """Return the JSON of the row; ``name`` is ``key`` or ``prefix``."""
        return {
            **bytes_fields(name, self.name),
            **({} if self.node is None else {"node": self.node}),
            "seen": self.count,
            "per_second": round(self.rate, 3),
            "share": round(self.rate / total, 5) if total else 0.0,
            "hit_ratio": round(self.hits / self.count, 5),
        }


class Prefixes:
    """How keys are grouped."""

    def __init__(self, separator: bytes, depth: int) -> None:
        self._separator = separator
        self._depth = depth

    def of(self, key: bytes) -> bytes:
        """Return the prefix of a key; empty if it has no separator."""
        parts = key.split(self._separator, self._depth)
        return b"".join(part + self._separator for part in parts[:-1])


async def watch(settings: Settings, node: Address, seconds: float, prefixes: Prefixes) -> Fetches:
    """Count the fetches of one node.

    Raises:
        ServerLacksError: the server does not support or allow this.
    """
    fetches = Fetches()
    async with raw_connection(settings, node) as connection:
        connection.send(b"watch fetchers\r\n")
        _check(connection, await connection.line())
        begin = time.monotonic()
        async for chunk in connection.chunks_for(seconds):
            found = _FETCH.findall(chunk)
            fetches.seen += len(found)
            fetches.counts.update(found)
            if len(fetches.counts) > _MOST_KEYS:
                _forget_rare_keys(fetches, prefixes)
        fetches.seconds = time.monotonic() - begin
    return fetches


def _check(connection: RawConnection, reply: bytes) -> None:
    if reply == b"OK":
        return
    where = node_name(connection.address)
    if b"not allowed" in reply:
        raise ServerLacksError(f"{where} cannot be watched: it was started with -W")
    if reply.startswith((b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
        raise ServerLacksError(
            f"{where} cannot be watched: 'watch fetchers' is not supported (memcached before "
            "1.4.26, a proxy, or a hosted service)"
        )
    raise CommandError(f"{where} answered {bytes_text(reply[:100])!r} to 'watch fetchers'")


def _forget_rare_keys(fetches: Fetches, prefixes: Prefixes) -> None:
    ordered = fetches.counts.most_common()
    for (key, status), count in ordered[_MOST_KEYS // 2 :]:
        prefix = prefixes.of(unquote_to_bytes(key))
        fetches.forgotten[prefix] += count
        fetches.forgotten_hits[prefix] += count if status == b"found" else 0
    fetches.counts = Counter(dict(ordered[: _MOST_KEYS // 2]))


async def _dropped(client: Client, node: Address) -> int:
    """Return how many lines of logs a server has dropped, for all who watch it."""
    stats = await if_supported(client.stats(node)) or {}
    return sum(int(stats.get(name, 0)) for name in ("log_worker_dropped", "log_watcher_skipped"))


async def _watch_counted(
    settings: Settings, client: Client, node: Address, seconds: float, prefixes: Prefixes
) -> Fetches | EmcacheError:
    try:
        before = await _dropped(client, node)
        fetches = await watch(settings, node, seconds, prefixes)
        fetches.dropped = max(await _dropped(client, node) - before, 0)
    except EmcacheError as error:
        return error
    return fetches


def rows_of(results: dict[str, Fetches], prefixes: Prefixes) -> tuple[list[Row], list[Row], float]:
    """Return the rows of keys and of prefixes, the hottest first, and all fetches per second.

    If a server has dropped lines, the rates of its keys are scaled up.
    """
    keys: list[Row] = []
    groups: dict[bytes, Row] = {}
    for node, fetches in results.items():
        of_node: dict[bytes, Row] = {}
        scale = (fetches.seen + fetches.dropped) / max(fetches.seen, 1) / (fetches.seconds or 1.0)
        for (text, status), count in fetches.counts.items():
            row = of_node.get(text)
            if row is None:
                row = of_node[text] = Row(unquote_to_bytes(text), node)
            _add(row, count, count if status == b"found" else 0, scale)
        keys += of_node.values()
        for row in of_node.values():
            prefix = prefixes.of(row.name)
            _add(groups.setdefault(prefix, Row(prefix, None)), row.count, row.hits, scale)
        for prefix, count in fetches.forgotten.items():
            group = groups.setdefault(prefix, Row(prefix, None))
            _add(group, count, fetches.forgotten_hits[prefix], scale)
    total = sum(row.rate for row in groups.values())
    for rows in (keys, every := list(groups.values())):
        rows.sort(key=lambda row: (-row.rate, row.name))
    return keys, every, total


def _add(row: Row, count: int, hits: int, scale: float) -> None:
    row.count += count
    row.hits += hits
    row.rate += count * scale


def _print(output: Output, title: str, rows: list[Row], total: float, has_more: bool) -> None:
    if not output.is_terminal:
        for row in rows:
            node = "" if row.node is None else f"\t{row.node}"
            numbers = f"{row.rate:.1f}\t{row.rate / total:.2%}\t{row.hits / row.count:.2%}"
            click.echo(f"{title}\t{numbers}{node}\t{bytes_text(row.name)}")
        return
    nodes = ["node"] if rows and rows[0].node is not None else []
    table = plain_table(">fetches/s", ">share", ">hits", *nodes, title)
    for row in rows:
        figures = f"{row.rate:,.1f}", f"{row.rate / total:.1%}", f"{row.hits / row.count:.1%}"
        name = bytes_text(row.name) or "(no separator)"
        table.add_row(*figures, *([row.node] if row.node is not None else []), name)
    output.table(table)
    if has_more:
        output.line("...", "dim")
    output.line("")


@click.command("hot", cls=Command)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=10.0,
    show_default=True,
    help="How long to watch.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="The most keys, and the most prefixes.",
)
@click.option(
    "--prefix-depth",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="How many parts of a key make its prefix.",
)
@click.option("--separator", default=":", show_default=True, help="What ends a part of a key.")
@runs
async def hot(
    settings: Settings,
    output: Output,
    seconds: float,
    limit: int,
    prefix_depth: int,
    separator: str,
) -> int:
    """Show the keys and prefixes that all clients fetch most often.

    The servers log their fetches to this program for some seconds (``watch fetchers``). A busy
    server drops lines; the output says how many, and rates are then scaled. A set counts as a fetch
    as well, because the server looks for the old item.
    """
    if not separator:
        raise click.UsageError("--separator must not be empty")
    prefixes = Prefixes(separator.encode(), prefix_depth)
    nodes, failures = await nodes_that_answer(settings)
    watched = [node for node in nodes if node not in failures]
    if watched and output.is_terminal:
        count = "1 node" if len(watched) == 1 else f"{len(watched)} nodes"
        click.echo(f"watching {count} for {seconds:g} s", err=True)
    async with await settings.client() as client:
        outcomes = await asyncio.gather(
            *(_watch_counted(settings, client, node, seconds, prefixes) for node in watched)
        )
    results: dict[str, Fetches] = {}
    for node, outcome in zip(watched, outcomes, strict=True):
        if isinstance(outcome, EmcacheError):
            failures[node] = outcome
        else:
            results[node_name(node)] = outcome
    keys, groups, total = rows_of(results, prefixes)
    if output.as_json:
        output.document(
            {
                "seconds": seconds,
                "per_second": round(total, 3),
                "keys": [row.fields("key", total) for row in keys[:limit]],
                "prefixes": [row.fields("prefix", total) for row in groups[:limit]],
                "nodes": [_node_fields(node, failures.get(node), results) for node in nodes],
            }
        )
    elif keys:
        _print(output, "key", keys[:limit], total, len(keys) > limit)
        _print(output, "prefix", groups[:limit], total, len(groups) > limit)
    elif results:
        output.line(f"no fetches within {seconds:g} s")
    for name, fetches in results.items():
        if fetches.dropped:
            part = fetches.dropped / (fetches.seen + fetches.dropped)
            text = f"{name} dropped {part:.1%} of its log; the rates are estimates"
            click.echo(f"emcache: {text}", err=True)
    for failure in failures.values():
        click.echo(f"emcache: {text_of(failure)}", err=True)
    return worst_code(failures.values())


def _node_fields(
    node: Address, error: EmcacheError | None, results: dict[str, Fetches]
) -> dict[str, object]:
    found = results.get(node_name(node))
    figures = {"seen": found and found.seen, "dropped": found and found.dropped}
    return {**outcome_fields(node, error), **figures}


COMMANDS = [hot]
