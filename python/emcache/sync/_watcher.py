"""Autodiscovery for a synchronous client: one thread polls, and calls use what it found."""

import asyncio
import contextlib
import os
import threading
import weakref
from typing import Protocol

from .._memcached.addresses import to_endpoint
from ..discovery._sources import Discovery
from ..discovery._topology import Topology
from ..discovery._watcher import Watcher as AsyncWatcher

_CHECK = 0.2
"""Seconds between two checks whether the client is still used."""

_all: "weakref.WeakSet[Watcher]" = weakref.WeakSet()


class Watched(Protocol):
    """A client whose nodes are replaced."""

    @property
    def closed(self) -> bool:
        """Whether it is closed."""

    async def _apply(self, topology: Topology) -> None: ...


class Watcher:
    """Polls in a daemon thread, until the client is closed or collected."""

    def __init__(
        self,
        client: Watched,
        source: Discovery,
        current: Topology,
        interval: float,
        *,
        is_listed: bool,
    ) -> None:
        self._client = weakref.ref(client)
        self._args = source, interval
        self._current = current
        self._is_listed = is_listed
        self._is_hurried = False
        _all.add(self)
        self.start()

    def start(self) -> None:
        """Start the thread; also in the child of a fork, which has none."""
        if (client := self._client()) is None or client.closed:
            return
        threading.Thread(target=self._run, name="emcache-autodiscovery", daemon=True).start()

    def hurry(self) -> None:
        """Poll soon, because a node has changed."""
        self._is_hurried = True

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._poll())

    async def _poll(self) -> None:
        source, interval = self._args
        watcher = AsyncWatcher(
            source, self._current, interval, self._apply, is_listed=self._is_listed
        )
        polling = asyncio.ensure_future(watcher.run())
        while not polling.done():
            await asyncio.wait([polling], timeout=_CHECK)
            if (client := self._client()) is None or client.closed:
                polling.cancel()
            del client
            if self._is_hurried:
                self._is_hurried = False
                watcher.hurry()
        await polling

    async def _apply(self, topology: Topology) -> None:
        self._current, self._is_listed = topology, True
        if (client := self._client()) is not None:
            await client._apply(topology)


def endpoints(topology: Topology) -> list[tuple[tuple[str, int] | str, str | None]]:
    """Return the nodes as the core takes them."""
    return [(to_endpoint(node.address), node.ip) for node in topology.nodes]


def _start_again() -> None:
    for watcher in list(_all):
        watcher.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_again)
