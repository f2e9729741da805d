"""The import path that emcache 1.3 had for its timeout; :func:`asyncio.timeout` does the same."""

import asyncio
from types import TracebackType


class OpTimeout:
    """Limit how long the body of an ``async with`` takes.

    Args:
        timeout: seconds; None: no limit.
        loop: not used: the running loop.

    Raises:
        TimeoutError: the time is over.
    """

    __slots__ = ("_limit",)

    def __init__(
        self,
        timeout: float | None,
        loop: asyncio.AbstractEventLoop | None = None,  # noqa: ARG002 - as under 1.3
    ) -> None:
        self._limit = asyncio.timeout(timeout)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._limit.__aexit__(exc_type, exc_value, traceback)


__all__ = ["OpTimeout"]
