"""Many values with one look and one computation."""

import asyncio
import gc

import pytest

import emcache
from emcache import Cache, SerializationError
from emcache.cache import Utf8, _many, cached_many
from support.calls import outcomes, until, within


class Load:
    """Returns text for each key but ``absent``, and remembers its calls."""

    def __init__(self, absent=(), failure=None):
        self.calls = []
        self.absent = absent
        self.failure = failure
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, keys):
        self.calls.append(list(keys))
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return {key: f"loaded {key}" for key in keys if key not in self.absent}


async def value_of_one(keys):
    return keys[0]


async def names_of(ids):
    return {number: f"name {number}" for number in ids}


def loaded(*keys):
    return {key: f"loaded {key}" for key in keys}


@pytest.fixture(params=[30, None], ids=["lease", "no lease"])
async def pair(request, client, server, key):
    async with emcache.create_client([server.address]) as other:
        options = {"prefix": key, "lease": request.param}
        yield Cache(client, **options), Cache(other, **options)


@within(20)
async def test_one_look_and_one_computation(pair, monkeypatch):
    one, other = pair
    await one.set("b", "cached")
    load, looks = Load(absent=("d",)), []
    original = one.client.get_many

    async def counted(keys, *args, **kwargs):
        looks.append(list(keys))
        return await original(keys, *args, **kwargs)

    monkeypatch.setattr(one.client, "get_many", counted)
    keys = ["a", "b", "c", "d"]
    expected = {"a": "loaded a", "b": "cached", "c": "loaded c"}
    found = await one.get_or_set_many(keys, load)
    assert found == expected
    assert list(found) == ["a", "b", "c"]
    assert [sorted(call) for call in load.calls] == [["a", "c", "d"]]
    assert len(looks) == 1
    # The one without a value is looked for again, by whoever wants it.
    assert await other.get_or_set_many(keys, load) == expected
    assert load.calls[1:] == [["d"]]
    assert await other.client.get(other.wire_key("d")) is None
    assert (one._counts.computed, one._counts.hits, one._counts.misses) == (3, 1, 3)


@within(20)
async def test_concurrent_calls_share_what_they_have_in_common(pair):
    one, _ = pair
    load = Load()
    load.go.clear()
    first = asyncio.create_task(one.get_or_set_many(["a", "b"], load))
    await until(lambda: load.calls)
    second = asyncio.create_task(one.get_or_set_many(["b", "c"], load))
    single = asyncio.create_task(one.get_or_set("a", lambda: load(["never"])))
    await until(lambda: len(load.calls) == 2)
    load.go.set()
    assert await first == loaded("a", "b")
    assert await second == loaded("b", "c")
    assert await single == "loaded a"
    assert [sorted(call) for call in load.calls] == [["a", "b"], ["c"]]


@within(20)
async def test_another_process_computes_some_of_them(client, server, key):
    async with emcache.create_client([server.address]) as other_client:
        one, other = Cache(client, prefix=key), Cache(other_client, prefix=key)
        slow, load = Load(), Load()
        slow.go.clear()
        first = asyncio.create_task(one.get_or_set_many(["a", "b"], slow))
        await until(lambda: slow.calls)
        second = asyncio.create_task(other.get_or_set_many(["b", "c"], load))
        await until(lambda: load.calls)
        assert load.calls == [["c"]]
        slow.go.set()
        assert await first == loaded("a", "b")
        assert await second == loaded("b", "c")
        assert load.calls == [["c"]]


class Iterations:
    """Counts requests of a client by the iteration of the loop that they are made in."""

    def __init__(self, monkeypatch, client, method):
        self.counts = [0]
        self._turn()
        original = getattr(client, method)

        async def counted(*args, **kwargs):
            at = len(self.counts) - 1
            self.counts[at] += 1
            try:
                return await original(*args, **kwargs)
            except emcache.UnsupportedError:
                self.counts[at] -= 1  # nothing was sent
                raise

        monkeypatch.setattr(client, method, counted)

    def _turn(self):
        if self.counts[-1]:
            self.counts.append(0)
        self._handle = asyncio.get_running_loop().call_soon(self._turn)

    def stop(self):
        self._handle.cancel()
        return [count for count in self.counts if count]


