"""The orders of the nodes in `top`."""

from collections.abc import Callable
from dataclasses import dataclass

from ._sampling import Row
from ._top_table import use


@dataclass(frozen=True)
class OrderBy:
    """One order: its name, its key, its column, and what makes a node come first."""

    name: str
    key: str
    column: str
    value: Callable[[Row], float | None]


def _misses(row: Row) -> float | None:
    return None if row.hit_ratio is None else 1 - row.hit_ratio


ORDERS = (
    OrderBy("node", "n", "node", lambda _: None),
    OrderBy("ops", "o", "ops/s", lambda row: row.ops_per_second),
    OrderBy("hits", "h", "hits", _misses),
    OrderBy("evictions", "e", "evict/s", lambda row: row.evictions_per_second),
    OrderBy("memory", "m", "memory", use),
    OrderBy("connections", "c", "conns", lambda row: row.connections),
    OrderBy("ping", "p", "p99", lambda row: row.ping_ms_p99),
)


class Order:
    """The present order, which keys change."""

    def __init__(self, name: str) -> None:
        self._by = next(order for order in ORDERS if order.name == name)
        self._is_reversed = False

    @property
    def column(self) -> str:
        """The header of the column that decides."""
        return self._by.column

    def press(self, key: str) -> bool:
        """Change the order by a key; return whether it has a meaning."""
        if key == "r":
            self._is_reversed = not self._is_reversed
            return True
        for order in ORDERS:
            if order.key == key:
                self._by, self._is_reversed = order, False
                return True
        return False

    def sorted(self, rows: list[Row]) -> list[Row]:
        """Return the rows in order: nodes that are down first, then the worst ones."""
        if self._by.name == "node":
            return rows[::-1] if self._is_reversed else rows

        def rank(row: Row) -> tuple[bool, float]:
            value = self._by.value(row)
            return row.up, float("inf") if value is None else -value

        return sorted(rows, key=rank, reverse=self._is_reversed)
