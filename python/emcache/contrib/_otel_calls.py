"""Calls with a span and a record of how long they took."""

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, cast

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context

from .._address import Address, MemcachedHostAddress
from .._arguments import address_text
from .._errors import EmcacheError
from ..client import _Client
from ._otel_metrics import Meters
from ._otel_operations import OPERATIONS, Operation, subject

Call = Callable[..., Awaitable[Any]]
Attributes = dict[str, str | int]

ORIGINALS: dict[str, Call] = {name: vars(_Client)[name] for name in OPERATIONS}
"""The methods as they are without a span."""

# Set inside of a call: what that calls on its client is a part of it.
_is_inside: ContextVar[bool] = ContextVar("emcache_is_inside", default=False)


def wrappers(tracer: Tracer, meters: Meters) -> dict[str, Call]:
    """Give what takes the place of a client's methods, by their names."""
    return {
        name: _traced(ORIGINALS[name], operation, tracer, meters)
        for name, operation in OPERATIONS.items()
    }


def _traced(original: Call, operation: Operation, tracer: Tracer, meters: Meters) -> Call:
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
    operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments with keys that can be counted, and still be used."""
    keys = subject(operation, args, kwargs)
    if isinstance(keys, Sized) or not isinstance(keys, Iterable):
        return args, kwargs
    if len(args) > operation.at:
        return (*args[: operation.at], list(keys), *args[operation.at + 1 :]), kwargs
    return args, {**kwargs, operation.name: list(keys)}


def _attributes(
    client: _Client, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Attributes:
    attributes: Attributes = {"db.system.name": "memcached", "db.operation.name": operation.word}
    of = subject(operation, args, kwargs)
    if operation.of == "keys" and isinstance(of, Sized) and len(of) > 1:
        attributes["db.operation.batch.size"] = len(of)
        if operation.is_batch:
            attributes["db.operation.name"] = f"BATCH {operation.word}"
    address = _address(client, operation, of)
    if isinstance(address, MemcachedHostAddress):
        attributes["server.address"] = address.address
        attributes["server.port"] = address.port
    elif address is not None:
        attributes["server.address"] = address_text(address)
    return attributes


def _address(client: _Client, operation: Operation, of: Any) -> Address | None:
    """Give the one node that is asked; None: several, or the call will say what is wrong."""
    with contextlib.suppress(Exception):
        if operation.of == "key":
            return client.node_for(of)
        if operation.of == "node":
            client._node(of)
            return cast(Address, of)
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


_MISSES = {"NOT_STORED", "EXISTS", "NOT_FOUND"}


def _failure(error: BaseException, attributes: Attributes) -> Attributes:
    """Say of an exception what cannot hold a key."""
    status = error.status if isinstance(error, EmcacheError) else None
    if status in _MISSES:
        return {"db.response.status_code": status}
    told: Attributes = {"error.type": type(error).__qualname__}
    if status:
        told["error.type"] = told["db.response.status_code"] = status
    if isinstance(error, EmcacheError) and error.node and "server.address" not in attributes:
        host, colon, port = error.node.rpartition(":")
        is_host = bool(colon) and port.isdecimal()
        told |= (
            {"server.address": host.strip("[]"), "server.port": int(port)}
            if is_host
            else {"server.address": error.node}
        )
    return told
