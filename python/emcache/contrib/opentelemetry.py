"""Spans and metrics of calls, by OpenTelemetry's conventions for databases.

Needs ``opentelemetry-api`` (``pip install 'emcache[otel]'``) and, as ever, an SDK that exports::

    from emcache.contrib.opentelemetry import EmcacheInstrumentor

    EmcacheInstrumentor().instrument()  # all clients, those that are there already too

or one client: ``EmcacheInstrumentor.instrument_client(client)``. What is not instrumented runs the
code that it runs without this module.

Each call is a span of the kind CLIENT, named after memcached's command (``get``); a call with many
keys is one span. Neither keys nor values are in it, nor the texts of exceptions, which may name a
key. That an item does not exist, or a condition is not met, is an answer and no error.
"""

import contextlib
import functools
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, cast

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        Tracer,
        TracerProvider,
        get_tracer_provider,
        set_span_in_context,
    )
except ImportError as error:
    raise ImportError(
        "emcache.contrib.opentelemetry needs opentelemetry-api: pip install 'emcache[otel]'"
    ) from error

from .._address import Address, MemcachedHostAddress
from .._arguments import address_text
from .._errors import (
    CommandError,
    EmcacheError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
)
from ..base import Client
from ..client import _Client
from ..version import __version__
from ._otel_metrics import Meters, meters_of

__all__ = ["EmcacheInstrumentor"]

Call = Callable[..., Awaitable[Any]]
Attributes = dict[str, str | int]


class _Operation(NamedTuple):
    word: str
    """memcached's."""
    of: Literal["key", "keys", "node"]
    """What says where it goes."""
    at: int = 0
    """Which argument that is,"""
    name: str = "key"
    """and what it is called."""
    is_batch: bool = False
    """Of many commands, where a retrieval is one command with many keys."""


_RETRIEVALS = {
    name + suffix: _Operation(name, of, at, of)
    for name, at in (("get", 0), ("gets", 0), ("gat", 1), ("gats", 1))
    for suffix, of in cast(
        list[tuple[str, Literal["key", "keys"]]], [("", "key"), ("_many", "keys")]
    )
}
_OF_KEYS = {
    name: _Operation({"increment": "incr", "decrement": "decr"}.get(name, name), "key")
    for name in [
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "cas",
        "delete",
        "increment",
        "decrement",
        "touch",
    ]
}
_OF_NODES = {
    name: _Operation(name, "node", 0, "memcached_host_address")
    for name in ["flush_all", "version", "stats", "verbosity", "cache_memlimit"]
}
_BATCHES = {
    name: _Operation(name.removesuffix("_many"), "keys", 0, argument, is_batch=True)
    for name, argument in {
        "set_many": "items",
        "add_many": "items",
        "delete_many": "keys",
        "touch_many": "keys",
    }.items()
}
_OPERATIONS = {
    name: operation
    for name, operation in (_RETRIEVALS | _OF_KEYS | _OF_NODES | _BATCHES).items()
    if name in vars(_Client)
}
_ORIGINALS: dict[str, Call] = {name: vars(_Client)[name] for name in _OPERATIONS}

# Set inside of a call: what that calls on its client is a part of it.
_is_inside: ContextVar[bool] = ContextVar("emcache_is_inside", default=False)


class EmcacheInstrumentor:
    """Switches spans and metrics on and off."""

    _meters: Meters | None = None

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Instrument all clients, those that are there and those to come.

        A second time changes the providers. None: the global ones.
        """
        tracer, meters = _parts(tracer_provider, meter_provider)
        self.uninstrument()
        EmcacheInstrumentor._meters = meters
        for name, wrapper in _wrappers(tracer, meters).items():
            setattr(_Client, name, wrapper)

    def uninstrument(self) -> None:
        """Undo :meth:`instrument`; nothing happens if it was not called."""
        for name, original in _ORIGINALS.items():
            setattr(_Client, name, original)
        if EmcacheInstrumentor._meters is not None:
            EmcacheInstrumentor._meters.clear()
            EmcacheInstrumentor._meters = None

    @staticmethod
    def instrument_client(
        client: Client,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Instrument one client; for it these providers go before those of :meth:`instrument`.

        Raises:
            TypeError: not a client of :func:`emcache.create_client`.
        """
        if not isinstance(client, _Client):
            raise TypeError(f"client must be one of create_client(), not {type(client).__name__}")
        tracer, meters = _parts(tracer_provider, meter_provider)
        EmcacheInstrumentor.uninstrument_client(client)
        wrappers = _wrappers(tracer, meters)
        # No attribute of the client refers to it, so it still goes when nobody holds it.
        client.__class__ = type("_Client", (_Client,), {**wrappers, "_meters": meters})
        meters.add(client)

    @staticmethod
    def uninstrument_client(client: Client) -> None:
        """Undo :meth:`instrument_client`; nothing happens if it was not called."""
        if isinstance(client, _Client) and type(client) is not _Client:
            cast(Any, client)._meters.remove(client)
            client.__class__ = _Client


