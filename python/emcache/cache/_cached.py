"""The decorator ``cached``: caches the results of async functions."""

import asyncio.coroutines
import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, overload

from .._errors import EmcacheError
from .._kinds import hint_for, kind_of
from ._cache import Cache
from ._call_keys import KeyOf, key_of
from ._counts import Counts, counts_of
from ._flights import Missing
from ._function_names import describe
from ._get_or_set import GetOrSet
from ._info import CacheInfo
from ._keys import Key
from ._policy import Options, Policy
from ._return_types import ReturnType
from ._tag_templates import TagsOf, TagsOption, tags_of
from ._tags import TagNames

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

CacheSource = Cache[Any] | Callable[[], Cache[Any] | None]
"""A cache, or a function that returns the current cache, or None without one."""


class _Plan:
    """What a function's calls need of the cache that they use."""

    __slots__ = ("cache", "counts", "has_tags", "policy", "source")

    def __init__(
        self,
        source: Cache[Any],
        cache: Cache[Any],
        policy: Policy,
        counts: Counts,
        has_tags: bool,
    ) -> None:
        self.source = source
        self.cache = cache
        """The source, or a copy that stores values of the function's return type."""
        self.policy = policy
        self.counts = counts
        self.has_tags = has_tags


class Plans:
    """The plan of a function; methods that are bound to instances share it."""

    __slots__ = ("_has_tags", "_name", "_options", "_returns", "last")

    def __init__(self, name: str, options: Options, returns: ReturnType, has_tags: bool) -> None:
        self._has_tags = has_tags
        self._name = name
        self._options = options
        self._returns = returns
        self.last: _Plan | None = None

    def current(self, cache: Cache[Any]) -> _Plan:
        """Return the plan for a cache; it is used until the cache changes."""
        if self.last is not None and self.last.source is cache:
            return self.last
        counts, policy = counts_of(cache.client, self._name), cache._policy_of(self._options)
        has_tags = self._has_tags or cache._has_tags
        self.last = _Plan(cache, self._returns.cache_for(cache), policy, counts, has_tags)
        return self.last


