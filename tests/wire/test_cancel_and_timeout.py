"""Callers that stop waiting: nobody gets another's reply, and the connection lives on."""

import asyncio
import contextlib
import random
import time

import pytest

import emcache
from support.calls import (
    COMMANDS,
    ISOLATED,
    client_of,
    connection_of,
    frozen,
    outcomes,
    until,
    within,
)
from support.memcached import memcached
from support.oracle import answer, reply_to, value_of
from support.proxy import slow_proxy
from support.sasl import PASSWORD, USER, sasl_memcached
from support.scripted import hold, scripted
from support.tls import certificates, peer_context


class Gate:
    """A script that answers nothing until it is opened, and then everything, in order."""

    def __init__(self):
        self.asked = []
        self.opened = asyncio.Event()

    async def __call__(self, connection):
        while (words := (await connection.command())[0]) != [b""]:
            self.asked.append(words)
            await self.opened.wait()
            await connection.send(reply_to(words))


class Backlog:
    """A script that reads until it has `count` commands and answers when it is opened.

    Unlike a gate it sees what is behind the first command.
    """

    def __init__(self, count):
        self.count = count
        self.complete = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, connection):
        asked = [(await connection.command())[0] for _ in range(self.count)]
        self.complete.set()
        await self.opened.wait()
        await connection.send(b"".join(map(reply_to, asked)))
        await answer(connection)


class Unread:
    """A script that reads nothing until it is opened, and then answers."""

    def __init__(self):
        self.asked = []
        self.opened = asyncio.Event()

    async def __call__(self, connection):
        await self.opened.wait()
        while (words := (await connection.command())[0]) != [b""]:
            self.asked.append(words)
            await connection.send(reply_to(words))


async def filled(client):
    """Calls whose bytes are more than the kernel takes; of the last one nothing is written."""
    sizes, calls = [900_000, 900_000], []
    metrics = client.cluster_managment().connection_pool_metrics

    def unwritten():
        (pool,) = metrics().values()
        return sum(sizes[: len(calls)]) - pool.bytes_written

    while len(calls) < len(sizes) or unwritten() < sizes[-1]:
        if len(calls) == len(sizes):
            sizes.append(60_000)
        calls.append(asyncio.ensure_future(client.set(b"filler", bytes(sizes[len(calls)]))))
        before = None
        while before != (before := unwritten()):
            await asyncio.sleep(0.005)
    return calls


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- cancelled -----------------------------------------------------------------------------------


@within(20)
@pytest.mark.parametrize("command", COMMANDS)
async def test_cancelled_after_it_was_sent(command):
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        task = asyncio.ensure_future(COMMANDS[command](client, server.address))
        await until(lambda: len(gate.asked) == 1)
        await cancelled(task)
        following = [asyncio.create_task(client.get(key)) for key in (b"a", b"bb", b"ccc")]
        number = asyncio.create_task(client.increment(b"n", 1))
        await asyncio.sleep(0.01)
        gate.opened.set()
        items = await asyncio.gather(*following)
        assert [found.value for found in items] == [value_of(key) for key in (b"a", b"bb", b"ccc")]
        assert await number == 42
        assert server.accepted == 1 + connection_of(command)


@within(20)
async def test_each_of_a_pipeline_may_be_cancelled():
    keys = [b"key%d" % number for number in range(8)]
    for victim in range(len(keys)):
        backlog = Backlog(len(keys))
        async with scripted(backlog) as server, client_of(server) as client:
            tasks = [asyncio.create_task(client.get(key)) for key in keys]
            await backlog.complete.wait()
            await cancelled(tasks.pop(victim))
            backlog.opened.set()
            rest = keys[:victim] + keys[victim + 1 :]
            items = await asyncio.gather(*tasks)
            assert [found.value for found in items] == [value_of(key) for key in rest]
            assert (await client.get(b"next")).value == value_of(b"next")
            assert server.accepted == 1


async def bounded(client, key):
    async with asyncio.timeout(0.05):
        await client.get(key)


