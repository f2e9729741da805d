"""The table of `top`: as many columns as fit, the most important first."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ._load_checks import LATE_MS, LOW_HIT_RATIO, SLOW_MS
from ._output import printable
from ._sampling import ALL, Row
from ._sparkline import BLOCKS, sparkline
from ._units import UNKNOWN, duration, milliseconds, number, percent, size

_GAP = 2
_NODE_MIN = 12
_HISTORY_MIN = 8
_HISTORY_MIN_WIDE = 20
_WIDE = 100
_HISTORY_RANK = 5


def use(row: Row) -> float | None:
    """Return the share of memory in use."""
    if row.bytes_used is None or not row.bytes_limit:
        return None
    return row.bytes_used / row.bytes_limit


def _above(value: float | None, doubt: float, trouble: float) -> str:
    if value is None or value <= doubt:
        return ""
    return "red" if value > trouble else "yellow"


def _hits_style(row: Row) -> str:
    if row.hit_ratio is None or row.hit_ratio >= 0.8:
        return ""
    return "red" if row.hit_ratio < LOW_HIT_RATIO else "yellow"


def _connections_style(row: Row) -> str:
    if row.connections is None or not row.connections_limit:
        return ""
    return _above(row.connections / row.connections_limit, 0.8, 0.95)


def _no_style(_: Row) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """A column; columns with a high rank are dropped first."""

    header: str
    rank: int
    cell: Callable[[Row], str]
    style: Callable[[Row], str] = _no_style


COLUMNS = (
    Column("state", 0, lambda row: "" if row.node == ALL else "up" if row.up else "DOWN"),
    Column("ops/s", 1, lambda row: number(row.ops_per_second)),
    Column("hits", 2, lambda row: percent(row.hit_ratio), _hits_style),
    Column(
        "evict/s",
        4,
        lambda row: number(row.evictions_per_second),
        lambda row: _above(row.evictions_per_second, 0, 100),
    ),
    Column("memory", 3, lambda row: percent(use(row)), lambda row: _above(use(row), 0.9, 2)),
    Column("used", 10, lambda row: size(row.bytes_used)),
    Column("limit", 11, lambda row: size(row.bytes_limit)),
    Column("items", 9, lambda row: number(row.items)),
    Column("conns", 6, lambda row: number(row.connections), _connections_style),
    Column(
        "p50",
        4,
        lambda row: milliseconds(row.ping_ms_p50),
        lambda row: _above(row.ping_ms_p50, SLOW_MS, LATE_MS),
    ),
    Column(
        "p99",
        4,
        lambda row: milliseconds(row.ping_ms_p99),
        lambda row: _above(row.ping_ms_p99, LATE_MS, 10 * LATE_MS),
    ),
    Column("get/s", 7, lambda row: number(row.gets_per_second)),
    Column("set/s", 7, lambda row: number(row.sets_per_second)),
    Column("in/s", 8, lambda row: size(row.bytes_in_per_second)),
    Column("out/s", 8, lambda row: size(row.bytes_out_per_second)),
    Column("uptime", 12, lambda row: duration(row.uptime)),
    Column("version", 13, lambda row: printable(row.version or UNKNOWN)),
)


@dataclass(frozen=True)
class History:
    """How to draw the operations of the last minute.

    Args:
        samples: how many there are in a minute.
        levels: the characters of a sparkline.
    """

    samples: int = 60
    levels: str = BLOCKS

    def draw(self, rows: list[Row], width: int) -> list[str]:
        """Draw all rows: nodes on a common scale, the total on its own."""
        largest = max((max_of(row) for row in rows if row.node != ALL), default=0.0)
        return [
            sparkline(
                row.history,
                self.samples,
                width,
                max_of(row) if row.node == ALL else largest,
                self.levels,
            )
            for row in rows
        ]


def max_of(row: Row) -> float:
    """Return the largest number of the history."""
    return max((value for value in row.history if value is not None), default=0.0)


def _widths(rows: list[Row]) -> dict[str, int]:
    return {
        column.header: max(len(column.header), *(len(column.cell(row)) for row in rows))
        for column in COLUMNS
    }


def _chosen(rows: list[Row], room: int, history: int) -> tuple[list[Column], int]:
    """Return the columns that fit, and the width that is left for the history."""
    widths = _widths(rows)
    chosen, history = list(COLUMNS), history + _GAP
    while True:
        left = room - sum(_GAP + widths[column.header] for column in chosen)
        least = max(column.rank for column in chosen)
        if left >= history or least == 0:
            return chosen, left - _GAP if history and left >= history else 0
        if least < _HISTORY_RANK and history:
            history = 0
        else:
            chosen = [column for column in chosen if column.rank < least]


def middle_cut(text: str, width: int) -> str:
    """Shorten a name in the middle, because names differ at the start and at the end."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def table_of(
    rows: list[Row], width: int, history: History | None = None, sorted_by: str = ""
) -> Table:
    """Return the table for a terminal of this width."""
    history = history or History()
    names = max(len("node"), *(len(printable(row.node)) for row in rows))
    least = _HISTORY_MIN if width < _WIDE else _HISTORY_MIN_WIDE
    columns, room = _chosen(rows, width - min(names, max(_NODE_MIN, width // 3)), least)
    widths = _widths(rows)
    taken = sum(_GAP + widths[column.header] for column in columns)
    # Names come before a longer history.
    room = min(room, max(width - taken - names - _GAP, least), history.samples) if room else 0
    taken += room + _GAP if room else 0
    names = min(names, max(width - taken, 4))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    table.add_column("node", no_wrap=True, width=names)
    for column in columns:
        left = column.header in ("state", "version")
        header = Text(column.header, "underline" if column.header == sorted_by else "")
        table.add_column(header, justify="left" if left else "right", no_wrap=True)
    drawn = history.draw(rows, room) if room else [""] * len(rows)
    if room:
        table.add_column("last minute"[:room], no_wrap=True, width=room)
    for row, line in zip(rows, drawn, strict=True):
        style = "bold" if row.node == ALL else "" if row.up else "red"
        cells = [Text(column.cell(row), column.style(row)) for column in columns]
        if room:
            cells.append(Text(line, "cyan"))
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
