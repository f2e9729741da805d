"""The statistics of the servers."""

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
    "items": ("number", "age", "mem_requested", "evicted", "evicted_time", "outofmemory"),
    "slabs": ("chunk_size", "total_pages", "used_chunks", "free_chunks", "cmd_set", "get_hits"),
    "conns": ("addr", "listen_addr", "state", "secs_since_last_cmd"),
}
"""What people are shown of each slab class or connection; pipes and JSON have all."""


@click.command("stats", cls=Command)
@click.argument("what", nargs=-1)
@click.option("--match", metavar="GLOB", help="Only those whose names match, such as 'cmd_*'.")
@runs
async def stats(
    settings: Settings, output: Output, what: tuple[str, ...], match: str | None
) -> int:
    """Print statistics of every node.

    WHAT is nothing for general ones, or items, slabs, settings, conns, sizes.

    Piped they are lines of node, name and value, with a tab between.
    """
    if what[:1] == ("reset",):
        raise click.UsageError("stats only reads; it resets no counters")
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
            output.line("  nothing", "dim")
        else:
            output.table(_table(answer.value, what))


def _table(found: Stats, what: str) -> Table:
    rows = _by_number(found) if what in _COLUMNS else {}
    if not rows:
        table = plain_table("name", "value")
        for name, value in found.items():
            table.add_row(printable(name), printable(value))
        return table
    columns = [name for name in _COLUMNS[what] if any(name in row for row in rows.values())]
    numbers = what != "conns"
    table = plain_table(
        "fd" if what == "conns" else "class", *(f">{name}" if numbers else name for name in columns)
    )
    for number, row in rows.items():
        table.add_row(number, *(printable(row.get(name, "")) for name in columns))
    return table


def _by_number(found: Stats) -> dict[str, Stats]:
    rows: dict[str, Stats] = {}
    for name, value in found.items():
        if match := _OF_ONE.fullmatch(name):
            rows.setdefault(match[1], {})[match[2]] = value
    return rows


COMMANDS = [stats]