@within(60)
async def test_many_keys_do_not_hold_up_their_own_requests(client, key, monkeypatch):
    """If all were sent after the last one was made, the first ones would be too late."""
    monkeypatch.setattr(_many, "BATCH_FROM", 10_000)
    cache, load = Cache(client, prefix=key), Load()
    keys = [f"{at}" for at in range(3 * _many.AT_ONCE + 1)]
    leases = Iterations(monkeypatch, client, "meta_get")
    stores = Iterations(monkeypatch, client, "cas")
    assert await cache.get_or_set_many(keys, load) == loaded(*keys)
    assert load.calls == [keys]
    for counts in (leases.stop(), stores.stop()):
        assert sum(counts) == len(keys)
        # Tasks of two slices may meet in one iteration.
        assert max(counts) <= 2 * _many.AT_ONCE


@within(20)
async def test_a_cancel_before_all_keys_have_begun(client, key, monkeypatch):
    monkeypatch.setattr(_many, "BATCH_FROM", 10_000)
    cache, load = Cache(client, prefix=key), Load()
    keys = [f"{at}" for at in range(4 * _many.AT_ONCE)]
    before = asyncio.all_tasks()
    call = asyncio.create_task(cache.get_or_set_many(keys, load))
    await until(lambda: len(asyncio.all_tasks() - before) > _many.AT_ONCE)
    call.cancel()
    assert isinstance((await outcomes(call))[0], asyncio.CancelledError)
    assert load.calls == []
    # Every lease was given back: they would last for 30 s.
    assert await cache.get_or_set_many(keys, load) == loaded(*keys)
    assert sorted(key for call in load.calls for key in call) == sorted(keys)


@within(20)
async def test_what_another_process_invalidated_is_not_waited_for(client, server, key):
    async with emcache.create_client([server.address]) as other:
        one, two = Cache(client, prefix=key), Cache(other, prefix=key)
        old, new = Load(), Load()
        old.go.clear()
        first = asyncio.create_task(one.get_or_set_many(["a", "b", "c"], old))
        await until(lambda: old.calls)
        same = asyncio.create_task(one.get_or_set_many(["a", "c"], new))
        await asyncio.sleep(0.05)
        assert new.calls == []
        await two.delete("b")
        assert await one.get_or_set_many(["b"], new) == loaded("b")
        assert new.calls == [["b"]]
        assert not first.done()
        assert not same.done()
        old.go.set()
        assert await first == loaded("a", "b", "c")
        assert await same == loaded("a", "c")
        assert new.calls == [["b"]]


@within(20)
async def test_a_failure_gives_all_leases_back(pair):
    one, other = pair
    failing = Load(failure=LookupError("no rows"))
    with pytest.raises(LookupError):
        await one.get_or_set_many(["a", "b"], failing)
    assert await other.get_or_set_many(["a", "b"], Load()) == loaded("a", "b")
    with pytest.raises(TypeError, match="load must return a mapping"):
        await one.get_or_set_many(["x"], value_of_one)
    with pytest.raises(TypeError, match="load must be an async function, but it returned dict"):
        await one.get_or_set_many(["x"], lambda keys: loaded(*keys))
    with pytest.raises(TypeError, match="load must be a function"):
        await one.get_or_set_many(["x"], None)


@within(20)
async def test_a_load_of_another_caller_that_is_not_async(pair):
    """It is a mistake of that caller alone."""
    one, _ = pair
    results = await asyncio.gather(
        one.get_or_set_many(["a"], lambda keys: loaded(*keys)),
        one.get_or_set_many(["a"], Load()),
        return_exceptions=True,
    )
    assert isinstance(results[0], TypeError)
    assert results[1] == loaded("a")


