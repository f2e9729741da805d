"""The local cache: items in the memory of this process, in front of the servers.

The items belong to the caches of one client that were created with the same :class:`LocalCache`. A
write through any cache of the client drops the items of its key. A read that began before the end
of that write is not kept: :class:`LocalChanges` remembers when each key changed last, in a table of
fixed size. Two keys that share a place in it cost a read that is not kept, and nothing else.
"""

import contextlib
import weakref
from asyncio import AbstractEventLoop, get_running_loop
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from .._checks import check_bools, check_range, check_seconds

_PLACES = 1024
_OVERHEAD = 400
"""Bytes of an item without its key and value, on a 64-bit machine, rounded up."""
_LARGEST = 2**48


@dataclass(frozen=True, eq=False)
class LocalCache:
    """Keeps values that were read in the memory of this process; pass it as ``local=``.

    A value is returned for at most ``ttl`` seconds after it was read, whatever other processes do
    in the meantime. Writes through any cache of the same client are seen at once. See "Hot keys and
    a local cache" in the documentation.

    Caches of one client with the same ``LocalCache`` object share its limits.

    Args:
        max_items: the most items; the least recently used ones are dropped.
        ttl: seconds from the beginning of a read for which its value is returned.
        max_bytes: the most bytes of all items, by an estimate: the key, the serialized value, and
            about 400 bytes more.
        misses: seconds for which :meth:`Cache.get` and :meth:`Cache.get_many` remember that a key
            does not exist; None for never.
        copy: return a new object on each hit. With False, all hits return the same object: it is
            faster, and what one caller changes in it is seen by the others.
    """

    max_items: int
    ttl: float
    max_bytes: int = 64 * 1024 * 1024
    misses: float | None = None
    copy: bool = True

    def __post_init__(self) -> None:
        check_range("max_items", self.max_items, 1, _LARGEST)
        check_range("max_bytes", self.max_bytes, 1, _LARGEST)
        check_seconds("ttl", self.ttl)
        if self.misses is not None:
            check_seconds("misses", self.misses)
        check_bools(copy=self.copy)


class LocalItem:
    """One value, or the knowledge that there is none."""

    __slots__ = ("began", "clock", "data", "deadline", "flags", "kind", "size", "tags", "value")

    def __init__(
        self,
        began: float,
        clock: int,
        deadline: float,
        kind: Hashable,
        value: Any,
        data: bytes | None = None,
        flags: int = 0,
        tags: tuple[bytes, ...] = (),
    ) -> None:
        self.began = began
        self.clock = clock
        self.deadline = deadline
        """The ``monotonic()`` from which it is not returned any more."""
        self.kind = kind
        """The kind of the cache's values, which another cache may not share."""
        self.value = value
        """The object that is returned, unless there are ``data``."""
        self.data = data
        """What the serializer wrote, if each hit gets an object of its own."""
        self.flags = flags
        self.tags = tags
        self.size = 0


class LocalItems:
    """The items of one client and one :class:`LocalCache`, in the order of their use."""

    def __init__(self, options: LocalCache, changes: "LocalChanges") -> None:
        self.options = options
        self.changes = changes
        self.table: OrderedDict[bytes, LocalItem] = OrderedDict()
        self.loop: AbstractEventLoop | None = None
        """The loop of the client; items are not returned in others, as the client is not."""
        self.size = 0

    def offer(self, name: bytes, item: LocalItem, length: int) -> None:
        """Add an item that was read, unless its key or a tag has changed since."""
        if self.changes.are_unchanged((name, *item.tags), item.clock):
            self.loop = get_running_loop()
            self.keep(name, item, length)
        else:
            # The item that is there, if any, may be older than what was read.
            self.drop(name)

    def keep(self, name: bytes, item: LocalItem, length: int) -> None:
        """Add an item, unless one is there that was read later."""
        known = self.table.get(name)
        now = monotonic()
        if known is not None and known.began > item.began and known.deadline > now:
            return
        self.drop(name)
        item.size = len(name) + length + _OVERHEAD
        if item.deadline <= now or item.size > self.options.max_bytes:
            return
        self.table[name] = item
        self.size += item.size
        while len(self.table) > self.options.max_items or self.size > self.options.max_bytes:
            _, oldest = self.table.popitem(last=False)
            self.size -= oldest.size

    def drop(self, name: bytes) -> None:
        """Remove the item of a key, if there is one."""
        if (item := self.table.pop(name, None)) is not None:
            self.size -= item.size

    def clear(self) -> None:
        """Remove all items."""
        self.table.clear()
        self.size = 0


class LocalChanges:
    """When the keys and tags of one client changed last, for its local caches."""

    def __init__(self) -> None:
        self._all: list[weakref.ref[LocalItems]] = []
        self._by_options: weakref.WeakKeyDictionary[LocalCache, weakref.ref[LocalItems]]
        self._by_options = weakref.WeakKeyDictionary()
        self.clock = 0
        """Counts the changes."""
        self._changed = [0] * _PLACES
        """The clock of the last change of the keys and tags that share a place."""
        self._is_closed = False

    def items_of(self, options: LocalCache) -> LocalItems:
        """Return the items of a local cache; they live as long as a cache uses them."""
        known = self._by_options.get(options)
        items = None if known is None else known()
        if items is None:
            items = self._new_items(options)
            reference = weakref.ref(items, self._all.remove)
            self._all.append(reference)
            self._by_options[options] = reference
        return items

    def _new_items(self, options: LocalCache) -> LocalItems:
        return LocalItems(options, self)

    def forget(self, name: bytes) -> None:
        """Drop the items of a key; reads that have begun are not kept."""
        if self._all:
            self._note((name,))
            for reference in self._all:
                if (items := reference()) is not None:
                    items.drop(name)

    @contextlib.contextmanager
    def changing_tags(self, tags: Iterable[bytes]) -> Iterator[None]:
        """Mark tags as invalidated, at the beginning and at the end of a block."""
        names = tuple(tags)
        self._note(names)
        try:
            yield
        finally:
            self._note(names)

    def _note(self, names: Iterable[bytes]) -> None:
        self.clock += 1
        for name in names:
            self._changed[hash(name) % _PLACES] = self.clock

    def are_unchanged(self, names: Iterable[bytes], clock: int) -> bool:
        """Return whether none of these keys or tags has changed since this clock."""
        changed = self._changed
        return not self._is_closed and all(changed[hash(n) % _PLACES] <= clock for n in names)

    async def close(self) -> None:
        """Drop all items: a closed client raises, whatever the key."""
        self.clear()

    def clear(self) -> None:
        """Drop all items, and keep no others."""
        self._is_closed = True
        for reference in self._all:
            if (items := reference()) is not None:
                items.clear()
