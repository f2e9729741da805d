"""The commands of memcached on typed values."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

from .._client import Client
from .._errors import (
    NotFoundCommandError,
    NotStoredStorageCommandError,
    SerializationError,
    StorageCommandError,
    is_missing,
)
from .._item import Item
from .._results import PartialResult
from ._counts import Counts
from ._flights import MISSING, Flights, Missing
from ._keys import Key, Keys
from ._late_stores import NONE_OUTDATED, LateStores, Outdated
from ._storage import Storage
from ._ttl import Ttl, exptime
from ._values import Values

T = TypeVar("T")
D = TypeVar("D")
K = TypeVar("K", bound=Key)

_ROUNDS = 8


class Commands(Generic[T]):
    """The methods of :class:`Cache` that send one command."""

    _client: Client
    _keys: Keys
    _storage: Storage[T]
    _values: Values[T]
    _flights: Flights
    _late: LateStores
    _counts: Counts
    _ttl: Ttl
    _marks: int
    _loads: Callable[[bytes, int], T]

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
    async def get(self, key: Key) -> T | None: ...
    @overload
    async def get(self, key: Key, default: D) -> T | D: ...
    async def get(self, key: Key, default: Any = None) -> Any:
        """Get a value, or ``default`` on a miss."""
        name = self._keys.wire(key)
        outdated = self._late.outdated((name,)) if self._late.all_outdated else NONE_OUTDATED
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
        return self._counted(await self._storage.read_fresh(name, item, outdated), default)

    def _counted(self, found: T | Missing, default: Any) -> Any:
        if isinstance(found, Missing):
            self._counts.misses += 1
            return default
        self._counts.hits += 1
        return found

    async def get_with_cas(self, key: Key) -> tuple[T, int] | None:
        """Get a value and its token for :meth:`cas`, or None on a miss."""
        name = self._keys.wire(key)
        outdated = self._late.outdated((name,))
        item = await self._client.gets(name, return_flags=True)
        found = self._counted(await self._storage.read_fresh(name, item, outdated), MISSING)
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
        item = await self._client.gat(expires, name, return_flags=True)
        return self._counted(await self._storage.read_fresh(name, item, outdated), default)

    @overload
    async def get_many(
        self, keys: Iterable[K], *, on_error: Literal["raise"] = ...
    ) -> dict[K, T]: ...
    @overload
    async def get_many(
        self, keys: Iterable[K], *, on_error: Literal["partial"]
    ) -> PartialResult[K, T]: ...
    async def get_many(
        self, keys: Iterable[K], *, on_error: Literal["raise", "partial"] = "raise"
    ) -> dict[K, T]:
        """Get many values.

        Args:
            keys: see :class:`Cache`.
            on_error: with ``"raise"``, an error of one node or value fails the call. With
                ``"partial"``, the readable values are returned as an
                :class:`emcache.PartialResult`, whose ``errors`` hold the other keys' exceptions.

        Returns:
            The values by the keys that you passed; misses are absent.
        """
        names = self._keys.wires(keys)
        wanted = names.values()
        outdated = self._late.outdated(wanted)
        if on_error == "raise":
            found = await self._client.get_many(wanted, True)
            return await self._read_many(names, found, outdated, None)
        items = await self._client.get_many(wanted, True, on_error=on_error)
        errors = {key: items.errors[name] for key, name in names.items() if name in items.errors}
        return PartialResult(await self._read_many(names, items, outdated, errors), errors)

    async def _read_many(
        self,
        names: Mapping[K, bytes],
        items: Mapping[bytes, Item],
        outdated: Outdated,
        errors: dict[K, Exception] | None,
    ) -> dict[K, T]:
        values: dict[K, T] = {}
        for key, name in names.items():
            try:
                found = await self._storage.read_fresh(name, items.get(name), outdated)
            except SerializationError as error:
                if errors is None:
                    raise
                errors[key] = error
                continue
            if not isinstance(found, Missing):
                values[key] = found
        self._counts.hits += len(values)
        self._counts.misses += len(names) - len(values)
        return values

    async def set(self, key: Key, value: T, *, ttl: Ttl | None = None) -> None:
        """Store a value, whether or not the key exists.

        Raises:
            StorageCommandError: the server refused; the previous value may be deleted.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        with self._flights.changing(name):
            await self._client.set(name, data, flags=flags, exptime=expires)

    async def add(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key does not exist; return whether it was stored.

        It is not stored either while a process computes the value in :meth:`Cache.get_or_set`.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        stored = self._client.add(name, data, flags=flags, exptime=expires)
        return await self._changed(name, stored)

    async def replace(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key exists; return whether it was stored."""
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        stored = self._client.replace(name, data, flags=flags, exptime=expires)
        return await self._changed(name, stored)

    async def cas(self, key: Key, value: T, cas: int, *, ttl: Ttl | None = None) -> bool:
        """Store a value if it has not changed since :meth:`get_with_cas` returned ``cas``.

        Returns:
            Whether it was stored; False if the value was changed or deleted.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        stored = self._client.cas(name, data, cas, flags=flags, exptime=expires)
        try:
            return await self._changed(name, stored)
        except StorageCommandError as error:
            if is_missing(error):
                return False
            raise

    async def touch(self, key: Key, ttl: Ttl) -> bool:
        """Update the ``ttl`` of a value; return whether it exists."""
        name = self._keys.wire(key)
        return await _succeeds(self._client.touch(name, exptime(ttl)))

    async def delete(self, key: Key) -> bool:
        """Delete a value; return whether it existed.

        A computation of :meth:`Cache.get_or_set` that began before this, in any process, is not
        stored. While one runs, this returns True.
        """
        name = self._keys.wire(key)
        with self._flights.changing(name):
            return await self._storage.delete(name)

    async def _changed(self, name: bytes, call: Awaitable[None]) -> bool:
        with self._flights.changing(name):
            return await _succeeds(call)

    async def set_many(
        self, values: Mapping[K, T], *, ttl: Ttl | None = None
    ) -> dict[K, Exception]:
        """Store many values, on all their nodes at once.

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
        set_many = self._client.set_many
        with self._flights.changing(*names.values()):
            # An error of one call must not leave the other calls running.
            results = await asyncio.gather(
                *(set_many(items, flags=flags, exptime=expires) for flags, items in packed.items()),
                return_exceptions=True,
            )
        failed: dict[bytes, Exception] = {}
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
