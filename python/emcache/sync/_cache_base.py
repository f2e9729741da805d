"""How the methods of the synchronous cache run, and how threads share a computation."""

import asyncio
import copy
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, Generic, TypeVar

from .._errors import EmcacheError
from .._failures import SharedFailure
from ..cache import Cache as AsyncCache
from ..cache import CacheInfo, RateLimitResult, Serializer
from ..cache import Lock as AsyncLock
from ..cache import RateLimit as AsyncRateLimit
from ..cache._keys import Key
from ..cache._policy import check_function
from ._call_loop import CallLoop, Facade, outside
from ._client import Client

T = TypeVar("T")
R = TypeVar("R")

_MISS: Any = object()


class _Flight:
    """A computation of one thread, for which others wait."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.done = threading.Event()
        self.value: Any = _MISS
        self.failure: SharedFailure | None = None


class _Here(threading.local):
    """The caches of one thread: more than one if a factory uses the cache that called it."""

    def __init__(self) -> None:
        self.caches: list[tuple[CallLoop, AsyncCache[Any]]] = []
        self.depth = 0


class CacheBase(Generic[T]):
    """The parts of :class:`emcache.sync.Cache` that are not methods of :class:`emcache.Cache`.

    Each thread has a cache of its own with the logic of :class:`emcache.Cache`. Threads coordinate
    as processes do, by leases and marks on the server, and in addition share computations.
    """

    _client: Client
    _arguments: dict[str, Any]

    def _set_up(self, client: Client, arguments: dict[str, Any]) -> None:
        if not isinstance(client, Client):
            raise TypeError(
                f"client must be an emcache.sync.Client, not {type(client).__name__}; "
                "use emcache.Cache with an emcache.Client"
            )
        self._client = client
        self._arguments = arguments
        self._here = _Here()
        self._start()
        _all.add(self)
        self._top()

    def _start(self) -> None:
        """Forget the computations of other threads; the child of a fork has none of them."""
        self._lock = threading.Lock()
        self._flights: dict[bytes, _Flight] = {}

    def __repr__(self) -> str:
        return repr(self._top()).replace("emcache.Cache", "emcache.sync.Cache", 1)

    @property
    def client(self) -> Client:
        """The client that the cache uses."""
        return self._client

    def wire_key(self, key: Key) -> bytes:
        """Return the bytes that are sent as the key; nothing is sent."""
        return self._top().wire_key(key)

    @property
    def _values(self) -> Any:
        return self._top()._values

    def _with_serializer(self, serializer: Serializer[R]) -> Any:
        other = copy.copy(self)
        other._set_up(self._client, self._arguments | {"serializer": serializer})
        return other

    def _top(self) -> AsyncCache[T]:
        return self._at(self._here)[1]

    def _at(self, here: _Here) -> tuple[CallLoop, AsyncCache[T]]:
        if len(here.caches) <= here.depth:
            cache = AsyncCache(_facade(self._client), **self._arguments)
            here.caches.append((CallLoop(), cache))
        return here.caches[here.depth]

    def _run(self, start: Callable[[AsyncCache[T]], Coroutine[Any, Any, R]]) -> R:
        here = self._here
        loop, cache = self._at(here)
        outer = asyncio._get_running_loop()
        if isinstance(outer, CallLoop):
            # This is called by a serializer, for example.
            asyncio._set_running_loop(None)
        here.depth += 1
        try:
            return loop.call(start(cache))
        finally:
            here.depth -= 1
            if isinstance(outer, CallLoop):
                asyncio._set_running_loop(outer)

    def _change(
        self,
        keys: Iterable[Key] | None,
        start: Callable[[AsyncCache[T]], Coroutine[Any, Any, R]],
    ) -> R:
        """Run a method that changes these keys; None for any.

        Later calls share no computation that began before.
        """
        self._forget(keys)
        try:
            return self._run(start)
        finally:
            self._forget(keys)

    def _forget(self, keys: Iterable[Key] | None) -> None:
        if not self._flights:
            return
        with self._lock:
            if keys is None:
                self._flights.clear()
            else:
                for key in keys:
                    self._flights.pop(self.wire_key(key), None)

    def _get_or_set(
        self,
        key: Key,
        factory: Callable[[], T],
        info: CacheInfo | None,
        tags: Any,
        options: dict[str, Any],
    ) -> T:
        check_function("factory", factory)
        cache = self._top()
        name = cache.wire_key(key)
        if tags is None and not cache._has_tags:
            value = self._hit(cache, name)
            if value is not _MISS:
                if info is not None:
                    info.fresh = True
                return value  # type: ignore[no-any-return]

        def compute() -> T:
            return self._run(
                lambda cache: cache.get_or_set(
                    key, outside(factory), info=info, tags=tags, **options
                )
            )

        return self._share(name, compute, info)

    def _hit(self, cache: AsyncCache[T], name: bytes) -> Any:
        """Return a value that is there and fresh, as ``Cache.get_or_set`` does."""
        try:
            item = self._client.get(name, True)
        except (EmcacheError, RuntimeError):
            return _MISS
        if item is None or not item.value or item.flags & cache._marks:  # type: ignore[operator]
            return _MISS
        try:
            value = cache._loads(item.value, item.flags)  # type: ignore[arg-type]
        except Exception:
            return _MISS
        cache._counts.hits += 1
        return value

    def _share(self, name: bytes, compute: Callable[[], R], info: CacheInfo | None) -> R:
        """Call ``compute``, or wait for another thread that does."""
        while True:
            with self._lock:
                flight = self._flights.get(name)
                if flight is None:
                    mine = self._flights[name] = _Flight()
            if flight is None:
                return self._lead(name, mine, compute)
            if flight.thread == threading.get_ident():
                raise RuntimeError(
                    f"deadlock: the factory for {name!r} requests the key that it computes"
                )
            flight.done.wait()
            if flight.failure is not None:
                with self._lock:
                    error = flight.failure.take()
                raise error
            if flight.value is not _MISS:
                if info is not None:
                    info.waited = True
                return flight.value  # type: ignore[no-any-return]
            # The other thread was interrupted.

    def _lead(self, name: bytes, mine: _Flight, compute: Callable[[], R]) -> R:
        try:
            mine.value = value = compute()
        except Exception as error:
            mine.failure = SharedFailure(error)
            # This thread has the original; the others get copies.
            mine.failure.take()
            raise
        else:
            return value
        finally:
            with self._lock:
                if self._flights.get(name) is mine:
                    del self._flights[name]
            mine.done.set()


_all: "weakref.WeakSet[CacheBase[Any]]" = weakref.WeakSet()


def _forget_parent() -> None:
    for cache in list(_all):
        cache._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)

_FACADES: "weakref.WeakKeyDictionary[Client, _Facades]" = weakref.WeakKeyDictionary()


class _Facades(threading.local):
    """The client as each thread's caches see it: they share their state, as on a loop."""

    def __init__(self) -> None:
        self.mine: Facade | None = None