@within(20)
async def test_callers_that_share_a_line_are_cancelled_alone():
    keys = [b"a", b"bb", b"a", b"ccc", b"dddd", b"a"]
    gate = Gate()
    async with scripted(gate) as server, client_of(server, autobatching=True) as client:
        first = asyncio.create_task(client.get(b"first"))
        await until(lambda: len(gate.asked) == 1)
        tasks = [asyncio.create_task(client.get(key)) for key in keys]
        timed = asyncio.create_task(bounded(client, b"timed"))
        await asyncio.sleep(0.02)
        await cancelled(tasks[0])
        await cancelled(tasks[1])
        with pytest.raises(TimeoutError) as caught:
            await timed
        assert not isinstance(caught.value, emcache.EmcacheError)
        gate.opened.set()
        items = await asyncio.gather(first, *tasks[2:])
        assert [found.value for found in items] == list(map(value_of, [b"first", *keys[2:]]))
        # They did share one: or else this shows nothing.
        assert gate.asked[1:] == [[b"get", b"a", b"bb", b"ccc", b"dddd", b"timed"]]
        assert server.accepted == 1


@within(20)
async def test_cancelled_in_the_iteration_of_the_call():
    async with scripted(answer) as server, client_of(server, autobatching=True) as client:
        for _ in range(50):
            tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(4)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await outcomes(*tasks)
            assert [type(result) for result in results[::2]] == [asyncio.CancelledError] * 2
            assert [found.value for found in results[1::2]] == [value_of(b"k1"), value_of(b"k3")]
        assert server.accepted == 1


@within(20)
async def test_a_task_cancelled_before_it_ran_asks_nothing():
    gate = Gate()
    gate.opened.set()
    async with scripted(gate) as server, client_of(server) as client:
        # Unlike `create_task`, the class never starts a task eagerly by default.
        await cancelled(asyncio.Task(client.increment(b"n", 1)))
        await client.get(b"k")
        assert gate.asked == [[b"get", b"k"]]


@within(30)
async def test_calls_cancelled_while_they_wait_for_a_connection_are_not_sent():
    opened = asyncio.Event()
    asked = []

    async def script(connection):
        await opened.wait()
        while (words := (await connection.command())[0]) != [b""]:
            asked.append(words[:2])
            await connection.send(reply_to(words))

    async with scripted(script) as server, client_of(server) as client:
        big = asyncio.create_task(client.set(b"big", b"x" * 32 * 1024 * 1024))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(client.increment(b"n", 1)) for _ in range(50)]
        waiting += [asyncio.create_task(client.get(b"k")) for _ in range(50)]
        kept = asyncio.create_task(client.get(b"kept"))
        await asyncio.sleep(0.05)
        for task in waiting:
            await cancelled(task)
        opened.set()
        assert await big is None
        assert (await kept).value == value_of(b"kept")
        assert asked == [[b"set", b"big"], [b"get", b"kept"]]


@within(20)
async def test_a_task_that_survives_its_cancellation_calls_on():
    gate = Gate()

    async def stubborn(client):
        with contextlib.suppress(asyncio.CancelledError):
            await client.get(b"first")
        asyncio.current_task().uncancel()
        return await client.get(b"second")

    async with scripted(gate) as server, client_of(server) as client:
        task = asyncio.create_task(stubborn(client))
        await until(lambda: len(gate.asked) == 1)
        task.cancel()
        await asyncio.sleep(0.01)
        gate.opened.set()
        assert (await task).value == value_of(b"second")
        assert task.cancelling() == 0
        assert server.accepted == 1


# -- timed out -----------------------------------------------------------------------------------


@within(20)
@pytest.mark.parametrize("command", COMMANDS)
async def test_no_reply_within_the_timeout(command):
    gate = Gate()
    async with scripted(gate) as server, client_of(server, timeout=0.05) as client:
        started = time.monotonic()
        with pytest.raises(emcache.OperationTimeoutError) as caught:
            await COMMANDS[command](client, server.address)
        assert 0.04 < time.monotonic() - started < 5
        assert isinstance(caught.value, asyncio.TimeoutError)
        assert not isinstance(caught.value, ConnectionError)
        node = f"127.0.0.1:{server.port}"
        assert caught.value.node == node
        assert f"{node} within 0.05 s" in str(caught.value)
        gate.opened.set()
        # The late reply is dropped; a slow machine may miss the deadline a few more times.
        assert (await patiently(client.get, b"next")).value == value_of(b"next")
        assert await patiently(client.increment, b"n", 1) == 42
        assert server.accepted == 1 + connection_of(command)


