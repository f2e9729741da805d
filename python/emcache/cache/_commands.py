"""The commands of memcached on typed values."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, overload

from .._client import Client
from .._errors import (
    ArithmeticCommandError,
    EmcacheError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    SerializationError,
    StorageCommandError,
    is_missing,
)
from .._item import Item
from .._results import PartialResult
from ._flights import MISSING, Missing
from ._keys import Key
from ._late_stores import NONE_OUTDATED, Outdated
from ._local_reads import LocalReads
from ._local_values import Reading
from ._storage import NOTHING, looked
from ._tags import (
    Found,
    Generations,
    TagNames,
    Tags,
    TagSnapshot,
    find_generations,
    generations_in,
    make_generations,
    seal_many,
    seal_with_tags,
)
from ._ttl import Ttl, exptime
from ._values import Values, is_stub

T = TypeVar("T")
D = TypeVar("D")
K = TypeVar("K", bound=Key)

_ROUNDS = 8


class Commands(LocalReads[T]):
    """The methods of :class:`Cache` that send one command."""

    _values: Values[T]
    _ttl: Ttl
    _has_tags: bool

    @property
    def client(self) -> Client:
        """The client of the cache."""
        return self._client

    def wire_key(self, key: Key) -> bytes:
        """Return the key as it is sent to the server, for example for ``client.node_for``."""
        return self._keys.wire(key)

    def _exptime(self, ttl: Ttl | None) -> int:
        return exptime(self._ttl if ttl is None else ttl)

    @overload
    async def get(self, key: Key, *, tags: Tags | None = None) -> T | None: ...
    @overload
    async def get(self, key: Key, default: D, *, tags: Tags | None = None) -> T | D: ...
    async def get(self, key: Key, default: Any = None, *, tags: Tags | None = None) -> Any:
        """Get a value, or ``default`` on a miss.

        Args:
            key: see :class:`Cache`.
            default: returned on a miss.
            tags: tags that the value must have; a value without one of them counts as a miss. The
                tags that you name are read together with the value; other tags of the value take
                another round trip.
        """
        name = self._keys.wire(key)
        if self._local is not None:
            with_tags = self._tag_names(tags)
            value = self._find_locally(name, with_tags, self._counts)
            if not isinstance(value, Missing):
                return value
            return await self._get_with_local(name, default, with_tags, value)
        outdated = self._late.outdated((name,)) if self._late.all_outdated else NONE_OUTDATED
        if tags is not None or self._has_tags:
            names = self._tag_names(tags)
            items = await self._storage.look_partial(name, names)
            if not outdated:
                value = self._fresh(items.get(name), names, items, self._counts)
                if not isinstance(value, Missing):
                    return value
            item, found = looked(items, name, names)
            read = await self._storage.read_fresh(name, item, outdated, names, found)
            return self._counted(read, default)
        item = await self._client.get(name, True)
        # Nearly every hit takes this short way; `read_fresh` does the same for all items.
        if item is not None and not outdated:
            data, flags = item.value, item.flags
            if data and not flags & self._marks:  # type: ignore[operator]
                try:
                    value = self._loads(data, flags)  # type: ignore[arg-type]
                except Exception:
                    outdated = NONE_OUTDATED
                else:
                    self._counts.hits += 1
                    return value
            elif not isinstance(value := self._fresh(item, (), {}, self._counts), Missing):
                return value
        return self._counted(await self._storage.read_fresh(name, item, outdated), default)

    async def get_with_cas(self, key: Key) -> tuple[T, int] | None:
        """Get a value and its token for :meth:`cas`, or None on a miss."""
        name = self._keys.wire(key)
        outdated = self._late.outdated((name,))
        item, generations = await self._with_tags(self._client.gets(name, return_flags=True))
        # It may be newer than a value in the local cache, which must not be returned after it.
        self._flights.local.forget(name)
        read = await self._storage.read_fresh(name, item, outdated, None, generations)
        found = self._counted(read, MISSING)
        if isinstance(found, Missing) or item is None or item.cas is None:
            return None
        return found, item.cas

    @overload
    async def get_and_touch(self, key: Key, ttl: Ttl) -> T | None: ...
    @overload
    async def get_and_touch(self, key: Key, ttl: Ttl, default: D) -> T | D: ...
    async def get_and_touch(self, key: Key, ttl: Ttl, default: Any = None) -> Any:
        """Get a value and update its ``ttl``; return ``default`` on a miss.

        A value that was stored with ``refresh`` or ``stale_for`` still ends with its first ``ttl``.
        """
        name, expires = self._keys.wire(key), exptime(ttl)
        outdated = self._late.outdated((name,))
        reading = self._client.gat(expires, name, return_flags=True)
        try:
            item, generations = await self._with_tags(reading)
        finally:
            self._flights.local.forget(name)
        read = await self._storage.read_fresh(
            name, item, outdated, None, generations, touch=expires
        )
        return self._counted(read, default)

    async def _with_tags(self, reading: Awaitable[Item | None]) -> tuple[Item | None, Found]:
        """Read an item together with the tags of the cache."""
        if not self._storage.tags:
            return await reading, NOTHING
        return await asyncio.gather(reading, find_generations(self._client, self._storage.tags))

    @overload
    async def get_many(
        self,
        keys: Iterable[K],
        *,
        on_error: Literal["raise"] = ...,
        tags: Tags | None = None,
    ) -> dict[K, T]: ...
    @overload
    async def get_many(
        self, keys: Iterable[K], *, on_error: Literal["partial"], tags: Tags | None = None
    ) -> PartialResult[K, T]: ...
    async def get_many(
        self,
        keys: Iterable[K],
        *,
        on_error: Literal["raise", "partial"] = "raise",
        tags: Tags | None = None,
    ) -> dict[K, T]:
        """Get many values.

        Args:
            keys: see :class:`Cache`.
            on_error: with ``"raise"``, an error of one node or value fails the call. With
                ``"partial"``, the readable values are returned as an
                :class:`emcache.PartialResult`, whose ``errors`` hold the other keys' exceptions.
            tags: tags that all values must have; see :meth:`get`.

        Returns:
            The values by the keys that you passed; misses are absent.
        """
        if on_error not in ("raise", "partial"):
            raise ValueError("on_error must be 'raise' or 'partial'")
        names, with_tags = self._keys.wires(keys), self._tag_names(tags)
        if self._local is not None:
            return await self._get_many_with_local(names, on_error, with_tags)
        return await self._get_many(names, on_error, with_tags)

    async def _get_many(
        self,
        names: Mapping[K, bytes],
        on_error: Literal["raise", "partial"],
        with_tags: TagNames,
        reading: Reading | None = None,
    ) -> dict[K, T]:
        wanted = names.values()
        outdated = self._late.outdated(wanted)
        if on_error == "raise" and not with_tags:
            found = await self._client.get_many(wanted, True)
            return await self._read_many(names, found, outdated, None, (), NOTHING, reading)
        # A tag that cannot be read makes misses, not errors.
        items = await self._client.get_many((*wanted, *with_tags), True, on_error="partial")
        errors = {key: items.errors[name] for key, name in names.items() if name in items.errors}
        if on_error == "raise" and errors:
            raise next(iter(errors.values()))
        generations = generations_in(items, with_tags)
        failed = None if on_error == "raise" else errors
        values = await self._read_many(
            names, items, outdated, failed, with_tags, generations, reading
        )
        return values if on_error == "raise" else PartialResult(values, errors)

    async def _read_many(
        self,
        names: Mapping[K, bytes],
        items: Mapping[bytes, Item],
        outdated: Outdated,
        errors: dict[K, Exception] | None,
        tags: TagNames,
        generations: Found,
        reading: Reading | None,
    ) -> dict[K, T]:
        values: dict[K, T] = {}
        read = self._storage.read_fresh
        for key, name in names.items():
            if errors and key in errors:
                continue
            try:
                found = await read(name, items.get(name), outdated, tags, generations, reading)
            except EmcacheError as error:
                if errors is None:
                    raise
                errors[key] = error
                continue
            if not isinstance(found, Missing):
                values[key] = found
        self._counts.hits += len(values)
        self._counts.misses += len(names) - len(values)
        return values

    async def set(
        self,
        key: Key,
        value: T,
        *,
        ttl: Ttl | None = None,
        tags: Tags | TagSnapshot | None = None,
    ) -> None:
        """Store a value, whether or not the key exists.

        Args:
            key: see :class:`Cache`.
            value: the value.
            ttl: see :class:`Cache`.
            tags: tags of the value, in addition to those of the cache. If it was computed from data
                that may have changed since, pass what :meth:`Cache.read_tags` returned before.

        Raises:
            StorageCommandError: the server refused; the previous value may be deleted.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags, expires = await self._pack(name, value, expires, tags)
        with self._flights.changing(name):
            await self._client.set(name, data, flags=flags, exptime=expires)

    async def _pack(
        self, name: bytes, value: T, expires: int, tags: Tags | TagSnapshot | None = None
    ) -> tuple[bytes, int, int]:
        """Return the bytes, flags and exptime to store; pieces are stored before."""
        data, flags = await self._values.pack(name, value)
        generations: Generations = ()
        if tags is not None or self._storage.tags:
            generations = await self._generations(tags)
        if self._storage.pieces is not None:
            split = self._storage.split
            data, flags, expires = await split(name, data, flags, expires, generations)
        return *seal_with_tags(data, flags, None, generations), expires

    async def _generations(self, tags: Tags | TagSnapshot | None) -> Generations:
        """Return the generations of the tags of the cache and of a call."""
        known: Generations = ()
        if isinstance(tags, TagSnapshot):
            known, tags = tags.generations, None
        names = self._tag_names(tags)
        unknown = tuple(name for name in names if name not in dict(known))
        if unknown:
            found = await find_generations(self._client, unknown)
            known += await make_generations(self._client, unknown, found)
        return known

    async def add(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key does not exist; return whether it was stored.

        It is not stored either while a process computes the value in :meth:`Cache.get_or_set`.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags, expires = await self._pack(name, value, expires)
        stored = self._client.add(name, data, flags=flags, exptime=expires)
        return await self._stored(name, stored, data, flags)

    async def replace(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key exists; return whether it was stored."""
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags, expires = await self._pack(name, value, expires)
        stored = self._client.replace(name, data, flags=flags, exptime=expires)
        return await self._stored(name, stored, data, flags)

    async def cas(self, key: Key, value: T, cas: int, *, ttl: Ttl | None = None) -> bool:
        """Store a value if it has not changed since :meth:`get_with_cas` returned ``cas``.

        Returns:
            Whether it was stored; False if the value was changed or deleted.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags, expires = await self._pack(name, value, expires)
        stored = self._client.cas(name, data, cas, flags=flags, exptime=expires)
        try:
            return await self._stored(name, stored, data, flags)
        except StorageCommandError as error:
            if is_missing(error):
                self._storage.discard(name, data, flags)
                return False
            raise

    async def touch(self, key: Key, ttl: Ttl) -> bool:
        """Update the ``ttl`` of a value; return whether it exists."""
        name, expires = self._keys.wire(key), exptime(ttl)
        try:
            if (pieces := self._storage.pieces) is not None:
                return await self._storage.touch(pieces, name, expires)
            return await _succeeds(self._client.touch(name, expires))
        finally:
            self._flights.local.forget(name)

    async def ttl(self, key: Key) -> int | None:
        """Return the seconds until the server drops a value.

        With ``stale_for``, this time includes the seconds in which the value is served stale.

        Returns:
            The seconds; -1 if the value does not expire; None on a miss.

        Raises:
            UnsupportedError: the node does not know meta commands (memcached before 1.6).
        """
        name = self._keys.wire(key)
        item = await self._client.get(name, return_flags=True)
        if item is None or is_stub(item.value, item.flags):
            return None
        return await self._client.ttl(name)

    async def delete(self, key: Key) -> bool:
        """Delete a value; return whether it existed.

        A computation of :meth:`Cache.get_or_set` that began before this, in any process, is not
        stored. While one runs, this returns True.
        """
        name = self._keys.wire(key)
        with self._flights.changing(name):
            return await self._storage.delete(name)

    async def _stored(self, name: bytes, call: Awaitable[None], data: bytes, flags: int) -> bool:
        with self._flights.changing(name):
            is_stored = await _succeeds(call)
        if not is_stored:
            self._storage.discard(name, data, flags)
        return is_stored

    async def set_many(
        self,
        values: Mapping[K, T],
        *,
        ttl: Ttl | None = None,
        tags: Tags | TagSnapshot | None = None,
    ) -> dict[K, Exception]:
        """Store many values, on all their nodes at once.

        Args:
            values: the values by key.
            ttl: see :class:`Cache`.
            tags: tags of all these values; see :meth:`set`.

        Returns:
            The errors by key; empty if all values were stored. An error of one key does not stop
            the others, and is not raised.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping, not {type(values).__name__}")
        names, expires = self._keys.wires(values), self._exptime(ttl)
        packed, errors = await self._values.pack_many(
            (key, name, values[key]) for key, name in names.items()
        )
        generations: Generations = ()
        if tags is not None or self._storage.tags:
            generations = await self._generations(tags)
        storage, set_many = self._storage, self._client.set_many
        failed: dict[bytes, Exception] = {}
        if storage.pieces is not None:
            failed = await storage.split_many(packed, expires, generations)
        if generations or storage.pieces is not None:
            packed = seal_many(packed, generations)
        with self._flights.changing(*names.values()):
            # An error of one call must not leave the other calls running.
            results = await asyncio.gather(
                *(
                    set_many(items, flags=flags, exptime=storage.exptime(flags, expires))
                    for flags, items in packed.items()
                ),
                return_exceptions=True,
            )
        for result in results:
            if isinstance(result, BaseException):
                raise result
            failed |= result.errors
        return errors | {key: failed[name] for key, name in names.items() if name in failed}

    async def delete_many(self, keys: Iterable[K]) -> dict[K, Exception]:
        """Delete many values, on all their nodes at once. Missing keys are not an error.

        Returns:
            The errors by key; empty if none of the keys exists any more.
        """
        names = self._keys.wires(keys)
        with self._flights.changing(*names.values()):
            failed = await self._storage.delete_many(names.values())
        return {key: failed[name] for key, name in names.items() if name in failed}

    async def increment(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl | None = None
    ) -> int | None:
        """Add to a number that :meth:`set` stored as Json or Utf8 text; it wraps at 2**64.

        Args:
            key: see :class:`Cache`.
            delta: the number to add, 0 to 2**64 - 1.
            initial: the number to store, >= 0, if the key does not exist.
            ttl: see :class:`Cache`; only with ``initial``. An existing value keeps its own.

        Returns:
            The new number; None if the key does not exist and ``initial`` is None.

        Raises:
            ArithmeticCommandError: the value is not stored as a decimal number.
        """
        return await self._count(self._client.increment, key, delta, initial, ttl)

    async def decrement(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl | None = None
    ) -> int | None:
        """Subtract from a number; it stops at 0. Otherwise as :meth:`increment`.

        The server pads shorter numbers with spaces: after 10 - 1, Utf8 and Raw read ``"9 "``.
        """
        return await self._count(self._client.decrement, key, delta, initial, ttl)

    async def _count(
        self,
        count: Callable[[bytes, int], Awaitable[int | None]],
        key: Key,
        delta: int,
        initial: int | None,
        ttl: Ttl | None,
    ) -> int | None:
        if self._storage.tags:
            raise ValueError(
                "a cache with tags has no counters: memcached cannot count tagged values"
            )
        if ttl is not None and initial is None:
            raise ValueError("ttl applies only when a number is created; pass initial as well")
        name, expires = self._keys.wire(key), self._exptime(ttl)
        first = None if initial is None else await self._number(name, initial)
        with self._flights.changing(name):
            for _ in range(_ROUNDS):
                try:
                    return await count(name, delta)
                except NotFoundCommandError:
                    if first is None:
                        return None
                except ArithmeticCommandError:
                    # A number that is being computed does not exist yet, and would be too old.
                    if not await self._storage.remove_stub(name):
                        raise
                    continue
                # No single command can set the flags of the serializer.
                data, flags = first
                added = self._client.add(name, data, flags=flags, exptime=expires)
                if await _succeeds(added):
                    return initial
        raise NotFoundCommandError(
            f"other clients created and deleted the number {_ROUNDS} times during this call"
        )

    async def _number(self, name: bytes, initial: int) -> tuple[bytes, int]:
        data, flags = await self._values.pack(name, initial)  # type: ignore[arg-type]
        if not data.isdigit():
            raise SerializationError(f"{initial!r} is not stored as a decimal number >= 0")
        return data, flags


async def _succeeds(call: Awaitable[None]) -> bool:
    try:
        await call
    except (NotStoredStorageCommandError, NotFoundCommandError):
        return False
    return True
