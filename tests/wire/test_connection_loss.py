"""Connections that end at every point, servers that go and come back, nodes that are down."""

import asyncio
import contextlib
import fcntl
import logging
import os
import struct
import termios
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import emcache
from emcache.testing import FaultProxy
from support.calls import (
    COMMANDS,
    READS,
    SUBSTITUTED,
    client_of,
    connection_of,
    frozen,
    full_backlog,
    outcomes,
    until,
    within,
)
from support.loops import LOOPS
from support.memcached import Memcached, free_port, memcached
from support.oracle import END, answer, item, reply_to, value_of
from support.scripted import hold, scripted
from support.tls import certificates, tls_memcached

HOW = ["FIN", "RST"]


def drop(connection, how):
    if how == "FIN":
        connection.close()
    else:
        connection.reset()


def is_lost(error):
    return (
        isinstance(error, emcache.ConnectionFailedError)
        and isinstance(error, ConnectionError)
        and isinstance(error, TimeoutError)
    )


# -- a connection that ends in the middle --------------------------------------------------------


async def cut_reply(how, replies, cut, *calls):
    """The outcomes of three calls whose reply ends early, and what was asked on each connection.

    After a connection that never answered the client waits before it connects again, for 25 ms on
    average. So the calls find one that has answered if their first reply is cut. They come before
    it is made if nothing, one byte, or the whole of the first reply is sent.
    """
    asked = []
    reply = b"".join(replies)
    warm = 1 < cut < len(replies[0])

    async def script(connection):
        mine = []
        asked.append(mine)
        if connection.number == 0:
            if warm:
                await connection.send(reply_to((await connection.command())[0]))
            mine += [(await connection.command())[0] for _ in calls]
            await connection.send(reply[:cut])
            return drop(connection, how)
        while (words := (await connection.command())[0]) != [b""]:
            mine.append(words)
            await connection.send(reply_to(words))
        return None

    async with scripted(script) as server, client_of(server) as client:
        if warm:
            assert (await client.get(b"first")).value == value_of(b"first")
        results = await outcomes(*(call(client) for call in calls))
        # What is to be seen of a second connection is seen before the answer to this.
        assert (await client.get(b"last")).value == value_of(b"last")
        again = [words for mine in asked[1:] for words in mine if words != [b"get", b"last"]]
        return results, again


def replies_within(cut, replies):
    """How many of the replies are whole."""
    return sum(len(b"".join(replies[: at + 1])) <= cut for at in range(len(replies)))


@within(40)
@pytest.mark.parametrize("how", HOW)
async def test_reads_are_asked_again_wherever_the_reply_ended(how):
    keys = [b"a", b"bb", b"ccc"]
    replies = [item(key) + END for key in keys]
    for cut in range(len(b"".join(replies)) + 1):
        calls = [lambda client, key=key: client.get(key) for key in keys]
        results, again = await cut_reply(how, replies, cut, *calls)
        assert [found.value for found in results] == [value_of(key) for key in keys], cut
        missing = keys[replies_within(cut, replies) :]
        assert again == [[b"get", key] for key in missing], f"cut at {cut}"


@within(40)
@pytest.mark.parametrize("how", HOW)
async def test_writes_are_never_repeated_wherever_the_reply_ended(how):
    replies = [b"STORED\r\n", b"1234567\r\n", b"DELETED\r\n"]
    for cut in range(len(b"".join(replies)) + 1):
        results, again = await cut_reply(
            how,
            replies,
            cut,
            lambda client: client.set(b"a", b"v"),
            lambda client: client.increment(b"n", 1),
            lambda client: client.delete(b"d"),
        )
        whole = replies_within(cut, replies)
        assert results[:whole] == [None, 1234567, None][:whole], f"cut at {cut}"
        assert all(map(is_lost, results[whole:])), f"cut at {cut}: {results}"
        assert again == [], f"cut at {cut}"


