"""stats: prints the statistics of the servers."""

import fnmatch
import re

import click
from rich.table import Table

from ._commands import Command, runs
from ._nodes import Answer, ask_all, worst_code
from ._output import Output, plain_table, printable
from ._settings import Settings
from ._stats_table import SUMMARY, tables_of, value_text

Stats = dict[str, str]

_OF_ONE = re.compile(r"(?:items:)?([0-9]+):(\w+)")
_COLUMNS = {
    "items": {
        "number": "items",
        "mem_requested": "bytes",
        "age": "age",
        "evicted": "evicted",
        "evicted_time": "evicted age",
        "outofmemory": "no memory",
    },
    "slabs": {
        "chunk_size": "chunk",
        "total_pages": "pages",
        "used_chunks": "used",
        "free_chunks": "free",
        "cmd_set": "sets",
        "get_hits": "get hits",
    },
    "conns": {
        "addr": "client",
        "secs_since_last_cmd": "idle",
        "state": "state",
        "listen_addr": "server",
    },
}
"""The columns for each slab class or connection on a terminal, as far as they fit.
Pipes and JSON have all statistics."""
_GAP = 2


@click.command("stats", cls=Command)
@click.argument("what", nargs=-1)
@click.option("--match", metavar="GLOB", help="Only names that match, such as 'cmd_*'.")
@click.option("--all", "-a", "show_all", is_flag=True, help="On a terminal: not only a summary.")
@runs
async def stats(
    settings: Settings, output: Output, what: tuple[str, ...], match: str | None, show_all: bool
) -> int:
    """Print statistics of every node.

    WHAT is items, slabs, settings, conns or sizes; without it the general statistics are printed.
    On a terminal, numbers have units, and the nodes are columns.

    Piped, each line has node, name and value as the server sends it, separated by tabs.
    """
    if what[:1] == ("reset",):
        raise click.UsageError("stats only reads; it cannot reset counters")
    async with await settings.client() as client:
        answers = await ask_all(client, lambda node: client.stats(node, *what))
    for answer in answers:
        answer.value = _matching(answer.value, match)
    if output.as_json:
        output.document({"nodes": [{**a.fields(), "stats": a.value} for a in answers]})
    elif output.is_terminal:
        kind = what[0] if what else ""
        if kind in _COLUMNS:
            _by_class(output, answers, kind)
        else:
            is_summary = not (kind or match or show_all)
            names = list(SUMMARY) if is_summary else None
            _by_node(output, answers, names, marks_differences=kind == "settings")
    else:
        _for_pipes(answers)
    return worst_code([answer.error for answer in answers])


def _matching(found: Stats | None, match: str | None) -> Stats | None:
    if found is None or match is None:
        return found
    return {name: value for name, value in found.items() if fnmatch.fnmatch(name, match)}


def _for_pipes(answers: list[Answer[Stats]]) -> None:
    for answer in answers:
        if answer.error is not None:
            click.echo(f"emcache: {answer.failure()}", err=True)
        for name, value in (answer.value or {}).items():
            click.echo(f"{answer.node}\t{printable(name)}\t{printable(value)}")


def _by_node(
    output: Output,
    answers: list[Answer[Stats]],
    names: list[str] | None,
    *,
    marks_differences: bool,
) -> None:
    found = {answer.node: answer.value for answer in answers if answer.value}
    if found:
        width = output.console.width
        tables = tables_of(found, width, names, marks_differences=marks_differences)
        for number, table in enumerate(tables):
            if number:
                output.line("")
            output.table(table)
    for answer in answers:
        if answer.error is not None:
            output.line(answer.failure(), "red")
        elif not answer.value:
            output.line(f"{answer.node}: no statistics", "dim")
    if names and found:
        more = len(set().union(*found.values()) - set(names))
        output.line(f"{more} more with --all", "dim")


def _by_class(output: Output, answers: list[Answer[Stats]], what: str) -> None:
    for number, answer in enumerate(answers):
        if number:
            output.line("")
        output.line(answer.node, "bold")
        if answer.error is not None:
            output.line(f"  {answer.failure()}", "red")
        elif not answer.value:
            output.line("  no statistics", "dim")
        else:
            output.table(_table(answer.value, what, output.console.width))


def _table(found: Stats, what: str, room: int) -> Table:
    rows = _by_number(found) if what in _COLUMNS else {}
    if not rows:
        table = plain_table("name", "value")
        for name, value in found.items():
            table.add_row(printable(name), printable(value))
        return table
    first = "fd" if what == "conns" else "class"
    for row in rows.values():
        row |= {name: value_text(name, value) for name, value in row.items()}
    names = _fitting(_COLUMNS[what], rows, room - len(first))
    headers = [_COLUMNS[what][name] for name in names]
    table = plain_table(f">{first}", *(_as_numbers(header, what) for header in headers))
    for number, row in rows.items():
        table.add_row(number, *(printable(row.get(name, "")) for name in names))
    return table


def _as_numbers(header: str, what: str) -> str:
    return header if what == "conns" and header != "idle" else f">{header}"


def _fitting(columns: dict[str, str], rows: dict[str, Stats], room: int) -> list[str]:
    """Return the first columns, as many as fit."""
    names = []
    for name, header in columns.items():
        room -= _GAP + max(
            len(header), *(len(printable(row.get(name, ""))) for row in rows.values())
        )
        if room < 0:
            break
        names.append(name)
    return names


def _by_number(found: Stats) -> dict[str, Stats]:
    rows: dict[str, Stats] = {}
    for name, value in found.items():
        if match := _OF_ONE.fullmatch(name):
            rows.setdefault(match[1], {})[match[2]] = value
    return rows


COMMANDS = [stats]
