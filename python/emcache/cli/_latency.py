"""Latencies of many operations, in bounded memory."""

from collections import Counter

_FINE = 100_000
"""Microseconds up to which each microsecond has its own count; above, each millisecond."""


class Latencies:
    """Counts of latencies, exact to 1 us below 100 ms and to 1 ms above."""

    def __init__(self) -> None:
        self.count = 0
        self._counts: Counter[int] = Counter()
        """Counts by microseconds."""

    def add(self, seconds: float) -> None:
        """Count one latency."""
        time = int(seconds * 1e6)
        if time >= _FINE:
            time -= time % 1000
        self._counts[time] += 1
        self.count += 1

    def __add__(self, other: "Latencies") -> "Latencies":
        both = Latencies()
        both.count = self.count + other.count
        both._counts = self._counts + other._counts
        return both

    def quantile(self, part: float) -> float | None:
        """Return a quantile in milliseconds; None without latencies."""
        wanted, seen = part * self.count, 0
        for time, count in sorted(self._counts.items()):
            seen += count
            if seen >= wanted:
                return time / 1000
        return None

    def fields(self) -> dict[str, object]:
        """Return the JSON of the latencies."""
        return {
            "count": self.count,
            "ms_p50": self.quantile(0.5),
            "ms_p99": self.quantile(0.99),
            "ms_p999": self.quantile(0.999),
            "ms_max": self.quantile(1.0),
        }
