"""Many keys that nothing has cached: one task for all, with the guarantees of single keys."""

import asyncio

import pytest

import emcache
from emcache import Cache
from emcache.cache import _cold_keys
from support.calls import outcomes, until, within
from support.memcached import memcached

KEYS = [f"{number}" for number in range(40)]


class Load:
    """Returns text for each key; waits for ``go``, and remembers its calls."""

    def __init__(self, failure=None, *, waits=False):
        self.calls = []
        self.cancelled = 0
        self.failure = failure
        self.go = asyncio.Event()
        if not waits:
            self.go.set()

    async def __call__(self, keys):
        self.calls.append(list(keys))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return loaded(keys)


def loaded(keys):
    return {key: f"loaded {key}" for key in keys}


def flights_of(cache):
    return cache._flights.table


@pytest.fixture
async def pair(client, server, key):
    async with emcache.create_client([server.address]) as other:
        yield Cache(client, prefix=key), Cache(other, prefix=key)


@within(60)
async def test_the_number_of_tasks_does_not_grow_with_the_keys(client, key):
    cache, load = Cache(client, prefix=key), Load()
    before, most = asyncio.all_tasks(), 0

    async def watch():
        nonlocal most
        while True:
            most = max(most, len(asyncio.all_tasks() - before))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    keys = [f"{number}" for number in range(3000)]
    assert await cache.get_or_set_many(keys, load) == loaded(keys)
    watching.cancel()
    assert load.calls == [keys]
    assert 3 <= most <= _cold_keys.STORES_AT_ONCE + 10
    assert await cache.get_many(keys) == loaded(keys)
    assert not flights_of(cache)


@within(20)
async def test_keys_that_another_process_computes_are_waited_for(pair):
    one, other = pair
    first, second = Load(waits=True), Load(waits=True)
    calling = asyncio.create_task(one.get_or_set_many(KEYS[:30], first))
    await until(lambda: first.calls)
    both = asyncio.create_task(other.get_or_set_many(KEYS, second))
    await until(lambda: second.calls)
    assert second.calls == [KEYS[30:]] or len(KEYS[30:]) < 16
    first.go.set()
    assert await calling == loaded(KEYS[:30])
    second.go.set()
    assert await both == loaded(KEYS)
    assert sorted(key for call in first.calls + second.calls for key in call) == sorted(KEYS)


@within(20)
async def test_what_is_deleted_meanwhile_is_returned_but_not_stored(pair):
    one, other = pair
    load = Load(waits=True)
    calling = asyncio.create_task(one.get_or_set_many(KEYS, load))
    await until(lambda: load.calls)
    await other.delete("0")
    await one.delete("1")
    await one.set("2", "newer")
    await other.invalidate("3")
    await other.client.set(other.wire_key("4"), b'"newer"', flags=0)
    load.go.set()
    assert await calling == loaded(KEYS)
    assert await other.get_many(["0", "1", "3"]) == {}
    assert await other.get("2") == "newer"
    assert await other.client.get(other.wire_key("4")) is not None
    assert await other.get_many(KEYS[5:]) == loaded(KEYS[5:])
    # Nobody waits for leases that are left.
    assert await other.get_or_set_many(["0", "1", "3"], Load()) == loaded(["0", "1", "3"])


@within(60)
async def test_a_cancel_at_any_step_gives_all_leases_back(pair):
    one, other = pair
    for steps in [*range(25), 30, 40, 60, 100]:
        keys = [f"{steps}.{key}" for key in KEYS[:20]]
        calling = asyncio.create_task(one.get_or_set_many(keys, Load()))
        for _ in range(steps):
            await asyncio.sleep(0)
        calling.cancel()
        await outcomes(calling)
        # Values that are being stored are stored.
        await until(lambda: not flights_of(one))
        assert await other.get_or_set_many(keys, Load()) == loaded(keys)


@within(20)
async def test_a_caller_that_has_joined_keeps_the_computation(pair):
    one, _ = pair
    load, own = Load(waits=True), Load()
    calling = asyncio.create_task(one.get_or_set_many(KEYS, load))
    await until(lambda: load.calls)
    joined = asyncio.create_task(one.get_or_set("7", lambda: own(["7"])))
    await asyncio.sleep(0.05)
    calling.cancel()
    assert isinstance((await outcomes(calling))[0], asyncio.CancelledError)
    assert load.cancelled == 0
    load.go.set()
    assert await joined == "loaded 7"
    assert own.calls == []


