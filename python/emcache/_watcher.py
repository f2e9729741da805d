"""How a discovery is asked: at first, and again and again."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

from ._address import Address
from ._errors import AuthenticationError, DiscoveryError
from ._topology import Topology, checked
from .discovery import Discovery, NoDiscoveryError, within

logger = logging.getLogger("emcache")

_PAUSES = (0.5, 0.5, 0.0)
"""Seconds after each try for a first list."""


class Watcher:
    """Asks a :class:`Discovery` again and again, and tells of each list that is to be applied."""

    _STALE_POLLS = 5
    """A cluster that was made anew counts from 1: so many smaller versions in a row are believed,
    if they went on for as many intervals too, and for"""
    _STALE_SECONDS = 60.0
    """at least."""
    _EARLIEST = 1.0
    """Seconds between two polls at least, whatever happens to nodes."""

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
        # Without a list to begin with, the first poll comes soon, and its failure is known.
        self._failures = 0 if is_listed else 1
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """Ask soon: something happened to a node."""
        self._hurry.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._pause()
            try:
                topology = await self._discovery.discover()
                if self._is_news(topology):
                    await self._apply(topology)
                    self._current = topology
            except Exception as error:
                self._failed(error)
                continue
            if self._failures:
                logger.info("autodiscovery works again")
                self._failures = 0

    async def _pause(self) -> None:
        # Failures are tried again sooner, clients do not ask together.
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
            logger.warning("autodiscovery failed, the nodes stay as they are: %s", error)

    def _is_news(self, topology: Topology) -> bool:
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


class Bounded:
    """What others wrote: it cannot hang, nor end the task that asks it, nor give nonsense."""

    def __init__(
        self, discovery: Discovery, limit: float, check: Callable[[Iterable[Address]], None] | None
    ) -> None:
        self._discovery = discovery
        self._limit = limit
        self._check = check

    async def discover(self) -> Topology:
        """Ask it."""
        try:
            async with within(self._limit, "discover()"):
                topology = checked(await self._discovery.discover())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise DiscoveryError("discover() was cancelled") from None
        if self._check is not None:
            self._check(node.address for node in topology.nodes)
        return topology


async def first(discovery: Discovery, limit: float) -> Topology:
    """Give the list that a client begins with; three tries.

    Raises what the last of them did.
    """
    failure: Exception = TimeoutError(f"no answer within {limit} s")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            for pause in _PAUSES:
                try:
                    return await discovery.discover()
                except (AuthenticationError, NoDiscoveryError):
                    raise
                except Exception as error:
                    failure = error
                    await asyncio.sleep(pause)
    raise failure