@within(40)
@pytest.mark.parametrize("how", HOW)
async def test_reads_among_writes(how):
    replies = [item(b"a") + END, b"7\r\n", item(b"c", cas=7) + item(b"d", cas=7) + END]
    for cut in range(len(b"".join(replies)) + 1):
        (first, number, many), again = await cut_reply(
            how,
            replies,
            cut,
            lambda client: client.get(b"a"),
            lambda client: client.increment(b"n", 1),
            lambda client: client.gets_many([b"c", b"d"]),
        )
        assert first.value == value_of(b"a")
        assert {key: found.value for key, found in many.items()} == {
            key: value_of(key) for key in (b"c", b"d")
        }
        assert number == 7 if replies_within(cut, replies) >= 2 else is_lost(number)
        assert not any(words[0] == b"incr" for words in again)


@within(20)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_when_its_connection_is_lost(command, how):
    asked = []

    async def script(connection):
        asked.append((await connection.command())[0])
        if connection.number == connection_of(command):
            return drop(connection, how)
        await connection.send(reply_to(asked[-1]))
        return await answer(connection)

    async with scripted(script) as server, client_of(server) as client:
        call = COMMANDS[command](client, server.address)
        if command in READS:
            assert await call
            again = asked[0]
            if command in SUBSTITUTED:
                # The first command of each connection: `touch` comes on the one of the read.
                verb, _, *keys = again
                again = [verb.replace(b"gat", b"get"), *keys]
            assert asked[1:] == [again]
        else:
            with pytest.raises(emcache.ConnectionFailedError) as caught:
                await call
            assert is_lost(caught.value)
            assert caught.type is emcache.ConnectionFailedError
            assert caught.value.node == f"127.0.0.1:{server.port}"
            await client.get(b"last")
            assert asked[1:] == [[b"get", b"last"]]


@within(20)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", READS)
async def test_a_read_is_asked_once_more_and_not_for_ever(command, how):
    asked = []

    async def script(connection):
        asked.append((await connection.command())[0])
        drop(connection, how)

    async with scripted(script) as server, client_of(server) as client:
        with pytest.raises(emcache.ConnectionFailedError):
            await COMMANDS[command](client, server.address)
        # After a closed `gat` its substitute is tried, as a proxy may not know it.
        assert len(asked) == (3 if command in SUBSTITUTED else 2)


@within(20)
async def test_a_repeated_read_forgets_what_came_before():
    async def script(connection):
        await connection.command()
        if connection.number == 0:
            return await connection.send(item(b"a", b"old") + item(b"b", b"old"))
        await connection.send(item(b"b", b"new") + END)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        many = await client.get_many([b"a", b"b"])
        assert {key: found.value for key, found in many.items()} == {b"b": b"new"}


@within(20)
async def test_a_repeated_single_get_may_miss():
    async def script(connection):
        await connection.command()
        if connection.number == 0:
            return await connection.send(item(b"a", b"old"))
        await connection.send(END)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        assert await client.get(b"a") is None


async def filled(connection):
    """Wait until the sockets are full: there is something to read, and it grows no more."""
    waiting, before = 0, -1
    while not 0 < waiting == before:
        await asyncio.sleep(0.03)
        answer = fcntl.ioctl(connection.writer.get_extra_info("socket"), termios.FIONREAD, bytes(4))
        waiting, before = struct.unpack("i", answer)[0], waiting


@within(40)
@pytest.mark.parametrize("how", HOW)
async def test_writes_that_were_not_sent_are_sent_on_the_next_connection(how):
    keys = [b"key%d" % number for number in range(600)]
    value = b"x" * 32 * 1024
    stored = []

    async def script(connection):
        if connection.number == 0:
            # Reads nothing: the sockets fill up, and most of the commands stay with the client.
            connection.writer.transport.pause_reading()
            await filled(connection)
            return drop(connection, how)
        while (words := (await connection.command())[0]) != [b""]:
            stored.append(words[1])
            await connection.send(b"STORED\r\n")
        return None

    async with scripted(script) as server, client_of(server) as client:
        results = await outcomes(*(client.set(key, value) for key in keys))
        lost = [key for key, result in zip(keys, results, strict=True) if result is not None]
        assert all(is_lost(result) for result in results if result is not None)
        assert 0 < len(lost) < len(keys)
        assert stored == keys[len(lost) :]
        assert lost == keys[: len(lost)]


