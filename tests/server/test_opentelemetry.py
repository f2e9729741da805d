"""Spans and metrics, as OpenTelemetry's own SDK has them."""

import asyncio
import gc
import inspect
import weakref

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import emcache
from emcache import Client as _Client
from emcache.contrib._otel_calls import _partial_failure
from emcache.contrib.opentelemetry import EmcacheInstrumentor
from support.calls import client_of, frozen, outcomes
from support.memcached import free_port, memcached
from support.scripted import scripted


class Telemetry:
    """What is exported."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])

    @property
    def providers(self):
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    def spans(self):
        """Those that ended since the last call."""
        ended = self.exporter.get_finished_spans()
        self.exporter.clear()
        return ended

    def span(self):
        (only,) = self.spans()
        return only

    def points(self):
        """By the name of their metric."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def close(self):
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def telemetry():
    made = Telemetry()
    yield made
    EmcacheInstrumentor().uninstrument()
    made.close()


@pytest.fixture
def instrumented(telemetry):
    EmcacheInstrumentor().instrument(**telemetry.providers)
    return telemetry


def described(server, operation, **more):
    where = {"server.address": "127.0.0.1", "server.port": server.port}
    what = {"db.system.name": "memcached", "db.operation.name": operation}
    return what | where | {name.replace("__", "."): value for name, value in more.items()}


async def test_each_call_is_a_span(instrumented, server, key):
    calls = {
        "get": lambda client: client.get(key),
        "gets": lambda client: client.gets(key=key),
        "gat": lambda client: client.gat(60, key),
        "gats": lambda client: client.gats(60, key=key),
        "set": lambda client: client.set(key, b"1"),
        "append": lambda client: client.append(key, b"1"),
        "incr": lambda client: client.increment(key, 1),
        "decr": lambda client: client.decrement(key, 1),
        "touch": lambda client: client.touch(key, 60),
        "delete": lambda client: client.delete(key, noreply=True),
        "version": lambda client: client.version(server.address),
        "stats": lambda client: client.stats(server.address, "settings"),
    }
    async with client_of(server) as client:
        await client.set(key, b"1")
        instrumented.spans()
        for operation, call in calls.items():
            await call(client)
            span = instrumented.span()
            assert (span.name, span.kind) == (operation, SpanKind.CLIENT)
            assert dict(span.attributes) == described(server, operation)
            assert span.status.status_code is StatusCode.UNSET
            assert span.end_time > span.start_time
            assert span.events == ()
            assert key.decode() not in span.to_json()


class TestManyKeys:
    async def test_of_one_node(self, instrumented, server, key):
        async with client_of(server) as client:
            await client.get_many([key, key + b"2"])
            span = instrumented.span()
            batch = described(server, "get") | {"db.operation.batch.size": 2}
            assert (span.name, dict(span.attributes)) == ("get", batch)
            await client.gat_many(60, [key])
            assert dict(instrumented.span().attributes) == described(server, "gat")

    async def test_of_several_nodes(self, instrumented, cluster, key):
        async with client_of(*cluster) as client:
            await client.gets_many(keys=[key + b"%d" % at for at in range(50)])
            attributes = dict(instrumented.span().attributes)
            assert attributes.pop("db.operation.batch.size") == 50
            assert attributes == {"db.system.name": "memcached", "db.operation.name": "gets"}

    @pytest.mark.parametrize("by_name", [False, True])
    async def test_keys_that_can_be_used_but_once(self, instrumented, server, key, by_name):
        async with client_of(server) as client:
            await client.set(key, b"1")
            instrumented.spans()
            keys = (each for each in [key, key + b"2", key + b"3"])
            items = await (client.get_many(keys=keys) if by_name else client.get_many(keys))
            assert items.keys() == {key}
            assert instrumented.span().attributes["db.operation.batch.size"] == 3

    async def test_what_is_no_keys(self, instrumented, server):
        async with client_of(server) as client:
            for wrong in (3, [b"a b"], [3]):
                with pytest.raises((TypeError, ValueError)) as plain:
                    await client.get_many(wrong)
                assert instrumented.span().attributes["error.type"] == plain.type.__name__
            assert await client.get_many(None) == {}


