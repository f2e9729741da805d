"""Locks: one owner among all processes, which may be cancelled, killed or too slow."""

import asyncio
import contextlib
from datetime import timedelta

import pytest
import pytest_asyncio

import emcache
from emcache import Cache
from emcache.testing import FaultProxy
from support.calls import client_of, outcomes, within
from support.memcached import memcached
from support.round_trips import is_one_round_trip
from support.scripted import scripted
from support.without_meta import without_meta
from support.workers import workers


@pytest.fixture(params=["meta", "classic"])
def commands(request):
    """Whether the node has meta commands."""
    return request.param


@pytest_asyncio.fixture
async def cache(client, server, key, commands):
    if commands == "meta":
        yield Cache(client, prefix=key)
        return
    async with (
        without_meta(server, "ERROR") as (address, _),
        emcache.create_client([address]) as classic,
    ):
        yield Cache(classic, prefix=key)


async def value_of(cache, name="work"):
    return await cache.client.get(cache.wire_key(f"#lock:{name}"))


async def test_one_owner_at_a_time(cache):
    first, second = cache.lock("work", ttl=30, wait=0), cache.lock("work", ttl=30, wait=0)
    assert await first.acquire()
    assert not await second.acquire()
    assert (first.owned, second.owned) == (True, False)
    assert await first.release()
    assert await second.acquire()
    assert (first.owned, second.owned) == (False, True)


async def test_other_names_and_prefixes_are_other_locks(cache, client, key):
    other = Cache(client, prefix=key + b":other")
    for lock in (cache.lock("a", ttl=30), cache.lock("b", ttl=30), other.lock("a", ttl=30)):
        assert await lock.acquire()


async def test_the_block_holds_the_lock(cache):
    async with cache.lock("work", ttl=30) as lock:
        assert lock.owned
        assert await value_of(cache) is not None
    assert not lock.owned
    assert await value_of(cache) is None
    async with lock:
        assert lock.owned


async def test_the_block_releases_the_lock_when_it_raises(cache):
    with pytest.raises(ZeroDivisionError):
        async with cache.lock("work", ttl=30):
            1 / 0  # noqa: B018
    assert await value_of(cache) is None


async def test_a_block_without_the_lock_does_not_run(cache):
    async with cache.lock("work", ttl=30):
        with pytest.raises(emcache.LockTimeoutError, match=r"not free within 0\.05 s") as caught:
            async with cache.lock("work", ttl=30, wait=timedelta(milliseconds=50)):
                raise AssertionError
        assert isinstance(caught.value, TimeoutError)
        assert await value_of(cache) is not None


@within(20)
async def test_waiting_tasks_get_the_lock_one_after_another(cache):
    inside, most, done = 0, 0, []

    async def work(number):
        nonlocal inside, most
        async with cache.lock("work", ttl=30):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            done.append(number)

    await asyncio.gather(*(work(number) for number in range(10)))
    assert most == 1
    assert sorted(done) == list(range(10))


async def test_only_the_owner_releases_and_extends(cache):
    old, new = cache.lock("work", ttl=30, wait=0), cache.lock("work", ttl=30, wait=0)
    assert await old.acquire()
    await cache.client.delete(cache.wire_key("#lock:work"))
    assert await new.acquire()
    assert not await old.extend()
    assert not old.owned
    with pytest.raises(RuntimeError, match="does not hold"):
        await old.release()
    assert await new.extend()
    assert await new.release()


async def test_a_release_after_the_loss_leaves_the_next_owner_alone(cache):
    old, new = cache.lock("work", ttl=30, wait=0), cache.lock("work", ttl=30, wait=0)
    assert await old.acquire()
    await cache.client.delete(cache.wire_key("#lock:work"))
    assert await new.acquire()
    assert not await old.release()
    assert await new.release()