@within(20)
@pytest.mark.parametrize("command", COMMANDS)
async def test_calls_before_the_first_connection_wait_for_it(command):
    async with scripted(answer) as server, client_of(server, min_connections=0) as client:
        await COMMANDS[command](client, server.address)
        assert server.accepted == 1 + connection_of(command)


@within(20)
@pytest.mark.parametrize("how", HOW)
async def test_an_idle_connection_that_ends_is_replaced(how):
    ended = asyncio.Event()

    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        await connection.command()
        await connection.send(b"1\r\n")
        await asyncio.sleep(0.01)
        drop(connection, how)
        return ended.set()

    async with scripted(script) as server, client_of(server) as client:
        assert await client.increment(b"n", 1) == 1
        await ended.wait()
        await asyncio.sleep(0.05)
        assert await client.increment(b"n", 1) == 42
        assert server.accepted == 2


# -- a server that goes and comes back -----------------------------------------------------------


@within(30)
async def test_a_server_that_is_started_again():
    with memcached() as server:
        async with client_of(server) as client:
            for version in (b"1", b"2", b"3"):
                await client.set(b"k", version)
                assert (await client.get(b"k")).value == version
                server.kill()
                server.start()
                if os.environ.get("EMCACHE_DRIVER") == "thread":
                    # The thread reconnects meanwhile, and a start may take longer than three tries.
                    await client.wait_ready(10)
                # The loop had no time to notice: the read goes to a dead socket first.
                assert await client.get(b"k") is None


@within(30)
async def test_a_server_that_is_started_again_while_calls_come():
    with memcached() as server:
        async with client_of(server) as client:
            await client.set(b"k", b"v")
            server.kill()
            calls = [asyncio.create_task(client.get(b"k")) for _ in range(10)]
            await asyncio.sleep(0.01)
            server.start()
            for result in await outcomes(*calls):
                assert result is None or is_lost(result)
            while True:
                with contextlib.suppress(emcache.ConnectionFailedError):
                    await client.set(b"k", b"w")
                    break
            assert (await client.get(b"k")).value == b"w"


@within(30)
async def test_a_server_that_dies_with_calls_in_flight():
    with memcached() as server:
        async with client_of(server) as client:
            await client.set(b"n", b"1")
            with frozen(server):
                calls = [client.increment(b"n", 1), client.get(b"n"), client.set(b"k", b"v")]
                tasks = [asyncio.ensure_future(call) for call in calls]
                await asyncio.sleep(0.05)
                started = time.monotonic()
                server.kill()
                results = await outcomes(*tasks)
            assert time.monotonic() - started < 10
            assert all(map(is_lost, results)), results


SEVERAL = {
    "set_many": lambda client, keys: [client.set_many(dict.fromkeys(keys, b"v"))],
    "quiet set_many": lambda client, keys: [
        client.set_many(dict.fromkeys(keys, b""), noreply=True)
    ],
    "sets": lambda client, keys: [client.set(key, b"v") for key in keys],
    "quiet sets": lambda client, keys: [client.set(key, b"v", noreply=True) for key in keys],
    "large sets": lambda client, keys: [client.set(key, bytes(100_000)) for key in keys],
    "gets and sets": lambda client, keys: [
        client.get(b"none" + keys[0]) if key is None else client.set(key, b"v")
        for key in (None, *keys)
    ],
}


