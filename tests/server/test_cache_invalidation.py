"""A write or delete wins over every computation and store that began before its end."""

import asyncio
import contextlib

import pytest

import emcache
from emcache import Cache, cached
from emcache.cache import Utf8, _flights, _late_stores
from emcache.testing import FaultProxy
from support.calls import outcomes, until, within


@pytest.fixture(params=[30, None], ids=["lease", "no lease"])
def cache(client, key, request):
    return Cache(client, prefix=key, lease=request.param)


@pytest.fixture
def unleased(client, key):
    """A cache whose stores have no token, so that late ones must be removed."""
    return Cache(client, prefix=key, lease=None)


class Held:
    """A method of a client whose first call is held up, before or after the server did it."""

    def __init__(self, monkeypatch, client, method, *, after=False, failure=None):
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.calls = 0
        original = getattr(client, method)

        async def held(*args, **kwargs):
            self.calls += 1
            if self.calls > 1:
                return await original(*args, **kwargs)
            result = await original(*args, **kwargs) if after else None
            self.reached.set()
            await self.go.wait()
            if failure is not None:
                raise failure
            return result if after else await original(*args, **kwargs)

        monkeypatch.setattr(client, method, held, raising=True)


async def older():
    return "older"


async def newer():
    return "newer"


async def cas(cache):
    found = await cache.get_with_cas("k")
    await cache.cas("k", "7", found[1] if found else 1)


@contextlib.contextmanager
def nothing_left(client):
    yield
    flights = _flights.flights_of(client)
    assert (flights.table, flights.writes) == ({}, {})


# What each calls of the client, and whether it needs a value to work on.
WRITES = {
    "set": ("set", lambda cache: cache.set("k", "7")),
    "add": ("add", lambda cache: cache.add("k", "7")),
    "replace": ("replace", lambda cache: cache.replace("k", "7")),
    "cas": ("cas", cas),
    "delete": ("delete", lambda cache: cache.delete("k")),
    "set_many": ("set_many", lambda cache: cache.set_many({"k": "7", "l": "8"})),
    "delete_many": ("delete_many", lambda cache: cache.delete_many(["k", "l"])),
    "increment": ("increment", lambda cache: cache.increment("k")),
    "decrement": ("decrement", lambda cache: cache.decrement("k")),
    "create a number": ("add", lambda cache: cache.increment("k", initial=7)),
    "invalidate": ("delete", lambda cache: cached(cache, key="k")(older).invalidate()),
}
FAILURES = {
    "no": None,
    "times out": emcache.OperationTimeoutError("no reply"),
    "loses its connection": emcache.ConnectionFailedError("lost"),
    "is cancelled": asyncio.CancelledError(),
}


@pytest.mark.parametrize("write", WRITES)
@within(10)
async def test_a_computation_begun_during_a_write_is_not_stored(client, cache, monkeypatch, write):
    method, call = WRITES[write]
    held = Held(monkeypatch, client, method)
    with nothing_left(client):
        writing = asyncio.create_task(call(cache))
        await held.reached.wait()
        assert await cache.get_or_set("k", older) == "older"
        go = asyncio.Event()

        async def slow():
            await go.wait()
            return "older"

        ends_later = asyncio.create_task(cache.get_or_set("k", slow))
        await asyncio.sleep(0.01)
        held.go.set()
        await writing
        go.set()
        assert await ends_later == "older"
    assert await cache.get("k") != "older"
    assert await cache.get_or_set("k", newer) in ("7", 7, "newer")


@pytest.mark.parametrize("failure", FAILURES)
@within(10)
async def test_a_write_that_fails_counts_to_its_end(client, cache, monkeypatch, failure):
    held = Held(monkeypatch, client, "delete", failure=FAILURES[failure])
    with nothing_left(client):
        writing = asyncio.create_task(cache.delete("k"))
        await held.reached.wait()
        assert await cache.get_or_set("k", older) == "older"
        if failure == "is cancelled":
            writing.cancel()
        held.go.set()
        await outcomes(writing)
    assert await cache.get("k") is None
    assert await cache.get_or_set("k", newer) == "newer"
    assert await cache.get("k") == "newer"


