"""What `top` knows of each node: counters taken again and again, and pings."""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import asdict, dataclass, replace

from .._address import Address
from .._errors import EmcacheError
from ..base import Client
from ._exits import text_of
from ._proxies import ProxyLacksError, answers, explained, if_known
from ._settings import node_name

_PINGS_KEPT = 200
ALL = "all"
"""The name of the row of all nodes together."""
_OPERATIONS = (
    *("cmd_get", "cmd_set", "cmd_touch", "cmd_flush", "delete_hits", "delete_misses"),
    *("incr_hits", "incr_misses", "decr_hits", "decr_misses"),
)


@dataclass(frozen=True)
class Row:
    """One node, or all together; None where it is not known (yet)."""

    node: str
    up: bool
    error: str | None = None
    ops_per_second: float | None = None
    hit_ratio: float | None = None
    evictions_per_second: float | None = None
    bytes_used: int | None = None
    bytes_limit: int | None = None
    connections: int | None = None
    items: int | None = None
    ping_ms_p50: float | None = None
    ping_ms_p99: float | None = None
    uptime: int | None = None
    version: str | None = None
    hits: float = 0
    misses: float = 0

    def fields(self) -> dict[str, object]:
        """Give what JSON says of it."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if name not in ("hits", "misses")
        }


class Counters:
    """One answer to `stats`."""

    def __init__(self, stats: dict[str, str]) -> None:
        self.at = time.monotonic()
        self._stats = stats

    def __getitem__(self, name: str) -> int:
        text = self._stats.get(name, "")
        return int(text) if text.isdigit() else 0

    def text(self, name: str) -> str | None:
        """Give one as it came."""
        return self._stats.get(name)

    def get(self, name: str) -> int | None:
        """Give one, None if the server has it not."""
        return self[name] if name in self._stats else None

    @property
    def operations(self) -> int:
        """All commands that concern items."""
        return sum(self[name] for name in _OPERATIONS)

    def follows(self, earlier: "Counters") -> bool:
        """Whether the server has not been restarted, nor its counters reset, in between."""
        same = self.text("pid") == earlier.text("pid") and self["uptime"] >= earlier["uptime"]
        return same and self.operations >= earlier.operations


class Sampler:
    """Watches one node.

    Args:
        client: whose node it is.
        node: which.
        pause: seconds between two pings.
    """

    def __init__(self, client: Client, node: Address, pause: float) -> None:
        self._client = client
        self._node = node
        self._pause = pause
        self._last: Counters | None = None
        self._knows_version = True
        self._pings: deque[float] = deque(maxlen=_PINGS_KEPT)
        self._pinging = asyncio.create_task(self._ping())

    async def close(self) -> None:
        """Ping no more."""
        self._pinging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pinging

    async def _ping(self) -> None:
        while True:
            begin = time.perf_counter()
            try:
                await self._question()
                self._pings.append((time.perf_counter() - begin) * 1000)
            except (EmcacheError, ValueError):
                # How it was before tells nothing of how it is when it comes back.
                self._pings.clear()
            await asyncio.sleep(self._pause)

    async def _question(self) -> None:
        # A get counts as a miss, so version is asked for where it is known.
        if self._knows_version and await if_known(self._client.version(self._node)) is not None:
            return
        self._knows_version = False
        await answers(self._client, self._node)

    async def sample(self) -> Row:
        """Ask the node how it is."""
        name = node_name(self._node)
        last, self._last = self._last, None
        try:
            now = Counters(await self._client.stats(self._node))
        except EmcacheError as error:
            told = await explained(self._client, self._node, error)
            if isinstance(told, ProxyLacksError):
                text = text_of(told).removeprefix(f"{name} is ")
                return _row_of_pings(Row(name, True, text), sorted(self._pings))
            return Row(name, False, text_of(told).removeprefix(f"{name} is down: "))
        except ValueError as error:
            return Row(name, False, text_of(error))
        self._last = now
        before = last if last is not None and now.follows(last) else None
        return _row(name, now, before, sorted(self._pings))


def _row(name: str, now: Counters, before: Counters | None, pings: list[float]) -> Row:
    seconds = now.at - before.at if before is not None else 0.0

    def rate(value: int, earlier: int) -> float:
        return max(value - earlier, 0) / seconds

    hits = rate(now["get_hits"], before["get_hits"]) if before else 0.0
    misses = rate(now["get_misses"], before["get_misses"]) if before else 0.0
    row = Row(
        node=name,
        up=True,
        ops_per_second=rate(now.operations, before.operations) if before else None,
        hit_ratio=hits / (hits + misses) if hits + misses else None,
        evictions_per_second=rate(now["evictions"], before["evictions"]) if before else None,
        bytes_used=now.get("bytes"),
        bytes_limit=now.get("limit_maxbytes"),
        connections=now.get("curr_connections"),
        items=now.get("curr_items"),
        uptime=now.get("uptime"),
        version=now.text("version"),
        hits=hits,
        misses=misses,
    )
    return _row_of_pings(row, pings)


def _row_of_pings(row: Row, pings: list[float]) -> Row:
    if not pings:
        return row
    at = len(pings)
    return replace(row, ping_ms_p50=pings[at // 2], ping_ms_p99=pings[at * 99 // 100])


def total(rows: list[Row]) -> Row:
    """Add up what can be added; pings are the worst of any node."""
    up = [row for row in rows if row.up]
    hits, misses = sum(row.hits for row in up), sum(row.misses for row in up)
    return Row(
        node=ALL,
        up=len(up) == len(rows),
        ops_per_second=_sum([row.ops_per_second for row in up]),
        hit_ratio=hits / (hits + misses) if hits + misses else None,
        evictions_per_second=_sum([row.evictions_per_second for row in up]),
        bytes_used=_whole([row.bytes_used for row in up]),
        bytes_limit=_whole([row.bytes_limit for row in up]),
        connections=_whole([row.connections for row in up]),
        items=_whole([row.items for row in up]),
        ping_ms_p50=max((row.ping_ms_p50 for row in up if row.ping_ms_p50), default=None),
        ping_ms_p99=max((row.ping_ms_p99 for row in up if row.ping_ms_p99), default=None),
    )


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _whole(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