@pytest.mark.parametrize("commands", ["classic"], indirect=True)
@pytest.mark.parametrize("method", ["release", "extend"])
async def test_the_next_owner_between_read_and_write_is_left_alone(cache, monkeypatch, method):
    """The write carries the CAS of the item that was read."""
    old, new = cache.lock("work", ttl=30, wait=0), cache.lock("work", ttl=30, wait=0)
    assert await old.acquire()
    client, gets = cache.client, cache.client.gets

    async def gets_before_the_loss(key):
        item = await gets(key)
        await client.delete(key)
        assert await new.acquire()
        return item

    monkeypatch.setattr(client, "gets", gets_before_the_loss)
    assert not await getattr(old, method)()
    monkeypatch.undo()
    assert await new.release()


async def test_a_block_that_lost_its_lock_raises(cache):
    async def lose(lock, *, extend=False, fail=False):
        async with lock:
            await cache.client.delete(cache.wire_key("#lock:work"))
            assert not (extend and await lock.extend())
            assert not (fail and 1 / 0)

    with pytest.raises(emcache.LockLostError, match="before its release"):
        await lose(cache.lock("work", ttl=30))
    with pytest.raises(emcache.LockLostError):
        await lose(cache.lock("work", ttl=30), extend=True)
    with pytest.raises(ZeroDivisionError):
        await lose(cache.lock("work", ttl=30), fail=True)


async def test_a_block_may_release_early(cache):
    async with cache.lock("work", ttl=30) as lock:
        await lock.release()
        async with cache.lock("work", ttl=30, wait=0):
            pass


@within(20)
async def test_a_lock_ends_with_its_ttl(cache):
    old, new = cache.lock("work", ttl=2, wait=0), cache.lock("work", ttl=30)
    assert await old.acquire()
    assert await new.acquire()
    # The object's own clock is never later than the server's.
    assert not old.owned
    assert not await old.release()
    assert new.owned


@within(20)
async def test_extend_counts_from_now(cache):
    lock = cache.lock("work", ttl=2)
    assert await lock.acquire()
    assert await lock.extend(timedelta(seconds=60))
    assert lock.owned
    await asyncio.sleep(2.5)
    assert lock.owned
    assert await lock.extend()
    assert await lock.release()


async def test_one_object_is_for_one_task(cache):
    lock = cache.lock("work", ttl=30)
    with pytest.raises(RuntimeError, match="does not hold"):
        await lock.release()
    with pytest.raises(RuntimeError, match="does not hold"):
        await lock.extend()
    results = await outcomes(lock.acquire(), lock.acquire())
    assert results[0] is True
    assert isinstance(results[1], RuntimeError)
    with pytest.raises(RuntimeError, match="for each task"):
        await lock.acquire()


@pytest.mark.parametrize("after", [False, True])
@within(20)
async def test_a_cancelled_acquire_does_not_leave_a_lock(cache, monkeypatch, commands, after):
    client, verb = cache.client, "meta_set" if commands == "meta" else "add"
    add = getattr(client, verb)
    reached, go = asyncio.Event(), asyncio.Event()

    async def held(*args, **kwargs):
        if kwargs.get("new_cas") is not None:
            raise emcache.UnsupportedError("new_cas")
        result = await add(*args, **kwargs) if after else None
        reached.set()
        await go.wait()
        return result if after else await add(*args, **kwargs)

    monkeypatch.setattr(client, verb, held)
    task = asyncio.create_task(cache.lock("work", ttl=60).acquire())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    go.set()
    assert await cache.lock("work", ttl=30, wait=10).acquire()


@within(20)
async def test_a_cancelled_release_is_done_all_the_same(cache, monkeypatch, commands):
    lock, verb = cache.lock("work", ttl=60), "meta_delete" if commands == "meta" else "gets"
    assert await lock.acquire()
    call, reached, go = getattr(cache.client, verb), asyncio.Event(), asyncio.Event()

    async def held(*args, **kwargs):
        reached.set()
        await go.wait()
        return await call(*args, **kwargs)

    monkeypatch.setattr(cache.client, verb, held)
    task = asyncio.create_task(lock.release())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not lock.owned
    go.set()
    assert await cache.lock("work", ttl=30, wait=10).acquire()