@within(10)
async def test_two_writes_at_once_count_to_the_end_of_the_last(client, cache, monkeypatch):
    held = Held(monkeypatch, client, "delete")
    writing = asyncio.create_task(cache.delete("k"))
    await held.reached.wait()
    await cache.delete("k")
    assert await cache.get_or_set("k", older) == "older"
    held.go.set()
    await writing
    assert await cache.get("k") is None


@within(10)
async def test_one_failure_of_set_many_ends_no_write(client, cache, monkeypatch):
    """The call raises when all of its writes have ended."""

    class Both:
        def dumps(self, value):
            return value.encode(), int(value)

        def loads(self, data, flags):
            return data.decode()

    cache = Cache(client, serializer=Both(), prefix=cache.wire_key("b"), lease=None)
    held = asyncio.Event()
    original = client.set_many

    async def set_many(items, *, flags, **kwargs):
        if flags == 1:
            raise emcache.OverloadedError("full")
        await held.wait()
        return await original(items, flags=flags, **kwargs)

    async def two():
        return "2"

    monkeypatch.setattr(client, "set_many", set_many)
    writing = asyncio.create_task(cache.set_many({"a": "1", "k": "3"}))
    await asyncio.sleep(0.01)
    assert await cache.get_or_set("k", two) == "2"
    assert not writing.done()
    held.set()
    assert isinstance((await outcomes(writing))[0], emcache.OverloadedError)
    assert await cache.get("k") == "3"


WAYS = ["waits", "is cancelled", "times out"]


async def store_while_deleted(cache, held, way):
    """Delete the key while its value is on its way; the caller may not wait for that."""
    caller = asyncio.create_task(cache.get_or_set("k", older))
    await held.reached.wait()
    assert await cache.delete("k") in (True, False)
    if way == "is cancelled":
        caller.cancel()
        await outcomes(caller)
    held.go.set()
    await outcomes(caller)


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("after", [False, True])
@within(10)
async def test_a_store_under_way_when_the_key_is_deleted(client, unleased, monkeypatch, way, after):
    held = Held(monkeypatch, client, "set", after=after)
    await store_while_deleted(unleased, held, way)
    await until(lambda: held.go.is_set() and not _flights.flights_of(client).late._stores)
    assert await client.get(unleased.wire_key("k")) is None
    assert await unleased.get_or_set("k", newer) == "newer"
    assert await unleased.get("k") == "newer"


@within(10)
async def test_the_caller_is_cancelled_while_the_late_store_is_removed(
    client, unleased, monkeypatch
):
    storing = Held(monkeypatch, client, "set")
    caller = asyncio.create_task(unleased.get_or_set("k", older))
    await storing.reached.wait()
    await unleased.delete("k")
    removing = Held(monkeypatch, client, "delete")
    storing.go.set()
    await removing.reached.wait()
    # It is there, and nobody here gets it.
    assert (await client.get(unleased.wire_key("k"))).value == b'"older"'
    assert await unleased.get("k") is None
    assert await unleased.get_many(["k"]) == {}
    assert await unleased.get_with_cas("k") is None
    assert await unleased.get_and_touch("k", 60) is None
    caller.cancel()
    assert isinstance((await outcomes(caller))[0], asyncio.CancelledError)
    removing.go.set()
    await until(lambda: not _flights.flights_of(client).late._stores)
    assert await client.get(unleased.wire_key("k")) is None


@within(10)
async def test_a_removal_that_fails_is_tried_again(client, unleased, monkeypatch):
    storing = Held(monkeypatch, client, "set")
    caller = asyncio.create_task(unleased.get_or_set("k", older))
    await storing.reached.wait()
    await unleased.delete("k")
    removing = Held(monkeypatch, client, "delete", failure=emcache.OverloadedError("full"))
    removing.go.set()
    storing.go.set()
    assert await caller == "older"
    await until(lambda: not _flights.flights_of(client).late._stores)
    assert removing.calls == 2
    assert await client.get(unleased.wire_key("k")) is None


