# Written by tools/make_sync.py from emcache/_counters.py.
"""Counters that are created where they are missing.

Servers from 1.6.9 on support this in one command (``ma``), and so does the binary protocol. The
core finds out which nodes support it. On other nodes it takes several steps, each of them atomic.
"""

import contextlib
from typing import Literal

from .._errors import (
    ConnectionFailedError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    is_unanswered,
    with_origin,
)
from .._types import Exptime
from ._core import SyncCore

_ROUNDS = 8


def count_from(
    core: SyncCore,
    verb: Literal["incr", "decr"],
    key: bytes,
    value: int,
    initial: int,
    exptime: Exptime,
) -> int:
    """Increment or decrement a counter; create a missing one as ``initial``."""
    try:
        number = core.count_from(verb, key, value, initial, exptime)
    except ConnectionFailedError as error:
        if not is_unanswered(error):
            raise
    else:
        # Negative: the node does not support it.
        if number >= 0:
            return number
    return _in_steps(core, verb, key, value, initial, exptime)


def _in_steps(
    core: SyncCore,
    verb: Literal["incr", "decr"],
    key: bytes,
    value: int,
    initial: int,
    exptime: Exptime,
) -> int:
    step = core.increment if verb == "incr" else core.decrement
    for _ in range(_ROUNDS):
        try:
            # The result is None only with noreply.
            return step(key, value, False) or 0
        except NotFoundCommandError as error:
            node = error.node
        with contextlib.suppress(NotStoredStorageCommandError):
            core.add(key, b"%d" % initial, 0, exptime, False)
            return initial
    text = f"other clients created and deleted the counter {_ROUNDS} times during this call"
    raise with_origin(NotFoundCommandError(text), node, verb, "NOT_FOUND")