@within(20)
async def test_a_failure_of_many_keys_has_a_short_traceback(pair):
    """Flights that raise the same exception object would each add their frames to it."""
    one, _ = pair
    failing = Load(failure=LookupError("no rows"))
    with pytest.raises(LookupError) as caught:
        await one.get_or_set_many([f"k{number}" for number in range(100)], failing)
    assert len(caught.traceback) < 30


@pytest.mark.filterwarnings("error")
@within(20)
async def test_every_look_is_awaited_when_one_value_is_unreadable(pair):
    one, _ = pair
    await one.client.set(one.wire_key("b"), b"unreadable", flags=123)
    with pytest.raises(SerializationError):
        await one.get_or_set_many(["a", "b", "c"], Load(), on_error="raise")


@pytest.mark.filterwarnings("error")
@within(50)
async def test_every_look_is_awaited_when_the_call_is_cancelled(pair):
    """At any of its steps, with all the tasks that it has started by then."""
    one, _ = pair
    for steps in range(30):
        keys = [f"{steps}.{number}" for number in range(3)]
        call = asyncio.create_task(one.get_or_set_many(keys, Load()))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await outcomes(call)
        gc.collect()


@within(20)
async def test_a_cancelled_call_ends_the_computation(pair):
    one, other = pair
    cancelled = []

    async def load(keys):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(sorted(keys))
            raise

    calling = asyncio.create_task(one.get_or_set_many(["a", "b"], load))
    await asyncio.sleep(0.1)
    calling.cancel()
    assert isinstance((await outcomes(calling))[0], asyncio.CancelledError)
    await until(lambda: cancelled)
    assert await other.get_or_set_many(["a", "b"], Load()) == loaded("a", "b")


@within(20)
async def test_absent_for_one_caller_is_not_absent_for_another(pair):
    one, _ = pair
    load = Load(absent=("a",))
    load.go.clear()
    first = asyncio.create_task(one.get_or_set_many(["a"], load))
    await until(lambda: load.calls)

    async def factory():
        return "own"

    single = asyncio.create_task(one.get_or_set("a", factory))
    await asyncio.sleep(0.02)
    load.go.set()
    assert await first == {}
    assert await single == "own"


@within(20)
async def test_a_recursion_is_a_deadlock(pair):
    one, _ = pair

    async def load(keys):
        return {key: await one.get_or_set(key, lambda: load(["x"])) for key in keys}

    with pytest.raises(RuntimeError, match="deadlock"):
        await one.get_or_set_many(["a", "b"], load)


@within(20)
async def test_keys_of_both_kinds_and_none(pair):
    one, _ = pair
    assert await one.get_or_set_many([], Load()) == {}
    found = await one.get_or_set_many(["a", b"a", "a"], Load())
    assert found.keys() == {"a", b"a"}
    assert found["a"] == found[b"a"]


@within(20)
async def test_a_cache_that_is_down():
    async with emcache.create_client(
        [emcache.MemcachedHostAddress("127.0.0.1", 1)], timeout=1
    ) as client:
        load = Load()
        assert await Cache(client).get_or_set_many(["a", "b"], load) == loaded("a", "b")
        assert [sorted(call) for call in load.calls] == [["a", "b"]]
        with pytest.raises(emcache.EmcacheError):
            await Cache(client).get_or_set_many(["a", "b"], load, on_error="raise")


@within(20)
async def test_values_that_cannot_be_read_are_replaced(pair):
    one, other = pair
    await other.client.set(other.wire_key("a"), b"foreign", flags=3)
    assert await one.get_or_set_many(["a", "b"], Load()) == loaded("a", "b")
    assert await other.get("a") == "loaded a"


@within(20)
async def test_many_values_that_are_refreshed(pair):
    one, _ = pair
    await one.set("a", "old")
    await one.invalidate("a", stale_for=60)
    load = Load()
    assert await one.get_or_set_many(["a", "b"], load) == {"a": "old", "b": "loaded b"}
    while await one.get_or_set_many(["a"], load) != loaded("a"):
        await asyncio.sleep(0.01)
    assert sorted(key for call in load.calls for key in call) == ["a", "b"]


