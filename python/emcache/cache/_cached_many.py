"""The decorator ``cached_many``: caches the results of functions that load many elements."""

import functools
import inspect
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    ValuesView,
)
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack

from ._cache import Cache
from ._cached import CacheSource, Plans, check_options, check_source, checked_cache
from ._call_keys import KeyOf, key_of_one
from ._function_names import describe
from ._keys import Key
from ._policy import Options
from ._return_types import ReturnType
from ._tag_templates import TagsOf, TagsOption, tags_of_one

I = TypeVar("I")  # noqa: E741
P = ParamSpec("P")
R = TypeVar("R")


class CachedManyFunction(Generic[I, P, R]):
    """An async function of many elements whose results are cached one by one."""

    __wrapped__: Callable[Concatenate[list[I], P], Awaitable[Mapping[I, R]]]

    def __init__(
        self,
        function: Callable[Concatenate[list[I], P], Awaitable[Mapping[I, R]]],
        source: CacheSource,
        key: KeyOf,
        tags: TagsOf | None,
        options: Options,
    ) -> None:
        functools.update_wrapper(self, function)
        self._source = source
        self._key = key
        self._tags = tags
        returns = ReturnType(function, of_many=True)
        if isinstance(source, Cache):
            returns.check(source)
        self._plans = Plans(describe(function), options, returns, tags is not None)

    def __repr__(self) -> str:
        return f"<emcache.cached_many {getattr(self, '__qualname__', self.__wrapped__)}>"

    @property
    def _cache(self) -> Cache[Any] | None:
        return self._source if isinstance(self._source, Cache) else checked_cache(self._source())

    async def __call__(
        self, elements: Iterable[I], /, *args: P.args, **kwargs: P.kwargs
    ) -> dict[I, R]:
        """Return the results by element; one call of the function computes all missing ones.

        Elements for which the function returns nothing are absent, and are not cached.
        """
        by_key = {self.key_for(element): element for element in elements}
        function = self.__wrapped__
        if (cache := self._cache) is None:
            return dict(await function([*by_key.values()], *args, **kwargs)) if by_key else {}

        async def load(keys: list[str]) -> dict[str, R]:
            results = await function([by_key[key] for key in keys], *args, **kwargs)
            if not isinstance(results, Mapping):
                kind = type(results).__name__
                raise TypeError(f"{describe(function)} must return a mapping, not {kind}")
            return {key: results[by_key[key]] for key in keys if by_key[key] in results}

        def tags_for(key: str) -> list[Key]:
            return self.tags_for(by_key[key])

        plan = self._plans.current(cache)
        tags = None if self._tags is None else tags_for
        found = await plan.cache._get_or_set_many(by_key, load, plan.policy, plan.counts, tags)
        return {by_key[key]: result for key, result in found.items()}

    def key_for(self, element: I) -> str:
        """Return the key of an element, without the prefix of the cache."""
        _check_element(element)
        return self._key((element,), {})

    def tags_for(self, element: I) -> list[Key]:
        """Return the tags of an element, without those of the cache."""
        _check_element(element)
        return [] if self._tags is None else list(self._tags((element,), {}))

    async def invalidate(self, *elements: I) -> None:
        """Delete the cached results of these elements, as ``CachedFunction.invalidate`` does.

        Raises:
            EmcacheError: the first error. The other elements were tried all the same.
            TypeError: a list of elements was passed; call ``invalidate(*elements)``.
        """
        keys = [self.key_for(element) for element in elements]
        if (cache := self._cache) is not None:
            for error in (await cache.delete_many(keys)).values():
                raise error


def _check_element(element: object) -> None:
    """Refuse a collection of elements in place of one; a tuple may be one element."""
    is_many = isinstance(element, range | Iterator | ValuesView)
    if is_many or not isinstance(element, Hashable):
        raise TypeError(
            f"a {type(element).__name__} cannot be an element; pass the elements themselves, such "
            "as invalidate(1, 2) or invalidate(*ids)"
        )


class _Decorator:
    def __init__(
        self, source: CacheSource, key: KeyOf, tags: TagsOf | None, options: Options
    ) -> None:
        self._source = source
        self._key = key
        self._tags = tags
        self._options = options

    def __call__(
        self, function: Callable[Concatenate[list[I], P], Coroutine[Any, Any, Mapping[I, R]]]
    ) -> CachedManyFunction[I, P, R]:
        if not (callable(function) and inspect.iscoroutinefunction(function)):
            raise TypeError(f"cached_many() needs an async function, not {function!r}")
        return CachedManyFunction(function, self._source, self._key, self._tags, self._options)


def cached_many(
    cache: CacheSource,
    *,
    key: str | Callable[[Any], str],
    tags: TagsOption = None,
    **options: Unpack[Options],
) -> _Decorator:
    """Cache the results of an async function that takes many elements, such as a list of ids.

    Its first argument is a list of elements, and it returns a mapping of elements to results. The
    decorated function takes any iterable. It looks for all elements with one ``get_many``, calls
    the function once with those that are missing, and stores each result under its own key. For
    each element it has the guarantees of :func:`emcache.cached`.

    Args:
        cache: see :func:`emcache.cached`.
        key: a template with one field for an element, such as ``"user:{id}"``, or a function that
            returns the key of an element.
        tags: tags of the results: templates with one field for an element, such as
            ``["user:{id}"]``, or a function that returns the tags of an element. See
            :meth:`emcache.Cache.invalidate_tag`.
        options: see :class:`emcache.cache.Options`; the default is the cache's option.

    Raises:
        TypeError: the function is not async, or the template does not have exactly one field.
    """
    check_source(cache)
    check_options(cache, options)
    if not isinstance(key, str) and not callable(key):
        raise TypeError(f"key must be a str or a function, not {type(key).__name__}")
    return _Decorator(cache, key_of_one(key), tags_of_one(tags), options)
