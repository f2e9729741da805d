"""``get`` and ``touch`` in place of ``gat`` and ``gats``, for nodes that do not support these.

The two steps are not atomic: a value that is stored in between gets the new exptime too, and a
value that expires in between is returned all the same.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeVar

from ._emcache import CoreClient
from ._errors import (
    ConnectionFailedError,
    NodeUnavailableError,
    NotFoundCommandError,
    is_unanswered,
)
from ._item import Item
from ._types import Exptime

T = TypeVar("T")
Verb = Literal["gat", "gats"]


async def fall_back(error: ConnectionFailedError, substitute: Callable[[], Awaitable[T]]) -> T:
    """Await the substitute if the node did not answer this one command; else raise the error."""
    if not is_unanswered(error):
        raise error
    try:
        return await substitute()
    except NodeUnavailableError:
        raise
    except ConnectionFailedError:
        # The node answers no command at all, so the error of the caller's own command is reported.
        raise error from None


async def get_and_touch(
    core: CoreClient, verb: Verb, exptime: Exptime, key: bytes, return_flags: bool
) -> Item | None:
    """Read an item, then touch it; the other order would lose items with a negative exptime."""
    item = await (core.get if verb == "gat" else core.gets)(key, return_flags)
    if item is not None:
        with contextlib.suppress(NotFoundCommandError):
            await core.touch(key, exptime, False)
    return item


async def get_and_touch_many(
    core: CoreClient, verb: Verb, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
) -> dict[bytes, Item]:
    """Read and touch many items; the first error is raised."""
    items = await (core.get_many if verb == "gat" else core.gets_many)(keys, return_flags)
    for error in (await _touch(core, items, exptime)).values():
        raise error
    return items


async def get_and_touch_partial(
    core: CoreClient,
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
    found, failed = await core.fetch_partial(plain, 0, unanswered, return_flags)
    failed |= await _touch(core, found, exptime)
    others = {key: error for key, error in errors.items() if key not in unanswered}
    items |= {key: item for key, item in found.items() if key not in failed}
    return items, others | failed


async def _touch(
    core: CoreClient, items: dict[bytes, Item], exptime: Exptime
) -> dict[bytes, Exception]:
    outcome = await core.touch_many(items, exptime, False)
    return outcome[2] if outcome is not None else {}