@within(20)
async def test_cached_many(client, key):
    cache = Cache(client, serializer=Utf8(), prefix=key)
    calls = []

    @cached_many(lambda: cache, key="user:{id}", ttl=60)
    async def names(ids, suffix="!"):
        calls.append(ids)
        return {number: f"name {number}{suffix}" for number in ids if number < 10}

    assert names.key_for(5) == "user:5"
    assert await names([1, 2, 11]) == {1: "name 1!", 2: "name 2!"}
    assert await names(iter((2, 3)), suffix="?") == {2: "name 2!", 3: "name 3?"}
    assert [sorted(call) for call in calls] == [[1, 2, 11], [3]]
    assert await cache.get("user:3") == "name 3?"
    assert await names.invalidate(1, 99) is None
    assert await names((1, 2)) == {1: "name 1!", 2: "name 2!"}
    assert calls[2:] == [[1]]
    assert await names([]) == {}
    assert repr(names).startswith("<emcache.cached_many ")

    without = cached_many(lambda: None, key="user:{id}")(names.__wrapped__)
    assert await without([1]) == {1: "name 1!"}
    assert await without.invalidate(1) is None


@within(20)
async def test_an_invalidation_of_many_that_fails_is_raised(client, key, monkeypatch):
    cache = Cache(client, serializer=Utf8(), prefix=key)
    names = cached_many(cache, key="user:{id}", ttl=60)(names_of)
    await names([1, 2, 3])
    original = client.delete_many

    async def fails_for_two(wires):
        failing = cache.wire_key("user:2")
        result = await original([wire for wire in wires if wire != failing])
        result.errors[failing] = emcache.NodeUnavailableError("down")
        return result

    monkeypatch.setattr(client, "delete_many", fails_for_two)
    with pytest.raises(emcache.NodeUnavailableError, match="down"):
        await names.invalidate(1, 2, 3)
    found = await cache.get_many(["user:1", "user:2", "user:3"])
    assert found == {"user:2": "name 2"}


@pytest.mark.parametrize("ids", [[7], {7}, {7: 1}, {7: 1}.values(), range(7, 8), iter([7])])
@within(20)
async def test_a_collection_of_elements_is_not_an_element(client, key, ids):
    for source in (Cache(client, prefix=key), lambda: None):
        names = cached_many(source, key="user:{id}", tags=["user:{id}"])(names_of)
        with pytest.raises(TypeError, match=r"cannot be an element.* invalidate\(\*ids\)"):
            await names.invalidate(ids)
        for method in (names.key_for, names.tags_for):
            with pytest.raises(TypeError, match="cannot be an element"):
                method(ids)
    assert names.key_for((7, 8)) == "user:(7,%208)"


@pytest.mark.parametrize("key", ["user", "user:{a}:{b}", "user:{}", 5])
async def test_keys_of_cached_many_have_one_field(key):
    with pytest.raises(TypeError, match="key"):
        cached_many(lambda: None, key=key)


async def test_what_cached_many_does_not_decorate():
    with pytest.raises(TypeError, match="async function"):
        cached_many(lambda: None, key="{id}")(lambda ids: {})


@pytest.mark.parametrize("count", [3, 40])
@within(20)
async def test_a_mapping_that_raises_fails_all_callers(pair, count):
    class Lazy(dict):
        def __getitem__(self, key):
            raise LookupError(key)

    async def load(keys):
        await asyncio.sleep(0.05)
        return Lazy.fromkeys(keys, 1)

    one, _ = pair
    keys = [f"lazy-{number}" for number in range(count)]
    calling = asyncio.create_task(one.get_or_set_many(keys, load))
    await asyncio.sleep(0.02)
    joined = asyncio.create_task(one.get_or_set(keys[-1], Load()))
    for result in await outcomes(calling, joined):
        assert isinstance(result, LookupError)