async def patiently(call, *args):
    while True:
        with contextlib.suppress(emcache.OperationTimeoutError):
            return await call(*args)


@within(20)
async def test_all_calls_under_way_time_out_and_none_is_mixed_up():
    keys = [b"key%d" % number for number in range(500)]
    backlog = Backlog(len(keys))
    async with scripted(backlog) as server, client_of(server, timeout=0.3) as client:
        results = await outcomes(*map(client.get, keys))
        assert {type(result) for result in results} == {emcache.OperationTimeoutError}
        await backlog.complete.wait()
        backlog.opened.set()
        for key in keys[:50]:
            assert (await patiently(client.get, key)).value == value_of(key)
        assert server.accepted == 1


@within(20)
async def test_deadlines_that_come_one_after_the_other():
    async with scripted(hold) as server, client_of(server, timeout=0.1) as client:
        started = time.monotonic()

        async def call():
            begun = time.monotonic()
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(b"k")
            return time.monotonic() - begun

        tasks = []
        for _ in range(10):
            tasks.append(asyncio.create_task(call()))
            await asyncio.sleep(0.015)
        assert all(0.09 < took < 5 for took in await asyncio.gather(*tasks))
        assert time.monotonic() - started < 10
        # And long after the last one the clock still works.
        await asyncio.sleep(0.15)
        assert 0.09 < await call() < 5


@within(20)
async def test_a_call_that_waits_for_a_connection_times_out():
    async with scripted(hold) as server, client_of(server, timeout=0.15) as client:
        big = asyncio.create_task(client.set(b"big", b"x" * 32 * 1024 * 1024))
        await asyncio.sleep(0.05)
        for call in (client.get(b"k"), client.set(b"k", b"v")):
            with pytest.raises(emcache.OperationTimeoutError):
                await call
        with pytest.raises(emcache.OperationTimeoutError):
            await big


@within(20)
async def test_get_many_times_out_when_one_node_does_not_answer():
    keys = [b"key%d" % number for number in range(40)]
    async with (
        scripted(answer) as good,
        scripted(hold) as bad,
        client_of(good, bad, timeout=0.2) as client,
    ):
        with pytest.raises(emcache.OperationTimeoutError) as caught:
            await client.get_many(keys)
        assert caught.value.node == f"127.0.0.1:{bad.port}"


@within(20)
async def test_a_reply_in_the_socket_beats_its_deadline(server, key):
    options = {"timeout": 0.1, "autobatching": True}
    async with client_of(server, **options) as client:
        await patiently(client.set, key, b"7")
        for calls in (1, 3):
            tasks = [asyncio.create_task(client.get(key)) for _ in range(calls)]
            tasks.append(asyncio.create_task(client.increment(key, 0)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.3)
            *items, number = await asyncio.gather(*tasks)
            assert [found.value for found in items] == [b"7"] * calls
            assert number == 7


@within(20)
async def test_without_a_timeout_a_call_waits():
    async def script(connection):
        await connection.command()
        await asyncio.sleep(1.3)
        await connection.send(b"42\r\n")

    async with scripted(script) as server, client_of(server, timeout=None) as client:
        assert await client.increment(b"n", 1) == 42


# -- asyncio's own timeouts and groups -----------------------------------------------------------


@within(20)
async def test_asyncio_timeout_around_a_call():
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05) as outer:
                await client.get(b"k")
        assert outer.expired()
        assert not isinstance(caught.value, emcache.EmcacheError)
        assert asyncio.current_task().cancelling() == 0
        gate.opened.set()
        assert (await client.get(b"next")).value == value_of(b"next")
        assert server.accepted == 1