def _parts(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> tuple[Tracer, Meters]:
    tracers = get_tracer_provider() if tracer_provider is None else tracer_provider
    meters = get_meter_provider() if meter_provider is None else meter_provider
    return tracers.get_tracer("emcache", __version__), meters_of(meters)


def _wrappers(tracer: Tracer, meters: Meters) -> dict[str, Call]:
    return {
        name: _traced(_ORIGINALS[name], operation, tracer, meters)
        for name, operation in _OPERATIONS.items()
    }


def _traced(original: Call, operation: _Operation, tracer: Tracer, meters: Meters) -> Call:
    @functools.wraps(original)
    async def call(self: _Client, *args: Any, **kwargs: Any) -> Any:
        if _is_inside.get():
            return await original(self, *args, **kwargs)
        meters.add(self)
        if operation.of == "keys":
            args, kwargs = _sized(operation, args, kwargs)
        attributes = _attributes(self, operation, args, kwargs)
        with _span(tracer, meters, attributes) as failure:
            result = await original(self, *args, **kwargs)
            failure |= _partial_failure(result, attributes)
            return result

    return call


def _sized(
    operation: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments with keys that can be counted, and still be used."""
    keys = _subject(operation, args, kwargs)
    if isinstance(keys, Sized) or not isinstance(keys, Iterable):
        return args, kwargs
    if len(args) > operation.at:
        return (*args[: operation.at], list(keys), *args[operation.at + 1 :]), kwargs
    return args, {**kwargs, operation.name: list(keys)}


def _subject(operation: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[operation.at] if len(args) > operation.at else kwargs.get(operation.name)


def _attributes(
    client: _Client, operation: _Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Attributes:
    attributes: Attributes = {"db.system.name": "memcached", "db.operation.name": operation.word}
    subject = _subject(operation, args, kwargs)
    if operation.of == "keys" and isinstance(subject, Sized) and len(subject) > 1:
        attributes["db.operation.batch.size"] = len(subject)
        if operation.is_batch:
            attributes["db.operation.name"] = f"BATCH {operation.word}"
    address = _address(client, operation, subject)
    if isinstance(address, MemcachedHostAddress):
        attributes["server.address"] = address.address
        attributes["server.port"] = address.port
    elif address is not None:
        attributes["server.address"] = address_text(address)
    return attributes


def _address(client: _Client, operation: _Operation, subject: Any) -> Address | None:
    """Give the one node that is asked; None: several, or the call will say what is wrong."""
    with contextlib.suppress(Exception):
        if operation.of == "key":
            return client.node_for(subject)
        if operation.of == "node":
            client._node(subject)
            return cast(Address, subject)
        nodes = client.cluster_managment().nodes()
        return nodes[0] if len(nodes) == 1 else None
    return None


@contextlib.contextmanager
def _span(tracer: Tracer, meters: Meters, attributes: Attributes) -> Iterator[Attributes]:
    """Give what is to be told of a failure, to be filled in."""
    name = str(attributes["db.operation.name"])
    span = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    token = _is_inside.set(True)
    started = time.perf_counter()
    failure: Attributes = {}
    try:
        yield failure
    except BaseException as error:
        failure |= _failure(error, attributes)
        raise
    finally:
        took = time.perf_counter() - started
        # A call that is dropped half-way ends in another context.
        with contextlib.suppress(ValueError):
            _is_inside.reset(token)
        _end(span, failure)
        told = {**attributes, **failure}
        told.pop("db.operation.batch.size", None)
        meters.duration.record(took, told, set_span_in_context(span))


def _end(span: Span, failure: Attributes) -> None:
    span.set_attributes(failure)
    if "error.type" in failure:
        span.set_status(StatusCode.ERROR)
    span.end()


def _partial_failure(result: object, attributes: Attributes) -> Attributes:
    """Say why the first of many keys, or nodes, failed in a call that gives errors as results."""
    errors = getattr(result, "errors", None)
    if not isinstance(errors, dict) or not errors:
        return {}
    return _failure(next(iter(errors.values())), attributes)


_STATUS = re.compile("the server answered '([A-Z_]+)")


def _failure(error: BaseException, attributes: Attributes) -> Attributes:
    """Say of an exception what cannot hold a key."""
    if isinstance(error, NotStoredStorageCommandError):
        return {"db.response.status_code": "NOT_STORED"}
    if isinstance(error, NotFoundCommandError):
        return {"db.response.status_code": "NOT_FOUND"}
    told: Attributes = {"error.type": type(error).__qualname__}
    if isinstance(error, CommandError):
        if str(error).startswith("key not found"):  # of `cas`
            return {"db.response.status_code": "NOT_FOUND"}
        if status := _STATUS.match(str(error)):
            told["error.type"] = told["db.response.status_code"] = status[1]
    if isinstance(error, EmcacheError) and error.node and "server.address" not in attributes:
        host, colon, port = error.node.rpartition(":")
        is_host = bool(colon) and port.isdecimal()
        told |= (
            {"server.address": host, "server.port": int(port)}
            if is_host
            else {"server.address": error.node}
        )
    return told
