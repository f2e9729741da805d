"""stats: prints the statistics of the servers."""

import fnmatch
import re

import click
from rich.table import Table

from ._commands import Command, runs
from ._nodes import Answer, ask_all, worst_code
from ._output import Output, plain_table, printable
from ._settings import Settings

Stats = dict[str, str]

_OF_ONE = re.compile(r"(?:items:)?([0-9]+):(\w+)")
_COLUMNS = {
    "items": {
        "number": "items",
        "mem_requested": "bytes",
        "age": "age s",
        "evicted": "evicted",
        "evicted_time": "evicted age s",
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
        "secs_since_last_cmd": "idle s",
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
@runs
async def stats(
    settings: Settings, output: Output, what: tuple[str, ...], match: str | None
) -> int:
    """Print statistics of every node.

    WHAT is items, slabs, settings, conns or sizes; without it the general statistics are printed.

    Piped, each line has node, name and value, separated by tabs.
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
        _for_people(output, answers, what[0] if what else "")
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


def _for_people(output: Output, answers: list[Answer[Stats]], what: str) -> None:
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
    names = _fitting(_COLUMNS[what], rows, room - len(first))
    headers = [_COLUMNS[what][name] for name in names]
    table = plain_table(f">{first}", *(_as_numbers(header, what) for header in headers))
    for number, row in rows.items():
        table.add_row(number, *(printable(row.get(name, "")) for name in names))
    return table


def _as_numbers(header: str, what: str) -> str:
    return header if what == "conns" and header != "idle s" else f">{header}"


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
