"""A cache of values of one type, on top of any client."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

from .._arguments import check_between
from .._errors import (
    NotFoundCommandError,
    NotStoredStorageCommandError,
    SerializationError,
    StorageCommandError,
    is_missing,
)
from .._many import PartialResult
from ..base import Client, Item
from ._complaints import complain
from ._compression import LARGEST, Compression
from ._flights import MISSING, Missing, flights_of
from ._keys import Key, KeyPolicy, Keys
from ._late import Outdated
from ._serializers import Json, Serializer
from ._store import OnError, Store, check_function
from ._ttl import Ttl, exptime
from ._values import Values

T = TypeVar("T")
D = TypeVar("D")
K = TypeVar("K", bound=Key)

MAX_SIZE = 16 * 1024 * 1024

_ROUNDS = 8


class Cache(Generic[T]):
    """Values of one type under keys that may be text, on top of a :class:`emcache.Client`.

    Making one is cheap and sends nothing; many may share a client, which stays yours to close.
    Besides what they list, the methods raise what those of the client do, and:

    - :class:`emcache.InvalidKeyError`: a key that is empty or, with ``keys="refuse"``, too long
      with its prefix or with whitespace or control characters; nothing was sent;
    - :class:`emcache.SerializationError`: a value that cannot be stored as it is, or read back.

    A ``ttl`` is how long a value lives: seconds up to 30 days, or a Unix time (0: until evicted,
    negative: not at all), a ``timedelta``, or the aware ``datetime`` of its end. None: the ``ttl``
    of the cache.

    Args:
        client: what sends and receives.
        serializer: what values become as bytes; None: :class:`emcache.cache.Json`.
        compression: makes large values smaller when they are stored; None: no. What
            :class:`Zstd`, :class:`Lz4` or :class:`Zlib` of :mod:`emcache.cache` made smaller is
            read in any case. From 64 KiB on it is done in a thread.
        prefix: comes before each key, and is part of what chooses the node.
        keys: what becomes of a key that memcached does not take: ``"refuse"``, or ``"hash"``: in
            its place, ``#sha256:`` and the SHA-256 of its UTF-8 in hex follow the prefix, also for
            keys that begin with ``#sha256:``. Or a function that makes each key, without its
            prefix, into another.
        ttl: that of values that are stored without one.
        max_size: a value that decompresses to more bytes is not read, and one that would is not
            compressed and stored. Two large ones are decompressed at once in each event loop.
        on_unreadable: what to do with a stored value that cannot be read: ``"raise"``, or count
            it as a ``"miss"``, with a warning to the logger ``emcache`` once a minute.
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
                f"client must be an emcache.Client, not {type(client).__name__}: await "
                "create_client(...) first"
            )
        if on_unreadable not in ("raise", "miss"):
            raise ValueError("on_unreadable must be 'raise' or 'miss'")
        check_between("max_size", max_size, 1, LARGEST)
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
        """The client under it."""
        return self._client

    def wire_key(self, key: Key) -> bytes:
        """Give the key as the server knows it, for ``client.node_for`` or a look by hand."""
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
            complain("an unreadable value counts as a miss", error)
            return MISSING

    @overload
    async def get(self, key: Key) -> T | None: ...
    @overload
    async def get(self, key: Key, default: D) -> T | D: ...
    async def get(self, key: Key, default: Any = None) -> Any:
        """Get a value; ``default`` on a miss."""
        found = await self._fetch(self._keys.wire(key))
        return default if isinstance(found, Missing) else found

    async def get_with_cas(self, key: Key) -> tuple[T, int] | None:
        """Get a value and the token for :meth:`cas`; None on a miss."""
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
        """Get a value and set its ``ttl`` anew; ``default`` on a miss."""
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
        """Get many values, by the keys as they were given; misses are absent.

        Args:
            keys: see :class:`Cache`.
            on_error: with ``"raise"`` one failing node, or one value that cannot be read, fails
                the call. With ``"partial"`` what could be read is returned as an
                :class:`emcache.PartialResult`, whose ``errors`` hold the exceptions of the others.
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
        """Store a value, whatever was there.

        Raises:
            StorageCommandError: refused; the key may be gone.
        """
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        with self._flights.changing(name):
            await self._client.set(name, data, flags=flags, exptime=expires)

    async def add(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key does not exist; tell whether it was stored."""
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        stored = self._client.add(name, data, flags=flags, exptime=expires)
        return await self._changed(name, stored)

    async def replace(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key exists; tell whether it was stored."""
        name, expires = self._keys.wire(key), self._exptime(ttl)
        data, flags = await self._values.pack(name, value)
        stored = self._client.replace(name, data, flags=flags, exptime=expires)
        return await self._changed(name, stored)

    async def cas(self, key: Key, value: T, cas: int, *, ttl: Ttl | None = None) -> bool:
        """Store a value if nobody wrote or deleted the key since :meth:`get_with_cas`.

        Returns:
            Whether it was stored; False if the value was changed or is gone.
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
        """Set the ``ttl`` of a value anew; tell whether it exists."""
        name = self._keys.wire(key)
        return await _succeeds(self._client.touch(name, exptime(ttl)))

    async def delete(self, key: Key) -> bool:
        """Delete a value; tell whether it existed."""
        name = self._keys.wire(key)
        return await self._changed(name, self._client.delete(name))

    async def _changed(self, name: bytes, call: Awaitable[None]) -> bool:
        with self._flights.changing(name):
            return await _succeeds(call)

    async def set_many(
        self, values: Mapping[K, T], *, ttl: Ttl | None = None
    ) -> dict[K, Exception]:
        """Store many values, at all their nodes at once.

        Returns:
            The errors by key, empty if all were stored. A failing key keeps no other from being
            stored, and raises nothing.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping of keys, not {type(values).__name__}")
        names, expires = self._keys.wires(values), self._exptime(ttl)
        packed, errors = await self._values.pack_many(
            (key, name, values[key]) for key, name in names.items()
        )
        set_many = self._client.set_many
        with self._flights.changing(*names.values()):
            # One that raises must not leave the others under way.
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
        """Delete many values, at all their nodes at once; that one did not exist is no error.

        Returns:
            The errors by key, empty if none exists any more.
        """
        names = self._keys.wires(keys)
        with self._flights.changing(*names.values()):
            failed = (await self._client.delete_many(names.values())).errors
        return {key: failed[name] for key, name in names.items() if name in failed}

    async def increment(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl | None = None
    ) -> int | None:
        """Add to a number that :meth:`set` stored, as Json or Utf8 text; it wraps at 2**64.

        Args:
            key: see :class:`Cache`.
            delta: what to add, 0 to 2**64 - 1.
            initial: what to store, >= 0, if the key does not exist, with ``ttl``.
            ttl: see :class:`Cache`, only with ``initial``; an existing value keeps its own.

        Returns:
            The new number; None if the key does not exist and there is no ``initial``.

        Raises:
            ArithmeticCommandError: the value is not stored as a decimal number.
        """
        return await self._count(self._client.increment, key, delta, initial, ttl)

    async def decrement(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl | None = None
    ) -> int | None:
        """Subtract from a number; it stops at 0. Else as :meth:`increment`.

        Memcached fills what gets shorter with spaces: after 10 - 1 Utf8 and Raw read ``"9 "``.
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
            raise ValueError("ttl is that of a number that is created: it needs initial")
        name, expires = self._keys.wire(key), self._exptime(ttl)
        first = None if initial is None else await self._number(name, initial)
        with self._flights.changing(name):
            for _ in range(_ROUNDS):
                try:
                    return await count(name, delta)
                except NotFoundCommandError:
                    if first is None:
                        return None
                # The flags must be those of the serializer, which no single command sets.
                data, flags = first
                added = self._client.add(name, data, flags=flags, exptime=expires)
                if await _succeeds(added):
                    return initial
        raise NotFoundCommandError(f"the number was created and deleted {_ROUNDS} times by others")

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

        Callers in this process who miss the same key at the same time, by caches of one client
        with equal serializers, share one call of ``factory``, which runs in a task of its own: a
        caller who is cancelled leaves it to the others, and the last one cancels it and waits for
        its end, so that ``asyncio.wait_for`` may take as long as the clean-up of ``factory`` does.
        If it fails after its own caller has left, the next caller computes with its own factory.

        All of them get the very same object, or a copy of the same exception, which is not stored.
        None is a value like any other. If the key is written or deleted through a ``Cache`` of
        the same client before the result is stored, it does not stay in the cache.

        Args:
            key: see :class:`Cache`.
            factory: called without arguments, returns an awaitable.
            ttl: see :class:`Cache`.
            store_if: whether to store what was computed; None: always.
            on_error: ``"miss"``: the factory is called if the cache fails, and its result returned
                if the cache refuses it (as too large), with a warning to the logger ``emcache``
                once a minute. ``"raise"``: errors of the cache are raised. A bad key, a bad
                ``ttl``, and a result that the serializer does not take always raise.

        Raises:
            SerializationError: the serializer does not take what ``factory`` returned.
            RuntimeError: ``factory`` asks for the key that it computes, also in a task of its own
                or by way of other keys: it would wait for itself.
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
        """Compute a value and store it, whatever is there; else as :meth:`get_or_set`.

        Callers of :meth:`get_or_set` who come meanwhile share the result.
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
    ) -> Store[T]:
        expires = self._exptime(ttl)
        return Store(
            self._client, self._flights, self._fetch, self._values, expires, store_if, on_error
        )


def _current(outdated: Outdated, name: bytes, item: Item | None) -> Item | None:
    """Leave out an outdated value that was stored late, and is about to be removed."""
    if item is None or name not in outdated:
        return item
    return None if any(late.wrote(item.value) for late in outdated[name]) else item


async def _succeeds(call: Awaitable[None]) -> bool:
    try:
        await call
    except (NotStoredStorageCommandError, NotFoundCommandError):
        return False
    return True
