"""The decorator ``cached`` for plain functions."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, Unpack

from ..cache import Cache as AsyncCache
from ..cache import CacheInfo, Options
from ..cache._call_keys import KeyOf, key_of
from ..cache._keys import Key
from ..cache._return_types import ReturnType
from ..cache._tag_templates import TagsOf, TagsOption, tags_of
from ._cache import Cache

P = ParamSpec("P")
R = TypeVar("R")

CacheSource = Cache[Any] | Callable[[], Cache[Any] | None]
"""A cache, or a function that returns the current cache, or None without one."""


class CachedFunction(Generic[P, R]):
    """A function whose results are cached; created by :func:`emcache.sync.cached`."""

    __wrapped__: Callable[P, R]

    def __init__(
        self,
        function: Callable[P, R],
        source: CacheSource,
        key: KeyOf,
        tags: TagsOf | None,
        options: Options,
    ) -> None:
        functools.update_wrapper(self, function)
        self._source = source
        self._key = key
        self._tags = tags
        self._options = options
        self._returns = ReturnType(function)
        if isinstance(source, Cache):
            self._returns.check(source)  # type: ignore[arg-type]
        self._last: tuple[Cache[Any], Cache[Any]] | None = None
        self._bound: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"<emcache.sync.cached {getattr(self, '__qualname__', self.__wrapped__)}>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind a method to its instance, also for ``invalidate``, ``refresh`` and ``key_for``."""
        if instance is None:
            return self
        bound = copy.copy(self)
        bound._bound = (instance,)
        return bound

    def _cache(self) -> Cache[Any] | None:
        """Return the current cache, which stores values of the function's return type."""
        source = self._source
        cache = source if isinstance(source, Cache) else source()
        if cache is None:
            return None
        if not isinstance(cache, Cache):
            raise TypeError(
                "the function passed to cached() must return an emcache.sync.Cache or None, not "
                f"{type(cache).__module__.partition('.')[0]}.{type(cache).__name__}"
            )
        last = self._last
        if last is None or last[0] is not cache:
            last = cache, self._returns.cache_for(cache)  # type: ignore[arg-type, assignment]
            self._last = last
        return last[1]  # type: ignore[index]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or call the function and cache its result."""
        return self._call(None, args, kwargs)

    def _call(self, info: CacheInfo | None, args: Any, kwargs: Any) -> R:
        bound = self._bound + args
        call: Any = functools.partial(self.__wrapped__, *bound, **kwargs)
        if (cache := self._cache()) is None:
            if info is not None:
                info.computed = True
            result: R = call()
            return result
        tags = None if self._tags is None else list(self._tags(bound, kwargs))
        value: R = cache.get_or_set(
            self._key(bound, kwargs), call, info=info, tags=tags, **self._options
        )
        return value

    def with_info(self, *args: P.args, **kwargs: P.kwargs) -> tuple[R, CacheInfo]:
        """Do the same as a call; return the result and where it came from."""
        info = CacheInfo()
        return self._call(info, args, kwargs), info

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of these arguments, without the prefix of the cache."""
        return self._key(self._bound + args, kwargs)

    def tags_for(self, *args: P.args, **kwargs: P.kwargs) -> list[Key]:
        """Return the tags of these arguments, without those of the cache."""
        return [] if self._tags is None else list(self._tags(self._bound + args, kwargs))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the cached result for these arguments; return whether there was one."""
        cache = self._cache()
        return cache is not None and cache.delete(self.key_for(*args, **kwargs))

    def mark_stale(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Let the cached result be served for ``stale_for`` seconds while one caller replaces it.

        Raises:
            ValueError: neither the function nor its cache has ``stale_for``.
        """
        if (cache := self._cache()) is None:
            return False
        stale_for = cache._top()._policy_of(self._options).stale_for
        if not stale_for:
            raise ValueError("mark_stale() needs stale_for; pass it to cached() or to the Cache")
        return cache.invalidate(self.key_for(*args, **kwargs), stale_for=max(stale_for, 1))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, replace the cached result, and return it."""
        bound = self._bound + args
        call: Any = functools.partial(self.__wrapped__, *bound, **kwargs)
        if (cache := self._cache()) is None:
            result: R = call()
            return result
        tags = None if self._tags is None else list(self._tags(bound, kwargs))
        value: R = cache.renew(self._key(bound, kwargs), call, tags=tags, **self._options)
        return value


def cached(
    cache: CacheSource,
    *,
    key: str | Callable[..., str] | None = None,
    tags: TagsOption = None,
    **options: Unpack[Options],
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
    """Cache the results of a function; see :func:`emcache.cached` for the arguments.

    Concurrent calls with the same key share one computation, in all threads and processes. The
    decorated function has the methods ``key_for``, ``tags_for``, ``invalidate``, ``mark_stale``,
    ``refresh`` and ``with_info``, which take the arguments of the function, and the original
    function as ``__wrapped__``.

    Raises:
        TypeError: the function is async, or an argument is not valid.
    """
    if not isinstance(cache, Cache) and (isinstance(cache, type) or not callable(cache)):
        kind = f"{type(cache).__module__.partition('.')[0]}.{type(cache).__name__}"
        hint = "; use emcache.cached" if isinstance(cache, AsyncCache) else ""
        raise TypeError(
            f"cache must be an emcache.sync.Cache or a function that returns one, not {kind}{hint}"
        )
    if key is not None and not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a str or a function, not {type(key).__name__}")
    if isinstance(cache, Cache):
        cache._top()._policy_of(options)

    def decorate(function: Callable[P, R]) -> CachedFunction[P, R]:
        if inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"emcache.sync.cached() is for plain functions, and {name} is async; use "
                "emcache.cached with an emcache.Cache"
            )
        if not callable(function):
            raise TypeError(f"emcache.sync.cached() needs a function, not {function!r}")
        return CachedFunction(
            function, cache, key_of(function, key), tags_of(function, tags), options
        )

    return decorate
