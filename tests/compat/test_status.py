"""The status of an exception: the first word of the server's reply."""

import asyncio
import contextlib
import logging

import pytest

import emcache
from emcache._memcached.rate_limits import RateLimit, RateLimitedLogger
from support.calls import client_of
from support.scripted import scripted


async def status_of(call):
    with pytest.raises(emcache.EmcacheError) as raised:
        await call
    return raised.value.status


async def test_negative_replies(client, key):
    missing = key + b"-missing"
    await client.set(key, b"text")
    assert await status_of(client.add(key, b"v")) == "NOT_STORED"
    assert await status_of(client.replace(missing, b"v")) == "NOT_STORED"
    assert await status_of(client.cas(key, b"v", 2**60)) == "EXISTS"
    assert await status_of(client.cas(missing, b"v", 2**60)) == "NOT_FOUND"
    assert await status_of(client.delete(missing)) == "NOT_FOUND"
    assert await status_of(client.increment(missing, 1)) == "NOT_FOUND"
    assert await status_of(client.increment(key, 1)) == "CLIENT_ERROR"
    assert await status_of(client.get(b"a key")) is None


@pytest.mark.parametrize("line", [b"ERROR", b"CLIENT_ERROR why", b"SERVER_ERROR key not found"])
async def test_errors(line):
    async def answer(connection):
        while await connection.line():
            await connection.send(line + b"\r\n")

    async with scripted(answer) as server, client_of(server, timeout=5) as client:
        assert await status_of(client.delete(b"k")) == line.split()[0].decode()


async def test_no_reply():
    async def hold(connection):
        await connection.line()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async with scripted(hold) as server, client_of(server, timeout=0.1) as client:
        assert await status_of(client.get(b"k")) is None


@pytest.mark.driver_independent
def test_the_core_may_set_it():
    assert emcache.EmcacheError.status is None
    error = emcache.StorageCommandError("any text")
    assert error.status is None
    error.status = "NOT_FOUND"
    assert error.status == "NOT_FOUND"


@pytest.mark.driver_independent
def test_a_rate_limit(monkeypatch):
    now = 100.0
    monkeypatch.setattr("emcache._memcached.rate_limits.time.monotonic", lambda: now)
    limit = RateLimit(2, 10.0)
    assert [limit.acquire() for _ in range(4)] == [True, True, False, False]
    assert limit.wait() == 10.0
    assert limit.take_suppressed() == 2
    now = 110.0
    assert (limit.wait(), limit.acquire(), limit.take_suppressed()) == (0.0, True, 0)


@pytest.mark.driver_independent
def test_a_rate_limited_logger(monkeypatch, caplog):
    now = 100.0
    monkeypatch.setattr("emcache._memcached.rate_limits.time.monotonic", lambda: now)
    log = RateLimitedLogger(logging.getLogger("emcache.tests"), 10.0)
    for number in range(3):
        log.warning("one", "%d: 100%% %s", number, "of it")
    log.warning("other", "other")
    now = 110.0
    log.warning("one", "%d", 3)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["0: 100% of it", "other", "3 (2 similar warnings suppressed)"]
