"""Counters that begin where they are missing.

Servers from 1.6.9 on do it in one command (``ma``), and so does the binary protocol. Which version
a node has is asked once after each connect. Older ones are asked in steps, of which each is atomic.
"""

import contextlib
from typing import Literal

from ._arguments import Exptime
from ._emcache import CoreClient
from ._errors import NotFoundCommandError, NotStoredStorageCommandError, attributed

_UNKNOWN, _KNOWN_NOT_TO, _REFUSED = -1, -2, -3
"""What the core says instead of a number: nothing was done, the server may not know ``ma``."""

_META_SINCE = (1, 6, 9)
"""1.6.6 and before answer in another dialect."""

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
    for _ in range(_ROUNDS):
        number = await core.count_from(verb, key, value, initial, exptime)
        if number >= 0:
            return number
        if number == _KNOWN_NOT_TO:
            break
        node = core.node_for(key)
        is_known = number != _REFUSED and _knows(await core.version(node))
        core.set_meta(node, is_known)
    return await _in_steps(core, verb, key, value, initial, exptime)


def _knows(version: str) -> bool:
    """Tell whether a server of this version knows ``ma``. What has no such number is a proxy."""
    parts = version.split("-")[0].split(".")
    return all(part.isdecimal() for part in parts) and tuple(map(int, parts)) >= _META_SINCE


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
    raise attributed(NotFoundCommandError(text), node, verb)