class CachedFunction(Generic[P, R]):
    """An async function whose results are cached; created by :func:`emcache.cached`."""

    __wrapped__: Callable[P, Awaitable[R]]

    def __init__(
        self,
        function: Callable[P, Awaitable[R]],
        source: CacheSource,
        key: KeyOf,
        tags: TagsOf | None,
        options: Options,
    ) -> None:
        functools.update_wrapper(self, function)
        self._source = source
        self._key = key
        self._tags = tags
        returns = ReturnType(function)
        if isinstance(source, Cache):
            returns.check(source)
        self._plans = Plans(describe(function), options, returns, tags is not None)
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
        if isinstance(self._source, Cache):
            return self._source
        return checked_cache(self._source())

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result, or call the function and cache its result."""
        bound: Any = self._bound + args if self._bound else args
        source = self._source
        if isinstance(source, Cache):
            cache: Cache[Any] | None = source
        else:
            cache = checked_cache(source())
        if cache is None:
            function: Any = self.__wrapped__
            value: R = await function(*bound, **kwargs)
            return value
        plan = self._plans.last
        if plan is None or plan.source is not cache:
            plan = self._plans.current(cache)
        cache = plan.cache
        # The rest is `Cache.get_or_set`, without another coroutine.
        name = cache._keys.wire(self._key(bound, kwargs))
        flights = cache._flights
        if cache._local is not None:
            tags = cache._tag_names(None if self._tags is None else self._tags(bound, kwargs))
            found: R | Missing = cache._find_locally(name, tags, plan.counts)
            if not isinstance(found, Missing):
                return found
            return await self._miss(plan, name, bound, kwargs).fetch()
        if name in flights.table or flights.late.all_outdated:
            return await self._miss(plan, name, bound, kwargs).fetch()
        if plan.has_tags:
            return await self._get_tagged(plan, name, bound, kwargs)
        began = flights.clock
        try:
            item = await cache._client.get(name, True)
        except EmcacheError as error:
            return await self._miss(plan, name, bound, kwargs).after_error(error, began)
        if item is not None:
            data, flags = item.value, item.flags
            if data and not flags & cache._marks:  # type: ignore[operator]
                try:
                    value = cache._loads(data, flags)  # type: ignore[arg-type]
                except Exception:
                    began = flights.clock  # `after` raises it again
                else:
                    plan.counts.hits += 1
                    return value
            else:
                hit: R | Missing = cache._fresh(item, (), {}, plan.counts)
                if not isinstance(hit, Missing):
                    return hit
        return await self._miss(plan, name, bound, kwargs).after(item, began)

    async def _get_tagged(
        self, plan: _Plan, name: bytes, bound: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> R:
        cache = plan.cache
        tags = cache._tag_names(None if self._tags is None else self._tags(bound, kwargs))
        began = cache._flights.clock
        try:
            items = await cache._storage.look_partial(name, tags)
        except EmcacheError as error:
            return await self._miss(plan, name, bound, kwargs, None, tags).after_error(error, began)
        hit: R | Missing = cache._fresh(items.get(name), tags, items, plan.counts)
        if not isinstance(hit, Missing):
            return hit
        return await self._miss(plan, name, bound, kwargs, None, tags).after_look(items, began)

    def _miss(
        self,
        plan: _Plan,
        name: bytes,
        bound: tuple[Any, ...],
        kwargs: dict[str, Any],
        info: CacheInfo | None = None,
        tags: TagNames | None = None,
    ) -> GetOrSet[R]:
        call: Any = functools.partial(self.__wrapped__, *bound, **kwargs)
        if tags is None:
            tags = plan.cache._tag_names(None if self._tags is None else self._tags(bound, kwargs))
        return plan.cache._call(plan.policy, name, call, info, plan.counts, tags)

    async def with_info(self, *args: P.args, **kwargs: P.kwargs) -> tuple[R, CacheInfo]:
        """Do the same as a call; return the result and where it came from."""
        info = CacheInfo()
        bound: Any = self._bound + args
        if (cache := self._cache) is None:
            function: Any = self.__wrapped__
            info.computed = True
            return await function(*bound, **kwargs), info
        name = cache.wire_key(self.key_for(*args, **kwargs))
        plan = self._plans.current(cache)
        if plan.cache._local is not None:
            tags = plan.cache._tag_names(None if self._tags is None else self._tags(bound, kwargs))
            found = plan.cache._find_locally(name, tags, plan.counts, info)
            if not isinstance(found, Missing):
                return found, info
        return await self._miss(plan, name, bound, kwargs, info).fetch(), info

    def key_for(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of these arguments, without the prefix of the cache."""
        return self._key(self._bound + args, kwargs)

    def tags_for(self, *args: P.args, **kwargs: P.kwargs) -> list[Key]:
        """Return the tags of these arguments, without those of the cache."""
        return [] if self._tags is None else list(self._tags(self._bound + args, kwargs))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Delete the cached result for these arguments; return whether there was one.

        A computation that was already running, in any process, is returned to its waiting callers
        but not stored. Errors of the cache are raised whatever ``on_error`` is, because the old
        result may still be cached.
        """
        cache = self._cache
        return cache is not None and await cache.delete(self.key_for(*args, **kwargs))

    async def mark_stale(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Let the cached result be served for ``stale_for`` seconds while one caller replaces it.

        Otherwise as :meth:`invalidate`; see :meth:`emcache.Cache.invalidate`.

        Raises:
            ValueError: neither the function nor its cache has ``stale_for``.
        """
        if (cache := self._cache) is None:
            return False
        stale_for = self._plans.current(cache).policy.stale_for
        if not stale_for:
            raise ValueError("mark_stale() needs stale_for; pass it to cached() or to the Cache")
        return await cache.invalidate(self.key_for(*args, **kwargs), stale_for=max(stale_for, 1))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, replace the cached result, and return it."""
        bound: Any = self._bound + args
        if (cache := self._cache) is None:
            function: Any = self.__wrapped__
            value: R = await function(*bound, **kwargs)
            return value
        name = cache.wire_key(self.key_for(*args, **kwargs))
        return await self._miss(self._plans.current(cache), name, bound, kwargs).renew()


def checked_cache(cache: object) -> Cache[Any] | None:
    """Return what the function passed to ``cached`` has returned."""
    if cache is not None and not isinstance(cache, Cache):
        raise TypeError(
            f"the function passed to cached() must return an emcache.Cache or None, not "
            f"{kind_of(cache)}{hint_for(cache)}"
        )
    return cache


class _Decorator:
    def __init__(
        self,
        source: CacheSource,
        key: str | Callable[..., str] | None,
        tags: TagsOption,
        options: Options,
    ) -> None:
        self._source = source
        self._key = key
        self._tags = tags
        self._options = options

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> CachedFunction[P, R]:
        # Python 3.13 finds the coroutine function in a partialmethod, which cannot be called.
        if not (callable(function) and inspect.iscoroutinefunction(function)):
            raise TypeError(
                f"cached() needs an async function, not {function!r}; emcache.sync.cached is for "
                "plain functions"
            )
        key, tags = key_of(function, self._key), tags_of(function, self._tags)
        return CachedFunction(function, self._source, key, tags, self._options)


def check_source(cache: object) -> None:
    if isinstance(cache, Cache):
        return
    if inspect.iscoroutinefunction(cache):
        raise TypeError(
            f"cache must be an emcache.Cache or a synchronous function that returns one, not "
            f"{cache!r}; write @cached(cache) above the function"
        )
    if isinstance(cache, type) or not callable(cache):
        raise TypeError(
            f"cache must be an emcache.Cache or a function that returns one, not "
            f"{kind_of(cache)}{hint_for(cache)}"
        )


def check_options(cache: CacheSource, options: Options) -> None:
    """Check the options of a decorator as far as its cache is known."""
    if isinstance(cache, Cache):
        cache._policy_of(options)
    else:
        Policy().with_options({**options})


def cached(
    cache: CacheSource,
    *,
    key: str | Callable[..., str] | None = None,
    tags: TagsOption = None,
    **options: Unpack[Options],
) -> _Decorator:
    """Cache the results of an async function.

    Concurrent calls with the same key share one computation, in all processes; see
    :meth:`emcache.Cache.get_or_set`, also for the errors. The decorated function has the methods
    ``key_for``, ``tags_for``, ``invalidate``, ``mark_stale``, ``refresh`` and ``with_info``, which
    take the arguments of the function, and the original function as ``__wrapped__``.

    If the return annotation is or contains a Pydantic model, a dataclass, an attrs class or a
    msgspec struct, and the cache has the default serializer, results are stored as with
    :class:`emcache.cache.Typed`.

    Args:
        cache: a :class:`emcache.Cache`, or a function without arguments that returns the current
            cache. Decorators run at import time, before a client exists, so most programs pass a
            function. If it returns None, the decorated function is called without a cache.
        key: a template with the names of the parameters, such as ``"user:{user_id}"``. Separators
            of the template are percent-encoded in the fields, so that different arguments have
            different keys. Or a function that takes the same arguments and returns the key. None
            for the function's module and name with its arguments, which must be None, bool, int,
            float, str, bytes, members of an Enum, UUIDs, dates, times, Decimals, or tuples of
            these.
        tags: tags of the results, in addition to those of the cache: templates with the names of
            the parameters, such as ``["user:{user_id}"]``, or a function that takes the same
            arguments and returns the tags. See :meth:`emcache.Cache.invalidate_tag`.
        options: see :class:`emcache.cache.Options`; the default is the cache's option.

    Raises:
        TypeError: the function is not async. Or its return annotation is a model that the cache
            cannot store (with a function as ``cache``, the first call raises). Or ``key`` names a
            parameter that does not exist, or none although there are parameters, or has two fields
            without a separator. Or ``key`` is None, and module and name do not identify the
            function (a method, a closure, a partial, ...).
    """
    check_source(cache)
    check_options(cache, options)
    if key is not None and not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a str or a function, not {type(key).__name__}")
    return _Decorator(cache, key, tags, options)
