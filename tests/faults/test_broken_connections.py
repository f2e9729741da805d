"""A real server behind a network that delays, splits, stalls and cuts, at every byte."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time

import pytest

import emcache
from support.calls import client_of, frozen, outcomes, until, within
from support.faults import RESTING, Faults, Link, at_rest, fault_proxy, fill, seeded
from support.memcached import memcached
from support.oracle import reply_to, value_of
from support.scripted import scripted

KEYS = [b"broken:%d" % number for number in range(16)]
# With short values: the tests of every byte are long enough.
SHORT = [b"cl", b"cq"]
HOW = ["fin_after", "reset_after"]


def is_lost(result):
    return isinstance(result, emcache.ConnectionFailedError)


# -- callers that go away ------------------------------------------------------------------------


@within(30)
async def test_a_call_cancelled_between_request_and_answer_costs_nothing(server, key):
    fill(server, KEYS)
    answers = Faults(stall_after=0)
    with fault_proxy(server, lambda _: Link(answers=answers)) as proxy:
        async with client_of(proxy, **RESTING) as client:
            request = b"incr %b 1\r\n" % key
            task = asyncio.create_task(client.increment(key, 1))
            await until(lambda: proxy.request_bytes >= len(request))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            answers.stall_after = None
            for number in range(1000):
                wanted = KEYS[number % len(KEYS)]
                assert (await client.get(wanted)).value == value_of(wanted)
            assert proxy.accepted == 1
            await at_rest(client)


@within(30)
async def test_calls_cancelled_in_the_queue_reach_the_server_at_most_once():
    with memcached() as server:
        fill(server, KEYS)
        requests = Faults(stall_after=0)
        with fault_proxy(server, lambda _: Link(requests=requests)) as proxy:
            async with client_of(proxy, **RESTING) as client:
                tasks = [asyncio.create_task(client.get(b"queued:%d" % n)) for n in range(100)]
                await until(lambda: proxy.accepted == 1)
                for task in tasks:
                    task.cancel()
                results = await outcomes(*tasks)
                assert {type(result) for result in results} == {asyncio.CancelledError}
                requests.stall_after = None
                for wanted in KEYS:
                    assert (await client.get(wanted)).value == value_of(wanted)
                assert int(server.stats()["cmd_get"]) <= 100 + len(KEYS)
                assert proxy.accepted == 1
                await at_rest(client)


@within(30)
async def test_answers_that_come_after_their_deadline_reach_nobody(server):
    fill(server, KEYS)
    answers = Faults()
    with fault_proxy(server, lambda _: Link(answers=answers)) as proxy:
        async with client_of(proxy, timeout=0.2, **RESTING) as client:
            for _ in range(2):
                answers.delay = 0.4
                started = time.monotonic()
                results = await outcomes(*(client.get(wanted) for wanted in KEYS))
                assert {type(result) for result in results} == {emcache.OperationTimeoutError}
                assert 0.19 < time.monotonic() - started < 5
                answers.delay = 0
                late = 0
                for number in range(100):
                    wanted = KEYS[number % len(KEYS)]
                    try:
                        assert (await client.get(wanted)).value == value_of(wanted)
                    except emcache.OperationTimeoutError:
                        late += 1
                assert late < 50
            assert proxy.accepted == 1
            await at_rest(client)


async def end_of_ten_thousand_calls(proxy):
    """How long after the deadline of the last call the last one ended."""
    async with client_of(proxy, timeout=1, max_connections=2) as client:
        loop = asyncio.get_running_loop()
        ended = []
        deadline = loop.time() + 1
        tasks = [asyncio.create_task(client.get(b"k%d" % number)) for number in range(10_000)]
        for task in tasks:
            task.add_done_callback(lambda _: ended.append(loop.time()))
        await asyncio.sleep(0)
        made = loop.time() - deadline + 1
        results = await outcomes(*tasks)
        assert {type(result) for result in results} == {emcache.OperationTimeoutError}
        assert min(ended) > deadline - 0.05
        return max(ended) - deadline - made


@within(40)
async def test_ten_thousand_calls_end_at_their_deadline(server):
    with fault_proxy(server, lambda _: Link(requests=Faults(stall_after=0))) as proxy:
        late = []
        # A machine that is busy elsewhere is late now and then; a client that is late is so always.
        while not late or (late[-1] > 0.25 and len(late) < 5):
            late.append(await end_of_ten_thousand_calls(proxy))
        assert min(late) < 0.25, late


# -- pieces --------------------------------------------------------------------------------------

NETWORKS = {
    "one byte at a time": Faults(split=1),
    "seven bytes at a time": Faults(split=7),
    "all in one piece": Faults(coalesce=0.02),
    "late": Faults(delay=0.01),
    "early and late": Faults(split=16, jitter=0.002),
    "1 Mbit/s": Faults(split=256, rate=125_000),
}


@within(30)
@pytest.mark.parametrize("direction", ["requests", "answers"])
@pytest.mark.parametrize("faults", NETWORKS.values(), ids=NETWORKS)
async def test_pieces_and_pauses_change_nothing(server, key, faults, direction):
    fill(server, KEYS)
    value = b"END\r\nVALUE k 0 1\r\n\0STORED\r\n" * 8
    with fault_proxy(server, lambda _: Link(**{direction: faults})) as proxy:
        async with client_of(proxy) as client:
            for _ in range(2):
                await client.set(key, value)
                one, many, flagged, missing, version, *items = await asyncio.gather(
                    client.get(key),
                    client.get_many([key, *KEYS, b"broken:none"]),
                    client.gets(key, return_flags=True),
                    client.get(b"broken:none"),
                    client.version(proxy.address),
                    *(client.get(wanted) for wanted in KEYS),
                )
                assert one.value == many.pop(key).value == flagged.value == value
                assert {wanted: found.value for wanted, found in many.items()} == {
                    wanted: value_of(wanted) for wanted in KEYS
                }
                assert [found.value for found in items] == [value_of(wanted) for wanted in KEYS]
                assert missing is None
                assert version
            # The second is that of the first `version`, which a proxy may not know.
            assert proxy.accepted == 2


@within(30)
async def test_a_large_value_in_any_pieces(server, key):
    rng = seeded()
    value = rng.randbytes(1000) * 1000
    answers, requests = Faults(split=4099), Faults(split=8191)
    with fault_proxy(server, lambda _: Link(requests, answers), rng) as proxy:
        async with client_of(proxy) as client:
            for _ in range(3):
                await client.set(key, value)
                items = await asyncio.gather(*(client.get(key) for _ in range(3)))
                assert [found.value == value for found in items] == [True] * 3
            assert proxy.accepted == 1
            await client.delete(key)


# -- cut -----------------------------------------------------------------------------------------


@within(50)
@pytest.mark.parametrize("how", HOW)
async def test_answers_of_a_real_server_cut_at_every_byte(server, key, how):
    """Reads are asked again and right; a write is done once, and lost if its answer was."""
    first, last = SHORT
    fill(server, SHORT)
    replies = [
        b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (first, len(value_of(first)), value_of(first)),
        b"1000000\r\n",
        b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (last, len(value_of(last)), value_of(last)),
    ]
    server.command(b"set %b 0 0 6\r\n999999\r\n" % key)
    cut = 0

    def plan(number):
        return Link(answers=Faults(**{how: cut})) if number % 2 == 0 else Link()

    with fault_proxy(server, plan) as proxy:
        for cut in range(len(b"".join(replies)) + 1):
            async with client_of(proxy) as client:
                one, number, other = await outcomes(
                    client.get(first), client.increment(key, 1), client.get(last)
                )
                assert one.value == value_of(first), f"cut at {cut}"
                assert other.value == value_of(last), f"cut at {cut}"
                whole = cut >= len(b"".join(replies[:2]))
                # Not lost, and not done twice, if it was not sent yet when the connection ended.
                is_done = number == 1_000_000
                assert is_done or (not whole and is_lost(number)), f"cut at {cut}: {number}"
                # Every second link is a good one.
                await until(lambda at=cut: proxy.accepted == 2 * (at + 1))
                done = await client.decrement(key, 1)
                assert done in ((999_999,) if is_done else (999_999, 999_998)), f"cut at {cut}"
            server.command(b"set %b 0 0 6\r\n999999\r\n" % key)


@within(50)
@pytest.mark.parametrize("how", HOW)
async def test_requests_cut_at_every_byte_are_not_repeated(server, key, how):
    fill(server, SHORT)
    key, text = key[-3:], key[-3:] + b"t"
    request = b"".join(
        [
            b"append %b 0 0 3\r\nabc\r\n" % text,
            b"incr %b 1\r\n" % key,
            b"get %b\r\n" % SHORT[0],
        ]
    )
    cut = 0

    def plan(number):
        return Link(requests=Faults(**{how: cut})) if number % 2 == 0 else Link()

    with fault_proxy(server, plan) as proxy:
        for cut in range(len(request) + 1):
            server.command(b"set %b 0 0 1\r\n0\r\n" % key)
            server.command(b"set %b 0 0 0\r\n\r\n" % text)
            async with client_of(proxy) as client:
                appended, number, found = await outcomes(
                    client.append(text, b"abc"), client.increment(key, 1), client.get(SHORT[0])
                )
                assert appended is None or is_lost(appended), f"cut at {cut}: {appended}"
                assert number == 1 or is_lost(number), f"cut at {cut}: {number}"
                assert found.value == value_of(SHORT[0]), f"cut at {cut}"
                # Asked on a connection of its own behind all that the server had to do.
                items = await client.get_many([key, text])
                count, joined = int(items[key].value), items[text].value
                assert count in ((1,) if number == 1 else (0, 1)), f"cut at {cut}"
                assert joined in ((b"abc",) if appended is None else (b"", b"abc")), f"cut at {cut}"


# -- killed --------------------------------------------------------------------------------------


@within(40)
async def test_a_killed_server_fails_at_once_and_is_dialled_with_care():
    with memcached() as server, fault_proxy(server, lambda _: Link()) as proxy:
        fill(server, KEYS)
        async with client_of(server) as client, client_of(proxy) as other:
            metrics = client.cluster_managment().connection_pool_metrics
            for each in (client, other):
                await each.set(b"n", b"1")
            with frozen(server):
                calls = [each.increment(b"n", 1) for each in (client, other) for _ in range(50)]
                tasks = [asyncio.ensure_future(call) for call in calls]
                await until(lambda: proxy.request_bytes >= 50 * len(b"incr n 1\r\n"))
                started = time.monotonic()
                server.kill()
                results = await outcomes(*tasks)
            assert time.monotonic() - started < 1
            assert all(map(is_lost, results))
            # The dials of one and a half seconds: a storm would be thousands.
            before = metrics()[server.address].connections_created_with_error
            accepted = proxy.accepted
            await asyncio.sleep(1.5)
            assert metrics()[server.address].connections_created_with_error - before < 30
            assert proxy.accepted - accepted < 30
            server.start()
            fill(server, KEYS)
            for each in (client, other):
                for wanted in KEYS:
                    assert (await patiently(each.get, wanted)).value == value_of(wanted)


async def patiently(call, *args):
    """While a node is down or hesitates, its calls fail: until they do not."""
    while True:
        with contextlib.suppress(emcache.ConnectionFailedError, emcache.OperationTimeoutError):
            return await call(*args)
        await asyncio.sleep(0.01)


def kills_sockets() -> bool:
    """Whether `ss -K` is there, and does what it says."""
    if os.geteuid() != 0 or not shutil.which("ss"):
        return False
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as victim:
            kill_sockets(port)
            victim.settimeout(1)
            try:
                victim.recv(1)
            except ConnectionError:
                return True
            except TimeoutError:
                return False
    return True


def kill_sockets(port: int) -> None:
    command = ["ss", "-K", "-tn", "state", "established", f"( dport = :{port} )"]
    subprocess.run(command, capture_output=True, check=False)


@within(40)
async def test_sockets_that_the_kernel_ends_under_load():
    if not kills_sockets():
        pytest.skip("needs root, and `ss -K` of iproute2 with a kernel that lets it")
    rng = seeded()
    done = asyncio.Event()
    counted = lost = 0

    async def caller(client):
        nonlocal counted, lost
        seen = 0
        while not done.is_set():
            wanted = rng.choice(KEYS)
            try:
                if rng.random() < 0.5:
                    assert (await client.get(wanted)).value == value_of(wanted)
                else:
                    number = await client.increment(b"n", 1)
                    assert number > seen
                    seen = number
                    counted += 1
            except emcache.ConnectionFailedError:
                # A read is asked once more, but that connection may be killed too.
                lost += 1
                await asyncio.sleep(0.001)

    with memcached() as server:
        fill(server, KEYS)
        server.command(b"set n 0 0 1\r\n0\r\n")
        async with client_of(server, max_connections=2, **RESTING) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(30):
                    group.create_task(caller(client))
                killed = 0
                while killed < 10 or not lost:
                    await asyncio.sleep(0.05)
                    await asyncio.to_thread(kill_sockets, server.port)
                    killed += 1
                done.set()
            (metrics,) = client.cluster_managment().connection_pool_metrics().values()
            assert metrics.connections_closed > 0
            total = await patiently(client.increment, b"n", 0)
            assert counted <= total <= counted + lost
            await at_rest(client)


# -- buffers -------------------------------------------------------------------------------------


@within(30)
async def test_buffers_may_change_while_their_values_wait(server, key):
    """The values are those at the time of the call, also where nothing was written for long."""
    requests = Faults(stall_after=0)
    names = [b"%b:%d" % (key, number) for number in range(40)]
    with fault_proxy(server, lambda _: Link(requests=requests)) as proxy:
        async with client_of(proxy) as client:
            buffers = [bytearray(name * 10_000) for name in names]
            views = [
                memoryview(buffer) if number % 2 else buffer
                for number, buffer in enumerate(buffers)
            ]
            tasks = [
                asyncio.ensure_future(client.set(name, view))
                for name, view in zip(names, views, strict=True)
            ]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in tasks)
            for view in views:
                if isinstance(view, memoryview):
                    view.release()
            for buffer in buffers:
                buffer[:] = b"x" * len(buffer)
                # Refused by the buffer if anybody still looked at it.
                buffer.clear()
            requests.stall_after = None
            await asyncio.gather(*tasks)
            items = await client.get_many(names)
            assert all(items[name].value == name * 10_000 for name in names)
            await asyncio.gather(*(client.delete(name) for name in names))


# -- connections that end together ---------------------------------------------------------------


@within(20)
async def test_reads_are_asked_again_when_all_connections_ended():
    """Not on the other one, whose end was only not seen yet."""
    connections, asked = [], []

    async def script(connection):
        connections.append(connection)
        while (words := (await connection.command())[0]) != [b""]:
            asked.append(connection)
            if connection.number >= 2:
                await connection.send(reply_to(words))

    def metrics():
        (found,) = client.cluster_managment().connection_pool_metrics().values()
        return found

    options = {"min_connections": 2, "max_connections": 2}
    async with scripted(script) as server, client_of(server, **options) as client:
        await until(lambda: len(connections) == 2)
        await until(lambda: metrics().cur_connections == 2)
        calls = [asyncio.create_task(client.get(key)) for key in KEYS[:3]]
        await until(lambda: len(asked) == 3)
        assert len(set(asked)) == 1
        # The end of the other one is seen at the same time, or a moment later.
        connections.sort(key=lambda connection: connection is not asked[0])
        for connection in connections:
            connection.close()
        for key, found in zip(KEYS, await outcomes(*calls), strict=False):
            assert isinstance(found, emcache.Item), repr(found)
            assert found.value == value_of(key)
        assert metrics().requests_retried >= 3
        assert client.cluster_managment().unhealthy_nodes() == []
