"""What makes a node unhealthy, and what does not."""

import asyncio

import pytest

import emcache
from support.calls import client_of, outcomes, until, within
from support.faults import Recorder, fault_proxy, fill
from support.memcached import memcached
from support.oracle import reply_to, value_of
from support.sasl import file_memcached
from support.scripted import scripted

KEYS = [b"health:%d" % number for number in range(40)]
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
                await all_found(client)
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
