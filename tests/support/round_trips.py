"""Whether all that a call sends is sent before the first answer comes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from emcache.testing import FaultProxy

from .calls import until


def requested(proxies: list[FaultProxy]) -> list[int]:
    return [proxy.request_bytes for proxy in proxies]


async def is_one_round_trip(
    proxies: list[FaultProxy], call: Coroutine[Any, Any, Any], used: int
) -> bool:
    """Hold the answers back until `used` of the proxies have a request; is that all of it?"""
    before = requested(proxies)
    for proxy in proxies:
        proxy.answers.stall_after = 0
    task = asyncio.create_task(call)
    await until(lambda: sum(a > b for a, b in zip(requested(proxies), before, strict=True)) == used)
    await asyncio.sleep(0.05)
    sent = requested(proxies)
    for proxy in proxies:
        proxy.heal()
    await task
    return requested(proxies) == sent
