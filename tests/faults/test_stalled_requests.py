"""Requests that are never answered, and what waits behind them on the same connection."""

import asyncio
import collections
import time

import pytest

import emcache
from support.calls import client_of, frozen, outcomes, within
from support.faults import Link, Recorder, fault_proxy, fill
from support.memcached import memcached
from support.oracle import reply_to, value_of
from support.scripted import hold, scripted

KEYS = [b"stalled:%d" % number for number in range(30)]
HUNG = [b"hung:%d" % number for number in range(10)]


class Proxy:
    """Answers each connection in order, as proxies do, and keys of the hung backend never."""

    def __init__(self, hung=(b"hung",)):
        self.hung = hung
        self.counters = collections.Counter()

    async def __call__(self, connection):
        while (words := (await connection.command())[0]) != [b""]:
            if any(word.startswith(self.hung) for word in words[1:]):
                return await hold(connection)
            if words[0] == b"incr":
                self.counters[words[1]] += 1
            await connection.send(reply_to(words))
        return None


def connections_of(client):
    (metrics,) = client.cluster_managment().connection_pool_metrics().values()
    return metrics


def check(key, found):
    if key.startswith(b"hung"):
        assert isinstance(found, emcache.OperationTimeoutError), (key, found)
    else:
        assert isinstance(found, emcache.Item), (key, found)
        assert found.value == value_of(key)


# -- the next request ----------------------------------------------------------------------------

SILENT = {
    "get": lambda client: client.get(b"hung"),
    "get_many": lambda client: client.get_many([b"hung", b"k"]),
    "set": lambda client: client.set(b"hung", b"v"),
    "delete": lambda client: client.delete(b"hung"),
    "increment": lambda client: client.increment(b"hung", 1),
}


@within(30)
@pytest.mark.parametrize("max_connections", [1, 2])
@pytest.mark.parametrize("command", SILENT)
async def test_the_next_request_goes_elsewhere(command, max_connections):
    recorder = Recorder()
    options = {"timeout": 1, "max_connections": max_connections, "cluster_events": recorder}
    async with scripted(Proxy()) as server, client_of(server, **options) as client:
        check(b"k", await client.get(b"k"))
        for _ in range(3):
            (error,) = await outcomes(SILENT[command](client))
            assert isinstance(error, emcache.OperationTimeoutError), error
            check(b"k", await client.get(b"k"))
            await client.set(b"k", b"v")
        assert connections_of(client).cur_connections <= max_connections + 1
        assert recorder.events == []


@within(30)
@pytest.mark.parametrize("connections", [1, 2, 5])
async def test_half_open_connections_cost_one_timeout(connections):
    """All connections are dead and nobody says so, as when a firewall forgets them."""
    dead = set()

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if connection.number in dead:
                return await hold(connection)
            await connection.send(reply_to(words))
        return None

    options = {"timeout": 0.7, "min_connections": connections, "max_connections": connections}
    async with scripted(script) as server, client_of(server, **options) as client:
        while connections_of(client).cur_connections < connections:
            await asyncio.sleep(0.01)
        check(b"k", await client.get(b"k"))
        dead.update(range(server.accepted))
        (error,) = await outcomes(client.get(b"k"))
        assert isinstance(error, emcache.OperationTimeoutError), error
        for key in KEYS:
            check(key, await client.get(key))
        assert client.cluster_managment().unhealthy_nodes() == []


