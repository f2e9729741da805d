# Written by tools/make_sync.py from emcache/_fallbacks.py.
"""``get`` and ``touch`` in place of ``gat`` and ``gats``, for nodes that do not support these.

The two steps are not atomic: a value that is stored in between gets the new exptime too, and a
value that expires in between is returned all the same.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from .._errors import (
    ConnectionFailedError,
    NodeUnavailableError,
    NotFoundCommandError,
    is_unanswered,
)
from .._item import Item
from .._types import Exptime
from ._core import SyncCore

T = TypeVar("T")
Verb = Literal["gat", "gats"]


def fall_back(error: ConnectionFailedError, substitute: Callable[[], T]) -> T:
    """Call the substitute if the node did not answer this one command; else raise the error."""
    if not is_unanswered(error):
        raise error
    try:
        return substitute()
    except NodeUnavailableError:
        raise
    except ConnectionFailedError:
        # The node answers no command at all, so the error of the caller's own command is reported.
        raise error from None


def get_and_touch(
    core: SyncCore, verb: Verb, exptime: Exptime, key: bytes, return_flags: bool
) -> Item | None:
    """Read an item, then touch it; the other order would lose items with a negative exptime."""
    item = (core.get if verb == "gat" else core.gets)(key, return_flags)
    if item is not None:
        with contextlib.suppress(NotFoundCommandError):
            core.touch(key, exptime, False)
    return item


def get_and_touch_many(
    core: SyncCore, verb: Verb, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
) -> dict[bytes, Item]:
    """Read and touch many items; the first error is raised."""
    items = (core.get_many if verb == "gat" else core.gets_many)(keys, return_flags)
    for error in (_touch(core, items, exptime)).values():
        raise error
    return items


def get_and_touch_partial(
    core: SyncCore,
    verb: Verb,
    exptime: Exptime,
    items: dict[bytes, Item],
    errors: dict[bytes, Exception],
    return_flags: bool,
) -> tuple[dict[bytes, Item], dict[bytes, Exception]]:
    """Complete a partial result with the keys of nodes that do not support the command."""
    unanswered = {key: error for key, error in errors.items() if is_unanswered(error)}
    if not unanswered:
        return items, errors
    plain: Literal["get", "gets"] = "get" if verb == "gat" else "gets"
    found, failed = core.fetch_partial(plain, 0, unanswered, return_flags)
    failed |= _touch(core, found, exptime)
    others = {key: error for key, error in errors.items() if key not in unanswered}
    items |= {key: item for key, item in found.items() if key not in failed}
    return items, others | failed


def _touch(core: SyncCore, items: dict[bytes, Item], exptime: Exptime) -> dict[bytes, Exception]:
    outcome = core.touch_many(items, exptime, False)
    return outcome[2] if outcome is not None else {}
