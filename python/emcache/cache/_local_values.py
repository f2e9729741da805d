"""The values of one cache in its local cache."""

from asyncio import _get_running_loop as running_loop
from time import monotonic
from typing import Final, Generic, NamedTuple, TypeVar

from ._envelope import Envelope, now_ms
from ._flights import MISSING, Missing
from ._local_items import LocalItem, LocalItems
from ._tags import TagNames
from ._values import Values

S = TypeVar("S")
T = TypeVar("T")

ABSENT: Final = Missing()
"""In place of a value: a read has found that the key does not exist."""

_IMMUTABLE = frozenset({str, bytes, int, float, bool, type(None)})
"""Types of values that callers may share."""


class Reading(NamedTuple):
    """The beginning of a read whose value may be kept."""

    began: float
    clock: int


class LocalValues(Generic[T]):
    """Finds and keeps the values of one cache."""

    __slots__ = ("_items", "_kind", "_loads", "_table")

    def __init__(self, items: LocalItems, values: Values[T]) -> None:
        self._items = items
        self._table = items.table
        self._kind = values.kind
        self._loads = values.loads

    def with_values(self, values: Values[S]) -> "LocalValues[S]":
        """Return the same items for values of another serializer."""
        return LocalValues(self._items, values)

    def find(self, name: bytes, required: TagNames = ()) -> T | Missing:
        """Return a value that has these tags and may still be returned.

        ``ABSENT`` means that the key is known not to exist, and ``MISSING`` that it must be read.
        """
        item = self._table.get(name)
        if item is None or running_loop() is not self._items.loop:
            return MISSING
        if monotonic() >= item.deadline:
            self._items.drop(name)
            return MISSING
        if item.kind != self._kind or not self._is_current(item, required):
            return MISSING
        self._table.move_to_end(name)
        if item.data is None:
            value: T = item.value
            return value
        try:
            return self._loads(item.data, item.flags)
        except Exception:
            self._items.drop(name)
            return MISSING

    def _is_current(self, item: LocalItem, required: TagNames) -> bool:
        """Return whether a value has these tags, and none of its tags was invalidated here."""
        if not item.tags and not required:
            return True
        if item.value is not ABSENT and not set(item.tags).issuperset(required):
            return False
        return self._items.changes.are_unchanged(item.tags, item.clock)

    def begin(self) -> Reading:
        """Return what must be known of a read before it is sent."""
        return Reading(monotonic(), self._items.changes.clock)

    def keep(
        self,
        name: bytes,
        reading: Reading,
        value: T,
        envelope: Envelope | None,
        data: bytes,
        flags: int,
    ) -> None:
        """Keep a value that was read, unless the key or a tag was written in the meantime.

        Args:
            name: the key on the wire.
            reading: the beginning of the read.
            value: the value.
            envelope: the envelope of the value; None if it has none.
            data: what the serializer wrote.
            flags: its flags.
        """
        options = self._items.options
        deadline = reading.began + options.ttl
        tags: TagNames = ()
        if envelope is not None:
            tags = tuple(tag for tag, _ in envelope.tags)
            # From then on, one caller in all processes refreshes it.
            due = min(envelope.refresh_from, envelope.fresh_until)
            deadline = min(deadline, monotonic() + (due - now_ms()) / 1000)
        is_shared = not options.copy or type(value) in _IMMUTABLE
        began, clock = reading
        if is_shared:
            item = LocalItem(began, clock, deadline, self._kind, value, tags=tags)
        else:
            item = LocalItem(began, clock, deadline, self._kind, None, data, flags, tags)
        self._items.offer(name, item, len(data))

    def keep_absence(self, name: bytes, reading: Reading) -> None:
        """Remember that a key does not exist, if that was asked for."""
        if (seconds := self._items.options.misses) is None:
            self._items.drop(name)
            return
        began, clock = reading
        item = LocalItem(began, clock, began + seconds, self._kind, ABSENT)
        self._items.offer(name, item, 0)

    def drop(self, name: bytes) -> None:
        """Remove what is kept of a key, because a read has found something else."""
        self._items.drop(name)
