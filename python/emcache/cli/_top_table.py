"""The table of `top`: as many columns as fit, the most important first."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ._output import printable
from ._sampling import ALL, Row
from ._units import UNKNOWN, duration, milliseconds, number, percent, size

_GAP = 2
_NODE_MIN = 12


def use(row: Row) -> float | None:
    """Return the share of memory in use."""
    if row.bytes_used is None or not row.bytes_limit:
        return None
    return row.bytes_used / row.bytes_limit


@dataclass(frozen=True)
class Column:
    """A column; columns with a high rank are dropped first."""

    header: str
    rank: int
    cell: Callable[[Row], str]


COLUMNS = (
    Column("state", 0, lambda row: "" if row.node == ALL else "up" if row.up else "DOWN"),
    Column("ops/s", 1, lambda row: number(row.ops_per_second)),
    Column("hits", 2, lambda row: percent(row.hit_ratio)),
    Column("evict/s", 5, lambda row: number(row.evictions_per_second)),
    Column("memory", 3, lambda row: percent(use(row))),
    Column("used", 7, lambda row: size(row.bytes_used)),
    Column("limit", 8, lambda row: size(row.bytes_limit)),
    Column("items", 9, lambda row: number(row.items)),
    Column("conns", 6, lambda row: number(row.connections)),
    Column("p50", 4, lambda row: milliseconds(row.ping_ms_p50)),
    Column("p99", 4, lambda row: milliseconds(row.ping_ms_p99)),
    Column("uptime", 10, lambda row: duration(row.uptime)),
    Column("version", 11, lambda row: printable(row.version or UNKNOWN)),
)


def _chosen(rows: list[Row], room: int) -> list[Column]:
    widths = {
        column.header: max(len(column.header), *(len(column.cell(row)) for row in rows))
        for column in COLUMNS
    }
    chosen = list(COLUMNS)
    while sum(_GAP + widths[column.header] for column in chosen) > room:
        least = max(column.rank for column in chosen)
        if least == 0:
            break
        chosen = [column for column in chosen if column.rank < least]
    return chosen


def middle_cut(text: str, width: int) -> str:
    """Shorten a name in the middle, because names differ at the start and at the end."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def table_of(rows: list[Row], width: int) -> Table:
    """Return the table for a terminal of this width."""
    names = max(len("node"), *(len(printable(row.node)) for row in rows))
    columns = _chosen(rows, width - min(names, max(_NODE_MIN, width // 3)))
    taken = sum(
        _GAP + max(len(column.header), *(len(column.cell(row)) for row in rows))
        for column in columns
    )
    names = min(names, max(width - taken, 4))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column("node", no_wrap=True, width=names)
    for column in columns:
        left = column.header in ("state", "version")
        table.add_column(column.header, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        style = "bold" if row.node == ALL else "" if row.up else "red"
        cells = [Text(column.cell(row)) for column in columns]
        table.add_row(Text(middle_cut(printable(row.node), names)), *cells, style=style)
    return table


def plain_line(row: Row, clock: str) -> str:
    """Format a row as a line of a log."""
    if not row.up and row.error is not None:
        return f"{clock} {row.node} down error={printable(row.error)!r}"
    note = f" note={printable(row.error)!r}" if row.error is not None else ""
    return (
        f"{clock} {row.node} up ops/s={number(row.ops_per_second)} hits={percent(row.hit_ratio)} "
        f"evict/s={number(row.evictions_per_second)} used={size(row.bytes_used)} "
        f"limit={size(row.bytes_limit)} conns={number(row.connections)} "
        f"p50_ms={milliseconds(row.ping_ms_p50)} p99_ms={milliseconds(row.ping_ms_p99)}{note}"
    )
