"""One computation for all who ask at the same time, on every path."""

import asyncio
import collections
import contextvars
import gc
import logging
import random
import traceback
import weakref

import pytest

import emcache
from emcache import Cache
from emcache.cache import Json, MsgPack, Pickle, Pymemcache, Raw, Utf8, Zlib, _flights, _warnings
from support.calls import frozen, outcomes, until, within
from support.memcached import memcached


class Factory:
    """Counts its calls, and goes on when it is told to."""

    def __init__(self, result=None):
        self.calls = self.ended = self.cancelled = 0
        self.result = result
        self.go = asyncio.Event()

    async def __call__(self):
        self.calls += 1
        number = self.calls
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended += 1
        if isinstance(self.result, Exception):
            raise self.result
        return [number] if self.result is None else self.result

    async def started(self, calls=1):
        await until(lambda: self.calls >= calls)


@pytest.fixture
def cache(client, key):
    cache = Cache(client, prefix=key)
    yield cache
    assert _flights.flights_of(client).table == {}


@pytest.fixture(autouse=True)
def fresh_warnings():
    _warnings.LOG.reset()


@within(10)
async def test_computed_once_and_then_found(cache):
    factory = Factory()
    callers = [asyncio.create_task(cache.get_or_set("k", factory)) for _ in range(200)]
    await factory.started()
    callers += [asyncio.create_task(cache.get_or_set("k", factory)) for _ in range(100)]
    factory.go.set()
    results = await asyncio.gather(*callers)
    assert factory.calls == 1
    assert all(result is results[0] for result in results)
    assert await cache.get_or_set("k", factory) == [1]
    assert await cache.get("k") == [1]
    assert factory.calls == 1


@within(10)
async def test_a_factory_that_does_not_wait(cache):
    # The result is there before the last of them knows that it missed.
    for turn in range(20):
        factory = Factory()
        factory.go.set()
        await asyncio.gather(*(cache.get_or_set(f"k{turn}", factory) for _ in range(300)))
        assert factory.calls == 1


@within(10)
async def test_a_late_miss_takes_what_the_others_computed(client, key):
    # Their reads go to the same key in batches; this one is held back until all is stored.
    late = asyncio.Event()

    class Held(Cache):
        async def _read(self, name, item):
            if item is None and asyncio.current_task().get_name() == "late":
                await late.wait()
            return await super()._read(name, item)

    cache = Held(client, prefix=key)
    factory = Factory()
    factory.go.set()
    straggler = asyncio.create_task(cache.get_or_set("k", factory), name="late")
    assert await cache.get_or_set("k", factory) == [1]
    late.set()
    assert await straggler == [1]
    assert factory.calls == 1


@within(10)
async def test_what_has_landed_is_over(cache):
    """Between the end of the task and what the loop does about it."""
    failing, working = Factory(LookupError("first")), Factory()
    working.go.set()
    first = asyncio.create_task(cache.get_or_set("k", failing))
    await failing.started()
    [[flight]] = [flights.values() for flights in cache._flights.table.values()]
    failing.go.set()
    while not flight.task.done():
        await asyncio.sleep(0)
    assert await cache.get_or_set("k", working) == [1]
    assert (await outcomes(first))[0] is failing.result


@within(10)
async def test_other_keys_are_not_waited_for(cache):
    slow, quick = Factory(), Factory()
    quick.go.set()
    waiting = asyncio.create_task(cache.get_or_set("slow", slow))
    await slow.started()
    assert await cache.get_or_set("quick", quick) == [1]
    slow.go.set()
    assert await waiting == [1]


@within(10)
async def test_caches_of_one_client_share(client, cache, key):
    factory = Factory()
    other = Cache(client, prefix=key)
    callers = [asyncio.create_task(each.get_or_set("k", factory)) for each in (cache, other)]
    await factory.started()
    factory.go.set()
    assert await asyncio.gather(*callers) == [[1], [1]]
    assert factory.calls == 1


def strings():
    return Json(dumps=str, loads=bytes.decode)


