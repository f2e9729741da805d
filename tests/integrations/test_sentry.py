"""Spans as the real sentry-sdk sends them, taken from its transport."""

import asyncio

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

import emcache
from emcache.contrib._otel_operations import OPERATIONS
from emcache.contrib.sentry import EmcacheIntegration
from support.calls import client_of
from support.memcached import free_port

pytestmark = pytest.mark.driver_independent


class Captured(Transport):
    def __init__(self, options=None):
        super().__init__(options)
        self.transactions = []

    def capture_envelope(self, envelope):
        event = envelope.get_transaction_event()
        if event is not None:
            self.transactions.append(event)


class Sentry:
    def __init__(self, **options):
        self.transport = Captured()
        sentry_sdk.init(
            dsn="http://key@127.0.0.1:1/1",
            transport=self.transport,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[EmcacheIntegration(**options)],
        )

    async def spans(self, calls):
        """The spans of a transaction in which ``calls`` is awaited."""
        with sentry_sdk.start_transaction(name="request"):
            await calls
        return self.transport.transactions.pop()["spans"]


@pytest.fixture
def sentry():
    originals = {name: getattr(emcache.Client, name) for name in OPERATIONS}
    yield Sentry
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    sentry_sdk.integrations._processed_integrations.discard("emcache")
    sentry_sdk.integrations._installed_integrations.discard("emcache")
    for name, original in originals.items():
        setattr(emcache.Client, name, original)


def data(span):
    return {name: value for name, value in span["data"].items() if not name.startswith("thread.")}


async def test_calls(sentry, server, key):
    sentry = sentry(keys=True)
    where = {
        "db.system": "memcached",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "cache.key": [key.decode()],
    }
    async with client_of(server) as client:

        async def calls():
            await client.get(key)
            await client.set(key, b"content")
            await client.get(key=key)
            await client.touch(key, 60)
            await client.delete(key)
            await client.version(server.address)

        miss, put, hit, touched, removed = await sentry.spans(calls())
    assert [span["op"] for span in (miss, put, hit)] == ["cache.get", "cache.put", "cache.get"]
    assert (touched["op"], removed["op"]) == ("cache.put", "cache.remove")
    assert data(miss) == where | {"db.operation": "get", "cache.hit": False}
    assert data(put) == where | {"db.operation": "set", "cache.item_size": 7}
    assert data(hit) == where | {"db.operation": "get", "cache.hit": True, "cache.item_size": 7}
    for span in (miss, put, hit, touched, removed):
        assert span["description"] == key.decode()
        assert span["origin"] == "auto.cache.emcache"
        assert "content" not in str(span)


async def outcome(calls):
    try:
        await calls
    except emcache.EmcacheError as error:
        return error


async def test_many_keys(sentry, server, key):
    sentry = sentry(keys=True)
    async with client_of(server) as client:

        async def calls():
            await client.set_many({key: b"1"})
            await client.get_many(iter([key, key + b"2"]))
            await client.get_many([key + b"2"])
            await client.delete_many([key])

        put, hit, miss, removed = await sentry.spans(calls())
    assert [span["op"] for span in (put, removed)] == ["cache.put", "cache.remove"]
    assert hit["data"]["cache.hit"] is True
    assert hit["data"]["cache.key"] == [key.decode(), key.decode() + "2"]
    assert miss["data"]["cache.hit"] is False


async def test_keys_are_not_sent_unless_asked_for(sentry, server, key):
    sentry = sentry()
    async with client_of(server) as client:
        spans = await sentry.spans(client.set(key, b"secret value"))
    (span,) = spans
    assert span["description"] == "*"
    assert span["data"]["cache.key"] == ["*"]
    assert key.decode() not in str(span)
    assert "secret" not in str(span)


async def test_caches(sentry, server, key):
    sentry = sentry(keys=True)
    async with client_of(server) as client:
        cache = emcache.Cache(client, prefix="shop:", ttl=60)

        @emcache.cached(cache, key=key.decode())
        async def load():
            return {"a": 1}

        first = await sentry.spans(load())
        second = await sentry.spans(load())
    assert {span["op"] for span in first} == {"cache.get", "cache.put"}
    assert first[0]["data"]["cache.hit"] is False
    assert [(span["op"], span["data"]["cache.hit"]) for span in second] == [("cache.get", True)]


async def test_errors_and_cancelled_calls(sentry, server, key):
    sentry = sentry()
    down = emcache.MemcachedHostAddress("127.0.0.1", free_port())
    async with emcache.create_client([down], min_connections=0) as client:
        (span,) = await sentry.spans(outcome(client.get(key)))
        assert span["status"] == "internal_error"
        (span,) = await sentry.spans(outcome(client.get(b"not valid")))
        assert "not valid" not in str(span)
    async with client_of(server) as client:

        async def cancelled():
            task = asyncio.create_task(client.get(key))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        (span,) = await sentry.spans(cancelled())
        assert "cache.hit" not in span["data"]
        (span,) = await sentry.spans(client.get(key))
        assert span["data"]["cache.hit"] is False


async def test_without_a_transaction_and_without_sentry(sentry, server, key):
    made = sentry()
    async with client_of(server) as client:
        await client.set(key, b"1")
        assert (await client.get(key)).value == b"1"
        assert made.transport.transactions == []
        sentry_sdk.init()
        with sentry_sdk.start_transaction(name="request"):
            assert (await client.get(key)).value == b"1"
    assert made.transport.transactions == []
    with pytest.raises(TypeError, match="keys"):
        EmcacheIntegration(keys="some")