@pytest.mark.parametrize("deleted", ["before", "after"])
@within(20)
async def test_a_store_that_times_out_and_is_done_later(client, unleased, monkeypatch, deleted):
    """Its outcome is unknown when the key is deleted, or becomes so."""
    original, began, time_out = client.set, asyncio.Event(), asyncio.Event()
    flags = []

    async def set_later(*args, **kwargs):
        flags.append(kwargs["flags"])
        began.set()
        await time_out.wait()
        raise emcache.OperationTimeoutError("no reply")

    monkeypatch.setattr(client, "set", set_later)
    caller = asyncio.create_task(unleased.get_or_set("k", older))
    await began.wait()
    if deleted == "before":
        await unleased.delete("k")
    time_out.set()
    assert await caller == "older"
    if deleted == "after":
        await unleased.delete("k")
    await asyncio.sleep(0.1)
    await original(unleased.wire_key("k"), b'"older"', flags=flags[0])
    assert await unleased.get("k") is None
    for _ in range(300):
        if await client.get(unleased.wire_key("k")) is None:
            break
        await asyncio.sleep(0.05)
    assert await client.get(unleased.wire_key("k")) is None
    # What is written meanwhile stays.
    await original(unleased.wire_key("k"), b'"newer"', flags=flags[0])
    await asyncio.sleep(0.3)
    assert await unleased.get("k") == "newer"


@within(10)
async def test_a_store_that_timed_out_is_forgotten(client, unleased, monkeypatch):
    monkeypatch.setattr(_late_stores, "UNCERTAIN", 0.05)

    async def times_out(*args, **kwargs):
        raise emcache.OperationTimeoutError("no reply")

    monkeypatch.setattr(client, "set", times_out)
    assert await unleased.get_or_set("k", older) == "older"
    late = _flights.flights_of(client).late
    assert len(late._stores) == 1
    await until(lambda: not late._stores)
    await unleased.delete("k")
    assert not late._tasks


@within(10)
async def test_what_was_written_after_a_late_store_stays(client, unleased, monkeypatch):
    storing = Held(monkeypatch, client, "set", after=True)
    caller = asyncio.create_task(unleased.get_or_set("k", older))
    await storing.reached.wait()
    await unleased.set("k", "newer")
    assert await unleased.get("k") == "newer"
    storing.go.set()
    assert await caller == "older"
    assert await unleased.get("k") == "newer"


@within(10)
async def test_all_tasks_are_cancelled_while_a_value_is_stored(client, unleased, monkeypatch):
    """As at the end of `asyncio.run`."""
    storing = Held(monkeypatch, client, "set", after=True)
    caller = asyncio.create_task(unleased.get_or_set("k", older))
    await storing.reached.wait()
    await unleased.delete("k")
    [computing] = [task for task in asyncio.all_tasks() if "computes" in task.get_name()]
    caller.cancel()
    computing.cancel()
    await asyncio.wait([caller, computing])
    assert await client.get(unleased.wire_key("k")) is None


@pytest.mark.parametrize("failure", [None, emcache.OperationTimeoutError("no reply")])
@within(10)
async def test_the_client_is_closed_while_a_value_is_stored(
    server, client, key, failure, monkeypatch
):
    async with emcache.create_client([server.address]) as closing:
        cache = Cache(closing, prefix=key, lease=None)
        storing = Held(monkeypatch, closing, "set", failure=failure)
        caller = asyncio.create_task(cache.get_or_set("k", older))
        await storing.reached.wait()
        await cache.delete("k")
        caller.cancel()
        await outcomes(caller)
        ending = asyncio.create_task(closing.close())
        await asyncio.sleep(0.01)
        assert not ending.done()
        storing.go.set()
        await ending
    assert await client.get(cache.wire_key("k")) is None


