"""What makes a node unhealthy, and what does not."""

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import emcache
from support.calls import client_of, frozen, outcomes, until, within
from support.faults import Faults, Link, Recorder, fault_proxy, fill
from support.loops import LOOPS
from support.memcached import Memcached, memcached
from support.oracle import reply_to, value_of
from support.sasl import file_memcached
from support.scripted import scripted

KEYS = [b"health:%d" % number for number in range(40)]
FEW = KEYS[:20]
IS_THREAD = os.environ.get("EMCACHE_DRIVER") == "thread"
IDLE = {"min_connections": 5, "max_connections": 5, "autobatching": True}


def connections_of(client):
    (metrics,) = client.cluster_managment().connection_pool_metrics().values()
    return metrics


async def all_found(client):
    """Ask for each key, with one call for each and with calls for many."""
    many = [client.get_many(KEYS), client.gets_many(KEYS), client.gat_many(60, KEYS)]
    results = await outcomes(*map(client.get, KEYS), *many)
    for key, found in zip(KEYS, results, strict=False):
        assert isinstance(found, emcache.Item), (key, found)
        assert found.value == value_of(key)
    for found in results[len(KEYS) :]:
        assert isinstance(found, dict), found
        assert {key: item.value for key, item in found.items()} == {
            key: value_of(key) for key in KEYS
        }


# -- idle connections that end together ----------------------------------------------------------


@within(40)
@pytest.mark.parametrize("pause", [0, 0.001, 0.003, 0.01, 0.05])
async def test_idle_connections_that_are_reset_together(server, pause):
    fill(server, KEYS)
    recorder = Recorder()
    with fault_proxy(server) as proxy:
        async with client_of(proxy, cluster_events=recorder, **IDLE) as client:
            for _ in range(3):
                await until(lambda: connections_of(client).cur_connections == proxy.open == 5)
                proxy.reset()
                await asyncio.sleep(pause)
                await all_found(client)
            assert recorder.events == []
            assert client.cluster_managment().unhealthy_nodes() == []


@within(40)
async def test_a_server_that_is_started_again_with_idle_connections():
    recorder = Recorder()
    with memcached() as server:
        async with client_of(server, cluster_events=recorder, **IDLE) as client:
            for _ in range(3):
                await until(lambda: connections_of(client).cur_connections == 5)
                # The loop does not run meanwhile, so nothing is known when the calls are made.
                server.kill()
                server.start()
                fill(server, KEYS)
                if IS_THREAD:
                    # The thread reconnects meanwhile, and a start may take longer than three tries.
                    await client.wait_ready(10)
                await all_found(client)
            if not IS_THREAD:
                assert recorder.events == []
            assert client.cluster_managment().unhealthy_nodes() == []


# -- answers that refuse -------------------------------------------------------------------------


@within(30)
async def test_a_server_that_asks_for_a_login_is_not_down():
    """Every call raises what the server said, however many there are."""
    recorder = Recorder()
    with file_memcached() as server:
        async with client_of(server, cluster_events=recorder) as client:
            for _ in range(5):
                calls = [client.get(b"k"), client.set(b"k", b"v"), client.get_many([b"k", b"l"])]
                calls += [client.delete(b"k"), client.increment(b"k", 1), client.get(b"l")]
                for call in calls:
                    (error,) = await outcomes(call)
                    assert isinstance(error, emcache.CommandError), repr(error)
                    assert "CLIENT_ERROR" in str(error)
                # The server says it once for all that it reads at a time.
                for error in await outcomes(*(client.delete(b"k%d" % n) for n in range(30))):
                    assert isinstance(error, emcache.CommandError), repr(error)
                    assert "CLIENT_ERROR unauthenticated" in str(error)
            assert recorder.events == []
            assert client.cluster_managment().unhealthy_nodes() == []