@within(20)
async def test_the_last_caller_that_has_joined_cancels_the_computation(pair):
    one, other = pair
    load = Load(waits=True)
    calling = asyncio.create_task(one.get_or_set_many(KEYS, load))
    await until(lambda: load.calls)
    joined = [asyncio.create_task(one.get_or_set(key, load_of_one)) for key in ("7", "8")]
    await asyncio.sleep(0.05)
    calling.cancel()
    await outcomes(calling)
    for task in joined:
        assert load.cancelled == 0
        task.cancel()
        await outcomes(task)
    await until(lambda: load.cancelled == 1)
    await until(lambda: not flights_of(one))
    assert await other.get_or_set_many(KEYS, Load()) == loaded(KEYS)


async def load_of_one():
    return "own"


@within(20)
async def test_a_failure_gives_all_leases_back_and_joined_callers_get_a_copy(pair):
    one, other = pair
    load = Load(LookupError("no rows"), waits=True)
    calling = asyncio.create_task(one.get_or_set_many(KEYS, load))
    await until(lambda: load.calls)
    joined = asyncio.create_task(one.get_or_set("7", load_of_one))
    await asyncio.sleep(0.05)
    load.go.set()
    errors = await outcomes(calling, joined)
    assert [type(error) for error in errors] == [LookupError, LookupError]
    assert errors[0] is not errors[1]
    assert await other.get_or_set_many(KEYS, Load()) == loaded(KEYS)


@within(20)
async def test_a_value_that_cannot_be_stored(pair):
    one, other = pair

    async def load(keys):
        return {**loaded(keys), "3": object()}

    with pytest.raises(emcache.SerializationError):
        await one.get_or_set_many(KEYS, load)
    assert await other.get_many(KEYS) == loaded(key for key in KEYS if key != "3")
    assert await other.get_or_set_many(["3"], Load()) == loaded(["3"])


@within(20)
async def test_tags(pair):
    """Their generations are fixed before the computation, by a few requests for all keys."""
    one, other = pair
    load, sent = Load(waits=True), []
    original = one.client.add_many

    async def counted(items, **options):
        sent.append(len(items))
        return await original(items, **options)

    one.client.add_many = counted
    calling = asyncio.create_task(
        one.get_or_set_many(KEYS, load, tags=lambda key: ["all", f"odd:{int(key) % 2}"])
    )
    await until(lambda: load.calls)
    assert sent == [3]
    await other.invalidate_tag("odd:1")
    load.go.set()
    assert await calling == loaded(KEYS)
    assert await other.get_many(KEYS, tags=["all"]) == loaded(KEYS[::2])
    await other.invalidate_tag("all")
    assert await other.get_many(KEYS) == {}


@within(30)
async def test_a_node_that_dies_before_the_leases_are_taken(server, key):
    with memcached() as dying:
        addresses = [server.address, dying.address]
        async with emcache.create_client(addresses, timeout=5) as client:
            cache, load, original = Cache(client, prefix=key), Load(), client.meta_get_many

            async def after_its_death(*args, **kwargs):
                dying.stop()
                return await original(*args, **kwargs)

            client.meta_get_many = after_its_death
            assert await cache.get_or_set_many(KEYS, load) == loaded(KEYS)
            assert sorted(key for call in load.calls for key in call) == sorted(KEYS)
            alive = [k for k in KEYS if client.node_for(cache.wire_key(k)) == server.address]
            found = await cache.get_many(KEYS, on_error="partial")
            assert found == loaded(alive)


@within(20)
async def test_servers_without_meta_commands(pair, monkeypatch):
    one, other = pair

    async def unsupported(keys, **options):
        errors = {key: emcache.UnsupportedError("no meta commands") for key in keys}
        return emcache.PartialResult({}, errors)

    monkeypatch.setattr(one.client, "meta_get_many", unsupported)
    load = Load()
    assert await one.get_or_set_many(KEYS, load) == loaded(KEYS)
    assert load.calls == [KEYS]
    assert await other.get_many(KEYS) == loaded(KEYS)


