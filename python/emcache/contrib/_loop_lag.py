"""How late an event loop runs its callbacks."""

import asyncio
import weakref

from .._client import Client
from .._emcache import LATENCY_BOUNDS
from ..metrics import LatencyHistogram

INTERVAL = 0.1
"""Seconds between two samples."""
_MAX_SAMPLES = 600
"""Samples of one delay, so that a program that was stopped for hours does not count for long."""


class LoopLag:
    """Samples the delay of the running loop until a client is closed.

    A loop that is blocked for a second delays whatever becomes ready in that second. Each sample
    that was due meanwhile counts with its own delay, as that of a reply would be.
    """

    def __init__(self, client: Client) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = weakref.ref(client)
        self._counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self._sum = 0.0
        self._is_stopped = False
        self._handle: asyncio.TimerHandle | None = None
        self._schedule()

    def read(self) -> LatencyHistogram:
        """Return the samples so far, on any thread."""
        return LatencyHistogram(tuple(self._counts), self._sum)

    def stop(self) -> None:
        """Take no more samples; on any thread."""
        self._is_stopped = True

    def _schedule(self) -> None:
        self._due = self._loop.time() + INTERVAL
        self._handle = self._loop.call_at(self._due, self._sample)

    def _sample(self) -> None:
        client = self._client()
        if self._is_stopped or client is None or client.closed:
            return
        lag = max(0.0, self._loop.time() - self._due)
        for missed in range(min(int(lag / INTERVAL) + 1, _MAX_SAMPLES)):
            self._record(lag - missed * INTERVAL)
        self._schedule()

    def _record(self, lag: float) -> None:
        bucket = sum(bound < lag for bound in LATENCY_BOUNDS)
        self._counts[bucket] += 1
        self._sum += lag
