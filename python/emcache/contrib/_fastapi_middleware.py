"""The ASGI middleware that completes cached responses, and invalidates before a response."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from .._errors import EmcacheError
from ..cache import Cache
from ..cache._tags import TagSnapshot
from ..cache._warnings import warn
from ._fastapi_responses import (
    CachedBody,
    Headers,
    Rules,
    by_name,
    is_not_modified,
    not_modified,
    start,
    stored_headers,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

EXCHANGE = "emcache"
"""The key in the scope of a request."""


class Invalidates(Protocol):
    """Invalidations that were collected during a request."""

    async def _run(self) -> None: ...


class Exchange:
    """A request and its response, as seen by the endpoint and the middleware."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.invalidations: list[Invalidates] = []

    async def invalidate(self) -> None:
        """Run the invalidations; those that fail are logged."""
        for each in self.invalidations:
            await each._run()


class Plan:
    """What to do with the response of a cached endpoint."""

    def __init__(
        self,
        rules: Rules,
        cached: CachedBody | None,
        store: tuple[Cache[bytes], str, TagSnapshot] | None,
    ) -> None:
        self.rules = rules
        self.cached = cached
        self._store = store

    async def store(self, cached: CachedBody) -> None:
        """Store a new response."""
        if self._store is None:
            return
        cache, key, tags = self._store
        try:
            await cache.set(key, cached.dump(), ttl=self.rules.ttl, tags=tags)
        except EmcacheError as error:
            warn("storing a response failed", error)


class EmcacheMiddleware:
    """Sends cached responses with their headers, and runs the invalidations of a request.

    Add it to the application: ``app.add_middleware(EmcacheMiddleware)``. Middleware that is added
    later sees the responses after it.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or EXCHANGE in scope:
            await self._app(scope, receive, send)
            return
        exchange = scope[EXCHANGE] = Exchange()
        responder = _Responder(exchange, scope, send)
        try:
            await self._app(scope, receive, responder.send)
        finally:
            # Once more, because what the application commits at the end of a request was not
            # committed before. Without a response, the outcome of the request is unknown.
            if exchange.invalidations and not responder.is_refused:
                await _to_the_end(exchange.invalidate())


class _Responder:
    def __init__(self, exchange: Exchange, scope: Scope, send: Send) -> None:
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()
        self.is_refused = False
        """Whether the application answered with a status from 400 to 499."""

    async def send(self, message: Message) -> None:
        plan = self._exchange.plan
        if message["type"] == "http.response.start":
            self.is_refused = 400 <= message["status"] < 500
            if self._exchange.invalidations and not self.is_refused:
                await _to_the_end(self._exchange.invalidate())
            if plan is not None and message["status"] == 200:
                self._start = message
                return
        if self._start is None or plan is None:
            await self._send(message)
        elif message["type"] == "http.response.body":
            await self._add(plan, message)
        else:
            # The server sends a file, or something else that is not seen here.
            await self._forward(message)

    async def _add(self, plan: Plan, message: Message) -> None:
        self._body += message.get("body", b"")
        if len(self._body) > plan.rules.max_size:
            more = message.get("more_body", False)
            await self._forward({**message, "body": bytes(self._body), "more_body": more})
        elif not message.get("more_body", False):
            await self._finish(plan)

    async def _forward(self, message: Message) -> None:
        """Send what was held back, unchanged, and hold back nothing more."""
        begin, self._start = self._start, None
        assert begin is not None
        await self._send(begin)
        if message["type"] != "http.response.body" and self._body:
            body = {"type": "http.response.body", "body": bytes(self._body), "more_body": True}
            await self._send(body)
        self._body.clear()
        await self._send(message)

    async def _finish(self, plan: Plan) -> None:
        assert self._start is not None
        headers: Headers = list(self._start.get("headers", ()))
        body = bytes(self._body)
        cached = plan.cached
        if cached is None:
            if not plan.rules.is_storable(200, headers):
                await self._forward({"type": "http.response.body", "body": body})
                return
            cached = CachedBody(body, stored_headers(headers))
            # The answer to HEAD may lack the body.
            if self._scope["method"] == "GET":
                await plan.store(cached)
        # Cookies are of this request: dependencies and inner middleware run for a hit too.
        cookies = (
            [] if plan.cached is None else [h for h in headers if h[0].lower() == b"set-cookie"]
        )
        await self._respond([*plan.rules.with_cache_headers(cached), *cookies], cached.body)

    async def _respond(self, headers: Headers, body: bytes) -> None:
        self._start = None
        if is_not_modified(by_name(list(self._scope["headers"])), headers):
            await self._send(start(304, not_modified(headers)))
            body = b""
        else:
            await self._send(start(200, headers))
        if self._scope["method"] == "HEAD":
            body = b""
        await self._send({"type": "http.response.body", "body": body})


async def _to_the_end(awaitable: Awaitable[None]) -> None:
    """Await, also if the request is cancelled meanwhile."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            await asyncio.wait([task])
        raise
