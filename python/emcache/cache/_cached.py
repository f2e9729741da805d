"""The decorator: results of async functions, kept in a cache."""

import asyncio.coroutines
import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from ._cache import Cache
from ._naming import KeyOf, key_of
from ._store import OnError, check_function, check_on_error
from ._ttl import Ttl, exptime

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

CacheSource = Cache[Any] | Callable[[], Cache[Any] | None]
"""A cache, or a function that gives the one of the moment, or None: there is none."""


class CachedFunction(Generic[P, R]):
    """A function with its results in a cache; :func:`emcache.cached` makes one."""

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
        self._key = key
        self._options = options
        self._bound: tuple[Any, ...] = ()
        # So that frameworks take it for the async function that it is.
        if (mark := getattr(inspect, "markcoroutinefunction", None)) is not None:
            mark(self)
        else:
            # Python 3.11: what asyncio.iscoroutinefunction, and so Django, looks for.
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
        """Bind a method to its instance, for ``invalidate`` and the others as well."""
        if instance is None:
            return self
        bound = copy.copy(self)
        bound._bound = (instance,)
        return bound

    @property
    def _cache(self) -> Cache[Any] | None:
        if isinstance(self._source, Cache):
            return self._source
        cache = self._source()
        if cache is not None and not isinstance(cache, Cache):
            raise TypeError(
                f"the function given to cached() must give an emcache.Cache or None, not "
                f"{type(cache).__name__}"
            )
        return cache

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Awaitable[R]]:
        function: Any = self.__wrapped__
        return lambda: function(*self._bound, *args, **kwargs)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Give the cached result, or call the function and keep what it returns."""
        call = self._call(args, kwargs)
        if (cache := self._cache) is None:
            return await call()
        key = self.key_for(*args, **kwargs)
        value: R = await cache.get_or_set(key, call, **self._options)
        return value

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Give the key of these arguments, without the prefix of the cache."""
        return self._key(*self._bound, *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the result for these arguments; tell whether there was one.

        A call that is under way returns what it computes to those who wait for it already, but
        does not store it. Errors of the cache are raised whatever ``on_error`` is: the old result
        may still be there.
        """
        cache = self._cache
        return cache is not None and await cache.delete(self.key_for(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, keep what it returns whatever is there, and return it."""
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
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"cached needs an async function, not {function!r}")
        return CachedFunction(function, self._source, key_of(function, self._key), self._options)


def _check_source(cache: object) -> None:
    if isinstance(cache, Cache):
        return
    if inspect.iscoroutinefunction(cache):
        raise TypeError(
            f"cache must be an emcache.Cache or a plain function that gives one, not {cache!r}: "
            "write @cached(cache) above the function"
        )
    if isinstance(cache, type) or not callable(cache):
        what = f"the class {cache.__name__}" if isinstance(cache, type) else type(cache).__name__
        raise TypeError(f"cache must be an emcache.Cache or give one, not {what}")


def cached(
    cache: CacheSource,
    *,
    ttl: Ttl | None = None,
    key: str | Callable[..., str] | None = None,
    store_if: Callable[[Any], bool] | None = None,
    on_error: OnError = "miss",
) -> _Decorator:
    """Keep the results of an async function in a cache.

    Calls in this process with the same key at the same time share one computation; see
    :meth:`emcache.Cache.get_or_set`, also for the errors. The decorated function has ``key_for``,
    ``invalidate`` and ``refresh``, which take the arguments of the function, and the function
    itself as ``__wrapped__``.

    Args:
        cache: a :class:`emcache.Cache`; or, as decorators are there before the event loop is, a
            function without arguments that gives the cache of the moment. Where it gives None the
            function is called as if it were not decorated.
        ttl: how long results live; None: as long as the cache's ``ttl`` says.
        key: a template with the names of the parameters, as ``"user:{user_id}"``; what separates
            its fields is percent-encoded in their text, so that different texts give different
            keys. Or a function that makes the key of the same arguments. None: the function's
            module and name, and its arguments, which must be None, bool, int, float, str, bytes,
            members of an Enum, UUIDs, dates, times, Decimals, or tuples of these.
        store_if: which results to keep; None: all, None among them.
        on_error: ``"miss"``: if the cache fails, the function is called, with a warning once a
            minute. ``"raise"``: errors of the cache are raised. A result that the serializer does
            not take always raises :class:`emcache.SerializationError`.

    Raises:
        TypeError: the function is not async; ``key`` names a parameter that it does not have, or
            has two fields with no sign in between; there is no ``key``, and the module and name
            do not tell the function from others (a method, a closure, a partial, ...).
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