@within(30)
@pytest.mark.parametrize("line", [b"ERROR", b"CLIENT_ERROR no", b"SERVER_ERROR no"], ids=str)
async def test_error_lines_are_no_sign_of_ill_health(line):
    """Also where the client closes the connection for them."""
    recorder = Recorder()

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            is_refused = words[0] == b"set"
            await connection.send(line + b"\r\n" if is_refused else reply_to(words))

    async with (
        scripted(script) as server,
        client_of(server, cluster_events=recorder) as client,
    ):
        for _ in range(6):
            (error,) = await outcomes(client.set(b"k", b"v"))
            assert isinstance(error, emcache.CommandError), repr(error)
            assert not isinstance(error, emcache.ConnectionFailedError)
        assert (await client.get(b"k")).value == value_of(b"k")
        assert recorder.events == []


# -- connections that are closed without an answer -----------------------------------------------


@within(30)
async def test_a_proxy_that_closes_on_a_command_is_not_down():
    """Each new connection ends for the command, and a fresh one answers all others."""
    recorder = Recorder()

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if words[0] in (b"touch", b"flush_all"):
                return
            await connection.send(reply_to(words))

    async with (
        scripted(script) as server,
        client_of(server, cluster_events=recorder) as client,
    ):
        for _ in range(6):
            for call in (client.touch(b"k", 60), client.flush_all(server.address)):
                (error,) = await outcomes(call)
                assert isinstance(error, emcache.ConnectionFailedError), repr(error)
                assert not isinstance(error, emcache.NodeUnavailableError), repr(error)
        assert (await client.get(b"k")).value == value_of(b"k")
        assert recorder.events == []
        assert client.cluster_managment().unhealthy_nodes() == []


@within(30)
async def test_a_server_that_closes_on_every_command_is_down():
    """The same, but a fresh connection does not answer the client's own question either."""
    recorder = Recorder()

    async def script(connection):
        await connection.command()

    async with (
        scripted(script) as server,
        client_of(server, cluster_events=recorder) as client,
    ):
        while not client.cluster_managment().unhealthy_nodes():
            (error,) = await outcomes(client.get(b"k"))
            assert isinstance(error, emcache.ConnectionFailedError), repr(error)
        await until(lambda: bool(recorder.events))
        assert recorder.events == [("unhealthy", server.address)]


# -- idle connections that the server closes -----------------------------------------------------


def on_both_loops(check):
    """Run a slow check under both loops at the same time, each in a thread of its own."""

    def run(loop_factory):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(check())

    with ThreadPoolExecutor(len(LOOPS)) as threads:
        list(threads.map(run, LOOPS.values()))


def test_idle_connections_that_the_server_closes_are_no_failures():
    """Again and again, and nobody ever asked anything on them."""
    life, closes = 1.3, 4

    @within(30)
    async def check():
        recorder, closed = Recorder(), 0

        async def script(connection):
            nonlocal closed
            while True:
                try:
                    async with asyncio.timeout(life):
                        words, _ = await connection.command()
                except TimeoutError:
                    closed += 1
                    return
                if words == [b""]:
                    return
                await connection.send(reply_to(words))

        async with (
            scripted(script) as server,
            client_of(server, cluster_events=recorder) as client,
        ):
            await until(lambda: closed >= closes)
            await asyncio.sleep(0.2)
            assert recorder.events == []
            assert client.cluster_managment().unhealthy_nodes() == []
            # A new one was dialled each time.
            await until(lambda: server.accepted == closed + 1)
            assert (await client.get(b"k")).value == value_of(b"k")

    on_both_loops(check)


# -- what a probe takes for an answer ------------------------------------------------------------


def serve(answers):
    """A script: what `answers` says to the words of a command; None: it is closed."""

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            reply = answers(words)
            if reply is None:
                return
            await connection.send(reply)

    return script


@contextlib.asynccontextmanager
async def down(script, recorder):
    """A node that is down as its server refuses connections, and its client."""
    async with scripted(script) as server:
        with fault_proxy(Memcached(port=server.port)) as proxy:
            proxy.refuse()
            async with client_of(proxy, timeout=5, cluster_events=recorder) as client:
                await until(lambda: bool(client.cluster_managment().unhealthy_nodes()))
                yield proxy, client


UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
# What servers and proxies answer that are in good health.
ALIVE = {
    "ERROR to version": lambda words: b"ERROR\r\n" if words == [b"version"] else reply_to(words),
    "no answer to version but the end": lambda words: (
        None if words == [b"version"] else reply_to(words)
    ),
    "a login is wanted": lambda words: UNAUTHENTICATED,
    "the backend of the probe's key is down": lambda words: (
        b"SERVER_ERROR backend failure\r\n" if words[1] == b"emcache:probe" else reply_to(words)
    ),
}


