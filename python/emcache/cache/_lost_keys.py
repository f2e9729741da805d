"""The keys of a call that other processes compute: one task waits for all of them."""

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Any

from ._miss import FIRST_PAUSE, LEASE_SLACK, LONGEST_PAUSE, PAUSE_GROWTH
from ._policy import Policy
from ._storage import Storage
from ._values import is_stub


async def wait_for_others(storage: Storage[Any], names: Iterable[bytes], policy: Policy) -> None:
    """Wait until other processes have no lease of these keys any more, but not for ever.

    A key that is still held then needs a task of its own, which ends the lease of a dead process.
    """
    limit = min(policy.longest_wait, policy.lease_seconds + LEASE_SLACK)
    until = time.monotonic() + limit
    pause, held = FIRST_PAUSE, list(names)
    while held and (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(pause * random.uniform(0.75, 1.25), left))
        began = time.monotonic()
        items = await storage.client.get_many(held, True, on_error="partial")
        held = [
            name
            for name in held
            if (item := items.get(name)) is not None and is_stub(item.value, item.flags)
        ]
        # At most half of the time is spent on reading.
        took = time.monotonic() - began
        pause = max(min(pause * PAUSE_GROWTH, LONGEST_PAUSE), took)
