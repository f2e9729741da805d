"""Polling of a discovery for changes."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from ._sources import Discovery
from ._topology import Topology

logger = logging.getLogger("emcache")


class Watcher:
    """Polls a :class:`Discovery`, and applies each new list of nodes."""

    _STALE_POLLS = 5
    """A cluster that was created again counts its versions from 1. A smaller version is accepted
    after this many polls in a row, if they took as many intervals and ``_STALE_SECONDS``."""
    _STALE_SECONDS = 60.0
    _EARLIEST = 1.0
    """The least number of seconds between two polls, however often nodes fail."""

    def __init__(
        self,
        discovery: Discovery,
        current: Topology,
        interval: float,
        apply: Callable[[Topology], Awaitable[None]],
        *,
        is_listed: bool,
    ) -> None:
        self._discovery = discovery
        self._current = current
        self._interval = interval
        self._apply = apply
        self._stale = 0
        self._stale_since = 0.0
        # Without a first list, the next poll comes soon, and the failure was logged already.
        self._failures = 0 if is_listed else 1
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Poll soon, because a node has changed."""
        self._hurry.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._pause()
            try:
                topology = await self._discovery.discover()
                if self._is_change(topology):
                    await self._apply(topology)
                    self._current = topology
            except Exception as error:
                self._failed(error)
                continue
            if self._failures:
                logger.info("autodiscovery works again")
                self._failures = 0

    async def _pause(self) -> None:
        # Failed polls are retried sooner; jitter keeps clients from polling together.
        pause = self._interval * random.uniform(0.9, 1.1)
        if self._failures:
            pause = min(pause, 2.0 ** min(self._failures, 16) * random.uniform(0.5, 1.0))
        earliest = min(self._EARLIEST * random.uniform(1.0, 1.5), pause)
        await asyncio.sleep(earliest)
        try:
            async with asyncio.timeout(pause - earliest):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            logger.warning("autodiscovery failed, keeping the current nodes: %s", error)

    def _is_change(self, topology: Topology) -> bool:
        new, current = topology.version, self._current.version
        if new is None or current is None:
            return topology.nodes != self._current.nodes
        if new >= current:
            self._stale = 0
            return new > current
        now = asyncio.get_running_loop().time()
        if self._stale == 0:
            self._stale_since = now
        self._stale += 1
        seconds = max(self._STALE_SECONDS, self._STALE_POLLS * self._interval)
        if self._stale < self._STALE_POLLS or now - self._stale_since < seconds:
            return False
        logger.warning("autodiscovery goes back from version %d to %d", current, new)
        self._stale = 0
        return True