@within(30)
async def test_an_acquire_that_timed_out_does_not_leave_a_lock(server, key):
    """The server stores the token after the deadline of the call."""
    with FaultProxy(server) as proxy:
        async with client_of(proxy, timeout=0.3) as client, client_of(server) as direct:
            await client.get(b"any")
            proxy.answers.delay = 1.0
            with pytest.raises(emcache.OperationTimeoutError):
                await Cache(client, prefix=key).lock("work", ttl=60).acquire()
            assert await value_of(Cache(direct, prefix=key)) is not None
            proxy.heal()
            assert await Cache(direct, prefix=key).lock("work", ttl=30, wait=20).acquire()


async def test_a_dead_node_fails_at_once(key):
    with memcached() as node:
        address = node.address
    async with emcache.create_client([address], timeout=0.5) as client:
        with pytest.raises(emcache.EmcacheError):
            await Cache(client, prefix=key).lock("work", ttl=30, wait=None).acquire()


async def test_the_error_of_a_block_is_not_replaced_by_that_of_its_release(key):
    with memcached() as node:
        async with emcache.create_client([node.address], timeout=0.5) as client:
            cache = Cache(client, prefix=key)
            lock = cache.lock("work", ttl=30)
            with pytest.raises(ZeroDivisionError):
                async with lock:
                    assert node.kill() or 1 / 0


async def test_a_failed_release_may_be_tried_again(cache, monkeypatch, commands):
    lock, verb = cache.lock("work", ttl=30), "meta_delete" if commands == "meta" else "gets"
    assert await lock.acquire()

    async def fails(*_, **__):
        raise emcache.OperationTimeoutError("no reply")

    monkeypatch.setattr(cache.client, verb, fails)
    with pytest.raises(emcache.OperationTimeoutError):
        await lock.release()
    monkeypatch.undo()
    assert await lock.release()


async def test_a_release_after_an_extension_of_unknown_outcome(cache, monkeypatch, commands):
    """The item has another CAS then, and is still ours."""
    lock, verb = cache.lock("work", ttl=30), "meta_set" if commands == "meta" else "cas"
    assert await lock.acquire()
    call = getattr(cache.client, verb)

    async def fails(*args, **kwargs):
        if kwargs.get("new_cas") is None:
            await call(*args, **kwargs)
            raise emcache.OperationTimeoutError("no reply")
        raise emcache.UnsupportedError("new_cas")

    monkeypatch.setattr(cache.client, verb, fails)
    with pytest.raises(emcache.OperationTimeoutError):
        await lock.extend(60)
    monkeypatch.undo()
    assert lock.owned
    assert await lock.extend()
    assert await lock.release()
    assert await cache.lock("work", ttl=30, wait=0).acquire()


@within(20)
async def test_with_meta_commands_each_step_is_one_round_trip(server, key):
    with FaultProxy(server) as proxy:
        async with client_of(proxy) as client:
            cache = Cache(client, prefix=key)
            await cache.lock("first", ttl=30).acquire()
            lock, other = cache.lock("work", ttl=30), cache.lock("work", ttl=30, wait=0)
            for call in (lock.acquire, other.acquire, lock.extend, lock.extend, lock.release):
                assert await is_one_round_trip([proxy], call(), used=1)


async def test_from_1_6_27_on_the_cas_is_a_random_number(key):
    """Numbers of the server begin again when it is restarted."""
    came = []

    async def script(connection):
        while True:
            words, _ = await connection.command()
            if words == [b""]:
                return
            came.append(words)
            new = [word[1:] for word in words if word.startswith(b"E")]
            answers = {b"mn": b"MN", b"version": b"VERSION 1.6.27"}
            await connection.send(
                answers.get(words[0], b"HD c" + new[0] if new else b"HD") + b"\r\n"
            )

    async with scripted(script) as peer, client_of(peer) as client:
        lock = Cache(client, prefix=key).lock("work", ttl=30)
        assert await lock.acquire()
        assert await lock.extend()
        assert await lock.release()
    acquired, extended, released = [words for words in came if words[0] in (b"ms", b"md")]
    [first] = [word[1:] for word in acquired if word.startswith(b"E")]
    [second] = [word[1:] for word in extended if word.startswith(b"E")]
    assert int(first) != int(second)
    assert b"C" + first in extended
    assert b"C" + second in released