async def test_answers_that_are_no_errors(instrumented, server, key):
    async with client_of(server) as client:
        calls = [
            (lambda: client.delete(key), "NOT_FOUND"),
            (lambda: client.increment(key, 1), "NOT_FOUND"),
            (lambda: client.replace(key, b"1"), "NOT_STORED"),
            (lambda: client.cas(key, b"1", 1), "NOT_FOUND"),
        ]
        for call, status in calls:
            with pytest.raises(emcache.CommandError):
                await call()
            span = instrumented.span()
            assert span.attributes["db.response.status_code"] == status
            assert "error.type" not in span.attributes
            assert span.status.status_code is StatusCode.UNSET


class TestErrors:
    async def test_of_the_server(self, instrumented, server, key):
        async with client_of(server) as client:
            await client.set(key, b"no number")
            instrumented.spans()
            with pytest.raises(emcache.ArithmeticCommandError):
                await client.increment(key, 1)
            span = instrumented.span()
            assert span.attributes["db.response.status_code"] == "CLIENT_ERROR"
            assert span.attributes["error.type"] == "CLIENT_ERROR"
            assert span.status.status_code is StatusCode.ERROR
            with pytest.raises(emcache.StorageCommandError):
                await client.set(key, bytes(2_000_000))
            assert instrumented.span().attributes["error.type"] == "SERVER_ERROR"

    async def test_of_one_of_several_nodes(self, instrumented, server, key):
        """Of IPv6 too the address is without the brackets that the error has."""
        dead = emcache.MemcachedHostAddress("::1", free_port())
        async with emcache.create_client([server.address, dead], timeout=5.0) as client:
            with pytest.raises(emcache.ConnectionFailedError) as raised:
                await client.get_many([key + b"%d" % at for at in range(50)])
            assert raised.value.node == f"[::1]:{dead.port}"
            attributes = instrumented.span().attributes
            assert (attributes["server.address"], attributes["server.port"]) == ("::1", dead.port)

    async def test_of_time(self, instrumented, key):
        with memcached() as own:
            async with client_of(own, timeout=0.1) as client:
                await client.get(key)
                instrumented.spans()
                with frozen(own), pytest.raises(emcache.OperationTimeoutError):
                    await client.get(key)
                span = instrumented.span()
                assert span.attributes["error.type"] == "OperationTimeoutError"
                assert span.status.status_code is StatusCode.ERROR
                assert span.end_time - span.start_time >= 0.08e9

    async def test_the_node_of_many(self, instrumented, server):
        async def hang_up(connection):
            await connection.line()

        async with scripted(hang_up) as broken, client_of(broken, server) as client:
            (failure,) = await outcomes(client.get_many([b"%d" % at for at in range(50)]))
            assert isinstance(failure, emcache.ConnectionFailedError)
            span = instrumented.span()
            assert span.attributes["server.port"] == broken.port
            assert span.attributes["error.type"] == type(failure).__name__

    async def test_of_arguments(self, instrumented, server):
        async with client_of(server) as client:
            with pytest.raises(emcache.InvalidKeyError):
                await client.get(b"a secret key")
            span = instrumented.span()
            assert span.attributes["error.type"] == "InvalidKeyError"
            assert "secret" not in span.to_json()

    async def test_a_closed_client(self, instrumented, server, key):
        async with client_of(server) as client:
            pass
        with pytest.raises(emcache.ClientClosedError):
            await client.get(key)
        assert instrumented.span().attributes["error.type"] == "ClientClosedError"

    async def test_a_key_that_a_server_made_up(self, instrumented):
        async def babble(connection):
            await connection.line()
            await connection.send(b"VALUE somebodys-key 0 1\r\n1\r\nEND\r\n")

        async with scripted(babble) as broken, client_of(broken) as client:
            with pytest.raises(emcache.ProtocolError, match="somebodys-key"):
                await client.get(b"k")
            assert "somebodys-key" not in instrumented.span().to_json()


@pytest.mark.driver_independent
def test_errors_that_are_results():
    """Of calls that change many keys, and of those that give what came."""

    class Many:
        errors = {b"key": emcache.OperationTimeoutError("..."), b"other": ValueError()}

    assert _partial_failure(Many, {}) == {"error.type": "OperationTimeoutError"}
    Many.errors = {}
    for result in (Many, {}, None, 3):
        assert _partial_failure(result, {}) == {}


