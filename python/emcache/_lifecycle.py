"""The base class of clients and pools, which own a core that must not outlive them."""

import asyncio
import contextlib
import sys
import warnings
from collections.abc import Awaitable, Callable

from ._emcache import CoreClient


def before_close(owner: object, prepare: Callable[[], Awaitable[None]]) -> None:
    """Await ``prepare`` before the connections of a client are closed."""
    if isinstance(owner, CoreOwner):
        owner._before_close = (*owner._before_close, prepare)


class CoreOwner:
    """Closes the core when its owner is closed or garbage-collected."""

    _core: CoreClient
    _close_timeout: float
    """Seconds that :meth:`_drain` waits for replies to commands sent with ``noreply``."""
    _before_close: tuple[Callable[[], Awaitable[None]], ...] = ()
    """Let the caches on top of a client remove outdated values and give leases back."""

    _is_finalizing = staticmethod(sys.is_finalizing)

    def __del__(self) -> None:
        core: CoreClient | None = getattr(self, "_core", None)
        if core is not None and not core.closed and not core.forked:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            except (AttributeError, NameError, TypeError):
                # The interpreter clears modules before the last objects, and clears them earlier
                # on free-threaded builds. Without their names there is no warning.
                if not self._is_finalizing():
                    raise
            finally:
                core.abandon()

    async def _drain(self) -> None:
        if self._before_close:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout):
                    await asyncio.gather(*(prepare() for prepare in self._before_close))
        if self._core.noreply_unanswered:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout):
                    await self._core.drain()
