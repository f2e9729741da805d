"""Periodic samples of each node for `top`: counters and pings."""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import asdict, dataclass, replace

from .._address import Address
from .._client import Client
from .._errors import EmcacheError
from ._capabilities import ProxyLacksError, answers, explained, if_supported
from ._exit_codes import short_text_of, text_of
from ._settings import node_name

_PINGS_KEPT = 200
ALL = "all"
"""The name of the row with the totals."""
_OPERATIONS = (
    *("cmd_get", "cmd_set", "cmd_touch", "cmd_flush", "delete_hits", "delete_misses"),
    *("incr_hits", "incr_misses", "decr_hits", "decr_misses"),
)


@dataclass(frozen=True)
class Row:
    """The values of one node, or the totals; None for unknown values."""

    node: str
    up: bool
    error: str | None = None
    ops_per_second: float | None = None
    hit_ratio: float | None = None
    gets_per_second: float | None = None
    sets_per_second: float | None = None
    evictions_per_second: float | None = None
    bytes_in_per_second: float | None = None
    bytes_out_per_second: float | None = None
    bytes_used: int | None = None
    bytes_limit: int | None = None
    connections: int | None = None
    connections_limit: int | None = None
    items: int | None = None
    ping_ms_p50: float | None = None
    ping_ms_p99: float | None = None
    uptime: int | None = None
    version: str | None = None
    hits: float = 0
    misses: float = 0
    history: tuple[float | None, ...] = ()
    """Operations per second, the newest last."""

    def fields(self) -> dict[str, object]:
        """Return the JSON of the row."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if name not in ("hits", "misses", "history")
        }


class Counters:
    """The counters of one answer to ``stats``."""

    def __init__(self, stats: dict[str, str]) -> None:
        self.at = time.monotonic()
        self._stats = stats

    def __getitem__(self, name: str) -> int:
        text = self._stats.get(name, "")
        return int(text) if text.isdigit() else 0

    def text(self, name: str) -> str | None:
        """Return a counter as text."""
        return self._stats.get(name)

    def get(self, name: str) -> int | None:
        """Return a counter; None if the server does not have it."""
        return self[name] if name in self._stats else None

    @property
    def operations(self) -> int:
        """The number of all commands for items."""
        return sum(self[name] for name in _OPERATIONS)

    def follows(self, earlier: "Counters") -> bool:
        """Return whether the server was neither restarted nor its counters reset in between."""
        same = self.text("pid") == earlier.text("pid") and self["uptime"] >= earlier["uptime"]
        return same and self.operations >= earlier.operations


class Sampler:
    """Watches one node.

    Args:
        client: the client of the node.
        node: the node.
        pause: seconds between two pings.
    """

    def __init__(self, client: Client, node: Address, pause: float) -> None:
        self._client = client
        self._node = node
        self._pause = pause
        self._last: Counters | None = None
        self._has_version = True
        self._pings: deque[float] = deque(maxlen=_PINGS_KEPT)
        self._pinging = asyncio.create_task(self._ping())

    async def close(self) -> None:
        """Stop the pings."""
        self._pinging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pinging

    async def _ping(self) -> None:
        while True:
            begin = time.perf_counter()
            try:
                await self._probe()
                self._pings.append((time.perf_counter() - begin) * 1000)
            except (EmcacheError, ValueError):
                # Older pings do not describe the node after an outage.
                self._pings.clear()
            await asyncio.sleep(self._pause)

    async def _probe(self) -> None:
        # A get would count as a miss, so version is used where it is supported.
        if self._has_version and await if_supported(self._client.version(self._node)) is not None:
            return
        self._has_version = False
        await answers(self._client, self._node)

    async def sample(self) -> Row:
        """Return the current values of the node."""
        name = node_name(self._node)
        last, self._last = self._last, None
        try:
            now = Counters(await self._client.stats(self._node))
        except EmcacheError as error:
            failure = await explained(self._client, self._node, error)
            if isinstance(failure, ProxyLacksError):
                return _with_pings(Row(name, True, failure.reason), sorted(self._pings))
            return Row(name, False, short_text_of(failure))
        except ValueError as error:
            return Row(name, False, text_of(error))
        self._last = now
        before = last if last is not None and now.follows(last) else None
        return _row(name, now, before, sorted(self._pings))


def _row(name: str, now: Counters, before: Counters | None, pings: list[float]) -> Row:
    seconds = now.at - before.at if before is not None else 0.0

    def rate(name: str) -> float | None:
        return None if before is None else max(now[name] - before[name], 0) / seconds

    hits, misses = rate("get_hits") or 0.0, rate("get_misses") or 0.0
    row = Row(
        node=name,
        up=True,
        ops_per_second=None if before is None else (now.operations - before.operations) / seconds,
        hit_ratio=hits / (hits + misses) if hits + misses else None,
        gets_per_second=rate("cmd_get"),
        sets_per_second=rate("cmd_set"),
        evictions_per_second=rate("evictions"),
        bytes_in_per_second=rate("bytes_read"),
        bytes_out_per_second=rate("bytes_written"),
        bytes_used=now.get("bytes"),
        bytes_limit=now.get("limit_maxbytes"),
        connections=now.get("curr_connections"),
        connections_limit=now.get("max_connections"),
        items=now.get("curr_items"),
        uptime=now.get("uptime"),
        version=now.text("version"),
        hits=hits,
        misses=misses,
    )
    return _with_pings(row, pings)


def _with_pings(row: Row, pings: list[float]) -> Row:
    if not pings:
        return row
    at = len(pings)
    return replace(row, ping_ms_p50=pings[at // 2], ping_ms_p99=pings[at * 99 // 100])


def total(rows: list[Row]) -> Row:
    """Return the totals of all nodes; pings are those of the slowest node."""
    up = [row for row in rows if row.up]
    hits, misses = sum(row.hits for row in up), sum(row.misses for row in up)
    return Row(
        node=ALL,
        up=len(up) == len(rows),
        ops_per_second=_sum([row.ops_per_second for row in up]),
        hit_ratio=hits / (hits + misses) if hits + misses else None,
        gets_per_second=_sum([row.gets_per_second for row in up]),
        sets_per_second=_sum([row.sets_per_second for row in up]),
        evictions_per_second=_sum([row.evictions_per_second for row in up]),
        bytes_in_per_second=_sum([row.bytes_in_per_second for row in up]),
        bytes_out_per_second=_sum([row.bytes_out_per_second for row in up]),
        bytes_used=_whole([row.bytes_used for row in up]),
        bytes_limit=_whole([row.bytes_limit for row in up]),
        connections=_whole([row.connections for row in up]),
        connections_limit=_whole([row.connections_limit for row in up]),
        items=_whole([row.items for row in up]),
        ping_ms_p50=max((row.ping_ms_p50 for row in up if row.ping_ms_p50), default=None),
        ping_ms_p99=max((row.ping_ms_p99 for row in up if row.ping_ms_p99), default=None),
        history=_sums([row.history for row in rows]),
    )


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _sums(histories: list[tuple[float | None, ...]]) -> tuple[float | None, ...]:
    """Add histories that end at the same time."""
    longest = max(map(len, histories), default=0)
    padded = [(None,) * (longest - len(history)) + history for history in histories]
    return tuple(_sum(list(at_a_time)) for at_a_time in zip(*padded, strict=True))


def _whole(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