@pytest.mark.parametrize("commands", ["meta", "classic"])
async def test_a_server_without_cas(key, commands):
    with memcached("-C") as server:
        async with contextlib.AsyncExitStack() as stack:
            address = server.address
            if commands == "classic":
                address, _ = await stack.enter_async_context(without_meta(server, "ERROR"))
            client = await stack.enter_async_context(emcache.create_client([address]))
            cache = Cache(client, prefix=key)
            first, second = cache.lock("work", ttl=30, wait=0), cache.lock("work", ttl=30, wait=0)
            assert await first.acquire()
            assert not await second.acquire()
            assert await first.extend()
            await client.delete(cache.wire_key("#lock:work"))
            assert await second.acquire()
            assert not await first.release()
            assert await second.release()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 1}, ValueError),
        ({"ttl": 0}, ValueError),
        ({"ttl": timedelta(days=31)}, ValueError),
        ({"ttl": 2.5}, TypeError),
        ({"ttl": True}, TypeError),
        ({"ttl": 30, "wait": -1}, ValueError),
        ({"ttl": 30, "wait": float("nan")}, ValueError),
        ({"ttl": 30, "wait": "1"}, TypeError),
        ({"ttl": 30, "wait": True}, TypeError),
    ],
)
async def test_wrong_arguments(cache, options, error):
    with pytest.raises(error, match=r"ttl|wait"):
        cache.lock("work", **options)


async def test_names_are_keys(client, key):
    with pytest.raises(emcache.InvalidKeyError):
        Cache(client).lock("a b", ttl=30)
    with pytest.raises(TypeError, match="name"):
        Cache(client).lock(7, ttl=30)
    assert await Cache(client, keys="hash", prefix=key).lock("a b", ttl=30).acquire()


def test_a_ttl_rounds_up():
    from emcache.cache._locks import _whole_seconds

    assert _whole_seconds(timedelta(seconds=2, microseconds=1)) == 3


COUNTING = """
    async def main():
        prefix = sys.argv[3]
        async with create() as client:
            cache = emcache.Cache(client, prefix=prefix)
            for _ in range(10):
                async with cache.lock("work", ttl=30):
                    # Not atomic, so that a second owner would lose an increment.
                    number = await cache.get("number", 0)
                    await asyncio.sleep(0.001)
                    await cache.set("number", number + 1)
    run(main())
"""


@within(50)
async def test_processes_exclude_each_other(cache, server, key):
    async with workers(4, COUNTING, server.port, key.decode()) as processes:
        await asyncio.gather(*(process.rest() for process in processes))
    assert await cache.get("number") == 40


KILLED = """
    async def main():
        async with create() as client:
            cache = emcache.Cache(client, prefix=sys.argv[3])
            async with cache.lock("work", ttl=int(sys.argv[4])):
                print("has it")
                await hear()
    run(main())
"""


@within(50)
async def test_the_lock_of_a_killed_process_ends_with_its_ttl(cache, server, key):
    async with workers(1, KILLED, server.port, key.decode(), "3") as [owner]:
        assert await owner.line() == "has it"
        await owner.kill()
        assert not await cache.lock("work", ttl=30, wait=0).acquire()
        assert await cache.lock("work", ttl=30, wait=30).acquire()


@within(50)
async def test_an_owner_that_was_stopped_cannot_release_the_lock_of_the_next(cache, server, key):
    async with workers(1, KILLED, server.port, key.decode(), "2") as [owner]:
        assert await owner.line() == "has it"
        lock = cache.lock("work", ttl=30)
        assert await lock.acquire()
        await owner.say()
        with pytest.raises(AssertionError, match="LockLostError"):
            await owner.rest()
        assert await lock.extend()
