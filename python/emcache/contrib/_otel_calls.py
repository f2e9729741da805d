"""Wrappers that record a span and the duration of each call."""

import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, cast

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._client import Client
from .._errors import EmcacheError
from .._memcached.addresses import parse_address
from ._otel_metrics import Meters
from ._otel_operations import OPERATIONS, Operation, routing_argument

Call = Callable[..., Awaitable[Any]]
Attributes = dict[str, str | int]

ORIGINALS: dict[str, Call] = {name: getattr(Client, name) for name in OPERATIONS}
"""The methods without instrumentation."""

# Set during a call, so that the calls that it makes on its client are not traced again.
_is_inside: ContextVar[bool] = ContextVar("emcache_is_inside", default=False)


def wrappers(tracer: Tracer, meters: Meters) -> dict[str, Call]:
    """Return the instrumented methods of a client by name."""
    return {
        name: _traced(ORIGINALS[name], operation, tracer, meters)
        for name, operation in OPERATIONS.items()
    }


def _traced(original: Call, operation: Operation, tracer: Tracer, meters: Meters) -> Call:
    @functools.wraps(original)
    async def call(self: Client, *args: Any, **kwargs: Any) -> Any:
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
    """Return the arguments with the keys as a list, if they are an iterator."""
    keys = routing_argument(operation, args, kwargs)
    if isinstance(keys, Sized) or not isinstance(keys, Iterable):
        return args, kwargs
    if len(args) > operation.at:
        return (*args[: operation.at], list(keys), *args[operation.at + 1 :]), kwargs
    return args, {**kwargs, operation.name: list(keys)}


def _attributes(
    client: Client, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Attributes:
    attributes: Attributes = {"db.system.name": "memcached", "db.operation.name": operation.word}
    of = routing_argument(operation, args, kwargs)
    if operation.of == "keys" and isinstance(of, Sized) and len(of) > 1:
        attributes["db.operation.batch.size"] = len(of)
        if operation.is_batch:
            attributes["db.operation.name"] = f"BATCH {operation.word}"
    address = _address(client, operation, of)
    return attributes if address is None else attributes | _server(address)


def _address(client: Client, operation: Operation, of: Any) -> Address | None:
    """Return the node of a call; None for several nodes, or if the arguments are not valid."""
    with contextlib.suppress(Exception):
        if operation.of == "key":
            return client.node_for(of)
        if operation.of == "node":
            client._node_index(of)
            return cast(Address, of)
        nodes = client.cluster_managment().nodes()
        return nodes[0] if len(nodes) == 1 else None
    return None


@contextlib.contextmanager
def _span(tracer: Tracer, meters: Meters, attributes: Attributes) -> Iterator[Attributes]:
    """Yield a dict for the attributes of a failure, which the block fills in."""
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
        # A call that is garbage-collected ends in another context.
        with contextlib.suppress(ValueError):
            _is_inside.reset(token)
        _end(span, failure)
        recorded = {**attributes, **failure}
        recorded.pop("db.operation.batch.size", None)
        meters.duration.record(took, recorded, set_span_in_context(span))


def _end(span: Span, failure: Attributes) -> None:
    span.set_attributes(failure)
    if "error.type" in failure:
        span.set_status(StatusCode.ERROR)
    span.end()


def _partial_failure(result: object, attributes: Attributes) -> Attributes:
    """Describe the first error in the result of a call for many keys or nodes."""
    errors = getattr(result, "errors", None)
    if not isinstance(errors, dict) or not errors:
        return {}
    return _failure(next(iter(errors.values())), attributes)


_NEGATIVE_REPLIES = ("NOT_STORED", "EXISTS", "NOT_FOUND")


def _failure(error: BaseException, attributes: Attributes) -> Attributes:
    """Describe an exception without its message, which may contain a key."""
    status = error.status if isinstance(error, EmcacheError) else None
    if status in _NEGATIVE_REPLIES:
        # A failed cas condition is recorded as NOT_STORED, as for the other storage commands.
        return {"db.response.status_code": "NOT_STORED" if status == "EXISTS" else status}
    described: Attributes = {"error.type": type(error).__qualname__}
    if status is not None:
        described["error.type"] = described["db.response.status_code"] = status
    if isinstance(error, EmcacheError) and error.node and "server.address" not in attributes:
        described |= _server(_node_address(error.node))
    return described


def _node_address(name: str) -> Address:
    """Return the address of a node by its name in an exception, which has a port or is a path."""
    with contextlib.suppress(ValueError):
        if ":" in name:
            return parse_address(name)
    return MemcachedUnixSocketPath(name)


def _server(address: Address) -> Attributes:
    if isinstance(address, MemcachedHostAddress):
        return {"server.address": address.address, "server.port": address.port}
    return {"server.address": address.path}