@pytest.mark.parametrize("make", [Json, Utf8, Raw, MsgPack, Pickle, strings, Pymemcache])
@within(10)
async def test_caches_with_equal_serializers_share(client, key, make):
    value = b"bytes" if make is Raw else "text"
    factory = Factory(value)
    caches = [Cache(client, serializer=make(), prefix=key) for _ in range(2)]
    callers = [asyncio.create_task(each.get_or_set("k", factory)) for each in caches]
    await factory.started()
    await asyncio.sleep(0.01)
    factory.go.set()
    assert await asyncio.gather(*callers) == [value] * 2
    assert factory.calls == 1


class Unhashable:
    __hash__ = None

    def __call__(self, value):
        return str(value)


@pytest.mark.parametrize(
    "other",
    [Utf8(), Json(flags=0), Json(dumps=str, loads=int), Json(dumps=Unhashable(), loads=int)],
)
@within(10)
async def test_caches_of_different_values_do_not_share(client, cache, key, other):
    first, second = Factory("first"), Factory("second")
    caches = [Cache(client, serializer=each, prefix=key, lease=None) for each in (Json(), other)]
    callers = [
        asyncio.create_task(each.get_or_set("k", factory))
        for each, factory in zip(caches, (first, second), strict=True)
    ]
    await first.started()
    await second.started()
    # A change through either is a change for both.
    await caches[1].delete("k")
    first.go.set()
    second.go.set()
    assert await asyncio.gather(*callers) == ["first", "second"]
    assert await client.get(cache.wire_key("k")) is None


@within(10)
async def test_the_first_caller_may_go(cache):
    factory = Factory()
    callers = []
    for _ in range(3):
        callers.append(asyncio.create_task(cache.get_or_set("k", factory)))
        await factory.started()
    callers[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[0]
    async with asyncio.timeout(5):
        factory.go.set()
        assert await asyncio.gather(*callers[1:]) == [[1], [1]]
    assert (factory.calls, factory.cancelled) == (1, 0)
    assert await cache.get("k") == [1]


@within(10)
async def test_the_last_caller_takes_the_computation_along(cache):
    factory = Factory()
    callers = [asyncio.create_task(cache.get_or_set("k", factory)) for _ in range(3)]
    await factory.started()
    # One that only has a look keeps nothing alive.
    for caller in callers:
        caller.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await outcomes(*callers))
    # Its end has been waited for, as without a cache.
    assert (factory.calls, factory.cancelled, factory.ended) == (1, 1, 1)
    assert await cache.get("k") is None
    factory.go.set()
    assert await cache.get_or_set("k", factory) == [2]


@within(10)
async def test_a_timeout_of_the_only_caller(cache):
    factory = Factory()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cache.get_or_set("k", factory)
    assert (factory.cancelled, factory.ended) == (1, 1)


@within(10)
async def test_come_while_the_last_one_goes(cache):
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def slow_to_end():
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()

    async def quick():
        return "quick"

    leaving = asyncio.create_task(cache.get_or_set("k", slow_to_end))
    await asyncio.sleep(0.01)
    flights = cache._flights.table
    await until(lambda: any(f.is_computing for fs in flights.values() for f in fs.values()))
    leaving.cancel()
    await cleaning.wait()
    assert await cache.get_or_set("k", quick) == "quick"
    cleaned.set()
    with pytest.raises(asyncio.CancelledError):
        await leaving


@within(10)
async def test_an_exception_reaches_all_and_is_not_kept(cache, caplog):
    failing = Factory(LookupError("no row"))
    callers = [asyncio.create_task(cache.get_or_set("k", failing)) for _ in range(5)]
    await failing.started()
    failing.go.set()
    results = await outcomes(*callers)
    assert {(type(result), result.args) for result in results} == {(LookupError, ("no row",))}
    # An exception for each: one that is raised in many tasks collects the frames of all.
    assert len(set(map(id, results))) == 5
    assert failing.result in results
    assert len({len(traceback.extract_tb(result.__traceback__)) for result in results}) == 1
    assert failing.calls == 1
    working = Factory()
    working.go.set()
    assert await cache.get_or_set("k", working) == [1]
    gc.collect()
    assert caplog.records == []