async def test_a_call_that_is_cancelled(instrumented, key):
    with memcached() as own:
        async with client_of(own) as client:
            await client.get(key)
            instrumented.spans()
            with frozen(own):
                task = asyncio.create_task(client.get(key))
                await asyncio.sleep(0.05)
                assert instrumented.spans() == ()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            span = instrumented.span()
            assert span.attributes["error.type"] == "CancelledError"
            assert span.status.status_code is StatusCode.ERROR
            # And the next call is told as any.
            assert await client.get(key) is None
            assert instrumented.span().status.status_code is StatusCode.UNSET


async def test_a_call_that_is_dropped(instrumented, key):
    with memcached() as own:
        async with client_of(own) as client:
            await client.get(key)
            instrumented.spans()
            with frozen(own):
                call = client.get(key)
                call.send(None)
                call.close()
            assert instrumented.span().attributes["error.type"] == "GeneratorExit"


class TestParents:
    async def test_whoever_is_current(self, instrumented, server, key):
        tracer = instrumented.tracer_provider.get_tracer("test")
        async with client_of(server) as client:
            with tracer.start_as_current_span("parent") as parent:
                await client.get(key)
                await client.set(key, b"1")
            await client.get(key)
        first, second, outer, alone = instrumented.spans()
        assert outer.context.span_id == parent.get_span_context().span_id
        for child in (first, second):
            assert child.parent.span_id == parent.get_span_context().span_id
        assert alone.parent is None

    async def test_of_concurrent_tasks(self, instrumented, server, key):
        tracer = instrumented.tracer_provider.get_tracer("test")
        async with client_of(server) as client:

            async def request(at):
                with tracer.start_as_current_span(f"request {at}"):
                    await client.set(key + b"%d" % at, b"1")
                    await asyncio.gather(*(client.get(key + b"%d" % at) for _ in range(3)))

            await asyncio.gather(*(request(at) for at in range(20)))
        spans = instrumented.spans()
        requests = {span.context.span_id: span for span in spans if span.parent is None}
        calls = [span for span in spans if span.parent is not None]
        assert (len(requests), len(calls)) == (20, 20 * 4)
        for parent in requests:
            names = sorted(call.name for call in calls if call.parent.span_id == parent)
            assert names == ["get", "get", "get", "set"]


class TestMetrics:
    async def test_durations(self, instrumented, server, key):
        async with client_of(server) as client:
            for _ in range(3):
                await client.get(key)
            await outcomes(client.delete(key))
            points = instrumented.points()["db.client.operation.duration"]
        by_operation = {point.attributes["db.operation.name"]: point for point in points}
        get, delete = by_operation["get"], by_operation["delete"]
        assert dict(get.attributes) == described(server, "get")
        assert (get.count, get.explicit_bounds[0]) == (3, 0.0001)
        assert 0 < get.sum < 3
        assert delete.attributes["db.response.status_code"] == "NOT_FOUND"

    async def test_connections(self, instrumented, server, key):
        async with client_of(server, max_connections=4) as client:
            await client.get(key)
            points = instrumented.points()
        name = {"db.client.connection.pool.name": f"127.0.0.1:{server.port}"}
        counts = {
            point.attributes["db.client.connection.state"]: point.value
            for point in points["db.client.connection.count"]
        }
        assert counts == {"idle": 1, "used": 0}
        for metric, value in {"max": 4, "idle.min": 1, "pending_requests": 0}.items():
            (point,) = points[f"db.client.connection.{metric}"]
            assert (dict(point.attributes), point.value) == (name, value)

    async def test_another_thread_reads_them(self, instrumented, server, key):
        async with client_of(server) as client:
            await client.get(key)
            points = await asyncio.to_thread(instrumented.points)
        assert points["db.client.connection.max"][0].value == 1