@within(20)
async def test_the_timeout_of_a_call_inside_asyncio_timeout():
    async with scripted(hold) as server, client_of(server, timeout=0.05) as client:
        async with asyncio.timeout(10) as outer:
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(b"k")
        assert not outer.expired()
        assert asyncio.current_task().cancelling() == 0


@within(20)
async def test_both_timeouts_at_the_same_time():
    async with scripted(hold) as server, client_of(server, timeout=0.02) as client:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await client.get(b"k")
            assert asyncio.current_task().cancelling() == 0


@within(20)
async def test_wait_for():
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        with pytest.raises(TimeoutError) as caught:
            await asyncio.wait_for(client.get(b"k"), 0.05)
        assert not isinstance(caught.value, emcache.EmcacheError)
        gate.opened.set()
        found = await asyncio.wait_for(client.get(b"next"), 10)
        assert found.value == value_of(b"next")
        assert asyncio.current_task().cancelling() == 0
        assert server.accepted == 1


@within(20)
async def test_wait_takes_what_is_done_first():
    async with (
        scripted(answer) as fast,
        scripted(hold) as slow,
        client_of(fast) as quick,
        client_of(slow) as stuck,
    ):
        tasks = [asyncio.create_task(client.get(b"k")) for client in (quick, stuck)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().value for task in done] == [value_of(b"k")]
        await cancelled(pending.pop())


@within(20)
async def test_a_task_group_ends_with_the_first_failure():
    async def script(connection):
        words = []
        while words != [b"incr", b"bad", b"1"]:
            words, _ = await connection.command()
        await connection.send(reply_to([b"get", b"a"]), b"NOT_FOUND\r\n")
        await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        tasks = []

        async def together():
            async with asyncio.TaskGroup() as group:
                tasks.append(group.create_task(client.get(b"a")))
                tasks.append(group.create_task(client.increment(b"bad", 1)))
                tasks.append(group.create_task(client.get(b"c")))

        with pytest.raises(ExceptionGroup) as caught:
            await together()
        first, _, last = tasks
        assert [type(error) for error in caught.value.exceptions] == [emcache.NotFoundCommandError]
        assert (await first).value == value_of(b"a")
        assert last.cancelled()
        assert server.accepted == 1


@within(20)
async def test_a_task_group_that_times_out_as_a_whole():
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        tasks = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), asyncio.TaskGroup() as group:
                tasks += [group.create_task(client.get(b"k%d" % n)) for n in range(20)]
        assert all(task.cancelled() for task in tasks)
        assert asyncio.current_task().cancelling() == 0
        gate.opened.set()
        assert (await client.get(b"next")).value == value_of(b"next")
        assert server.accepted == 1


@within(20)
async def test_a_shielded_call_goes_on():
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        inner = asyncio.ensure_future(client.get(b"k"))

        async def outer():
            return await asyncio.shield(inner)

        task = asyncio.create_task(outer())
        await until(lambda: len(gate.asked) == 1)
        await cancelled(task)
        assert not inner.done()
        gate.opened.set()
        assert (await inner).value == value_of(b"k")


@within(20)
async def test_the_core_leaves_no_trace_of_a_cancellation():
    gate = Gate()
    states = []

    async def caller(client):
        try:
            async with asyncio.timeout(10):
                await client.get(b"k")
        finally:
            states.append(asyncio.current_task().cancelling())

    async with scripted(gate) as server, client_of(server) as client:
        task = asyncio.create_task(caller(client))
        await until(lambda: len(gate.asked) == 1)
        await cancelled(task)
        assert states == [1]
        assert task.cancelled()


# -- all at once ---------------------------------------------------------------------------------

SEED = 20_261_123
MAX_CONNECTIONS = 3


def seeded():
    print("seed", SEED)  # noqa: T201
    return random.Random(SEED)


STORM_KEYS = [b"storm:%d" % number for number in range(64)]


