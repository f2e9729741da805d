"""Counters that begin where they are missing.

Servers from 1.6.9 on do it in one command (``ma``), and so does the binary protocol. The core finds
out which nodes know it. The others are asked in steps, of which each is atomic.
"""

import contextlib
from typing import Literal

from ._arguments import Exptime
from ._emcache import CoreClient
from ._errors import (
    ConnectionFailedError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    attributed,
    is_unanswered,
)

_ROUNDS = 8


async def count(
    core: CoreClient,
    verb: Literal["incr", "decr"],
    key: bytes,
    value: int,
    initial: int,
    exptime: Exptime,
) -> int:
    """Add or subtract; what is missing is created as ``initial``."""
    try:
        number = await core.count_from(verb, key, value, initial, exptime)
    except ConnectionFailedError as error:
        if not is_unanswered(error):
            raise
    else:
        if number >= 0:
            return number
    return await _in_steps(core, verb, key, value, initial, exptime)


async def _in_steps(
    core: CoreClient,
    verb: Literal["incr", "decr"],
    key: bytes,
    value: int,
    initial: int,
    exptime: Exptime,
) -> int:
    step = core.increment if verb == "incr" else core.decrement
    for _ in range(_ROUNDS):
        try:
            # With noreply there would be none.
            return await step(key, value, False) or 0
        except NotFoundCommandError as error:
            node = error.node
        with contextlib.suppress(NotStoredStorageCommandError):
            await core.add(key, b"%d" % initial, 0, exptime, False)
            return initial
    text = f"the counter was created and deleted {_ROUNDS} times by others"
    raise attributed(NotFoundCommandError(text), node, verb, "NOT_FOUND")
