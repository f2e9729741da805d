"""Invalidations that wait for the end of a request."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from .._client import Client
from ..cache import Cache
from ..cache._warnings import warn
from ._fastapi_endpoints import path_tag, texts


class Running:
    """The parts of a :class:`emcache.contrib.fastapi.Memcached` in one event loop."""

    def __init__(self, client: Client, cache: Cache[Any], responses: Cache[bytes]) -> None:
        self.client = client
        self.cache = cache
        self.responses = responses


class Invalidations:
    """What to invalidate when the request has succeeded.

    The invalidations run before the response is sent, and once more when the application has
    finished the request. They do not run if the response has a status from 400 to 499. Failures are
    logged.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._tags: list[str] = []
        self._keys: list[str] = []
        self._cache_tags: list[str] = []
        self._calls: list[Callable[[], Any]] = []

    def tags(self, *tags: str) -> None:
        """Drop the cached responses with these tags."""
        self._tags += texts("tags", tags)

    def path(self, path: str) -> None:
        """Drop the cached responses to a path, whatever their query and user.

        Args:
            path: as the application sees it, decoded, with the slash at its end if there is one:
                ``"/products/1"``.

        Raises:
            ValueError: it does not begin with ``/``, or has a query.
        """
        (path,) = texts("path", [path])
        if not path.startswith("/") or "?" in path:
            raise ValueError(
                f"path must be like '/products/1', without host and query, not {path!r}"
            )
        self._tags.append(path_tag(path))

    def keys(self, *keys: str) -> None:
        """Invalidate keys of :meth:`Memcached.cache`."""
        self._keys += texts("keys", keys)

    def cache_tags(self, *tags: str) -> None:
        """Invalidate tags of :meth:`Memcached.cache`, as those of :func:`emcache.cached`."""
        self._cache_tags += texts("tags", tags)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call and await a function, such as ``load_user.invalidate`` of a cached function."""
        self._calls.append(functools.partial(function, *args, **kwargs))

    async def _run(self) -> None:
        running = self._running
        todo: list[Callable[[], Any]] = list(self._calls)
        todo += [functools.partial(running.cache.invalidate, key) for key in self._keys]
        if self._cache_tags:
            todo.append(functools.partial(running.cache.invalidate_tags, self._cache_tags))
        if self._tags:
            todo.append(functools.partial(running.responses.invalidate_tags, self._tags))
        results = await asyncio.gather(*map(_await, todo), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                warn("an invalidation after a request failed", result)


async def _await(function: Callable[[], Any]) -> None:
    result = function()
    if inspect.isawaitable(result):
        await result