@within(20)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("calls", SEVERAL)
async def test_no_write_is_sent_on_an_idle_connection_that_ended(certificate, calls, tls, how):
    """It ends while the loop is busy, and those woken by another node's replies write to it."""
    with contextlib.ExitStack() as stack:
        if tls:
            servers = [stack.enter_context(tls_memcached(certificate.good)) for _ in range(2)]
        else:
            servers = [stack.enter_context(memcached()) for _ in range(2)]
        proxy = stack.enter_context(FaultProxy(servers[1]))
        options = {"ssl": True, "ssl_extra_ca": certificate.ca.file} if tls else {}
        # Nobody dials before something is asked.
        options["min_connections"] = 0
        busy, idle = servers[0], servers[1] if how == "FIN" else proxy
        async with client_of(busy, idle, **options) as client:
            keys = {busy.address: [], idle.address: []}
            for number in range(200):
                keys[client.node_for(b"%d" % number)].append(b"%d" % number)
            three = keys[idle.address][:3]

            async def after_a_get(call):
                await client.get(keys[busy.address][0])
                return await call

            await outcomes(*(client.get(some[0]) for some in keys.values()))
            await asyncio.sleep(1)
            await client.get(keys[busy.address][0])
            several = SEVERAL[calls](client, three)
            tasks = [asyncio.create_task(after_a_get(call)) for call in several]
            # They ask, and then it is written.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if how == "FIN":
                servers[1].kill()
                servers[1].start()
            else:
                proxy.reset()
            time.sleep(0.05)
            results = await outcomes(*tasks)
            assert not [result for result in results if isinstance(result, Exception)]
            assert not [r for r in results if isinstance(r, emcache.ManyResult) and r.errors]
            assert set(await client.get_many(three)) == set(three)


def test_the_idle_timeout_of_a_server_is_not_seen():
    """Under both loops at the same time: the server takes seconds."""

    @within(30)
    async def check(server, key):
        async with (
            client_of(server) as kept,
            client_of(server, min_connections=0) as unkept,
        ):
            for client in (kept, unkept):
                await client.set(key, b"1")
            while int(server.stats()["idle_kicks"]) < 2 * len(LOOPS):
                await asyncio.sleep(0.05)
            assert await kept.increment(key, 1) == 2
            assert await unkept.increment(key, 1) == 3

    def run(key):
        with asyncio.Runner(loop_factory=LOOPS[key.decode()]) as runner:
            runner.run(check(server, key))

    # It looks for idle ones among as many connections as there may be: the fewer the sooner.
    with (
        memcached("-c", "64", "-o", "idle_timeout=1") as server,
        ThreadPoolExecutor(len(LOOPS)) as threads,
    ):
        list(threads.map(run, (name.encode() for name in LOOPS)))


# -- a node that is down -------------------------------------------------------------------------


@pytest.fixture
def nowhere() -> Memcached:
    """An address where nobody listens."""
    return Memcached(port=free_port())


@within(30)
@pytest.mark.parametrize("command", COMMANDS)
async def test_a_dead_host(nowhere, command):
    async with client_of(nowhere) as client:
        started = time.monotonic()
        with pytest.raises(emcache.NodeUnavailableError) as caught:
            await COMMANDS[command](client, nowhere.address)
        assert time.monotonic() - started < 10
        assert is_lost(caught.value)
        assert caught.value.node == f"127.0.0.1:{nowhere.port}"
        management = client.cluster_managment()
        assert management.unhealthy_nodes() == [nowhere.address]
        assert management.healthy_nodes() == []
        assert management.nodes() == [nowhere.address]
        metrics = management.connection_pool_metrics()[nowhere.address]
        assert metrics.connections_created_with_error >= 3
        assert metrics.cur_connections == metrics.connections_created == 0
        # Known to be down: nobody waits for another connect.
        with pytest.raises(emcache.NodeUnavailableError):
            await asyncio.wait_for(COMMANDS[command](client, nowhere.address), 5)


@within(30)
async def test_a_host_that_swallows_connects():
    with full_backlog() as address:
        async with emcache.create_client([address], timeout=30, connection_timeout=0.1) as client:
            with pytest.raises(emcache.NodeUnavailableError, match=r"0\.1 s"):
                await client.get(b"k")


@within(30)
async def test_a_name_that_does_not_resolve():
    address = emcache.MemcachedHostAddress("no-such-host.invalid", 11211)
    async with emcache.create_client([address], timeout=30) as client:
        with pytest.raises(emcache.NodeUnavailableError, match="no-such-host"):
            await client.get(b"k")


class Recorder(emcache.ClusterEvents):
    def __init__(self, fail=False):
        self.events = []
        self.managements = set()
        self.fail = fail
        self.running = 0

    async def _record(self, management, kind, host):
        self.running += 1
        assert self.running == 1, "one at a time"
        await asyncio.sleep(0.01)
        self.managements.add(management)
        self.events.append((kind, host))
        self.running -= 1
        if self.fail:
            raise RuntimeError("a handler's own fault")

    async def on_node_healthy(self, cluster_managment, host):
        await self._record(cluster_managment, "healthy", host)

    async def on_node_unhealthy(self, cluster_managment, host):
        await self._record(cluster_managment, "unhealthy", host)


