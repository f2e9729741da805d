"""The items of a fake server: expiry, CAS, eviction, and the server's counters."""

import math
import re
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

OVERHEAD = 56
"""Bytes of an item in addition to its key and value; memcached's header with a CAS is as long."""
_LONGEST_NUMBER = 100
_THIRTY_DAYS = 60 * 60 * 24 * 30
_NUMBER = re.compile(rb"\s*\+?(\d+)(?:\s.*)?", re.DOTALL)

STORED, NOT_STORED, EXISTS, NOT_FOUND = b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND"


class TooLargeError(Exception):
    """The item is larger than the limit."""


class NotANumberError(Exception):
    """The value is not a decimal number below 2**64."""


@dataclass(slots=True)
class Item:
    """An item. The last five fields are those that meta commands show."""

    value: bytes
    flags: int
    expires: float | None
    """When it expires, as Unix time; None for never."""
    cas: int
    stored: float
    accessed: float
    fetched: bool = False
    active: bool = False
    stale: bool = False
    token_sent: bool = False
    """Whether a client was told that it is the one to compute the value."""
    binary_key: bool = False

    def size(self, key: bytes) -> int:
        """Return the bytes that the item counts for memory."""
        return OVERHEAD + len(key) + 1 + len(self.value) + 2 + (4 if self.flags else 0)


class Store:
    """Items by key, the least recently used first."""

    def __init__(self, item_limit: int, memory_limit: int) -> None:
        self.item_limit = item_limit
        self.memory_limit = memory_limit
        self.ahead = 0.0
        """Seconds that the clock is ahead of the real one."""
        self.items: OrderedDict[bytes, Item] = OrderedDict()
        self.bytes = 0
        self.counters: Counter[str] = Counter()
        self.refuses_memory = False
        self._last_cas = 1000
        self._flush_at: float | None = None

    def now(self) -> float:
        """Return the time of the server's clock."""
        return time.time() + self.ahead

    def expiry(self, exptime: int) -> float | None:
        """Convert memcached's exptime: seconds from now, a Unix time, or negative for the past."""
        if exptime == 0:
            return None
        if exptime < 0:
            return 0.0
        return exptime if exptime > _THIRTY_DAYS else self.now() + exptime

    def ttl(self, item: Item) -> int:
        """Return the seconds until an item expires, -1 for never."""
        return -1 if item.expires is None else max(math.ceil(item.expires - self.now()), 0)

    def next_cas(self, explicit: int | None = None) -> int:
        """Return the CAS of a new version of an item."""
        self._last_cas += 1
        return self._last_cas if explicit is None else explicit

    # -- reading ---------------------------------------------------------------------------------

    def find(self, key: bytes) -> Item | None:
        """Return an item that has neither expired nor been flushed; does not count as an access."""
        self._flush_if_due()
        item = self.items.get(key)
        if item is not None and self._has_expired(item):
            self.remove(key)
            return None
        return item

    def _has_expired(self, item: Item) -> bool:
        return item.expires is not None and item.expires <= self.now()

    def bump(self, key: bytes, item: Item) -> None:
        """Record an access, as memcached does: its time counts from the second one."""
        self.items.move_to_end(key)
        if item.fetched and not item.active:
            item.active, item.accessed = True, self.now()
        item.fetched = True

    # -- writing ---------------------------------------------------------------------------------

    def put(self, key: bytes, item: Item) -> None:
        """Store an item, and evict others if memory is short.

        Raises:
            TooLargeError: the item is larger than the limit.
            MemoryError: it does not fit, or a test wants this.
        """
        self.check_size(key, len(item.value), item.flags)
        size = item.size(key)
        if self.refuses_memory or size > self.memory_limit:
            self.remove(key)
            self.counters["store_no_memory"] += 1
            raise MemoryError
        self.remove(key)
        self.items[key] = item
        self.bytes += size
        self.counters["total_items"] += 1
        self.evict()

    def check_size(self, key: bytes, length: int, flags: int) -> None:
        """Raise TooLargeError if an item of ``length`` bytes would be larger than the limit."""
        if OVERHEAD + len(key) + 1 + length + 2 + (4 if flags else 0) > self.item_limit:
            self.counters["store_too_large"] += 1
            raise TooLargeError

    def new(self, value: bytes, flags: int, expires: float | None, cas: int | None = None) -> Item:
        """Return an item with the next CAS."""
        now = self.now()
        return Item(value, flags, expires, self.next_cas(cas), now, now)

    def evict(self) -> None:
        """Remove the least recently used items until the others fit."""
        while self.bytes > self.memory_limit:
            key, item = next(iter(self.items.items()))
            self.counters["reclaimed" if self._has_expired(item) else "evictions"] += 1
            self.remove(key)

    def remove(self, key: bytes) -> None:
        """Remove an item, if it exists."""
        if (item := self.items.pop(key, None)) is not None:
            self.bytes -= item.size(key)

    def save(
        self,
        mode: str,
        key: bytes,
        item: Item,
        cas: int | None = None,
        *,
        or_stale: bool = False,
    ) -> bytes:
        """Store an item by one of the modes ``set add replace append prepend``.

        Args:
            mode: the mode.
            key: the key.
            item: the item; append and prepend keep the flags and the exptime of the old one.
            cas: only if the stored item has this CAS.
            or_stale: store it as stale if the CAS is older than the stored one.
        """
        old = self.find(key)
        if mode in ("append", "prepend"):
            cas = cas or None  # as memcached, which takes a CAS of 0 for none here
        if old is None:
            if cas is not None and mode in ("set", "replace"):
                return NOT_FOUND
            if mode not in ("set", "add"):
                return NOT_STORED
        elif mode == "add":
            self.items.move_to_end(key)
            return NOT_STORED
        elif cas is not None and cas != old.cas:
            if not or_stale or cas > old.cas:
                return EXISTS
            item.stale, item.token_sent = True, old.token_sent
        if old is not None and mode in ("append", "prepend"):
            parts = (old.value, item.value) if mode == "append" else (item.value, old.value)
            item.value, item.flags, item.expires = b"".join(parts), old.flags, old.expires
            item.binary_key = old.binary_key
        self.put(key, item)
        return STORED

    def add_delta(self, key: bytes, item: Item, delta: int, cas: int | None = None) -> int:
        """Change a counter: wrap at 2**64, stop at 0, and never shorten its text.

        Raises:
            NotANumberError: the value is not a number.
        """
        text = _NUMBER.fullmatch(item.value[:_LONGEST_NUMBER])
        if text is None or (number := int(text[1])) >= 1 << 64:
            raise NotANumberError
        number += delta
        number = max(number, 0) if delta < 0 else number % (1 << 64)
        digits = b"%d" % number
        if len(digits) > len(item.value):
            changed = self.new(digits, item.flags, item.expires, cas)
            changed.binary_key = item.binary_key
            self.put(key, changed)
        else:
            item.value = digits.ljust(len(item.value))
            item.cas = self.next_cas(cas)
            self.items.move_to_end(key)
        return number

    def flush(self, delay: int = 0) -> None:
        """Remove all items, or those that are older than now in ``delay`` seconds."""
        self.counters["cmd_flush"] += 1
        self._flush_at = None
        if delay <= 0:
            self.items.clear()
            self.bytes = 0
        else:
            self._flush_at = self.expiry(delay)

    def _flush_if_due(self) -> None:
        if (due := self._flush_at) is not None and self.now() >= due:
            self._flush_at = None
            for key in [key for key, item in self.items.items() if item.stored <= due]:
                self.remove(key)
