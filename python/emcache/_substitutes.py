"""Classic commands in place of ``gat`` and ``gats``, for nodes that do not answer these.

Not atomic: a value that is stored between the read and the ``touch`` gets the new exptime too, and
one that expires there is returned all the same.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeVar

from ._arguments import Exptime
from ._emcache import CoreClient
from ._errors import (
    ConnectionFailedError,
    NodeUnavailableError,
    NotFoundCommandError,
    is_unanswered,
)
from .base import Item

T = TypeVar("T")
Verb = Literal["gat", "gats"]


async def instead(error: ConnectionFailedError, substitute: Callable[[], Awaitable[T]]) -> T:
    """Await the substitute if the node did not answer the command; otherwise raise the error."""
    if not is_unanswered(error):
        raise error
    try:
        return await substitute()
    except NodeUnavailableError:
        raise
    except ConnectionFailedError:
        # The node answers nothing at all: that is told of the command that was called.
        raise error from None


async def get_and_touch(
    core: CoreClient, verb: Verb, exptime: Exptime, key: bytes, return_flags: bool
) -> Item | None:
    """Read, and touch what was found: in this order, as a negative exptime ends the item."""
    item = await (core.get if verb == "gat" else core.gets)(key, return_flags)
    if item is not None:
        with contextlib.suppress(NotFoundCommandError):
            await core.touch(key, exptime, False)
    return item


async def get_and_touch_many(
    core: CoreClient, verb: Verb, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
) -> dict[bytes, Item]:
    """As :func:`get_and_touch`; fails as a whole."""
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
    """Complete what came of a partial call: the keys of nodes that did not answer its command."""
    unanswered = {key: error for key, error in errors.items() if is_unanswered(error)}
    if not unanswered:
        return items, errors
    plain: Literal["get", "gets"] = "get" if verb == "gat" else "gets"
    found, failed = await core.fetch_partial(plain, 0, unanswered, return_flags)
    failed |= await _touch(core, found, exptime)
    kept = {key: error for key, error in errors.items() if key not in unanswered}
    items |= {key: item for key, item in found.items() if key not in failed}
    return items, kept | failed


async def _touch(
    core: CoreClient, items: dict[bytes, Item], exptime: Exptime
) -> dict[bytes, Exception]:
    told = await core.touch_many(items, exptime, False)
    return told[2] if told is not None else {}
