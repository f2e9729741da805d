"""How the methods of the synchronous cache run, and how threads share a computation."""

import asyncio
import copy
import functools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from .._errors import EmcacheError
from .._failures import SharedFailure
from ..cache import Cache as AsyncCache
from ..cache import CacheInfo, RateLimitResult, Serializer
from ..cache import Lock as AsyncLock
from ..cache import RateLimit as AsyncRateLimit
from ..cache._flights import Missing, flights_of
from ..cache._keys import Key
from ..cache._policy import check_function
from ._call_loop import CallLoop, Facade, outside
from ._client import Client
from ._gate import Gate
from ._local import after_fork, changes_of
from ._signals import after_fork as forget_signals
from ._signals import deferred, is_interruption, wait_at

T = TypeVar("T")
R = TypeVar("R")

Start = Callable[[AsyncCache[T]], Coroutine[Any, Any, R]]

_MISS: Any = object()

_LOOK = 1.0
"""Seconds after which a waiting thread looks whether the computation was interrupted."""


class _Result:
    """What the threads get that wait for a computation."""

    def __init__(self) -> None:
        self.ended = Gate()
        self.value: Any = _MISS
        self.failure: SharedFailure | None = None


class _Flight:
    """A computation of one thread, for which others wait.

    Only the call that computes refers to it. So it ends with that call, wherever a signal handler
    raises.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.result = _Result()

    def __del__(self) -> None:
        # There is no result if a handler has raised in the constructor, and no contextlib while the
        # interpreter exits.
        try:  # noqa: SIM105
            self.result.ended.open()
        except AttributeError:
            pass


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
        self._flights: weakref.WeakValueDictionary[bytes, _Flight] = weakref.WeakValueDictionary()

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
        if len(here.caches) > here.depth and not _is_usable(*here.caches[here.depth]):
            del here.caches[here.depth :]
        if len(here.caches) <= here.depth:
            cache = AsyncCache(_facade(self._client), **self._arguments)
            here.caches.append((CallLoop(), cache))
        return here.caches[here.depth]

    def _run(self, start: Start[T, R]) -> R:
        here = self._here
        depth, outer = here.depth, asyncio._get_running_loop()
        # A signal handler may raise in one of the two clauses.
        try:
            try:
                return self._call(here, start)
            finally:
                here.depth = depth
                asyncio._set_running_loop(outer)
        finally:
            here.depth = depth
            asyncio._set_running_loop(outer)

    def _run_deferred(self, start: Start[T, R]) -> R:
        """Do the same for a call that may take a lease or a lock."""
        return deferred(functools.partial(self._run, start))

    def _call(self, here: _Here, start: Start[T, R]) -> R:
        loop, cache = self._at(here)
        if isinstance(asyncio._get_running_loop(), CallLoop):
            # This is called by a serializer, for example.
            asyncio._set_running_loop(None)
        here.depth += 1
        try:
            return loop.call(start(cache))
        finally:
            facade = cast(Facade, cache.client)
            if not loop.is_usable:
                _discard(cache)
            if facade.doubtful:
                facade.end_doubtful_leases()

    def _change(
        self,
        keys: Iterable[Key] | None,
        start: Start[T, R],
        run: Callable[[Start[T, R]], R] | None = None,
    ) -> R:
        """Run a method that changes these keys; None for any.

        Later calls share no computation that began before.
        """
        self._forget(keys)
        try:
            return (run or self._run)(start)
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
        if cache._local is not None:
            local = cache._find_locally(name, cache._tag_names(tags), cache._counts, info)
            if not isinstance(local, Missing):
                return local
        elif tags is None and not cache._has_tags:
            value = self._hit(cache, name)
            if value is not _MISS:
                if info is not None:
                    info.fresh = True
                return value  # type: ignore[no-any-return]

        def compute() -> T:
            return self._run_deferred(
                lambda cache: cache.get_or_set(
                    key, outside(factory), info=info, tags=tags, **options
                )
            )

        return deferred(lambda: self._share(name, compute, info))

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
            mine = _Flight()
            with self._lock:
                flight = self._flights.setdefault(name, mine)
            if flight is mine:
                del flight
                return self._lead(name, mine, compute)
            if flight.thread == threading.get_ident():
                raise RuntimeError(
                    f"deadlock: the factory for {name!r} requests the key that it computes"
                )
            result, computing = flight.result, weakref.ref(flight)
            del flight
            while not wait_at(result.ended, _LOOK) and computing() is not None:
                pass
            result.ended.open()
            if result.failure is not None:
                with self._lock:
                    error = result.failure.take()
                raise error
            if result.value is not _MISS:
                if info is not None:
                    info.waited = True
                return result.value  # type: ignore[no-any-return]
            # The other thread was interrupted.

    def _lead(self, name: bytes, mine: _Flight, compute: Callable[[], R]) -> R:
        result = mine.result
        try:
            result.value = value = compute()
        except Exception as error:
            if not is_interruption(error):
                result.failure = SharedFailure(error)
                # This thread has the original; the others get copies.
                result.failure.take()
            raise
        else:
            return value
        finally:
            with self._lock:
                if self._flights.get(name) is mine:
                    del self._flights[name]
            result.ended.open()


_all: "weakref.WeakSet[CacheBase[Any]]" = weakref.WeakSet()


def _forget_parent() -> None:
    after_fork()
    forget_signals()
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
        facade = Facade(weakref.proxy(client))
        flights_of(facade).local = changes_of(client)
        facades.mine = facade
    return facades.mine


def _is_usable(loop: CallLoop, cache: AsyncCache[Any]) -> bool:
    return loop.is_usable and cast(Facade, cache.client).is_usable


def _discard(cache: AsyncCache[Any]) -> None:
    """Forget the state of all caches of this thread with the same client."""
    facade = cast(Facade, cache.client)
    facade.is_usable = False
    for facades in list(_FACADES.values()):
        if facades.mine is facade:
            facades.mine = None


class Lock:
    """A lock that is shared with other processes; see :class:`emcache.cache.Lock`."""

    def __init__(self, cache: CacheBase[Any], lock: AsyncLock) -> None:
        self._cache = cache
        self._lock = lock

    def __repr__(self) -> str:
        return repr(self._lock).replace("emcache.cache.", "emcache.sync.", 1)

    @property
    def owned(self) -> bool:
        """Whether this object holds the lock, as far as it knows."""
        return self._lock.owned

    def acquire(self) -> bool:
        """Take the lock; return False if ``wait`` passed first."""
        return self._acquired(lambda _: self._lock.acquire())

    def release(self) -> bool:
        """Give the lock back; return False if it was lost before."""
        return self._cache._run_deferred(lambda _: self._lock.release())

    def extend(self, ttl: int | timedelta | None = None) -> bool:
        """Let the lock live for ``ttl`` from now on; return False if it was lost before."""
        return self._cache._run_deferred(lambda _: self._lock.extend(ttl))

    def _acquired(self, start: Callable[[Any], Coroutine[Any, Any, R]]) -> R:
        was_held = self._lock.owned
        try:
            return self._cache._run_deferred(start)
        except BaseException as error:
            # The caller does not know whether the lock was acquired before that.
            if not was_held and is_interruption(error) and self._lock.owned:
                self.release()
            raise

    def __enter__(self) -> "Lock":
        self._acquired(lambda _: self._lock.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._cache._run_deferred(lambda _: self._lock.__aexit__(*error))
        except BaseException as raised:
            if is_interruption(raised) and self._lock.owned:
                self.release()
            raise


class RateLimit:
    """A rate limit that is shared with other processes; see :class:`emcache.cache.RateLimit`."""

    def __init__(self, cache: CacheBase[Any], limit: AsyncRateLimit) -> None:
        self._cache = cache
        self._limit = limit

    def __repr__(self) -> str:
        return repr(self._limit).replace("emcache.cache.", "emcache.sync.", 1)

    def hit(self, cost: int = 1) -> RateLimitResult:
        """Count a hit; see :meth:`emcache.cache.RateLimit.hit`."""
        return self._cache._run_deferred(lambda _: self._limit.hit(cost))