class TestOnAndOff:
    async def test_one_client(self, telemetry, server, key):
        async with client_of(server) as client, client_of(server) as other:
            EmcacheInstrumentor.instrument_client(client, **telemetry.providers)
            await client.get(key)
            await other.get(key)
            assert len(telemetry.spans()) == 1
            EmcacheInstrumentor.instrument_client(client, **telemetry.providers)
            await client.get(key)
            assert len(telemetry.spans()) == 1
            EmcacheInstrumentor.uninstrument_client(client)
            await client.get(key)
            assert telemetry.spans() == ()
            assert type(client) is _Client
            assert "db.client.connection.max" not in telemetry.points()
        with pytest.raises(TypeError, match="create_client"):
            EmcacheInstrumentor.instrument_client(3)

    async def test_all_and_one(self, telemetry, server, key):
        own = Telemetry()
        async with client_of(server) as client:
            EmcacheInstrumentor().instrument(**telemetry.providers)
            EmcacheInstrumentor.instrument_client(client, **own.providers)
            await client.get(key)
            assert (len(own.spans()), len(telemetry.spans())) == (1, 0)
            EmcacheInstrumentor.uninstrument_client(client)
            await client.get(key)
            assert (len(own.spans()), len(telemetry.spans())) == (0, 1)
        own.close()

    async def test_off_is_as_it_was(self, telemetry, server, key):
        before = dict(vars(_Client))
        instrumentor = EmcacheInstrumentor()
        instrumentor.uninstrument()
        async with client_of(server) as client:
            instrumentor.instrument(**telemetry.providers)
            assert inspect.signature(client.set) == inspect.signature(before["set"].__get__(client))
            instrumentor.instrument(**telemetry.providers)
            await client.get(key)
            assert len(telemetry.spans()) == 1
            EmcacheInstrumentor().uninstrument()
            assert dict(vars(_Client)) == before
            await client.get(key)
            assert telemetry.spans() == ()

    async def test_a_client_that_nobody_holds(self, instrumented, server, key):
        client = await client_of(server)
        EmcacheInstrumentor.instrument_client(client, **instrumented.providers)
        await client.get(key)
        instrumented.points()
        alive = weakref.ref(client)
        await client.close()
        del client
        gc.collect()
        assert alive() is None

    async def test_a_repr_and_an_unclosed_warning_are_as_ever(self, telemetry, server):
        async with client_of(server) as client:
            plain = repr(client)
            EmcacheInstrumentor.instrument_client(client, **telemetry.providers)
            assert repr(client) == plain


class TestConventions:
    """Names as the installed package of semantic conventions has them."""

    @staticmethod
    def names(*modules):
        return {
            value
            for module in modules
            for name, value in vars(module).items()
            if name.isupper() and isinstance(value, str)
        }

    async def test_spans_and_their_histogram_use_stable_names(self, instrumented, server, key):
        from opentelemetry.semconv import schemas
        from opentelemetry.semconv.attributes import (
            db_attributes,
            error_attributes,
            server_attributes,
        )
        from opentelemetry.semconv.metrics import db_metrics

        known = self.names(db_attributes, error_attributes, server_attributes)
        async with client_of(server) as client:
            await client.get_many([key, key + b"2"])
            await client.set_many({key: b"x", key + b"2": b"x"})
            await outcomes(client.increment(key, 1), client.delete(key + b"none"))
            spans = instrumented.spans()
            assert len(spans) == 4
            for span in spans:
                assert span.attributes.keys() <= known
                schema = span.instrumentation_scope.schema_url
                assert schema in {each.value for each in schemas.Schemas}
            points = instrumented.points()
            assert db_metrics.DB_CLIENT_OPERATION_DURATION in points
            for point in points[db_metrics.DB_CLIENT_OPERATION_DURATION]:
                assert point.attributes.keys() <= known

    async def test_connections_use_names_in_development(self, instrumented, server, key):
        from opentelemetry.semconv._incubating.attributes import db_attributes
        from opentelemetry.semconv._incubating.metrics import db_metrics

        attributes, metrics = self.names(db_attributes), self.names(db_metrics)
        async with client_of(server) as client:
            await client.get(key)
            points = instrumented.points()
        pools = {name for name in points if name.startswith("db.client.connection.")}
        assert len(pools) == 4
        assert pools <= metrics
        for name in pools:
            for point in points[name]:
                assert point.attributes.keys() <= attributes
        assert db_attributes.DbSystemNameValues.MEMCACHED.value == "memcached"
