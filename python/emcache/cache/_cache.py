"""The cache: values of one type, on top of a client."""

import copy
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar, Unpack, overload

from .._checks import check_range
from .._client import Client
from .._errors import EmcacheError
from .._hints import CACHE_METHODS, Hinted, with_hints
from .._kinds import hint_for_client, kind_of
from ._chunks import Chunks, chunks_of
from ._commands import Commands
from ._compression import LARGEST, Compression
from ._coordination import Coordination
from ._counts import Counts, counts_of
from ._flights import Missing, flights_of
from ._get_or_set import GetOrSet
from ._info import CacheInfo
from ._invalidate import mark_stale
from ._keys import Key, KeyPolicy, Keys
from ._local_items import LocalCache
from ._many import get_or_set_many
from ._policy import (
    LeaseKey,
    OnError,
    Options,
    Policy,
    SharingOptions,
    check_function,
    check_seconds,
)
from ._serializers import Json, Serializer
from ._storage import Storage
from ._tags import TagNames, Tags, tag_names
from ._ttl import ONE_HOUR, Ttl, exptime
from ._values import Values

S = TypeVar("S")
T = TypeVar("T")
K = TypeVar("K", bound=Key)

MAX_SIZE = 16 * 1024 * 1024

MOST_POLICIES = 64
"""How many combinations of options of ``get_or_set`` a cache remembers as checked."""