@within(20)
async def test_a_computation_that_needs_its_own_key_is_a_deadlock(pair):
    one, _ = pair

    async def load(keys):
        return {key: await one.get_or_set(key, load_of_one) for key in keys}

    with pytest.raises(RuntimeError, match="deadlock"):
        await one.get_or_set_many(KEYS, load)


@within(20)
async def test_keys_that_are_written_while_the_leases_are_taken(pair, monkeypatch):
    one, other = pair
    original = one.client.meta_get_many

    async def with_writes(*args, **kwargs):
        await other.set("1", "newer")
        found = await original(*args, **kwargs)
        await one.set("2", "newer")
        return found

    monkeypatch.setattr(one.client, "meta_get_many", with_writes)
    load = Load()
    found = await one.get_or_set_many(KEYS, load)
    assert found == {**loaded(KEYS), "1": "newer", "2": found["2"]}
    assert "1" not in [key for call in load.calls for key in call]
    assert await other.get_many(["1", "2"]) == {"1": "newer", "2": "newer"}


async def test_a_delete_before_load_is_called_costs_no_second_computation(client, key, monkeypatch):
    cache, load = Cache(client, prefix=key), Load()
    original = client.meta_get_many
    deleted = []

    async def taken(*args, **options):
        items = await original(*args, **options)
        if not deleted:
            deleted.append(await cache.delete(KEYS[0]))
        return items

    monkeypatch.setattr(client, "meta_get_many", taken)
    async with asyncio.timeout(10):
        assert await cache.get_or_set_many(KEYS, load) == loaded(KEYS)
        assert await cache.get_or_set_many(KEYS, load) == loaded(KEYS)
    assert sorted(key for keys in load.calls for key in keys) == sorted(KEYS)


async def lost_to(winner, load):
    """Begin a call of another process, which has the leases of all keys."""
    task = asyncio.create_task(winner.get_or_set_many(KEYS, load))
    await until(lambda: load.calls)
    return task


@within(20)
async def test_keys_that_another_process_computes_need_no_tasks(pair):
    mine, others = pair
    slow, load = Load(waits=True), Load()
    other = await lost_to(others, slow)
    before = len(asyncio.all_tasks())
    waiting = asyncio.create_task(mine.get_or_set_many(KEYS, load))
    await asyncio.sleep(0.2)
    assert len(asyncio.all_tasks()) - before < 5
    slow.go.set()
    assert await waiting == await other == loaded(KEYS)
    assert not load.calls
    [counts] = [each for each in mine.client.metrics().caches.values() if each.waited]
    assert (counts.hits, counts.misses, counts.waited) == (0, len(KEYS), len(KEYS))


@pytest.mark.parametrize("end", ["failure", "cancel"])
@within(20)
async def test_keys_whose_winner_gives_up_are_computed_together(pair, end):
    mine, others = pair
    slow, load = Load(LookupError("no value"), waits=True), Load()
    other = await lost_to(others, slow)
    waiting = asyncio.create_task(mine.get_or_set_many(KEYS, load))
    await asyncio.sleep(0.1)
    if end == "cancel":
        other.cancel()
    slow.go.set()
    await outcomes(other)
    assert await waiting == loaded(KEYS)
    assert [sorted(keys) for keys in load.calls] == [sorted(KEYS)]


@within(20)
async def test_lost_keys_are_computed_after_the_longest_wait(pair):
    mine, others = pair
    slow, load = Load(waits=True), Load()
    other = await lost_to(others, slow)
    assert await mine.get_or_set_many(KEYS, load, wait=0.3) == loaded(KEYS)
    assert sorted(key for keys in load.calls for key in keys) == sorted(KEYS)
    slow.go.set()
    await other


@within(20)
async def test_a_cancelled_wait_for_another_process_leaves_nothing(pair):
    mine, others = pair
    slow = Load(waits=True)
    other = await lost_to(others, slow)
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(mine.get_or_set_many(KEYS, Load()))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await outcomes(waiting)
    assert asyncio.all_tasks() == before
    slow.go.set()
    await other