async def storm_call(client, rng):
    """One call whose result, if there is one, must be what the keys say."""
    key = rng.choice(STORM_KEYS)
    match rng.randrange(5):
        case 0 | 1:
            assert (await client.get(key)).value == value_of(key)
        case 2:
            found = await client.gets(key, return_flags=True)
            assert (found.value, found.flags) == (value_of(key), len(key))
        case 3:
            keys = rng.sample(STORM_KEYS, rng.randrange(1, 12))
            many = await client.get_many(keys)
            assert {key: found.value for key, found in many.items()} == {
                key: value_of(key) for key in keys
            }
        case 4:
            assert await client.set(key, value_of(key), flags=len(key)) is None


async def storm_caller(client, rng, rounds, counts):
    for _ in range(rounds):
        task = asyncio.create_task(storm_call(client, rng))
        if rng.random() < 0.4:
            await asyncio.sleep(rng.random() * 0.004)
            task.cancel()
        try:
            if rng.random() < 0.2:
                await asyncio.wait_for(task, rng.random() * 0.004)
            else:
                await task
        except asyncio.CancelledError:
            counts["cancelled"] += 1
        except emcache.OperationTimeoutError:
            counts["timed out"] += 1
        except TimeoutError:
            counts["waited for"] += 1
        else:
            counts["answered"] += 1


@within(50)
async def test_a_storm_of_cancellations_and_timeouts(server):
    rng = seeded()
    counts = dict.fromkeys(("answered", "cancelled", "timed out", "waited for"), 0)
    async with slow_proxy(server.port, rng, longest=0.006) as proxy:
        options = {"max_connections": MAX_CONNECTIONS, "timeout": 0.02, "autobatching": True}
        async with client_of(proxy, **options) as client:
            for key in STORM_KEYS:
                await patiently(storm_set, client, key)
            async with asyncio.TaskGroup() as group:
                for _ in range(50):
                    group.create_task(storm_caller(client, rng, 80, counts))
                group.create_task(stall(proxy))
            proxy.longest = 0
            for key in STORM_KEYS:
                assert (await patiently(client.get, key)).value == value_of(key)
        assert all(counts.values()), counts
        assert proxy.most_open <= MAX_CONNECTIONS
        # Nobody who goes away costs a connection.
        assert proxy.accepted <= MAX_CONNECTIONS


async def stall(proxy):
    """Answers that come after their deadline, whatever the speed of the machine."""
    for _ in range(3):
        await asyncio.sleep(0.1)
        # Well below what is taken for silence, after which another connection is made.
        proxy.longest = 0.15
        await asyncio.sleep(0.1)
        proxy.longest = 0.006


async def storm_set(client, key):
    await client.set(key, value_of(key), flags=len(key))


@within(30)
async def test_a_cancelled_increment_is_done_once_or_not_at_all(server, key):
    rng = seeded()
    seen = []

    async def count(client):
        seen.append(await client.increment(key, 1))

    async with slow_proxy(server.port, rng, longest=0.002) as proxy, client_of(proxy) as client:
        await client.set(key, b"0")
        tasks = []
        for _ in range(1000):
            tasks.append(asyncio.create_task(count(client)))
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 0.002)
            if rng.random() < 0.5:
                rng.choice(tasks[-20:]).cancel()
        results = await outcomes(*tasks)
        total = await client.increment(key, 0)
    lost = sum(isinstance(result, asyncio.CancelledError) for result in results)
    assert len(seen) == len(set(seen)) == len(tasks) - lost
    assert seen == sorted(seen)
    assert len(seen) <= total <= len(tasks)
    assert lost > 0


@within(30)
async def test_a_server_that_is_stopped_for_a_while():
    with memcached() as server:
        async with client_of(server, timeout=0.3, autobatching=True) as client:
            await patiently(client.set, b"n", b"5")
            with frozen(server):
                started = time.monotonic()
                results = await outcomes(
                    client.get(b"n"),
                    client.get_many([b"n", b"m"]),
                    client.increment(b"n", 1),
                    client.set(b"k", b"v"),
                    client.version(server.address),
                )
                assert {type(result) for result in results} == {emcache.OperationTimeoutError}
                assert 0.29 < time.monotonic() - started < 10
            # A write that timed out may have happened: this one did.
            assert await patiently(client.increment, b"n", 0) == 6
            assert (await patiently(client.get, b"k")).value == b"v"
            assert await patiently(client.get, b"m") is None


