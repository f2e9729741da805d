"""Cache spans for Sentry: ``pip install 'emcache[sentry]'``.

::

    import sentry_sdk
    from emcache.contrib.sentry import EmcacheIntegration

    sentry_sdk.init(dsn, traces_sample_rate=0.1, integrations=[EmcacheIntegration()])

Each call of a client within a transaction is a span ``cache.get``, ``cache.put`` or
``cache.remove``, as Sentry's page "Caches" reads them. Spans contain no values, and no keys unless
you ask for them.
"""

import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sized
from contextvars import ContextVar
from typing import Any

try:
    import sentry_sdk
    from sentry_sdk.integrations import Integration
    from sentry_sdk.tracing import Span
except ImportError as _missing:
    raise ImportError(
        "emcache.contrib.sentry needs sentry-sdk: pip install 'emcache[sentry]'"
    ) from _missing

from .._address import MemcachedHostAddress
from .._checks import check_bools
from .._client import Client
from .._item import Item
from ._otel_operations import OPERATIONS, Operation, routing_argument

__all__ = ["EmcacheIntegration"]

Call = Callable[..., Awaitable[Any]]

_GET = {"get", "gets", "gat", "gats", "mg"}
_REMOVE = {"delete", "md", "flush_all"}
_OTHER = {"version", "stats", "verbosity", "cache_memlimit", "mn", "me", "meta"}
_HIDDEN = "*"

# Set during a call, so that the calls that it makes on its client are no spans of their own.
_is_inside: ContextVar[bool] = ContextVar("emcache_sentry_is_inside", default=False)


class EmcacheIntegration(Integration):
    """Records a span for each call of a client.

    Args:
        keys: send the keys as ``cache.key``. They may contain personal data; by default the span
            has ``*`` instead.
    """

    identifier = "emcache"

    def __init__(self, *, keys: bool = False) -> None:
        check_bools(keys=keys)
        self.keys = keys

    @staticmethod
    def setup_once() -> None:
        """Wrap the methods of all clients; Sentry calls this once."""
        for name, operation in OPERATIONS.items():
            if operation.word not in _OTHER:
                setattr(Client, name, _traced(getattr(Client, name), operation))


def _traced(original: Call, operation: Operation) -> Call:
    op = _op(operation.word)

    @functools.wraps(original)
    async def call(self: Client, *args: Any, **kwargs: Any) -> Any:
        integration = sentry_sdk.get_client().get_integration(EmcacheIntegration)
        parent = sentry_sdk.get_current_span()
        if integration is None or parent is None or _is_inside.get():
            return await original(self, *args, **kwargs)
        if operation.of == "keys":
            args, kwargs = _sized(operation, args, kwargs)
        given = routing_argument(operation, args, kwargs)
        keys = _keys(operation, given) if integration.keys else [_HIDDEN]
        token = _is_inside.set(True)
        try:
            with parent.start_child(
                op=op, name=", ".join(keys), origin="auto.cache.emcache"
            ) as span:
                _describe(span, self, operation, given, keys)
                result = await original(self, *args, **kwargs)
                _describe_result(span, op, result, args)
                return result
        finally:
            _reset(token)

    return call


def _op(word: str) -> str:
    if word in _GET:
        return "cache.get"
    return "cache.remove" if word in _REMOVE else "cache.put"


def _reset(token: Any) -> None:
    # A call that is garbage-collected ends in another context.
    with contextlib.suppress(ValueError):
        _is_inside.reset(token)


def _sized(
    operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with the keys as a list, if they are an iterator."""
    keys = routing_argument(operation, args, kwargs)
    if isinstance(keys, Sized) or not isinstance(keys, Iterable):
        return args, kwargs
    if len(args) > operation.at:
        return (*args[: operation.at], list(keys), *args[operation.at + 1 :]), kwargs
    return args, {**kwargs, operation.name: list(keys)}


def _keys(operation: Operation, given: Any) -> list[str]:
    many = given if operation.of == "keys" and isinstance(given, Iterable) else [given]
    return [
        key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
        for key in many
    ]


def _describe(
    span: Span, client: Client, operation: Operation, given: Any, keys: list[str]
) -> None:
    span.set_data("cache.key", keys)
    span.set_data("db.system", "memcached")
    span.set_data("db.operation", operation.word)
    address = None
    if operation.of == "key" and isinstance(given, bytes):
        try:
            address = client.node_for(given)
        except Exception:
            return  # the call itself reports what is wrong with the key or the client
    if isinstance(address, MemcachedHostAddress):
        span.set_data("network.peer.address", address.address)
        span.set_data("network.peer.port", address.port)
    elif address is not None:
        span.set_data("network.peer.address", address.path)


def _describe_result(span: Span, op: str, result: Any, args: tuple[Any, ...]) -> None:
    if op == "cache.get":
        found = list(result.values()) if isinstance(result, Mapping) else [result]
        sizes = [_size(each) for each in found if each]
        span.set_data("cache.hit", bool(sizes))
        if sizes:
            span.set_data("cache.item_size", sum(sizes))
    elif op == "cache.put" and len(args) > 1 and isinstance(args[1], bytes):
        span.set_data("cache.item_size", len(args[1]))


def _size(found: Any) -> int:
    value = found.value if isinstance(found, Item) else getattr(found, "value", None)
    return len(value) if isinstance(value, bytes) else 0
