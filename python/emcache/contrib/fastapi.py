"""Cached responses, dependencies and invalidation for FastAPI and Starlette.

::

    from emcache.contrib.fastapi import EmcacheMiddleware, Memcached

    memcached = Memcached("127.0.0.1:11211", prefix="shop:", timeout=0.5)
    app = FastAPI(lifespan=memcached.lifespan)
    app.add_middleware(EmcacheMiddleware)


    @app.get("/products/{number}")
    @memcached.cached_response(ttl=60, tags=["product:{number}"])
    async def product(number: int) -> Product: ...
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from typing import Any

try:
    from starlette.requests import Request
except ImportError as _missing:
    raise ImportError(
        "emcache.contrib.fastapi needs FastAPI or Starlette: pip install 'emcache[fastapi]'"
    ) from _missing

from .._checks import check_bools, check_range
from .._client import Client
from .._create import create_client
from ..cache import Cache, Raw
from ._fastapi_endpoints import (
    Endpoint,
    Lookup,
    User,
    check_template,
    exchange_of,
    texts,
    to_seconds,
    wrapped,
)
from ._fastapi_invalidations import Invalidations, Running
from ._fastapi_middleware import EmcacheMiddleware
from ._fastapi_responses import Rules

__all__ = ["EmcacheMiddleware", "Invalidations", "Memcached"]

_MAX_SIZE = 1_000_000


class Memcached:
    """The client of an application, with a cache, for as long as the application runs.

    Create it once, where the application is created; it connects in :meth:`lifespan`. Each process
    and each event loop has its own client.

    Args:
        nodes: the nodes, as for :func:`emcache.create_client`.
        prefix: the prefix of all keys of :meth:`cache`, and of the stored responses.
        cache_options: more options of :class:`emcache.Cache` for :meth:`cache`. The default is
            ``keys="hash"``, which accepts any text as a key.
        options: more options of :func:`emcache.create_client`, such as ``timeout``.
    """

    def __init__(
        self,
        nodes: Any,
        *,
        prefix: str = "",
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._nodes = nodes
        self._options = options
        self._cache_options = {"prefix": prefix, "keys": "hash", **(cache_options or {})}
        self._prefix = prefix
        self._running: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Running] = (
            weakref.WeakKeyDictionary()
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """Create the client, and close it at the end: ``FastAPI(lifespan=memcached.lifespan)``.

        In a lifespan of your own: ``async with memcached.lifespan(app): ...``.
        """
        loop = asyncio.get_running_loop()
        if loop in self._running:
            raise RuntimeError("this Memcached is already running in this event loop")
        async with create_client(self._nodes, **self._options) as client:
            cache: Cache[Any] = Cache(client, **self._cache_options)
            responses = Cache(
                client,
                serializer=Raw(),
                prefix=f"{self._prefix}http:",
                keys="hash",
                on_unreadable="miss",
            )
            self._running[loop] = Running(client, cache, responses)
            try:
                yield
            finally:
                del self._running[loop]

    async def client(self) -> Client:
        """Return the client: ``Annotated[emcache.Client, Depends(memcached.client)]``."""
        return self._now().client

    async def cache(self) -> Cache[Any]:
        """Return the cache: ``Annotated[emcache.Cache, Depends(memcached.cache)]``."""
        return self._now().cache

    def current_cache(self) -> Cache[Any] | None:
        """Return the cache, or None outside of the lifespan: ``cached(memcached.current_cache)``.

        Raises:
            RuntimeError: no event loop is running.
        """
        running = self._running.get(asyncio.get_running_loop())
        return None if running is None else running.cache

    async def invalidations(self, request: Request) -> "Invalidations":
        """Return the invalidations of a request, which run when it has succeeded.

        ``Annotated[Invalidations, Depends(memcached.invalidations)]``
        """
        collected = Invalidations(self._now())
        exchange_of(request).invalidations.append(collected)
        return collected

    def cached_response(
        self,
        ttl: int | timedelta,
        *,
        tags: Iterable[str] = (),
        max_age: int | timedelta = 0,
        vary: Iterable[str] = (),
        public: bool = False,
        user: User | None = None,
        key: Callable[[Request], str] | None = None,
        max_size: int = _MAX_SIZE,
    ) -> Callable[[Endpoint], Endpoint]:
        """Cache the responses of an endpoint to GET and HEAD.

        Put it below the decorator of the route. Dependencies run for each request, cached or not.
        Only responses with the status 200 are stored, without ``Set-Cookie``, and without
        ``Cache-Control: no-store`` or ``private``. If memcached fails, the endpoint is called.

        Args:
            ttl: how long a response is stored, in seconds.
            tags: drop the responses with a tag by :meth:`Invalidations.tags`. ``{name}`` stands for
                a parameter of the path or of the endpoint.
            max_age: how long a client may use its copy without a request, in seconds. Invalidation
                does not reach these copies. With 0, clients ask each time, and receive 304 if
                nothing has changed.
            vary: the request headers on which the response depends, such as ``Accept-Language``.
            public: the response is the same for all users. Otherwise, requests with
                ``Authorization`` or ``Cookie`` are not cached.
            user: returns the user of a request, whose responses are cached for this user only; None
                if this request is not to be cached.
            key: returns the key of a request; by default its URL, with the query sorted.
            max_size: the largest body that is stored, in bytes.
        """
        check_bools(public=public)
        if public and user is not None:
            raise ValueError("pass either public or user: a response for one user is not public")
        seconds, age = to_seconds("ttl", ttl, 1), to_seconds("max_age", max_age, 0)
        check_range("max_size", max_size, 1, 2**31 - 1)
        varying, templates = texts("vary", vary), texts("tags", tags)
        for template in templates:
            check_template(template)
        rules = Rules(seconds, age, varying, bool(public), user is not None, max_size)

        def decorate(endpoint: Endpoint) -> Endpoint:
            lookup = Lookup(self._responses, rules, templates, user, key)
            return wrapped(endpoint, lookup)

        return decorate

    def _responses(self) -> Cache[bytes]:
        return self._now().responses

    def _now(self) -> "Running":
        running = self._running.get(asyncio.get_running_loop())
        if running is None:
            raise RuntimeError(
                "Memcached is not running: pass lifespan=memcached.lifespan to the application, "
                "and run the lifespan in tests"
            )
        return running
