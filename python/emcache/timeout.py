"""The import path of emcache 1.3 for its timeout; :func:`asyncio.timeout` does the same."""

import asyncio
from types import TracebackType


class OpTimeout:
    """Limit the duration of the body of an ``async with``.

    Args:
        timeout: in seconds; None for no limit.
        loop: ignored; the running loop is used.

    Raises:
        TimeoutError: the body took longer.
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
