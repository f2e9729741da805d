"""Statistics of all nodes as one table: a column for each node, numbers with units."""

import datetime
from collections.abc import Callable, Iterable

from rich.table import Table

from ._output import plain_table, printable
from ._units import UNKNOWN, duration, percent, size

Stats = dict[str, str]

SUMMARY = (
    *("version", "uptime", "curr_items", "bytes", "limit_maxbytes", "memory", "evictions"),
    *("evicted_unfetched", "expired_unfetched", "cmd_get", "hit ratio", "get_misses", "cmd_set"),
    *("cmd_touch", "cmd_flush", "store_too_large", "store_no_memory", "curr_connections"),
    *("max_connections", "listen_disabled_num", "total_connections", "threads", "bytes_read"),
    "bytes_written",
)
"""The general statistics that are shown without ``--all``; those with a space are computed."""
_COMPUTED: dict[str, Callable[[Stats], str | None]] = {
    "hit ratio": lambda stats: _share(stats, ("get_hits",), ("get_hits", "get_misses")),
    "memory": lambda stats: _share(stats, ("bytes",), ("limit_maxbytes",)),
}
_NOT_ADDED = {"version", "uptime", "threads", "max_connections"}
_BYTES = {
    *("bytes", "limit_maxbytes", "bytes_read", "bytes_written", "hash_bytes", "total_malloced"),
    *("response_obj_bytes", "read_buf_bytes", "read_buf_bytes_free", "maxbytes", "item_size_max"),
    *("slab_chunk_max", "watcher_logbuf_size", "worker_logbuf_size", "read_buf_mem_limit"),
    *("mem_requested", "chunk_size", "ssl_wbuf_size"),
}
_SECONDS = {"uptime", "idle_timeout", "age", "evicted_time", "secs_since_last_cmd"}
_NOT_GROUPED = {"pid", "tcpport", "udpport", "umask", "pointer_size"}
_NAME_GAP = 2


def _share(stats: Stats, part: Iterable[str], whole: Iterable[str]) -> str | None:
    numbers = [sum(int(stats.get(name, "0") or 0) for name in names) for names in (part, whole)]
    return percent(numbers[0] / numbers[1]) if numbers[1] else None


def value_text(name: str, value: str) -> str:
    """Format a value with its unit; ``name`` may have a slab class, as in ``3:chunk_size``."""
    name = name.rpartition(":")[2]
    if not value.isdigit():
        return printable(value)
    if name in _BYTES:
        return size(int(value))
    if name in _SECONDS:
        return duration(int(value))
    if name == "time":
        return datetime.datetime.fromtimestamp(int(value)).strftime("%F %T")
    return value if name in _NOT_GROUPED else f"{int(value):,}"


def tables_of(
    stats: dict[str, Stats],
    width: int,
    names: list[str] | None,
    *,
    marks_differences: bool = False,
) -> list[Table]:
    """Return tables that fit the terminal: several ones if there are too many nodes.

    Args:
        stats: the statistics by node.
        width: the width of the terminal.
        names: the rows; None for all statistics.
        marks_differences: whether to colour the rows whose values differ among the nodes.
    """
    rows = names or list(dict.fromkeys(name for of_node in stats.values() for name in of_node))
    columns = {node: [_cell(of_node, name) for name in rows] for node, of_node in stats.items()}
    if names and len(stats) > 1:
        columns["all"] = [_sum(name, list(stats.values())) for name in rows]
    differing = {
        name for name in rows if len({of_node.get(name) for of_node in stats.values()}) > 1
    } - _NOT_GROUPED
    kept = [at for at, _ in enumerate(rows) if any(column[at] for column in columns.values())]
    room = width - max(len(printable(rows[at])) for at in kept)
    tables: list[Table] = []
    for group in _groups(columns, room):
        table = plain_table("name", *(f">{node}" for node in group))
        for at in kept:
            cells = (columns[node][at] or UNKNOWN for node in group)
            style = "yellow" if marks_differences and rows[at] in differing else ""
            table.add_row(printable(rows[at]), *cells, style=style)
        tables.append(table)
    return tables


def _cell(stats: Stats, name: str) -> str:
    if (computed := _COMPUTED.get(name)) is not None and name not in stats:
        return computed(stats) or ""
    return value_text(name, stats[name]) if name in stats else ""


def _sum(name: str, all_stats: list[Stats]) -> str:
    if name in _NOT_ADDED:
        return ""
    added: Stats = {}
    for stats in all_stats:
        for each, value in stats.items():
            if value.isdigit():
                added[each] = str(int(added.get(each, "0")) + int(value))
    return _cell(added, name)


def _groups(columns: dict[str, list[str]], room: int) -> list[list[str]]:
    """Return the nodes of each table; a node that does not fit is in one of its own."""
    groups: list[list[str]] = []
    left = 0
    for node, cells in columns.items():
        needed = _NAME_GAP + max(len(printable(node)), *map(len, cells))
        if not groups or needed > left:
            groups.append([])
            left = room
        groups[-1].append(node)
        left -= needed
    return groups