def _facade(client: Client) -> Facade:
    facades = _FACADES.get(client)
    if facades is None:
        facades = _FACADES[client] = _Facades()
    if facades.mine is None:
        facades.mine = Facade(weakref.proxy(client))
    return facades.mine


class Lock:
    """A lock that is shared with other processes; see :class:`emcache.cache.Lock`."""

    def __init__(self, cache: CacheBase[Any], lock: AsyncLock) -> None:
        self._cache = cache
        self._lock = lock

    @property
    def owned(self) -> bool:
        """Whether this object holds the lock, as far as it knows."""
        return self._lock.owned

    def acquire(self) -> bool:
        """Take the lock; return False if ``wait`` passed first."""
        return self._cache._run(lambda _: self._lock.acquire())

    def release(self) -> bool:
        """Give the lock back; return False if it was lost before."""
        return self._cache._run(lambda _: self._lock.release())

    def extend(self, ttl: int | timedelta | None = None) -> bool:
        """Let the lock live for ``ttl`` from now on; return False if it was lost before."""
        return self._cache._run(lambda _: self._lock.extend(ttl))

    def __enter__(self) -> "Lock":
        self._cache._run(lambda _: self._lock.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._cache._run(lambda _: self._lock.__aexit__(*error))


class RateLimit:
    """A rate limit that is shared with other processes; see :class:`emcache.cache.RateLimit`."""

    def __init__(self, cache: CacheBase[Any], limit: AsyncRateLimit) -> None:
        self._cache = cache
        self._limit = limit

    def hit(self, cost: int = 1) -> RateLimitResult:
        """Count a hit; see :meth:`emcache.cache.RateLimit.hit`."""
        return self._cache._run(lambda _: self._limit.hit(cost))
