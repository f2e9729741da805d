# Written by tools/make_sync.py from emcache/cache/_cache.py.
"""The synchronous cache: the methods of :class:`emcache.Cache`."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeVar, Unpack, overload

from .._results import PartialResult
from ..cache import (
    CacheInfo,
    Chunks,
    Compression,
    KeyPolicy,
    LocalCache,
    Options,
    Serializer,
    SharingOptions,
    TagSnapshot,
    Ttl,
)
from ..cache._cache import MAX_SIZE
from ..cache._keys import Key
from ..cache._policy import LeaseKey, OnError
from ..cache._rate_limits import OnLimitError, Window
from ..cache._tags import Tags
from ..cache._ttl import ONE_HOUR
from ._cache_base import CacheBase, Lock, RateLimit
from ._call_loop import outside
from ._client import Client

T = TypeVar("T")
D = TypeVar("D")
K = TypeVar("K", bound=Key)


class Cache(CacheBase[T]):
    """A cache of values of one type, with keys of text or bytes, on top of a client.

    A cache is cheap to create and sends nothing by itself. Several caches may share a client; they
    do not close it. In addition to the errors that they list, the methods raise those of
    :class:`emcache.sync.Client`, and:

    - :class:`emcache.InvalidKeyError`: the key is empty. With ``keys="refuse"`` also: the key is
      too long with its prefix, or has whitespace or control characters. Nothing was sent;
    - :class:`emcache.SerializationError`: a value cannot be stored, or cannot be read back.

    A ``ttl`` is how long a value lives: seconds up to 30 days, a Unix time (0 for no expiry, a
    negative number expires at once), a ``timedelta``, or an aware ``datetime``. None means the
    ``ttl`` of the cache.

    Threads may share a cache. A refresh in the background does not exist: the call that starts a
    refresh ends with it. Factories are plain functions.

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
            compressed and stored. Each thread decompresses at most two large values at once.
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
        self._set_up(
            client,
            {
                "serializer": serializer,
                "compression": compression,
                "prefix": prefix,
                "keys": keys,
                "ttl": ttl,
                "max_size": max_size,
                "on_unreadable": on_unreadable,
                "name": name,
                "lease_key": lease_key,
                "tags": tags,
                "chunked": chunked,
                "local": local,
                **options,
            },
        )

    def get_or_set(
        self,
        key: Key,
        factory: Callable[[], T],
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
        return self._get_or_set(key, factory, info, tags, {**options})

    def renew(
        self,
        key: Key,
        factory: Callable[[], T],
        *,
        info: CacheInfo | None = None,
        tags: Tags | None = None,
        **options: Unpack[Options],
    ) -> T:
        """Compute a value and replace the cached one; otherwise as :meth:`get_or_set`.

        Concurrent callers of :meth:`get_or_set` in this process share the result.
        """
        return self._change(
            [key],
            lambda cache: cache.renew(key, outside(factory), info=info, tags=tags, **options),
            self._run_deferred,
        )

    def invalidate(self, key: Key, *, stale_for: float | None = None) -> bool:
        """Invalidate a value: delete it, or let it be served a little longer while it is replaced.

        Args:
            key: see :class:`Cache`.
            stale_for: None to delete the value. Or for how many seconds :meth:`get_or_set` and
                cached functions may serve it, while one caller in all processes computes a new one.
                Other methods count it as a miss from now on.

        Returns:
            Whether there was a value.
        """
        return self._change([key], lambda cache: cache.invalidate(key, stale_for=stale_for))

    def get_or_set_many(
        self,
        keys: Iterable[K],
        load: Callable[[list[K]], Mapping[K, T]],
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
        return self._run_deferred(
            lambda cache: cache.get_or_set_many(keys, outside(load), tags=tags, **options)
        )

    @overload
    def get(self, key: Key, *, tags: Tags | None = None) -> T | None: ...

    @overload
    def get(self, key: Key, default: D, *, tags: Tags | None = None) -> T | D: ...

    def get(self, key: Key, default: Any = None, *, tags: Tags | None = None) -> Any:
        """Get a value, or ``default`` on a miss.

        Args:
            key: see :class:`Cache`.
            default: returned on a miss.
            tags: tags that the value must have; a value without one of them counts as a miss. The
                tags that you name are read together with the value; other tags of the value take
                another round trip.
        """
        return self._run(lambda cache: cache.get(key, default, tags=tags))

    def get_with_cas(self, key: Key) -> tuple[T, int] | None:
        """Get a value and its token for :meth:`cas`, or None on a miss."""
        return self._run(lambda cache: cache.get_with_cas(key))

    @overload
    def get_and_touch(self, key: Key, ttl: Ttl) -> T | None: ...

    @overload
    def get_and_touch(self, key: Key, ttl: Ttl, default: D) -> T | D: ...

    def get_and_touch(self, key: Key, ttl: Ttl, default: Any = None) -> Any:
        """Get a value and update its ``ttl``; return ``default`` on a miss.

        A value that was stored with ``refresh`` or ``stale_for`` still ends with its first ``ttl``.
        """
        return self._run(lambda cache: cache.get_and_touch(key, ttl, default))

    @overload
    def get_many(
        self,
        keys: Iterable[K],
        *,
        on_error: Literal["raise"] = ...,
        tags: Tags | None = None,
    ) -> dict[K, T]: ...

    @overload
    def get_many(
        self, keys: Iterable[K], *, on_error: Literal["partial"], tags: Tags | None = None
    ) -> PartialResult[K, T]: ...

    def get_many(
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
        return self._run(lambda cache: cache.get_many(keys, on_error=on_error, tags=tags))

    def set(
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
        return self._change([key], lambda cache: cache.set(key, value, ttl=ttl, tags=tags))

    def add(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key does not exist; return whether it was stored.

        It is not stored either while a process computes the value in :meth:`Cache.get_or_set`.
        """
        return self._change([key], lambda cache: cache.add(key, value, ttl=ttl))

    def replace(self, key: Key, value: T, *, ttl: Ttl | None = None) -> bool:
        """Store a value if the key exists; return whether it was stored."""
        return self._change([key], lambda cache: cache.replace(key, value, ttl=ttl))

    def cas(self, key: Key, value: T, cas: int, *, ttl: Ttl | None = None) -> bool:
        """Store a value if it has not changed since :meth:`get_with_cas` returned ``cas``.

        Returns:
            Whether it was stored; False if the value was changed or deleted.
        """
        return self._change([key], lambda cache: cache.cas(key, value, cas, ttl=ttl))

    def touch(self, key: Key, ttl: Ttl) -> bool:
        """Update the ``ttl`` of a value; return whether it exists."""
        return self._run(lambda cache: cache.touch(key, ttl))

    def ttl(self, key: Key) -> int | None:
        """Return the seconds until the server drops a value.

        With ``stale_for``, this time includes the seconds in which the value is served stale.

        Returns:
            The seconds; -1 if the value does not expire; None on a miss.

        Raises:
            UnsupportedError: the node does not know meta commands (memcached before 1.6).
        """
        return self._run(lambda cache: cache.ttl(key))

    def delete(self, key: Key) -> bool:
        """Delete a value; return whether it existed.

        A computation of :meth:`Cache.get_or_set` that began before this, in any process, is not
        stored. While one runs, this returns True.
        """
        return self._change([key], lambda cache: cache.delete(key))

    def set_many(
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
        return self._change(None, lambda cache: cache.set_many(values, ttl=ttl, tags=tags))

    def delete_many(self, keys: Iterable[K]) -> dict[K, Exception]:
        """Delete many values, on all their nodes at once. Missing keys are not an error.

        Returns:
            The errors by key; empty if none of the keys exists any more.
        """
        return self._change(None, lambda cache: cache.delete_many(keys))

    def increment(
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
        return self._change(
            [key], lambda cache: cache.increment(key, delta, initial=initial, ttl=ttl)
        )

    def decrement(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl | None = None
    ) -> int | None:
        """Subtract from a number; it stops at 0. Otherwise as :meth:`increment`.

        The server pads shorter numbers with spaces: after 10 - 1, Utf8 and Raw read ``"9 "``.
        """
        return self._change(
            [key], lambda cache: cache.decrement(key, delta, initial=initial, ttl=ttl)
        )

    def invalidate_tag(self, tag: Key) -> None:
        """Make all values with a tag misses, in all processes, by one command.

        After it has returned, no reader gets a value that was stored, or whose computation began,
        before. If it raises, call it again: the values may still be current.
        """
        return self._change(None, lambda cache: cache.invalidate_tag(tag))

    def invalidate_tags(self, tags: Tags) -> None:
        """Do the same as :meth:`invalidate_tag` for several tags, on all their nodes at once."""
        return self._change(None, lambda cache: cache.invalidate_tags(tags))

    def read_tags(self, tags: Tags) -> TagSnapshot:
        """Return the state of tags, to be passed as ``tags`` to :meth:`set` or :meth:`set_many`.

        Call it before you read the data that a value is made from. If a tag is invalidated after
        this call, the value is a miss. :meth:`get_or_set` does this by itself.
        """
        return self._run(lambda cache: cache.read_tags(tags))

    def lock(
        self, name: Key, *, ttl: int | timedelta, wait: float | timedelta | None = None
    ) -> Lock:
        """Return a lock that is shared with other processes; sends nothing.

        ::

            with cache.lock("nightly-report", ttl=60):
                write_report()

        It is not safe for correctness: see :class:`emcache.cache.Lock`.

        Args:
            name: locks of the same name exclude each other, in all caches with the same prefix on
                the same nodes. The key is the prefix, ``#lock:`` and the name.
            ttl: the lifetime of the lock, 2 seconds to 30 days. It frees the lock of an owner that
                is killed, so it must be longer than the work, or be extended in time.
            wait: how many seconds to wait for the lock; 0 for one attempt, None without a limit.
        """
        return Lock(self, self._top().lock(name, ttl=ttl, wait=wait))

    def rate_limit(
        self,
        name: Key,
        limit: int,
        *,
        per: float | timedelta,
        window: Window = "fixed",
        on_error: OnLimitError = "raise",
    ) -> RateLimit:
        """Return a rate limit that is shared with other processes; sends nothing.

        ::

            if not cache.rate_limit(f"login:{user_id}", 5, per=60).hit():
                raise TooManyAttempts

        Args:
            name: limits of the same name and ``per`` share their counters, in all caches with the
                same prefix on the same nodes. The keys are the prefix, ``#limit:``, the name,
                ``per`` and the number of the window.
            limit: the most hits that are allowed in one window.
            per: the length of a window, in seconds, at most 30 days.
            window: with ``"fixed"``, counts begin at 0 in each window, so up to twice the limit may
                pass around a boundary. With ``"sliding"``, the hits of the previous window also
                count, in proportion to the part of it that lies less than ``per`` seconds ago.
            on_error: with ``"raise"``, errors of the cache are raised. With ``"allow"``, hits are
                then allowed, and a warning is logged once a minute.
        """
        found = self._top().rate_limit(name, limit, per=per, window=window, on_error=on_error)
        return RateLimit(self, found)
