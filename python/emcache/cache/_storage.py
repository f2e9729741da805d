"""What a cache reads: items of its client as values, with their freshness."""

import copy
from collections.abc import Collection
from typing import Any, Generic, Literal, TypeVar

from .._client import Client
from .._errors import EmcacheError, NotFoundCommandError, SerializationError, UnsupportedError
from .._item import Item
from .._results import PartialResult
from ._chunks import Chunks, Head, Pieces, decode_head, is_head
from ._envelope import STALE, Envelope, now_ms
from ._flags import FLAGS_HEAD
from ._flights import MISSING, Flights, Missing
from ._keys import shown
from ._late_stores import Outdated
from ._leases import Leases, SeparateLeases
from ._local_items import LocalCache
from ._local_values import LocalValues, Reading
from ._marks import LEASE, mark_name
from ._meta_leases import MetaLeases
from ._policy import LeaseKey, OnError
from ._refreshes import refreshes_of
from ._tags import Found, Generations, TagNames, generations_in, is_current
from ._values import Values, is_stub, open_envelope
from ._warnings import warn

S = TypeVar("S")
T = TypeVar("T")

NOTHING: Found = {}

Freshness = Literal["fresh", "due", "stale", "invalidated"]


class Read(Generic[T]):
    """A value that was read, with the item that held it."""

    __slots__ = ("data", "envelope", "flags", "item", "value")

    def __init__(
        self, value: T, envelope: Envelope | None, item: Item, data: bytes, flags: int
    ) -> None:
        self.value = value
        self.envelope = envelope
        self.item = item
        self.data = data
        """What the serializer wrote."""
        self.flags = flags

    @property
    def freshness(self) -> Freshness:
        """Whether the value is within its ttl, and whether a refresh is due."""
        if self.envelope is None:
            return "fresh"
        if self.envelope.fresh_until == STALE:
            return "invalidated"
        now = now_ms()
        if now >= self.envelope.fresh_until:
            return "stale"
        return "due" if now >= self.envelope.refresh_from else "fresh"

    def is_within(self, stale_for: float | None) -> bool:
        """Return whether a caller with this ``stale_for`` may be served the value."""
        if self.envelope is None or now_ms() < self.envelope.fresh_until:
            return True
        if self.envelope.fresh_until == STALE:
            # `invalidate(stale_for=)` allowed it.
            return stale_for != 0
        return now_ms() < self.envelope.fresh_until + (stale_for or 0) * 1000


