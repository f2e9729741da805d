"""The cache: values of one type, on top of a client."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

from .._checks import check_range
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
from ._compression import LARGEST, Compression
from ._coordination import Coordination
from ._flights import MISSING, Missing, flights_of
from ._get_or_set import GetOrSet, OnError, check_function
from ._keys import Key, KeyPolicy, Keys
from ._late_stores import Outdated
from ._serializers import Json, Serializer
from ._ttl import Ttl, exptime
from ._values import Values
from ._warnings import warn

T = TypeVar("T")
D = TypeVar("D")
K = TypeVar("K", bound=Key)

MAX_SIZE = 16 * 1024 * 1024

_ROUNDS = 8


class Cache(Coordination, Generic[T]):
    """A cache of values of one type, with keys of text or bytes, on top of a client.

    A cache is cheap to create and sends nothing by itself. Several caches may share a client; they
    do not close it. In addition to the errors that they list, the methods raise those of
    :class:`emcache.Client`, and:

    - :class:`emcache.InvalidKeyError`: the key is empty. With ``keys="refuse"`` also: the key is
      too long with its prefix, or has whitespace or control characters. Nothing was sent;
    - :class:`emcache.SerializationError`: a value cannot be stored, or cannot be read back.

    A ``ttl`` is how long a value lives: seconds up to 30 days, a Unix time (0 for no expiry, a
    negative number expires at once), a ``timedelta``, or an aware ``datetime``. None means the
    ``ttl`` of the cache.

    Args:
        client: the client to use.
        serializer: converts values to bytes; None for :class:`emcache.cache.Json`.
        compression: compresses large values when they are stored; None for no compression. Values
            compressed by :class:`Zstd`, :class:`Lz4` or :class:`Zlib` of :mod:`emcache.cache` are
            always readable. Values of 64 KiB and more are compressed in a thread.
        prefix: prepended to each key; it takes part in routing.
        keys: how keys are handled that memcached does not accept. ``"refuse"`` raises. ``"hash"``
            replaces the key by ``#sha256:`` and the SHA-256 of its UTF-8 in hex, also if the key
            begins with ``#sha256:``. A function converts every key, without its prefix.
        ttl: the default for values that are stored without a ``ttl``.
        max_size: the most bytes that a value may decompress to; larger values are neither read nor
            compressed and stored. Each event loop decompresses at most two large values at once.
        on_unreadable: how to handle a stored value that cannot be read: ``"raise"``, or ``"miss"``
            to count it as a miss, with a warning to the logger ``emcache`` once a minute.
    """

    @overload
    def __init__(
        self: "Cache[Any]",
        client: Client,
        *,
        serializer: None = None,
        compression: Compression | None = None,
        prefix: Key = "",
        keys: KeyPolicy = "refuse",
        ttl: Ttl = 0,
        max_size: int = MAX_SIZE,
        on_unreadable: OnError = "raise",
    ) -> None: ...
    @overload
    def __init__(
        self,
        client: Client,
        *,
        serializer: Serializer[T],
        compression: Compression | None = None,
        prefix: Key = "",
        keys: KeyPolicy = "refuse",
        ttl: Ttl = 0,
        max_size: int = MAX_SIZE,
        on_unreadable: OnError = "raise",
    ) -> None: ...
    def __init__(
        self,
        client: Client,
        *,
        serializer: Serializer[Any] | None = None,
        compression: Compression | None = None,
        prefix: Key = "",
        keys: KeyPolicy = "refuse",
        ttl: Ttl = 0,
        max_size: int = MAX_SIZE,
        on_unreadable: OnError = "raise",
    ) -> None:
        if not isinstance(client, Client):
            raise TypeError(
                f"client must be an emcache.Client, not {type(client).__name__}; await "
                "create_client(...) first"
            )
        if on_unreadable not in ("raise", "miss"):
            raise ValueError("on_unreadable must be 'raise' or 'miss'")
        check_range("max_size", max_size, 1, LARGEST)
        exptime(ttl)
        self._client = client
        self._keys = Keys(prefix, keys)
        self._values: Values[T] = Values(
            Json() if serializer is None else serializer, compression, max_size
        )
        self._ttl = ttl
        self._on_unreadable = on_unreadable
        self._flights = flights_of(client)

    def __repr__(self) -> str:
        return f"<emcache.Cache prefix={self._keys.prefix!r} of {self._client!r}>"

    @property
    def client(self) -> Client:
        """The client of the cache."""
        return self._client

    def wire_key(self, key: Key) -> bytes:
        """Return the key as it is sent to the server, for example for ``client.node_for``."""
        return self._keys.wire(key)

    def _exptime(self, ttl: Ttl | None) -> int:
        return exptime(self._ttl if ttl is None else ttl)

    async def _fetch(self, name: bytes) -> T | Missing:
        outdated = self._flights.outdated(name)
        item = await self._client.get(name, return_flags=True)
        return await self._read(name, _current(outdated, name, item))

    async def _read(self, key: bytes, item: Item | None) -> T | Missing:
        if item is None:
            return MISSING
        try:
            return await self._values.unpack(key, item.value, item.flags or 0)
        except SerializationError as error:
            if self._on_unreadable == "raise":
                raise
            warn("an unreadable value counts as a miss", error)
            return MISSING

    @overload
    async def get(self, key: Key) -> T | None: ...
    @overload
    async def get(self, key: Key, default: D) -> T | D: ...
    async def get(self, key: Key, default: Any = None) -> Any:
        """Get a value, or ``default`` on a miss."""
        found = await self._fetch(self._keys.wire(key))
        return default if isinstance(found, Missing) else found

    async def get_with_cas(self, key: Key) -> tuple[T, int] | None:
        """Get a value and its token for :meth:`cas`, or None on a miss."""
        name = self._keys.wire(key)
        outdated = self._flights.outdated(name)
        item = _current(outdated, name, await self._client.gets(name, return_flags=True))
        found = await self._read(name, item)
        if isinstance(found, Missing) or item is None or item.cas is None:
            return None
        return found, item.cas

    @overload
    async def get_and_touch(self, key: Key, ttl: Ttl) -> T | None: ...
    @overload
    async def get_and_touch(self, key: Key, ttl: Ttl, default: D) -> T | D: ...
    async def get_and_touch(self, key: Key, ttl: Ttl, default: Any = None) -> Any:
        """Get a value and update its ``ttl``; return ``default`` on a miss."""
        name, expires = self._keys.wire(key), exptime(ttl)
        outdated = self._flights.outdated(name)
        item = await self._client.gat(expires, name, return_flags=True)
        found = await self._read(name, _current(outdated, name, item))
        return default if isinstance(found, Missing) else found

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
        outdated = self._flights.outdated(*wanted)
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
                found = await self._read(name, _current(outdated, name, items.get(name)))
            except SerializationError as error:
                if errors is None:
                    raise
                errors[key] = error
                continue
            if not isinstance(found, Missing):
                values[key] = found
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
        """Store a value if the key does not exist; return whether it was stored."""
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
        """Delete a value; return whether it existed."""
        name = self._keys.wire(key)
        return await self._changed(name, self._client.delete(name))

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
            failed = (await self._client.delete_many(names.values())).errors
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

    async def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Awaitable[T]],
        *,
        ttl: Ttl | None = None,
        store_if: Callable[[T], bool] | None = None,
        on_error: OnError = "miss",
    ) -> T:
        """Get a value, or compute and store it.

        This prevents a stampede: concurrent callers in this process that miss the same key share
        one call of ``factory``, if their caches have the same client and equal serializers. The
        factory runs in its own task. A caller that is cancelled leaves the task to the others. The
        last caller cancels the task and waits for its end, so ``asyncio.wait_for`` may take as long
        as the clean-up of ``factory``. If the factory fails after its own caller has left, the next
        caller computes the value with its own factory.

        All callers get the same object, or a copy of the same exception. Exceptions are not cached.
        None is a value like any other. If the key is written or deleted through a ``Cache`` of the
        same client before the result is stored, the result does not stay in the cache.

        Args:
            key: see :class:`Cache`.
            factory: called without arguments; returns an awaitable.
            ttl: see :class:`Cache`.
            store_if: returns whether to store a computed value; None for always.
            on_error: with ``"miss"``, the factory is called if the cache fails, and its result is
                returned even if the cache refuses it (such as a value that is too large). A warning
                is sent to the logger ``emcache`` once a minute. With ``"raise"``, errors of the
                cache are raised. An invalid key, an invalid ``ttl``, and a result that the
                serializer does not accept always raise.

        Raises:
            SerializationError: the serializer does not accept the result of ``factory``.
            RuntimeError: deadlock: ``factory`` requests the key that it computes, directly or
                through tasks or other keys.
        """
        check_function("factory", factory)
        name, store = self._keys.wire(key), self._store(ttl, store_if, on_error)
        return store.result(
            *await self._flights.fetch(
                name,
                self._values.kind,
                lambda: store.look(name),
                lambda flight: store.compute(flight, name, factory),
            )
        )

    async def renew(
        self,
        key: Key,
        factory: Callable[[], Awaitable[T]],
        *,
        ttl: Ttl | None = None,
        store_if: Callable[[T], bool] | None = None,
        on_error: OnError = "miss",
    ) -> T:
        """Compute a value and replace the cached one; otherwise as :meth:`get_or_set`.

        Concurrent callers of :meth:`get_or_set` share the result.
        """
        check_function("factory", factory)
        name, store = self._keys.wire(key), self._store(ttl, store_if, on_error)
        return store.result(
            *await self._flights.renew(
                name, self._values.kind, lambda flight: store.compute(flight, name, factory)
            )
        )

    def _store(
        self, ttl: Ttl | None, store_if: Callable[[T], bool] | None, on_error: OnError
    ) -> GetOrSet[T]:
        expires = self._exptime(ttl)
        return GetOrSet(
            self._client, self._flights, self._fetch, self._values, expires, store_if, on_error
        )


def _current(outdated: Outdated, name: bytes, item: Item | None) -> Item | None:
    """Return None in place of an outdated value that is about to be removed."""
    if item is None or name not in outdated:
        return item
    return None if any(late.wrote(item.value) for late in outdated[name]) else item


async def _succeeds(call: Awaitable[None]) -> bool:
    try:
        await call
    except (NotStoredStorageCommandError, NotFoundCommandError):
        return False
    return True