@within(30)
async def test_a_request_that_is_cancelled_in_silence_costs_no_more():
    """The caller has a limit of its own, as with `asyncio.timeout`."""
    options = {"timeout": 1, "max_connections": 1}
    async with scripted(Proxy()) as server, client_of(server, **options) as client:
        check(b"k", await client.get(b"k"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.get(b"hung")
        await asyncio.sleep(1)
        check(b"k", await client.get(b"k"))


# -- what waits behind a request that is not answered --------------------------------------------


@within(30)
async def test_reads_behind_it_are_asked_elsewhere():
    """Long before their timeout, though nothing new is asked that would show the stall."""
    async with (
        scripted(Proxy()) as server,
        client_of(server, timeout=10, max_connections=2) as client,
    ):
        check(b"k", await client.get(b"k"))
        hung = asyncio.create_task(client.get(b"hung"))
        started = time.monotonic()
        calls = [*map(client.get, KEYS), client.get_many(KEYS), client.gets(b"k")]
        *found, many, item = await outcomes(*calls)
        assert time.monotonic() - started < 8
        for key, result in zip(KEYS, found, strict=True):
            check(key, result)
        assert {key: result.value for key, result in many.items()} == {
            key: value_of(key) for key in KEYS
        }
        check(b"k", item)
        hung.cancel()


@within(30)
async def test_new_requests_do_not_go_behind_it():
    """Writes too, which could not be repeated: they wait while another can be opened."""
    proxy = Proxy()
    async with (
        scripted(proxy) as server,
        client_of(server, timeout=10, max_connections=2) as client,
    ):
        check(b"k", await client.get(b"k"))
        hung = asyncio.create_task(client.get(b"hung"))
        await asyncio.sleep(0.3)
        started = time.monotonic()
        results = await outcomes(*(client.increment(b"n%d" % n, 1) for n in range(10)))
        assert results == [42] * 10
        assert time.monotonic() - started < 8
        assert set(proxy.counters.values()) == {1}
        hung.cancel()


@within(40)
@pytest.mark.parametrize("autobatching", [False, True])
async def test_one_hung_backend_does_not_stop_the_others(autobatching):
    """Each key of it takes a connection for a timeout, and no more than that."""
    recorder = Recorder()
    options = {"timeout": 1, "max_connections": 2, "autobatching": autobatching}
    # The first key that a probe asks for is on the hung backend, too.
    proxy = Proxy((b"hung", b"emcache:probe"))
    async with (
        scripted(proxy) as server,
        client_of(server, cluster_events=recorder, **options) as client,
    ):
        check(b"k", await client.get(b"k"))
        # Until this is known, one that shares its line may be lost with it.
        await outcomes(client.get(HUNG[0]), *map(client.get, KEYS))
        for hung in HUNG[1:4]:
            keys = [*KEYS[:15], hung, *KEYS[15:]]
            for key, found in zip(keys, await outcomes(*map(client.get, keys)), strict=True):
                check(key, found)
        assert recorder.events == []
        assert client.cluster_managment().unhealthy_nodes() == []


@within(30)
async def test_writes_behind_it_are_never_repeated():
    proxy = Proxy()
    async with (
        scripted(proxy) as server,
        client_of(server, timeout=1, max_connections=2) as client,
    ):
        check(b"k", await client.get(b"k"))
        calls = [client.get(b"hung"), *(client.increment(b"n%d" % n, 1) for n in range(10))]
        _, *results = await outcomes(*calls)
        for number, result in enumerate(results):
            count = proxy.counters[b"n%d" % number]
            assert count == 1 if result == 42 else count <= 1
            if result != 42:
                assert isinstance(result, emcache.OperationTimeoutError | ConnectionError), result


# -- what is no stall ----------------------------------------------------------------------------


@within(40)
@pytest.mark.parametrize("max_connections", [1, 2])
async def test_a_server_that_pauses_loses_no_connection_and_no_call(max_connections):
    recorder = Recorder()
    with memcached() as server:
        fill(server, KEYS)
        options = {"timeout": 10, "max_connections": max_connections, "autobatching": True}
        async with client_of(server, cluster_events=recorder, **options) as client:
            await client.set(b"n", b"0")
            done = 0
            for _ in range(3):
                with frozen(server):
                    calls = [asyncio.create_task(client.get(key)) for key in KEYS]
                    calls += [asyncio.create_task(client.increment(b"n", 1)) for _ in KEYS]
                    await asyncio.sleep(0.15)
                    calls += [asyncio.create_task(client.get(key)) for key in KEYS]
                    calls += [asyncio.create_task(client.increment(b"n", 1)) for _ in KEYS]
                    await asyncio.sleep(0.15)
                found = await outcomes(*calls)
                done += 2 * len(KEYS)
                for key, result in zip(KEYS, found[: len(KEYS)], strict=True):
                    check(key, result)
                assert all(type(result) in (int, emcache.Item) for result in found), found
            assert int((await client.get(b"n")).value) == done
            assert connections_of(client).connections_closed == 0
            assert recorder.events == []


@within(40)
async def test_answers_that_are_late_do_not_cost_a_connection_each():
    """The server is slower than the timeout, and answers all the same."""

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            await asyncio.sleep(0.6)
            await connection.send(reply_to(words))

    async with (
        scripted(script) as server,
        client_of(server, timeout=0.4, max_connections=1) as client,
    ):
        timed_out = 0
        for key in KEYS[:10]:
            (found,) = await outcomes(client.get(key))
            if isinstance(found, emcache.OperationTimeoutError):
                timed_out += 1
            else:
                check(key, found)
        assert timed_out >= 3
        assert server.accepted <= 3
        assert client.cluster_managment().unhealthy_nodes() == []


# -- what must not be taken over -----------------------------------------------------------------


@within(30)
@pytest.mark.parametrize("command", ["gat", "gats", "gat_many"])
async def test_a_gat_behind_it_is_sent_once(command):
    """The stalled connection may go on later and set the expiration time once more."""
    sent = []

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            sent.extend(word for word in words[2:] if words[0].startswith(b"gat"))
            if b"hung" in words:
                return await hold(connection)
            await connection.send(reply_to(words))
        return None

    calls = {
        "gat": lambda client, key: client.gat(60, key),
        "gats": lambda client, key: client.gats(60, key),
        "gat_many": lambda client, key: client.gat_many(60, [key]),
    }
    async with (
        scripted(script) as server,
        client_of(server, timeout=1, max_connections=2, autobatching=False) as client,
    ):
        # From now on it shares the connections of the others.
        await calls[command](client, b"known")
        hung = asyncio.create_task(client.get(b"hung"))
        await asyncio.sleep(0)
        result, *others = await outcomes(calls[command](client, b"late"), client.get(b"k"))
        assert isinstance(result, emcache.OperationTimeoutError), result
        check(b"k", others[0])
        assert isinstance((await outcomes(hung))[0], emcache.OperationTimeoutError)
        assert sent.count(b"late") <= 1


@within(30)
@pytest.mark.parametrize("max_connections", [1, 2])
async def test_nothing_overtakes_a_noreply_write_on_a_silent_connection(max_connections):
    """A get of the key times out, and a later write of it is executed later."""
    first = Link()
    with memcached() as server, fault_proxy(server, lambda n: Link() if n else first) as proxy:
        options = {"timeout": 0.6, "max_connections": max_connections}
        async with client_of(proxy, **options) as client:
            assert await client.get(b"warm") is None
            first.requests.stall_after = 0
            await client.set(b"key", b"old", noreply=True)
            other, item = await outcomes(client.get(b"other"), client.get(b"key"))
            # The first is served elsewhere, if there may be another connection.
            assert other is None or isinstance(other, emcache.OperationTimeoutError)
            assert isinstance(item, emcache.OperationTimeoutError), item
            await client.set(b"key", b"new", noreply=True)
            first.requests.stall_after = None
            async with client_of(server) as direct:
                await until_value(direct, b"key", b"new")
                await asyncio.sleep(0.2)
                assert (await direct.get(b"key")).value == b"new"


@within(30)
@pytest.mark.parametrize("max_connections", [1, 2])
async def test_other_noreply_writes_leave_a_silent_connection(max_connections):
    """It may never go on, and then a write that was reported as done would be lost."""
    first = Link()
    with memcached() as server, fault_proxy(server, lambda n: Link() if n else first) as proxy:
        options = {"timeout": 0.6, "max_connections": max_connections}
        async with client_of(proxy, **options) as client, client_of(server) as direct:
            await client.set(b"other", b"v")
            first.requests.stall_after = 0
            await client.set(b"key", b"v", noreply=True)
            (item,) = await outcomes(client.get(b"key"))
            assert isinstance(item, emcache.OperationTimeoutError), item
            await client.delete(b"other", noreply=True)
            while await direct.get(b"other") is not None:
                await asyncio.sleep(0.01)


@within(30)
@pytest.mark.parametrize("max_connections", [1, 2])
async def test_noreply_writes_to_a_hung_backend_do_not_use_up_the_connections(max_connections):
    async with (
        scripted(Proxy()) as server,
        client_of(server, timeout=0.6, max_connections=max_connections) as client,
    ):
        check(b"k", await client.get(b"k"))
        for hung in HUNG[: max_connections + 2]:
            await client.set(hung, b"v", noreply=True)
            started = time.monotonic()
            while isinstance((await outcomes(client.get(b"k")))[0], Exception):
                # Long before the patience for replies ends, which is 5 s.
                assert time.monotonic() - started < 4


async def until_value(client, key, value):
    while (item := await client.get(key)) is None or item.value != value:
        await asyncio.sleep(0.01)


# -- after a stall -------------------------------------------------------------------------------


@within(30)
async def test_requests_share_a_connection_again_after_a_pause():
    """Otherwise a distant node would be asked for one key in each round trip."""
    waiting = []

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if b"slow" in words:
                await asyncio.sleep(0.4)
            if words[1].startswith(b"far"):
                waiting.append(words)
                if len(waiting) == 100:
                    await connection.send(b"".join(map(reply_to, waiting)))
                continue
            await connection.send(reply_to(words))

    async with (
        scripted(script) as server,
        client_of(server, timeout=5, max_connections=2, autobatching=False) as client,
    ):
        slow = asyncio.create_task(client.get(b"slow"))
        # The second is held up, and moves to another connection.
        check(b"k", (await outcomes(client.get(b"k")))[0])
        check(b"slow", await slow)
        far = [b"far:%d" % number for number in range(100)]
        for key, found in zip(far, await outcomes(*map(client.get, far)), strict=True):
            check(key, found)


@within(30)
@pytest.mark.parametrize("timeout", [None, 20])
async def test_callers_that_give_up_count_as_timed_out(timeout):
    """A service that uses `asyncio.timeout` instead of the client's timeout."""
    async with (
        scripted(Proxy()) as server,
        client_of(server, timeout=timeout, max_connections=1) as client,
    ):
        check(b"k", await client.get(b"k"))
        for hung in HUNG[:2]:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.get(hung)
        check(b"k", await client.get(b"k"))