# -- given up before a byte was written ----------------------------------------------------------


# Those that have a connection of their own at first wait behind nothing.
UNSENT = {
    name: call for name, call in COMMANDS.items() if "get" not in name and name not in ISOLATED
} | {
    "set_many": lambda client, _: client.set_many({b"k": b"1", b"l": b"2"}),
    "delete_many": lambda client, _: client.delete_many([b"k", b"l"]),
    "large set": lambda client, _: client.set(b"k", bytes(100_000)),
}


@within(30)
@pytest.mark.parametrize("command", UNSENT)
async def test_cancelled_behind_a_full_socket_it_is_never_sent(command):
    unread = Unread()
    async with scripted(unread) as server, client_of(server) as client:
        filling = await filled(client)
        before = asyncio.ensure_future(client.set(b"before", b"v"))
        given_up = asyncio.ensure_future(UNSENT[command](client, server.address))
        after = asyncio.ensure_future(client.increment(b"after", 1))
        await asyncio.sleep(0.01)
        await cancelled(given_up)
        unread.opened.set()
        assert await after == 42
        await asyncio.gather(before, *filling)
        asked = [words for words in unread.asked if words[1:2] != [b"filler"]]
        assert asked == [[b"set", b"before", b"0", b"0", b"1"], [b"incr", b"after", b"1"]]
        assert server.accepted == 1


@within(30)
async def test_of_many_behind_a_full_socket_those_that_are_wanted_are_sent_in_order():
    unread = Unread()
    async with scripted(unread) as server, client_of(server) as client:
        filling = await filled(client)
        calls = []
        for number in range(200):
            key = b"%d" % number
            call = [
                lambda key: client.set(key, key),
                lambda key: client.get(key),
                lambda key: client.set(key, bytes(500), noreply=True),
                lambda key: client.delete(key),
                lambda key: client.append(key, bytes(300 if key != b"104" else 40_000)),
            ][number % 5]
            calls.append((key, asyncio.ensure_future(call(key))))
        await asyncio.sleep(0.01)
        wanted = []
        for number, (key, call) in enumerate(calls):
            # What only reads may be sent, and what was sent with noreply will be.
            if number % 3 or number % 5 in (1, 2):
                wanted.append(key)
            if not number % 3:
                call.cancel()
        await asyncio.sleep(0)
        unread.opened.set()
        results = await outcomes(*(call for _, call in calls))
        await asyncio.gather(*filling)
        assert {type(result) for result in results} >= {asyncio.CancelledError, emcache.Item}
        assert not [r for r in results if isinstance(r, emcache.EmcacheError)]
        asked = [words[1] for words in unread.asked if words[1] != b"filler"]
        assert asked == wanted


@within(30)
async def test_cancelled_behind_a_full_socket_with_tls(certificate):
    unread = Unread()
    async with scripted(unread, tls=peer_context(certificate.good)) as server:
        options = {"ssl": True, "ssl_extra_ca": certificate.ca.file}
        async with client_of(server, **options) as client:
            filling = await filled(client)
            given_up = asyncio.ensure_future(client.set(b"k", b"v"))
            await asyncio.sleep(0.01)
            await cancelled(given_up)
            unread.opened.set()
            await client.get(b"after")
            await asyncio.gather(*filling)
            assert not [words for words in unread.asked if b"k" in words]


@within(30)
async def test_cancelled_behind_a_full_socket_with_sasl():
    with sasl_memcached() as server:
        async with client_of(server, auth="sasl", username=USER, password=PASSWORD) as client:
            await client.set(b"k", b"old")
            with frozen(server):
                filling = await filled(client)
                given_up = asyncio.ensure_future(client.set(b"k", b"new"))
                await asyncio.sleep(0.01)
                await cancelled(given_up)
            assert (await client.get(b"k")).value == b"old"
            await asyncio.gather(*filling)


@pytest.fixture(scope="module")
def certificate():
    with certificates() as made:
        yield made
