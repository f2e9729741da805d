"""The short way of nearly every hit in an envelope: a value with tags, or one that is refreshed."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from .._item import Item
from ._envelope import GENERATION_SIZE, HEADER, NEVER, VERSION, now_ms
from ._flags import FLAG_ENVELOPE, FLAGS_HEAD
from ._flights import MISSING, Missing
from ._tags import TagNames

T = TypeVar("T")

_LENGTHS = [length.to_bytes(1, "big") for length in range(256)]


def fresh_value(
    item: Item | None,
    tags: TagNames,
    items: Mapping[bytes, Item],
    marks: int,
    loads: Callable[[bytes, int], T],
) -> T | Missing:
    """Return the value of an item that is fresh, whole, and has exactly these tags in this order.

    For all other items, ``MISSING``: then ``Storage.read`` decides, which accepts the same ones.

    Args:
        item: what was read.
        tags: the tags that the value must have.
        items: the generations that were read at the same time.
        marks: see ``Values.marks``.
        loads: see ``Values.loads``.
    """
    if item is None:
        return MISSING
    data, flags = item.value, item.flags or 0
    if flags & marks != FLAG_ENVELOPE or len(data) < HEADER.size:
        return MISSING
    version, refresh_from, fresh_until, count = HEADER.unpack_from(data)
    if version != VERSION or count != len(tags):
        return MISSING
    if (refresh_from != NEVER or fresh_until != NEVER) and now_ms() >= min(
        refresh_from, fresh_until
    ):
        return MISSING
    start = HEADER.size
    for tag in tags:
        found = items.get(tag)
        if found is None or len(found.value) != GENERATION_SIZE:
            return MISSING
        expected = _LENGTHS[len(tag)] + tag + found.value
        if not data.startswith(expected, start):
            return MISSING
        start += len(expected)
    flags &= ~FLAG_ENVELOPE
    if start == len(data) or flags == FLAGS_HEAD:
        return MISSING
    try:
        return loads(data[start:], flags)
    except Exception:
        return MISSING  # `Storage.read` raises it again