@with_hints(CACHE_METHODS)
class Cache(Coordination, Commands[T], metaclass=Hinted):
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
        ttl: the default for values that are stored without a ``ttl``; one hour.
        max_size: the most bytes that a value may decompress to; larger values are neither read nor
            compressed and stored. Each event loop decompresses at most two large values at once.
        on_unreadable: how to handle a stored value that cannot be read: ``"raise"``, or ``"miss"``
            to count it as a miss, with a warning to the logger ``emcache`` once a minute.
        name: the name of the cache in metrics; None for the ``prefix``. Caches of one client with
            the same name are counted together.
        lease_key: where the lease of a missing key is kept. ``"same"`` puts an empty value with
            flags 0 under the key itself. Caches count it as a miss, but other programs read it as
            an empty value. ``"separate"`` puts it under ``<key>#lease``, with weaker guarantees:
            see "Caching patterns" in the documentation.
        tags: tags of all values of the cache; see :meth:`invalidate_tag`. Values without them, such
            as those that were stored before you added a tag, count as misses. A cache with tags has
            no counters.
        chunked: True stores values that do not fit into an item of 1 MiB in pieces, under keys of
            their own; a :class:`emcache.cache.Chunks` sets other limits. Only caches with this
            option read such values.
        local: keep values that were read in the memory of this process for a short time; see
            :class:`emcache.cache.LocalCache`.
        options: the defaults for :meth:`get_or_set` and :func:`emcache.cached`; see
            :class:`emcache.cache.SharingOptions`.
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
        ttl: Ttl = ONE_HOUR,
        max_size: int = MAX_SIZE,
        on_unreadable: OnError = "raise",
        name: str | None = None,
        lease_key: LeaseKey = "same",
        tags: Tags = (),
        chunked: bool | Chunks = False,
        local: LocalCache | None = None,
        **options: Unpack[SharingOptions],
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
        ttl: Ttl = ONE_HOUR,
        max_size: int = MAX_SIZE,
        on_unreadable: OnError = "raise",
        name: str | None = None,
        lease_key: LeaseKey = "same",
        tags: Tags = (),
        chunked: bool | Chunks = False,
        local: LocalCache | None = None,
        **options: Unpack[SharingOptions],
    ) -> None: ...
    def __init__(
        self,
        client: Client,
        *,
        serializer: Serializer[Any] | None = None,
        compression: Compression | None = None,
        prefix: Key = "",
        keys: KeyPolicy = "refuse",
        ttl: Ttl = ONE_HOUR,
        max_size: int = MAX_SIZE,
        on_unreadable: OnError = "raise",
        name: str | None = None,
        lease_key: LeaseKey = "same",
        tags: Tags = (),
        chunked: bool | Chunks = False,
        local: LocalCache | None = None,
        **options: Unpack[SharingOptions],
    ) -> None:
        if not isinstance(client, Client):
            raise TypeError(
                f"client must be an emcache.Client, not {kind_of(client)}{hint_for_client(client)}"
            )
        if on_unreadable not in ("raise", "miss"):
            raise ValueError("on_unreadable must be 'raise' or 'miss'")
        if lease_key not in ("same", "separate"):
            raise ValueError("lease_key must be 'same' or 'separate'")
        if local is not None and not isinstance(local, LocalCache):
            raise TypeError(f"local must be a LocalCache, not {type(local).__name__}")
        check_range("max_size", max_size, 1, LARGEST)
        exptime(ttl)
        self._client = client
        self._keys = Keys(prefix, keys)
        self._values: Values[T] = Values(
            Json() if serializer is None else serializer, compression, max_size
        )
        self._ttl = ttl
        self._flights = flights_of(client)
        self._late = self._flights.late
        self._storage = Storage(
            client,
            self._flights,
            self._values,
            on_unreadable,
            lease_key,
            tag_names(self._keys, tags),
            chunks_of(chunked, serializer),
            local,
        )
        self._local = self._storage.local
        self._has_tags = bool(self._storage.tags)
        self._marks, self._loads = self._values.marks, self._values.loads
        self._policy = Policy(ttl=ttl).with_all_options({**options})
        self._policies: dict[tuple[Any, ...], Policy] = {}
        self.name: str = self._keys.prefix.decode(errors="replace") if name is None else name
        self._counts = counts_of(client, self.name)

    def __repr__(self) -> str:
        return f"<emcache.Cache prefix={self._keys.prefix!r} of {self._client!r}>"

    def _with_serializer(self, serializer: Serializer[S]) -> "Cache[S]":
        """Return a cache with the same options, counts and keys, and another serializer."""
        cache: Cache[Any] = copy.copy(self)
        cache._values = self._values.with_serializer(serializer)
        cache._storage = self._storage.with_values(cache._values)
        cache._local = cache._storage.local
        cache._marks, cache._loads = cache._values.marks, cache._values.loads
        return cache

    async def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Awaitable[T]],
        *,
        info: CacheInfo | None = None,
        tags: Tags | None = None,
        **options: Unpack[Options],
    ) -> T:
        """Get a value, or compute and store it.

        This prevents a stampede. Concurrent callers that miss the same key share one call of
        ``factory``: in this process if their caches have the same client and equal serializers, and
        in all processes by a lease on the key. The factory runs in its own task. A caller that is
        cancelled leaves the task to the others. The last caller cancels the task and waits for its
        end, so ``asyncio.wait_for`` may take as long as the clean-up of ``factory``. If the factory
        fails after its own caller has left, the next caller computes the value with its own
        factory.

        All callers get the same object, or a copy of the same exception. Exceptions are not cached.
        None is a value like any other. If the key is written, deleted or invalidated before the
        result is stored, by any process, the result is not stored.

        If the cache fails and ``on_error`` is ``"miss"``, a warning is sent to the logger
        ``emcache`` once a minute. An invalid key or option, and a result that the serializer does
        not accept, always raise.

        Args:
            key: see :class:`Cache`.
            factory: called without arguments; returns an awaitable.
            info: filled in with where the value came from.
            tags: tags of the value, in addition to those of the cache. A cached value without one
                of them, or with a tag that was invalidated, counts as a miss; see
                :meth:`invalidate_tag`.
            options: see :class:`emcache.cache.Options`; the default is the cache's option.

        Raises:
            SerializationError: the serializer does not accept the result of ``factory``.
            LeaseLostError: see ``on_lost``.
            RuntimeError: deadlock: ``factory`` requests the key that it computes, directly or
                through tasks or other keys.
        """
        check_function("factory", factory)
        policy = self._policy_of(options) if options else self._policy
        name = self._keys.wire(key)
        if self._local is not None:
            with_tags = self._tag_names(tags)
            found = self._find_locally(name, with_tags, self._counts, info)
            if not isinstance(found, Missing):
                return found
            return await self._call(policy, name, factory, info, tags=with_tags).fetch()
        with_tags = self._tag_names(tags) if tags is not None or self._has_tags else ()
        if name in self._flights.table or self._late.all_outdated:
            return await self._call(policy, name, factory, info, tags=with_tags).fetch()
        if with_tags:
            return await self._get_or_set_tagged(policy, name, factory, info, with_tags)
        began = self._flights.clock
        try:
            item = await self._client.get(name, True)
        except EmcacheError as error:
            return await self._call(policy, name, factory, info).after_error(error, began)
        if item is not None:
            data, flags = item.value, item.flags
            if data and not flags & self._marks:  # type: ignore[operator]
                try:
                    value = self._loads(data, flags)  # type: ignore[arg-type]
                except Exception:
                    began = self._flights.clock  # `after` raises it again
                else:
                    self._counts.hits += 1
                    if info is not None:
                        info.fresh = True
                    return value
            else:
                hit = self._fresh(item, (), {}, self._counts, info)
                if not isinstance(hit, Missing):
                    return hit
        return await self._call(policy, name, factory, info).after(item, began)

    async def _get_or_set_tagged(
        self,
        policy: Policy,
        name: bytes,
        factory: Callable[[], Awaitable[T]],
        info: CacheInfo | None,
        tags: TagNames,
    ) -> T:
        began = self._flights.clock
        try:
            items = await self._storage.look_partial(name, tags)
        except EmcacheError as error:
            return await self._call(policy, name, factory, info, tags=tags).after_error(
                error, began
            )
        hit = self._fresh(items.get(name), tags, items, self._counts, info)
        if not isinstance(hit, Missing):
            return hit
        return await self._call(policy, name, factory, info, tags=tags).after_look(items, began)

    async def renew(
        self,
        key: Key,
        factory: Callable[[], Awaitable[T]],
        *,
        info: CacheInfo | None = None,
        tags: Tags | None = None,
        **options: Unpack[Options],
    ) -> T:
        """Compute a value and replace the cached one; otherwise as :meth:`get_or_set`.

        Concurrent callers of :meth:`get_or_set` in this process share the result.
        """
        check_function("factory", factory)
        name = self._keys.wire(key)
        policy, with_tags = self._policy_of(options), self._tag_names(tags)
        return await self._call(policy, name, factory, info, tags=with_tags).renew()

    async def invalidate(self, key: Key, *, stale_for: float | None = None) -> bool:
        """Invalidate a value: delete it, or let it be served a little longer while it is replaced.

        Args:
            key: see :class:`Cache`.
            stale_for: None to delete the value. Or for how many seconds :meth:`get_or_set` and
                cached functions may serve it, while one caller in all processes computes a new one.
                Other methods count it as a miss from now on.

        Returns:
            Whether there was a value.
        """
        if stale_for is None:
            return await self.delete(key)
        check_seconds("stale_for", stale_for, 1)
        name = self._keys.wire(key)
        with self._flights.changing(name):
            return await mark_stale(self._storage, name, math.ceil(stale_for))

    async def get_or_set_many(
        self,
        keys: Iterable[K],
        load: Callable[[list[K]], Awaitable[Mapping[K, T]]],
        *,
        tags: Tags | Callable[[K], Tags] | None = None,
        **options: Unpack[Options],
    ) -> dict[K, T]:
        """Get many values, and compute the missing ones together.

        All keys are looked for with one :meth:`get_many`. ``load`` is called once, with those whose
        leases this process has won. For values that other callers or processes compute, this waits
        as :meth:`get_or_set` does.

        Args:
            keys: see :class:`Cache`.
            load: called with a list of keys; returns a mapping of these keys to their values. Keys
                that it leaves out are not stored.
            tags: tags of all these values, or a function that returns those of a key; see
                :meth:`get_or_set`.
            options: see :class:`emcache.cache.Options`; the default is the cache's option.

        Returns:
            The values by the keys that you passed, without those that ``load`` left out.
        """
        check_function("load", load)
        policy, counts = self._policy_of(options), self._counts
        return await self._get_or_set_many(keys, load, policy, counts, tags)

    async def _get_or_set_many(
        self,
        keys: Iterable[K],
        load: Callable[[list[K]], Awaitable[Mapping[K, T]]],
        policy: Policy,
        counts: Counts,
        tags: Tags | Callable[[K], Tags] | None,
    ) -> dict[K, T]:
        names = self._keys.wires(keys)
        if callable(tags):
            with_tags = {key: self._tag_names(tags(key)) for key in names}
        else:
            with_tags = dict.fromkeys(names, self._tag_names(tags))
        return await get_or_set_many(self._storage, policy, counts, names, load, with_tags)

    def _policy_of(self, options: Options) -> Policy:
        """Return the checked options of a call; most calls use combinations seen before."""
        try:
            known = tuple(options.items())
            policy = self._policies.get(known)
        except TypeError:  # not hashable
            return self._policy.with_all_options({**options})
        if policy is None:
            policy = self._policy.with_all_options({**options})
            if len(self._policies) >= MOST_POLICIES:
                del self._policies[next(iter(self._policies))]
            self._policies[known] = policy
        return policy

    def _call(
        self,
        policy: Policy,
        name: bytes,
        factory: Callable[[], Awaitable[T]],
        info: CacheInfo | None,
        counts: Counts | None = None,
        tags: TagNames = (),
    ) -> GetOrSet[T]:
        counts = self._counts if counts is None else counts
        return GetOrSet(self._storage, policy, counts, name, factory, info, tags)