@within(20)
@pytest.mark.parametrize("answers", ALIVE.values(), ids=ALIVE)
async def test_a_node_comes_back_whatever_it_thinks_of_version(answers):
    recorder = Recorder()
    async with down(serve(answers), recorder) as (proxy, client):
        proxy.listen()
        async with asyncio.timeout(5):
            await until(lambda: not client.cluster_managment().unhealthy_nodes())
        (found,) = await outcomes(client.get(b"k"))
        if answers([b"get", b"k"]) == UNAUTHENTICATED:
            assert isinstance(found, emcache.CommandError), repr(found)
            assert "unauthenticated" in str(found)
        else:
            assert found.value == value_of(b"k")
        await until(lambda: len(recorder.events) == 2)
        await asyncio.sleep(0.1)
        assert recorder.events == [("unhealthy", proxy.address), ("healthy", proxy.address)]


@within(30)
async def test_a_refused_connection_is_no_sign_of_life():
    recorder = Recorder()
    asked = 0

    def answers(words):
        nonlocal asked
        asked += 1
        return b"ERROR Too many open connections\r\n"

    async with down(serve(answers), recorder) as (proxy, client):
        proxy.listen()
        await until(lambda: asked >= 2)
        await asyncio.sleep(0.1)
        assert client.cluster_managment().unhealthy_nodes() == [proxy.address]
        with pytest.raises(emcache.NodeUnavailableError, match="open connections"):
            await client.get(b"k")
        assert recorder.events == [("unhealthy", proxy.address)]


# -- silence -------------------------------------------------------------------------------------


def test_a_loop_that_is_blocked_takes_nobody_for_silent():
    """In the iteration of its calls, so that their time is up before anybody could hear of them."""

    @within(40)
    async def check(server):
        recorder = Recorder()
        link = Link(answers=Faults(delay=0.002))
        with fault_proxy(server, lambda _: link) as proxy:
            options = {"timeout": 1, "autobatching": True, "max_connections": 2}
            async with client_of(proxy, cluster_events=recorder, **options) as client:

                async def ask():
                    return await outcomes(*map(client.get, FEW))

                def look(key, found):
                    assert isinstance(found, emcache.Item | emcache.OperationTimeoutError), found
                    if isinstance(found, emcache.Item):
                        assert found.value == value_of(key)

                while not all(isinstance(found, emcache.Item) for found in await ask()):
                    await asyncio.sleep(0.01)

                async def block():
                    time.sleep(3)

                calls = [asyncio.create_task(client.get(key)) for key in FEW]
                await asyncio.gather(*calls, block(), return_exceptions=True)
                for key, found in zip(FEW, await outcomes(*calls), strict=True):
                    look(key, found)
                look(FEW[0], *await outcomes(client.get(FEW[0])))
                await asyncio.sleep(0.3)
                assert recorder.events == []
                assert client.cluster_managment().unhealthy_nodes() == []
                assert connections_of(client).connections_closed == 0

    with memcached() as server:
        fill(server, FEW)
        on_both_loops(lambda: check(server))


def test_a_stopped_node_with_little_to_do_turns_unhealthy():
    """Also while it takes connections, of which there may be more."""

    @within(40)
    async def check():
        with memcached() as server:
            async with client_of(server, timeout=0.5, max_connections=4) as client:
                management = client.cluster_managment()
                while await outcomes(client.set(b"k", b"v")) != [None]:
                    await asyncio.sleep(0.01)
                calls = 0
                with frozen(server):
                    while not management.unhealthy_nodes():
                        pause = asyncio.create_task(asyncio.sleep(1.2))
                        (error,) = await outcomes(client.get(b"k"))
                        # It may be known meanwhile that the node is down.
                        if not management.unhealthy_nodes():
                            assert isinstance(error, emcache.OperationTimeoutError), error
                        calls += 1
                        assert calls <= 6
                        if management.unhealthy_nodes():
                            pause.cancel()
                        await asyncio.wait([pause])
                assert calls >= 3

    on_both_loops(check)