@within(20)
async def test_a_large_value_that_is_slow_to_store(server, key):
    with FaultProxy(server) as proxy:
        async with emcache.create_client([proxy.address], timeout=5, max_connections=4) as client:
            cache = Cache(client, serializer=Utf8(), prefix=key, lease=None)
            warm = (client.set(b"warm%d" % i, b"x" * 200_000) for i in range(4))
            await asyncio.gather(*warm)
            proxy.requests.rate = 2_000_000

            async def large():
                return "older" * 100_000

            caller = asyncio.create_task(cache.get_or_set("k", large))
            late = _flights.flights_of(client).late
            await until(lambda: late._stores)
            await cache.delete("k")
            caller.cancel()
            await outcomes(caller)
            await until(lambda: not late._stores)
            assert await cache.get("k") is None


@pytest.mark.parametrize("deleted", ["before", "after"])
@within(30)
async def test_a_large_value_that_arrives_after_its_timeout(server, key, monkeypatch, deleted):
    monkeypatch.setattr(_late_stores, "PAUSES", (0.0, 0.5, 1.0, 2.0))
    with FaultProxy(server) as proxy:
        options = {"timeout": 0.5, "max_connections": 4}
        async with emcache.create_client([proxy.address], **options) as client:
            cache = Cache(client, serializer=Utf8(), prefix=key, lease=None)
            # Connections for large values, so that the delete does not wait behind one.
            for _ in range(3):
                warm = (client.set(b"warm%d" % i, b"x" * 100_000) for i in range(4))
                await asyncio.gather(*warm)
            proxy.requests.rate = 1_000_000

            async def large():
                return "older" * 160_000

            caller = asyncio.create_task(cache.get_or_set("k", large))
            late = _flights.flights_of(client).late
            await until(lambda: late._stores)
            if deleted == "before":
                await cache.delete("k")
            assert len(await caller) == 800_000
            if deleted == "after":
                await cache.delete("k")
            while late._stores:
                assert await cache.get("k") is None
                await asyncio.sleep(0.05)
        async with emcache.create_client([server.address]) as direct:
            assert await direct.get(cache.wire_key("k")) is None


@within(10)
async def test_caches_with_other_prefixes_and_the_same_key(client, unleased, monkeypatch):
    storing = Held(monkeypatch, client, "set")
    caller = asyncio.create_task(unleased.get_or_set("k", older))
    await storing.reached.wait()
    await Cache(client).delete(unleased.wire_key("k"))
    storing.go.set()
    assert await caller == "older"
    assert await client.get(unleased.wire_key("k")) is None


async def test_a_delete_before_the_factory_is_called_costs_no_second_computation(
    client, key, monkeypatch
):
    """The value of the first caller could not be stored, so both share the next computation."""
    cache = Cache(client, prefix=key)
    taking = Held(monkeypatch, cache._storage.leases, "take", after=True)
    calls = []

    async def factory():
        calls.append(1)
        await asyncio.sleep(0.05)
        return "value"

    first = asyncio.create_task(cache.get_or_set("k", factory))
    async with asyncio.timeout(10):
        await taking.reached.wait()
        await cache.delete("k")
        second = asyncio.create_task(cache.get_or_set("k", factory))
        await until(lambda: taking.calls > 1)
        taking.go.set()
        assert await asyncio.gather(first, second) == ["value", "value"]
    assert await cache.get("k") == "value"
    assert len(calls) == 1


async def test_an_invalidated_tag_before_the_factory_is_called_costs_no_second_computation(
    client, key, monkeypatch
):
    cache = Cache(client, prefix=key)
    await cache.set("other", "value", tags=["tag"])
    taking = Held(monkeypatch, cache._storage.leases, "take", after=True)
    calls = []

    async def factory():
        calls.append(1)
        return "value"

    async with asyncio.timeout(10):
        first = asyncio.create_task(cache.get_or_set("k", factory, tags=["tag"]))
        await taking.reached.wait()
        await cache.invalidate_tag("tag")
        taking.go.set()
        assert await first == "value"
        assert await cache.get_or_set("k", factory, tags=["tag"]) == "value"
    assert len(calls) == 1