@within(40)
@pytest.mark.parametrize("fail", [False, True], ids=["handlers return", "handlers fail"])
async def test_events_come_in_order(caplog, fail):
    caplog.set_level(logging.INFO, "emcache")
    recorder = Recorder(fail)
    with memcached() as a, memcached() as b:
        async with client_of(a, b, cluster_events=recorder) as client:
            await client.version(a.address)
            expected = []
            for _ in range(2):
                a.kill()
                expected.append(("unhealthy", a.address))
                await until(lambda: len(recorder.events) == len(expected))
                assert client.cluster_managment().unhealthy_nodes() == [a.address]
                assert client.cluster_managment().nodes() == [b.address, a.address]
                a.start()
                expected.append(("healthy", a.address))
                await until(lambda: len(recorder.events) == len(expected))
                assert client.cluster_managment().unhealthy_nodes() == []
                assert await client.version(a.address)
            assert recorder.events == expected
            assert recorder.managements == {client.cluster_managment()}
    handler_failures = [record for record in caplog.records if record.exc_info]
    assert len(handler_failures) == (len(expected) if fail else 0)
    assert any("unhealthy" in record.getMessage() for record in caplog.records)


KEYS = [b"key%d" % number for number in range(40)]


async def places(client, servers):
    """Store a new value for each key, and say which server has it."""
    token = b"%d" % time.monotonic_ns()
    for key in KEYS:
        await client.set(key, token)
    return {
        key: next(
            server.port
            for server in servers
            if server.process.poll() is None and token in server.command(b"get " + key + b"\r\n")
        )
        for key in KEYS
    }


@within(40)
async def test_purging_moves_keys_and_brings_them_back():
    with memcached() as a, memcached() as b:
        async with client_of(a, b, purge_unhealthy_nodes=True) as client:
            unhealthy = client.cluster_managment().unhealthy_nodes
            before = await places(client, [a, b])
            assert set(before.values()) == {a.port, b.port}
            a.kill()
            await until(lambda: unhealthy() == [a.address])
            assert set((await places(client, [a, b])).values()) == {b.port}
            assert len(await client.get_many(KEYS)) == len(KEYS)
            b.kill()
            await until(lambda: len(unhealthy()) == 2)
            for call in (client.get(b"k"), client.set(b"k", b"v"), client.get_many(KEYS)):
                with pytest.raises(emcache.ClusterNoAvailableNodes):
                    await call
            a.start()
            b.start()
            await until(lambda: not unhealthy())
            assert await places(client, [a, b]) == before


@within(30)
async def test_without_purging_keys_stay_with_their_node(nowhere):
    with memcached() as alive:
        async with client_of(alive, nowhere) as client:
            await until(lambda: bool(client.cluster_managment().unhealthy_nodes()))
            results = await outcomes(*(client.set(key, b"v") for key in KEYS))
            assert {type(result) for result in results} == {
                type(None),
                emcache.NodeUnavailableError,
            }
            with pytest.raises(emcache.NodeUnavailableError):
                await client.get_many(KEYS)
            stored = [key for key, result in zip(KEYS, results, strict=True) if result is None]
            assert set(await client.get_many(stored)) == set(stored)


@within(20)
async def test_get_many_with_a_node_that_drops_fails_as_a_whole():
    async def broken(connection):
        await connection.command()

    async with (
        scripted(answer) as good,
        scripted(broken) as bad,
        client_of(good, bad) as client,
    ):
        with pytest.raises(emcache.ConnectionFailedError) as caught:
            await client.get_many(KEYS)
        assert caught.value.node == f"127.0.0.1:{bad.port}"
        singles = await outcomes(*(client.get_many([key]) for key in KEYS))
        lost = [result for result in singles if isinstance(result, Exception)]
        assert 0 < len(lost) < len(KEYS)
        assert all(map(is_lost, lost))


@pytest.fixture(scope="module")
def certificate():
    with certificates() as made:
        yield made
