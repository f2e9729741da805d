"""Endpoints whose responses are cached."""

import functools
import hashlib
import inspect
import string
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .._errors import EmcacheError
from .._memcached.times import THIRTY_DAYS
from ..cache import Cache
from ..cache._warnings import warn
from ._fastapi_middleware import EXCHANGE, Exchange, Plan
from ._fastapi_responses import CachedBody, Rules

Endpoint = Callable[..., Any]
User = Callable[[Request], str | None]

_HIDDEN = "emcache_request"
"""The name of the parameter that is added to endpoints without a request."""


class Lookup:
    """Looks for the cached response of a request."""

    def __init__(
        self,
        responses: Callable[[], Cache[bytes]],
        rules: Rules,
        tags: tuple[str, ...],
        user: User | None,
        key: Callable[[Request], str] | None,
    ) -> None:
        self._responses = responses
        self._rules = rules
        self.tags = tags
        self._user = user
        self._key = key or _url_key

    async def __call__(self, request: Request, arguments: dict[str, Any]) -> CachedBody | None:
        """Return the response to a request, if it is cached; prepare to store it otherwise."""
        exchange = exchange_of(request)
        user = self._user_of(request)
        if request.method not in ("GET", "HEAD") or user is None:
            return None
        responses = self._responses()
        known = {**request.path_params, **arguments}
        names = [_fill(tag, known) for tag in self.tags]
        names.append(path_tag(request.scope["path"]))
        key = self._key_of(request, user)
        try:
            data = await responses.get(key, tags=names)
            if data is not None:
                cached = CachedBody.load(data)
                exchange.plan = Plan(self._rules, cached, None)
                return cached
            store = (responses, key, await responses.read_tags(names))
        except (EmcacheError, ValueError) as error:
            warn("reading a response failed and counts as a miss", error)
            exchange.plan = Plan(self._rules, None, None)
        else:
            exchange.plan = Plan(self._rules, None, store)
        return None

    def _user_of(self, request: Request) -> str | None:
        """Return the user whose response is looked for, "" for all, None for no caching."""
        if self._user is not None:
            user = self._user(request)
            if user is not None and not isinstance(user, str):
                raise TypeError(f"user must return a str or None, not {type(user).__name__}")
            return user or None
        has_credentials = "authorization" in request.headers or "cookie" in request.headers
        return None if has_credentials and not self._rules.is_public else ""

    def _key_of(self, request: Request, user: str) -> str:
        parts = [self._key(request), user]
        for name in self._rules.vary:
            parts += [name.lower(), ", ".join(request.headers.getlist(name))]
        # The lengths keep parts apart that contain each other's separators.
        text = "".join(f"{len(part)}:{part}" for part in parts)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def wrapped(endpoint: Endpoint, lookup: Lookup) -> Endpoint:
    """Return an endpoint that looks for a cached response first."""
    signature = _signature(endpoint)
    takes_request = any(_is_request(each) for each in signature.parameters.values())

    @functools.wraps(endpoint)
    async def call(*args: Any, **kwargs: Any) -> Any:
        request = kwargs.pop(_HIDDEN, None) or _request_in(args, kwargs)
        # Another endpoint may call this one as a function, and its response is not this one's.
        is_endpoint = inspect.unwrap(request.scope.get("endpoint", call)) is call
        cached = await lookup(request, kwargs) if is_endpoint else None
        if cached is not None:
            response = Response(cached.body)
            response.raw_headers = list(cached.headers)
            return response
        if inspect.iscoroutinefunction(endpoint):
            return await endpoint(*args, **kwargs)
        return await run_in_threadpool(endpoint, *args, **kwargs)

    # FastAPI would look at the endpoint itself, and call an ordinary function in a thread.
    del call.__wrapped__
    if not takes_request:
        hidden = inspect.Parameter(_HIDDEN, inspect.Parameter.KEYWORD_ONLY, annotation=Request)
        named = [*signature.parameters.values()]
        variadic = [each for each in named if each.kind is inspect.Parameter.VAR_KEYWORD]
        rest = [each for each in named if each not in variadic]
        signature = signature.replace(parameters=[*rest, hidden, *variadic])
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _signature(endpoint: Endpoint) -> inspect.Signature:
    try:
        return inspect.signature(endpoint, eval_str=True)
    except NameError:
        return inspect.signature(endpoint)


def _is_request(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return parameter.name == "request"
    return isinstance(annotation, type) and issubclass(annotation, Request)


def _request_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Request):
            return value
    raise TypeError("cached_response needs the request: put it below the decorator of the route")


def check_template(tag: str) -> None:
    """Refuse a tag whose braces have no names."""
    for _, name, _, _ in string.Formatter().parse(tag):
        if name is not None and (not name or name.isdigit()):
            raise ValueError(f"the tag {tag!r} needs names of parameters in its braces")


def _fill(tag: str, arguments: dict[str, Any]) -> str:
    try:
        return tag.format_map(arguments)
    except KeyError as error:
        known = ", ".join(sorted(arguments)) or "none"
        raise ValueError(f"the tag {tag!r} names {error}; the parameters are: {known}") from None


def texts(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """Return a list of texts as a tuple."""
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list of str, not a str")
    found = tuple(given)
    for text in found:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a list of str, not of {type(text).__name__}")
    if name == "vary" and "*" in found:
        raise ValueError("vary must name headers; '*' would never be cached")
    return found


def to_seconds(name: str, value: float | timedelta, least: int) -> int:
    """Return a duration of at most 30 days in seconds."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not least <= value <= THIRTY_DAYS:
        raise ValueError(f"{name} must be from {least} s to 30 days, not {value}")
    return int(value)


def path_tag(path: str) -> str:
    """Return the tag of all responses to a path."""
    # Of a fixed length, whatever the path is.
    return "path:" + hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()


def _url_key(request: Request) -> str:
    """Return the URL, with the query sorted by name.

    Values of the same name keep their order. The parts come from the scope, because the text of a
    URL does not always say where the path ends.
    """
    query = request.scope.get("query_string", b"").decode("latin-1").split("&")
    query.sort(key=lambda pair: pair.partition("=")[0])
    parts = (request.url.scheme, request.url.netloc, request.scope["path"], "&".join(query))
    return "".join(f"{len(part)}:{part}" for part in parts)


def exchange_of(request: Request) -> Exchange:
    """Return what the middleware has put into the request."""
    exchange = request.scope.get(EXCHANGE)
    if not isinstance(exchange, Exchange):
        text = "the middleware is missing: app.add_middleware(EmcacheMiddleware)"
        raise RuntimeError(text)  # noqa: TRY004
    return exchange
