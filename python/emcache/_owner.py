"""What owns a core: a client, or a pool."""

import asyncio
import contextlib
import warnings
from collections.abc import Awaitable, Callable

from ._emcache import CoreClient


class CoreOwner:
    """Sees to it that the core ends with its owner, and that what nobody waits for is not lost."""

    _core: CoreClient
    _grace: float
    """Seconds to wait for commands that nobody waits for."""
    _settled: Callable[[], Awaitable[None]] | None = None
    """Waits until no cache on top of the client has to remove an outdated value."""

    def __del__(self) -> None:
        core: CoreClient | None = getattr(self, "_core", None)
        if core is not None and not core.closed and not core.forked:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                core.abandon()

    async def _drain(self) -> None:
        if self._settled is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await self._settled()
        if self._core.noreply_unanswered:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await self._core.drain()