class Coded(Exception):
    """One whose arguments are not those that it was made of."""

    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


class Slotted(Exception):
    __slots__ = ("code",)


def slotted():
    error = Slotted("x")
    error.code = 5
    return error


def caused():
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    error.add_note("a note")
    return error


def with_node():
    error = emcache.ConnectionFailedError("lost")
    error.node = "127.0.0.1:1"
    return error


FAILURES = {
    "plain": lambda: LookupError("no row"),
    "of its own making": lambda: Coded(5, hint="none"),
    "an OSError": lambda: FileNotFoundError(2, "No such file", "name"),
    "with slots": slotted,
    "with a cause": caused,
    "of a client": with_node,
    "a group": lambda: ExceptionGroup("both", [ValueError(1), KeyError(2)]),
    "of text": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
}


@pytest.mark.parametrize("make", FAILURES.values(), ids=FAILURES)
@within(10)
async def test_each_caller_has_an_exception_of_its_own(cache, make):
    failing = Factory(make())

    async def caller():
        try:
            await cache.get_or_set("k", failing)
        except Exception as error:
            lines = len(traceback.format_exception(error))
            notes = getattr(error, "__notes__", None)
            return error, lines, {**vars(error), "__notes__": None}, str(error), notes

    callers = [asyncio.create_task(caller()) for _ in range(30)]
    await failing.started()
    failing.go.set()
    (first, *told), *others = await asyncio.gather(*callers)
    assert first is failing.result
    for error, *also in others:
        assert (type(error), also) == (type(first), told)
        assert repr(error.__cause__) == repr(first.__cause__)
        assert getattr(error, "code", None) == getattr(first, "code", None)
    distinct = {id(error) for error, *_ in others} | {id(first)}
    assert len(distinct) == (1 if make is slotted else 30)


class Session:
    """What a request has, and closes when it ends."""

    def __init__(self, name):
        self.name, self.is_open = name, True
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def query(self):
        self.asked.set()
        await self.go.wait()
        if not self.is_open:
            raise RuntimeError(f"the session of {self.name} is closed")
        return self.name

    async def request(self, cached):
        try:
            return await cached(self)
        finally:
            self.is_open = False


@pytest.fixture
def by_session(cache):
    @emcache.cached(cache, key=lambda session: "k")
    async def load(session):
        return await session.query()

    return load


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
@within(10)
async def test_the_resources_of_a_caller_who_left_fail_nobody(by_session, how):
    first, second, third = map(Session, ("first", "second", "third"))
    leaving = asyncio.create_task(
        asyncio.wait_for(first.request(by_session), 0.2 if how == "timed out" else 60)
    )
    await first.asked.wait()
    staying = [asyncio.create_task(each.request(by_session)) for each in (second, third)]
    await asyncio.sleep(0.01)
    if how == "cancelled":
        leaving.cancel()
    assert isinstance((await outcomes(leaving))[0], asyncio.CancelledError | TimeoutError)
    # It computes on for the others, and fails.
    first.go.set()
    await second.asked.wait()
    second.go.set()
    assert await asyncio.gather(*staying) == ["second", "second"]
    assert not third.asked.is_set()


@within(10)
async def test_one_caller_after_the_other_leaves(by_session):
    sessions = [Session(str(number)) for number in range(4)]
    callers = []
    for session in sessions:
        callers.append(asyncio.create_task(session.request(by_session)))
        await asyncio.sleep(0.01)
    for session, caller in zip(sessions[:-1], callers[:-1], strict=True):
        await session.asked.wait()
        caller.cancel()
        await outcomes(caller)
        session.go.set()
    await sessions[-1].asked.wait()
    sessions[-1].go.set()
    assert await callers[-1] == "3"


@within(10)
async def test_what_a_caller_who_left_had_begun_is_used_if_it_works(by_session):
    first, second = Session("first"), Session("second")
    leaving = asyncio.create_task(by_session(first))
    await first.asked.wait()
    staying = asyncio.create_task(by_session(second))
    await asyncio.sleep(0.01)
    leaving.cancel()
    first.go.set()
    assert await staying == "first"
    assert not second.asked.is_set()


