"""A time limit whose error names the source that did not answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def time_limit(seconds: float, name: str) -> AsyncIterator[None]:
    """Limit the block as ``asyncio.timeout`` does, with ``name`` in the message of the error."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"{name} did not answer within {seconds} s") from error
