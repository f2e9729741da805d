"""The decorator ``cached``: caches the results of async functions."""

import asyncio.coroutines
import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ._cache import Cache
from ._call_keys import KeyOf, key_of
from ._get_or_set import OnError, check_function, check_on_error
from ._return_types import ReturnType
from ._ttl import Ttl, exptime

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

CacheSource = Cache[Any] | Callable[[], Cache[Any] | None]
"""A cache, or a function that returns the current cache, or None without one."""


class CachedFunction(Generic[P, R]):
    """An async function whose results are cached; created by :func:`emcache.cached`."""

    __wrapped__: Callable[P, Awaitable[R]]

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        source: CacheSource,
        key: KeyOf,
        options: dict[str, Any],
    ) -> None:
        functools.update_wrapper(self, function)
        self._source = source
        returns = ReturnType(function)
        if isinstance(source, Cache):
            returns.check(source)
        self._returns = None if returns.is_plain else returns
        self._key = key
        self._options = options
        self._bound: tuple[Any, ...] = ()
        # Frameworks must recognize this object as an async function.
        if (mark := getattr(inspect, "markcoroutinefunction", None)) is not None:
            mark(self)
        else:
            # Python 3.11: the mark that asyncio.iscoroutinefunction, and so Django, checks.
            self._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine", None)

    def __repr__(self) -> str:
        return f"<emcache.cached {getattr(self, '__qualname__', self.__wrapped__)}>"

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> "CachedFunction[P, R]": ...
    @overload
    def __get__(
        self: "CachedFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "CachedFunction[Q, R]": ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind a method to its instance, also for ``invalidate``, ``refresh`` and ``key_for``."""
        if instance is None:
            return self
        bound = copy.copy(self)
        bound._bound = (instance,)
        return bound

    @property
    def _cache(self) -> Cache[Any] | None:
        cache = self._source if isinstance(self._source, Cache) else self._source()
        if cache is None:
            return None
        if not isinstance(cache, Cache):
            raise TypeError(
                f"the function passed to cached() must return an emcache.Cache or None, not "
                f"{type(cache).__name__}"
            )
        return cache if self._returns is None else self._returns.cache_for(cache)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Awaitable[R]]:
        function: Any = self.__wrapped__
        return lambda: function(*self._bound, *args, **kwargs)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or call the function and cache its result."""
        call = self._call(args, kwargs)
        if (cache := self._cache) is None:
            return await call()
        key = self.key_for(*args, **kwargs)
        value: R = await cache.get_or_set(key, call, **self._options)
        return value

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of these arguments, without the prefix of the cache."""
        return self._key(*self._bound, *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the cached result for these arguments; return whether there was one.

        A computation that was already running is returned to its waiting callers but not stored.
        Errors of the cache are raised whatever ``on_error`` is, because the old result may still be
        cached.
        """
        cache = self._cache
        return cache is not None and await cache.delete(self.key_for(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, replace the cached result, and return it."""
        call = self._call(args, kwargs)
        if (cache := self._cache) is None:
            return await call()
        value: R = await cache.renew(self.key_for(*args, **kwargs), call, **self._options)
        return value


class _Decorator:
    def __init__(
        self, source: CacheSource, key: str | Callable[..., str] | None, options: dict[str, Any]
    ) -> None:
        self._source = source
        self._key = key
        self._options = options

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> CachedFunction[P, R]:
        # Python 3.13 finds the coroutine function in a partialmethod, which cannot be called.
        if not (callable(function) and inspect.iscoroutinefunction(function)):
            raise TypeError(f"cached() needs an async function, not {function!r}")
        return CachedFunction(function, self._source, key_of(function, self._key), self._options)


def _check_source(cache: object) -> None:
    if isinstance(cache, Cache):
        return
    if inspect.iscoroutinefunction(cache):
        raise TypeError(
            f"cache must be an emcache.Cache or a synchronous function that returns one, not "
            f"{cache!r}; write @cached(cache) above the function"
        )
    if isinstance(cache, type) or not callable(cache):
        what = f"the class {cache.__name__}" if isinstance(cache, type) else type(cache).__name__
        raise TypeError(
            f"cache must be an emcache.Cache or a function that returns one, not {what}"
        )


def cached(
    cache: CacheSource,
    *,
    ttl: Ttl | None = None,
    key: str | Callable[..., str] | None = None,
    store_if: Callable[[Any], bool] | None = None,
    on_error: OnError = "miss",
) -> _Decorator:
    """Cache the results of an async function.

    Concurrent calls in this process with the same key share one computation; see
    :meth:`emcache.Cache.get_or_set`, also for the errors. The decorated function has the methods
    ``key_for``, ``invalidate`` and ``refresh``, which take the arguments of the function, and the
    original function as ``__wrapped__``.

    If the return annotation is or contains a Pydantic model, a dataclass, an attrs class or a
    msgspec struct, and the cache has the default serializer, results are stored as with
    :class:`emcache.cache.Typed`.

    Args:
        cache: a :class:`emcache.Cache`, or a function without arguments that returns the current
            cache. Decorators run at import time, before a client exists, so most programs pass a
            function. If it returns None, the decorated function is called without a cache.
        ttl: how long results live; None for the ``ttl`` of the cache.
        key: a template with the names of the parameters, such as ``"user:{user_id}"``. Separators
            of the template are percent-encoded in the fields, so that different arguments have
            different keys. Or a function that takes the same arguments and returns the key. None
            for the function's module and name with its arguments, which must be None, bool, int,
            float, str, bytes, members of an Enum, UUIDs, dates, times, Decimals, or tuples of
            these.
        store_if: returns whether to store a result; None to store all results, including None.
        on_error: with ``"miss"``, the function is called if the cache fails, and a warning is
            logged once a minute. With ``"raise"``, errors of the cache are raised. A result that
            the serializer does not accept always raises :class:`emcache.SerializationError`.

    Raises:
        TypeError: the function is not async. Or its return annotation is a model that the cache
            cannot store (with a function as ``cache``, the first call raises). Or ``key`` names a
            parameter that does not exist, or has two fields without a separator. Or ``key`` is
            None, and module and name do not identify the function (a method, a closure, a
            partial, ...).
    """
    _check_source(cache)
    if ttl is not None:
        exptime(ttl)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a str or a function, not {type(key).__name__}")
    if store_if is not None:
        check_function("store_if", store_if)
    check_on_error(on_error)
    return _Decorator(cache, key, {"ttl": ttl, "store_if": store_if, "on_error": on_error})