class Storage(Generic[T]):
    """The parts of a cache that its lookups share."""

    __slots__ = (
        "client",
        "flights",
        "has_lease_keys",
        "leases",
        "local",
        "on_unreadable",
        "pieces",
        "refreshes",
        "tags",
        "values",
    )

    def __init__(
        self,
        client: Client,
        flights: Flights,
        values: Values[T],
        on_unreadable: OnError,
        lease_key: LeaseKey,
        tags: TagNames = (),
        chunks: Chunks | None = None,
        local: LocalCache | None = None,
    ) -> None:
        self.client = client
        self.flights = flights
        self.values = values
        self.on_unreadable = on_unreadable
        self.tags = tags
        """The tags of all values."""
        self.pieces = None if chunks is None else Pieces(client, chunks)
        """Stores and reads the values that do not fit into one item."""
        self.refreshes = refreshes_of(client)
        self.has_lease_keys = lease_key == "separate"
        """Whether leases have keys of their own, which are deleted with the values."""
        leases = MetaLeases(client)
        self.leases: Leases = SeparateLeases(client, leases) if self.has_lease_keys else leases
        self.local: LocalValues[T] | None = None
        """The values in the local cache; None without one."""
        if local is not None:
            self.local = LocalValues(flights.local.items_of(local), values)

    def with_values(self, values: Values[S]) -> "Storage[S]":
        """Return the same storage for values of another serializer."""
        storage: Storage[Any] = copy.copy(self)
        storage.values = values
        if self.local is not None:
            storage.local = self.local.with_values(values)
        return storage

    async def look(self, name: bytes, tags: TagNames) -> tuple[Item | None, Found]:
        """Read an item together with the generations of tags, in one round trip.

        A generation that cannot be read is absent; an error of the item itself is raised.
        """
        if not tags:
            return await self.client.get(name, return_flags=True), NOTHING
        return looked(await self.look_partial(name, tags), name, tags)

    async def look_partial(self, name: bytes, tags: TagNames) -> PartialResult[bytes, Item]:
        """Do the same; the result has the items and generations, and their errors."""
        return await self.client.get_many((name, *tags), True, on_error="partial")

    async def read(
        self,
        name: bytes,
        item: Item | None,
        outdated: Outdated,
        tags: TagNames | None = None,
        found: Found = NOTHING,
        *,
        touch: int | None = None,
    ) -> Read[T] | None:
        """Return the value of an item; None if it is missing, a stub, or outdated.

        Args:
            name: the key on the wire.
            item: what was read.
            outdated: stores of this process that are about to be removed.
            tags: the tags that the value must have; None for those of the cache.
            found: the generations that were read at the same time as the item.
            touch: the exptime that the item now has, for its pieces; None if it was not changed.

        Raises:
            SerializationError: it cannot be read, and ``on_unreadable`` is ``"raise"``.
            EmcacheError: a piece of it cannot be read.
        """
        if item is None or is_stub(item.value, item.flags):
            return None
        if name in outdated and any(late.wrote(item.value) for late in outdated[name]):
            return None
        required = self.tags if tags is None else tags
        try:
            if self.pieces is not None and is_head(item.flags):
                return await self._read_pieces(self.pieces, name, item, required, found, touch)
            unpacked = await self.values.unpack(name, item.value, item.flags or 0)
        except SerializationError as error:
            if self.on_unreadable == "raise":
                raise
            warn("an unreadable value counts as a miss", error)
            return None
        value, envelope, data, flags = unpacked
        has_tags = required or (envelope is not None and envelope.tags)
        if has_tags and not await is_current(self.client, envelope, required, found):
            return None
        return Read(value, envelope, item, data, flags)

    async def read_fresh(
        self,
        name: bytes,
        item: Item | None,
        outdated: Outdated,
        tags: TagNames | None = None,
        found: Found = NOTHING,
        reading: Reading | None = None,
        *,
        touch: int | None = None,
    ) -> T | Missing:
        """Do the same as :meth:`read`; ``MISSING`` also if the value is stale.

        With ``reading``, a fresh value is kept in the local cache.
        """
        read = await self.read(name, item, outdated, tags, found, touch=touch)
        if reading is not None:
            self.keep(name, item, read, reading)
        return read.value if read is not None and read.is_within(0) else MISSING

    def keep(self, name: bytes, item: Item | None, read: Read[T] | None, reading: Reading) -> None:
        """Keep what was read in the local cache: a fresh value, or that the key does not exist."""
        if self.local is None:
            return
        if read is not None and read.freshness == "fresh":
            self.local.keep(name, reading, read.value, read.envelope, read.data, read.flags)
        elif item is None or is_stub(item.value, item.flags):
            self.local.keep_absence(name, reading)
        else:
            self.local.drop(name)

    async def _read_pieces(
        self,
        pieces: Pieces,
        name: bytes,
        item: Item,
        required: TagNames,
        found: Found,
        touch: int | None,
    ) -> Read[T] | None:
        """Read a value whose head is ``item``; its tags are checked first."""
        envelope, head = self._head(name, item.value)
        has_tags = required or envelope.tags
        if has_tags and not await is_current(self.client, envelope, required, found):
            return None
        data = await pieces.read(name, head, touch)
        if data is None:
            return None
        value, _, data, flags = await self.values.unpack(name, data, head.flags)
        return Read(value, envelope, item, data, flags)

    def _head(self, name: bytes, data: bytes) -> tuple[Envelope, Head]:
        try:
            envelope, data = open_envelope(data)
            return envelope, decode_head(data)
        except SerializationError as error:
            summary = f"the value of {shown(name)} cannot be read: {error}"
            raise SerializationError(summary) from None

    async def split(
        self, name: bytes, data: bytes, flags: int, expires: int, generations: Generations
    ) -> tuple[bytes, int, int]:
        """Store bytes that do not fit into one item as pieces.

        Returns:
            The bytes, flags and exptime to store under the key, without an envelope.
        """
        pieces = self.pieces
        overhead = sum(len(tag) + 9 for tag, _ in generations)
        if pieces is None or len(data) + overhead <= pieces.largest:
            return data, flags, expires
        expires = pieces.exptime(expires)
        return await pieces.store(name, data, flags, expires), FLAGS_HEAD, expires

    async def split_many(
        self, packed: dict[int, dict[bytes, bytes]], expires: int, generations: Generations
    ) -> dict[bytes, Exception]:
        """Do the same for many values, by their flags and keys; return the errors by key."""
        errors: dict[bytes, Exception] = {}
        heads: dict[bytes, bytes] = {}
        for flags, values in packed.items():
            for name, data in list(values.items()):
                try:
                    stored, bits, _ = await self.split(name, data, flags, expires, generations)
                except EmcacheError as error:
                    del values[name]
                    errors[name] = error
                    continue
                if bits != flags:
                    del values[name]
                    heads[name] = stored
        if heads:
            packed[FLAGS_HEAD] = heads
        return errors

    def exptime(self, flags: int, expires: int) -> int:
        """Return the exptime of an item with these flags."""
        if self.pieces is None or not is_head(flags):
            return expires
        return self.pieces.exptime(expires)

    def discard(self, name: bytes, data: bytes, flags: int) -> None:
        """Delete the pieces of a value whose head was not stored."""
        if self.pieces is not None and is_head(flags):
            self.pieces.discard(name, self._head(name, data)[1])

    async def touch(self, pieces: Pieces, name: bytes, expires: int) -> bool:
        """Update the exptime of a value that may be in pieces; return whether it exists."""
        client = self.client
        try:
            found = await client.meta_get(name, value=False, touch=expires)
        except UnsupportedError:
            item = await client.gat(expires, name, return_flags=True)
        else:
            if found is None or not is_head(found.flags):
                return found is not None
            item = await client.get(name, return_flags=True)
        if item is None or not is_head(item.flags):
            return item is not None
        return await pieces.touch(name, self._head(name, item.value)[1], expires)

    async def remove_stub(self, name: bytes) -> bool:
        """End the lease under a key; return False if there is a value."""
        item = await self.client.gets(name, return_flags=True)
        if item is not None and not is_stub(item.value, item.flags):
            return False
        if item is not None:
            await MetaLeases(self.client).give_back(name, item.cas or 0)
        return True

    async def delete(self, name: bytes) -> bool:
        """Delete a value and its lease; return whether the value existed."""
        if self.has_lease_keys:
            await _deletes(self.client, mark_name(name, LEASE))
        return await _deletes(self.client, name)

    async def delete_many(self, names: Collection[bytes]) -> dict[bytes, Exception]:
        """Delete values and their leases; return the errors by key."""
        errors: dict[bytes, Exception] = {}
        if self.has_lease_keys:
            leases = {mark_name(name, LEASE): name for name in names}
            failed = (await self.client.delete_many(leases)).errors
            errors = {leases[lease]: error for lease, error in failed.items()}
        return errors | (await self.client.delete_many(names)).errors


def looked(
    items: PartialResult[bytes, Item], name: bytes, tags: TagNames
) -> tuple[Item | None, Found]:
    """Return the item and the generations that :meth:`Storage.look_partial` has read."""
    if (error := items.errors.get(name)) is not None:
        raise error
    return items.get(name), generations_in(items, tags)


async def _deletes(client: Client, name: bytes) -> bool:
    try:
        await client.delete(name)
    except NotFoundCommandError:
        return False
    return True