@within(10)
async def test_a_group_of_tasks_that_dies_with_its_caller(cache):
    """What the factory had begun in it is cancelled, and with that the computation."""
    started = asyncio.Event()

    async def dying():
        async with asyncio.TaskGroup() as group:

            async def compute():
                started.set()
                return await group.create_task(asyncio.sleep(60, "never"))

            group.create_task(cache.get_or_set("k", compute))
            await started.wait()
            await asyncio.sleep(0.02)
            raise LookupError

    async def good():
        return "good"

    request = asyncio.create_task(dying())
    await started.wait()
    staying = asyncio.create_task(cache.get_or_set("k", good))
    with pytest.raises(ExceptionGroup):
        await request
    assert await staying == "good"


@within(10)
async def test_a_computation_that_is_cancelled_by_itself_cancels_nobody_else(cache):
    go = asyncio.Event()

    async def cancelled():
        await go.wait()
        raise asyncio.CancelledError

    async def good():
        return "good"

    first = asyncio.create_task(cache.get_or_set("k", cancelled))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(cache.get_or_set("k", good))
    await asyncio.sleep(0.01)
    go.set()
    assert isinstance((await outcomes(first))[0], asyncio.CancelledError)
    assert await second == "good"


async def overlapping(cache, *calls):
    """Calls of one key, of which the first computes."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call(cache)))
        await asyncio.sleep(0.02)
    return await outcomes(*tasks)


@within(10)
async def test_the_arguments_of_one_caller_fail_no_other(cache, client, monkeypatch):
    async def slow():
        await asyncio.sleep(0.1)
        return "good"

    def bad_condition(value):
        raise ZeroDivisionError

    def with_(factory, **options):
        return lambda cache: cache.get_or_set("k", factory, lease=None, **options)

    error, value = await overlapping(cache, with_(slow, store_if=bad_condition), with_(slow))
    assert isinstance(error, ZeroDivisionError)
    assert value == "good"
    assert await cache.get("k") is None

    full = emcache.OverloadedError("full")

    async def refuse(*args, **kwargs):
        raise full

    monkeypatch.setattr(client, "set", refuse)
    strict, lax = with_(slow, on_error="raise"), with_(slow)
    error, value, other = await overlapping(cache, strict, lax, strict)
    assert (type(error), type(other)) == (emcache.OverloadedError,) * 2
    assert error is not other
    assert value == "good"
    value, error = await overlapping(cache, lax, strict)
    assert value == "good"
    assert isinstance(error, emcache.OverloadedError)


@within(10)
async def test_a_factory_of_another_caller_that_is_none(cache, client, monkeypatch):
    """Two who miss at the same time: what the first gives is no async function."""

    async def good():
        return "good"

    calls = (lambda: 5), good
    error, value = await outcomes(*(cache.get_or_set("k", each) for each in calls))
    assert isinstance(error, TypeError)
    assert value == "good"


@within(10)
async def test_the_context_is_that_of_who_computes(by_session, cache):
    variable = contextvars.ContextVar("variable")

    async def read():
        await asyncio.sleep(0.05)
        if (name := variable.get()) == "first":
            raise RuntimeError
        return name

    def caller(name):
        variable.set(name)
        return asyncio.create_task(cache.get_or_set("k", read))

    first = caller("first")
    await asyncio.sleep(0.02)
    second = caller("second")
    await asyncio.sleep(0.01)
    first.cancel()
    assert await second == "second"


@within(10)
async def test_an_exception_that_nobody_waits_for(cache):
    started, complaints = asyncio.Event(), []

    async def fails_when_cancelled():
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LookupError from None

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    caller = asyncio.create_task(cache.get_or_set("k", fails_when_cancelled))
    await started.wait()
    caller.cancel()
    assert isinstance((await outcomes(caller))[0], asyncio.CancelledError)
    del caller
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


@within(10)
async def test_a_factory_that_is_cancelled_by_itself(cache):
    async def cancelled():
        raise asyncio.CancelledError

    callers = [asyncio.create_task(cache.get_or_set("k", cancelled)) for _ in range(3)]
    results = await outcomes(*callers)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def directly(call):
    return await call


async def in_gather(call):
    return (await asyncio.gather(call))[0]


async def in_a_group(call):
    async with asyncio.TaskGroup() as group:
        task = group.create_task(call)
    return task.result()


def reason(error):
    return reason(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


WAYS = [directly, in_gather, in_a_group]


@pytest.mark.parametrize("way", WAYS)
@within(10)
async def test_a_factory_that_asks_for_itself(cache, way):
    async def circular():
        return await way(cache.get_or_set("k", circular))

    async def good():
        return "good"

    with pytest.raises((RuntimeError, ExceptionGroup)) as raised:
        await cache.get_or_set("k", circular)
    assert "requests its own key" in str(reason(raised.value))
    assert await cache.get_or_set("k", good) == "good"


@pytest.mark.parametrize("way", WAYS)
@within(10)
async def test_functions_that_ask_for_each_other(cache, way):
    # Without the cache the argument ends it.
    @emcache.cached(cache, key="user:{number}")
    async def user(number, deep=True):
        return await way(team(1)) if deep else number

    @emcache.cached(cache, key="team:{number}")
    async def team(number):
        return await way(user(1, deep=False))

    # From one end, and from both at once, where neither is begun by the other.
    for calls in ([user(1)], [user(1), team(1)]):
        for result in await outcomes(*map(asyncio.ensure_future, calls)):
            assert "requests its own key" in str(reason(result))
    assert await user(1, deep=False) == 1
    assert await team(1) == 1


@within(10)
async def test_no_circle(cache):
    """A computation asks for others, twice for one, and a task of it for its own key later."""
    left = []

    async def later():
        await ended
        return await cache.get_or_set("k", shared)

    async def shared():
        await asyncio.sleep(0)
        return "shared"

    async def outer():
        left.append(asyncio.create_task(later()))
        return await asyncio.gather(*(cache.get_or_set("shared", shared) for _ in range(3)))

    ended = asyncio.get_running_loop().create_future()
    assert await cache.get_or_set("k", outer) == ["shared"] * 3
    ended.set_result(None)
    assert await left[0] == ["shared"] * 3


@within(10)
async def test_what_is_no_async_function(cache):
    for factory in (lambda: 5, 5):
        with pytest.raises(TypeError):
            await cache.get_or_set("k", factory)


@within(10)
async def test_none_is_stored(cache):
    calls = []

    async def nothing():
        calls.append(1)

    for _ in range(3):
        assert await cache.get_or_set("k", nothing) is None
    assert len(calls) == 1


@within(10)
async def test_store_if(cache):
    calls = []

    async def nothing():
        calls.append(1)

    for _ in range(3):
        found = await cache.get_or_set("k", nothing, store_if=lambda value: value is not None)
        assert found is None
    assert len(calls) == 3


CHANGES = {
    "set": lambda cache: cache.set("k", "newer"),
    "delete": lambda cache: cache.delete("k"),
    "set_many": lambda cache: cache.set_many({"k": "newer"}),
    "delete_many": lambda cache: cache.delete_many(["k"]),
    "add": lambda cache: cache.add("k", "newer"),
}


@pytest.mark.parametrize("change", CHANGES)
@within(10)
async def test_changed_meanwhile(cache, change):
    factory = Factory("older")
    caller = asyncio.create_task(cache.get_or_set("k", factory))
    await factory.started()
    await CHANGES[change](cache)
    after = await cache.get("k")
    fresh = Factory("fresh")
    fresh.go.set()
    # Whoever comes now does not get what was begun before.
    assert await cache.get_or_set("k", fresh) == (after or "fresh")
    factory.go.set()
    assert await caller == "older"
    assert await cache.get("k") == (after or "fresh")


@within(10)
async def test_changed_while_it_is_stored(client, key, server):
    # The computed value is on its way when somebody deletes the key: it may come last.
    cache = Cache(client, serializer=Utf8(), prefix=key, lease=None)
    factory = Factory("older")
    factory.go.set()
    deleting = None
    original = client.set

    async def delete_first(name, *args, **kwargs):
        nonlocal deleting
        deleting = await cache.delete("k")
        await original(name, *args, **kwargs)

    client.set = delete_first
    assert await cache.get_or_set("k", factory) == "older"
    assert deleting is False
    del client.set
    assert await cache.get("k") is None


@within(10)
async def test_renew(cache):
    old, new = Factory("old"), Factory("new")
    caller = asyncio.create_task(cache.get_or_set("k", old))
    await old.started()
    renewing = asyncio.create_task(cache.renew("k", new))
    await new.started()
    joining = asyncio.create_task(cache.get_or_set("k", old))
    await asyncio.sleep(0.01)
    new.go.set()
    assert await renewing == await joining == "new"
    old.go.set()
    assert await caller == "old"
    assert await cache.get("k") == "new"
    assert (old.calls, new.calls) == (1, 1)


@within(10)
async def test_the_context_of_the_first_caller(cache):
    variable = contextvars.ContextVar("variable")
    variable.set("first")

    async def read():
        return variable.get()

    assert await cache.get_or_set("k", read) == "first"


def test_one_client_after_the_other(server, key):
    # What a loop left behind when it was stopped is nobody's business later.
    async def main():
        async with emcache.create_client([server.address]) as client:
            cache = Cache(client, prefix=key)
            asyncio.create_task(cache.get_or_set("k", Factory())).add_done_callback(print)
            await asyncio.sleep(0.02)
            return weakref.ref(client)

    first, second = asyncio.run(main()), asyncio.run(main())
    gc.collect()
    assert first() is None
    assert second() is None


@within(20)
async def test_a_dead_cache_is_as_good_as_none(key, caplog):
    with memcached() as own:
        async with emcache.create_client([own.address], timeout=2) as client:
            cache = Cache(client, prefix=key)
            own.kill()
            factory = Factory()
            factory.go.set()
            with caplog.at_level(logging.WARNING, "emcache"):
                for number in range(1, 6):
                    assert await cache.get_or_set("k", factory) == [number]
            about = [r for r in caplog.records if "reading the cache failed" in r.getMessage()]
            assert 1 <= len(about) <= 2  # a lost connection, then a node that is known to be down
            assert str(own.port) in about[0].getMessage()
            for call in (cache.get_or_set, cache.renew):
                with pytest.raises(emcache.ConnectionFailedError):
                    await call("k", factory, on_error="raise")


@within(20)
async def test_a_silent_cache_is_waited_for_once(key):
    with memcached() as own:
        async with emcache.create_client([own.address], timeout=0.3) as client:
            cache = Cache(client, prefix=key)
            await cache.set("other", 1)
            factory = Factory()
            factory.go.set()
            with frozen(own):
                assert await cache.get_or_set("k", factory) == [1]
                # Not a second time to store what was computed.
                metrics = client.cluster_managment().connection_pool_metrics()[own.address]
                assert metrics.requests_timed_out == 1


@within(10)
async def test_an_unreadable_value_is_replaced(client, cache):
    await client.set(cache.wire_key("k"), b"1", flags=1)
    factory = Factory()
    factory.go.set()
    with pytest.raises(emcache.SerializationError):
        await cache.get_or_set("k", factory, on_error="raise")
    assert await cache.get_or_set("k", factory) == [1]
    assert await cache.get("k") == [1]


@pytest.mark.parametrize("on_error", ["miss", "raise"])
@within(10)
async def test_a_result_that_can_never_be_stored_is_an_error(cache, on_error):
    async def a_set():
        return {1, 2}

    for call in (cache.get_or_set, cache.renew):
        with pytest.raises(emcache.SerializationError, match="of type set, cannot be stored"):
            await call("k", a_set, on_error=on_error)


@pytest.mark.parametrize("options", [{}, {"compression": Zlib(), "max_size": 1_000_000}])
@within(10)
async def test_a_result_that_is_too_large_is_a_result(client, key, caplog, options):
    """That depends on the data, and not on the program."""
    cache = Cache(client, prefix=key, **options)

    async def too_large():
        return "x" * 2_000_000

    with caplog.at_level(logging.WARNING, "emcache"):
        for _ in range(3):
            assert len(await cache.get_or_set("k", too_large)) == 2_000_000
    [said] = [record.getMessage() for record in caplog.records]
    assert "storing a computed value failed" in said
    error = emcache.SerializationError if options else emcache.StorageCommandError
    with pytest.raises(error):
        await cache.get_or_set("k", too_large, on_error="raise")


@within(10)
async def test_bad_arguments_raise_in_any_case(cache):
    factory = Factory()
    with pytest.raises(emcache.InvalidKeyError):
        await cache.get_or_set("a b", factory)
    with pytest.raises(ValueError):
        await cache.get_or_set("k", factory, on_error="ignore")
    with pytest.raises(ValueError):
        await cache.get_or_set("k", factory, ttl=2**40)
    assert factory.calls == 0


@within(10)
@pytest.mark.parametrize("on_error", ["miss", "raise"])
async def test_a_factory_that_is_none(cache, on_error):
    for name in ("get_or_set", "renew"):
        call = getattr(cache, name)
        with pytest.raises(TypeError, match="factory must be a function, not str"):
            await call("k", "value", on_error=on_error)
        with pytest.raises(
            TypeError, match="factory must be an async function, but it returned int"
        ):
            await call("k", lambda: 5, on_error=on_error)
        with pytest.raises(TypeError, match="store_if must be a function, not bool"):
            await call("k", Factory(), store_if=True, on_error=on_error)
    assert await cache.get("k") is None


@pytest.mark.driver_independent
def test_warnings_count_what_they_leave_out(caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("emcache._memcached.rate_limits.time.monotonic", lambda: now)
    with caplog.at_level(logging.WARNING, "emcache"):
        for _ in range(10):
            _warnings.warn("it failed", ValueError("first"))
        _warnings.warn("it failed", KeyError("other kind"))
        now += 61
        _warnings.warn("it failed", ValueError("second"))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "it failed: ValueError: first",
        "it failed: KeyError: 'other kind'",
        "it failed: ValueError: second (9 similar warnings suppressed)",
    ]


@within(10)
async def test_the_hit_makes_no_task(cache):
    await cache.set("k", 1)
    before = len(asyncio.all_tasks())
    factory = Factory()
    looking = cache.get_or_set("k", factory)
    assert await looking == 1
    assert len(asyncio.all_tasks()) == before
    assert factory.calls == 0
    assert isinstance(cache._values._serializer, Json)


@pytest.mark.parametrize("seed", range(3))
@within(20)
async def test_a_storm(cache, seed):
    """Whatever happens to whom: each caller ends, and has a value of its key, or a reason."""
    chance = random.Random(seed)
    running = collections.Counter()

    async def compute(name):
        assert running[name] >= 0
        running[name] += 1
        try:
            await asyncio.sleep(chance.random() * 0.003)
            if chance.random() < 0.1:
                raise LookupError(name)
            return f"value of {name}"
        finally:
            running[name] -= 1

    async def caller():
        name = f"k{chance.randrange(4)}"
        value = f"value of {name}"
        await asyncio.sleep(chance.random() * 0.05)
        match chance.randrange(10):
            case 0:
                await cache.delete(name)
            case 1:
                await cache.set(name, value)
            case 2:
                assert await cache.renew(name, lambda: compute(name)) == value
            case 3:
                async with asyncio.timeout(chance.random() * 0.004):
                    assert await cache.get_or_set(name, lambda: compute(name)) == value
            case _:
                assert await cache.get_or_set(name, lambda: compute(name)) == value

    before = asyncio.all_tasks()
    callers = [asyncio.create_task(caller()) for _ in range(600)]
    for task in chance.sample(callers, 150):
        asyncio.get_running_loop().call_later(chance.random() * 0.06, task.cancel)
    for result in await outcomes(*callers):
        reasons = LookupError, TimeoutError, asyncio.CancelledError
        assert result is None or isinstance(result, reasons), repr(result)
    assert not any(running.values())
    # A store that has begun outlasts its callers.
    await until(lambda: asyncio.all_tasks() == before)
