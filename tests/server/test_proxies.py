"""Behind real proxies: twemproxy (nutcracker), and memcached's own where memcached has it."""

import asyncio
import contextlib
import logging

import pytest

import emcache
from support.calls import until, within
from support.memcached import connections_so_far, memcached, settled_connections
from support.memcached_proxy import WHY_NOT, has_proxy, memcached_proxy
from support.nutcracker import keys_by_server, nutcracker
from support.scripted import scripted

PROXIES = {
    "twemproxy": nutcracker,
    "memcached's": pytest.param(
        memcached_proxy, marks=pytest.mark.skipif(not has_proxy(), reason=WHY_NOT)
    ),
}
each_proxy = pytest.mark.parametrize("proxy_of", PROXIES.values(), ids=PROXIES)

ADMINISTRATIVE = {
    "version": lambda client, node: client.version(node),
    "stats": lambda client, node: client.stats(node),
    "flush_all": lambda client, node: client.flush_all(node),
    "flush_all, noreply": lambda client, node: client.flush_all(node, noreply=True),
    "verbosity": lambda client, node: client.verbosity(node, 1),
    "cache_memlimit": lambda client, node: client.cache_memlimit(node, 64),
}
COMMANDS = ADMINISTRATIVE | {
    "gat": lambda client, _: client.gat(60, b"key1"),
    "gats": lambda client, _: client.gats(60, b"key1"),
    "gat_many": lambda client, _: client.gat_many(60, [b"key1", b"key2"]),
    "gats_many": lambda client, _: client.gats_many(60, iter([b"key1", b"key2"])),
    "increment": lambda client, _: client.increment(b"count", 1, initial=10),
    "an exptime below 0": lambda client, _: client.set(b"gone", b"value", exptime=-1),
    "ping": lambda client, _: client.ping(),
}


def health(client):
    events = client.cluster_managment()
    return len(events.healthy_nodes()), len(events.unhealthy_nodes())


# -- commands that a proxy does not know ---------------------------------------------------------


@each_proxy
@pytest.mark.parametrize("command", COMMANDS)
@within(60)
async def test_what_the_proxy_does_not_know_harms_nobody_else(proxy_of, command):
    """The others have one connection, so every one of them would notice its end."""
    with proxy_of() as proxy:
        async with emcache.create_client([proxy.address], max_connections=1, timeout=20) as client:
            await keys_by_server(proxy, client, 20)
            done = asyncio.Event()
            counts = []

            async def others(number):
                key, count = b"others%d" % number, 0
                while not done.is_set():
                    await client.set(key, b"%d" % count)
                    assert (await client.get(key)).value == b"%d" % count
                    assert await client.get_many([key, b"key2"])
                    count += 1
                counts.append(count)

            async def disturb():
                try:
                    for _ in range(10):
                        with contextlib.suppress(emcache.EmcacheError):
                            await COMMANDS[command](client, proxy.address)
                finally:
                    done.set()

            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(others(number))
                group.create_task(disturb())
            assert min(counts) > 0
            assert health(client) == (1, 0)
            metrics = client.cluster_managment().connection_pool_metrics()[proxy.address]
            assert metrics.reconnects == metrics.requests_retried == 0


@within(60)
async def test_each_refused_command_says_so():
    with nutcracker() as proxy:
        async with emcache.create_client([proxy.address]) as client:
            for name, call in ADMINISTRATIVE.items():
                if name in ("version", "flush_all, noreply"):
                    continue
                with pytest.raises(
                    emcache.ConnectionFailedError, match=f"answering {name}"
                ) as caught:
                    await call(client, proxy.address)
                assert caught.value.command == name
                assert caught.value.node == f"127.0.0.1:{proxy.port}"
            assert health(client) == (1, 0)


def remaining(server, key):
    """Seconds that a key has left, asked of its server."""
    answer = server.command(b"mg %b t\r\n" % key)
    assert answer.startswith(b"HD t"), answer
    return int(answer[4:])


@each_proxy
@within(60)
async def test_get_and_touch_does_both(proxy_of):
    with proxy_of() as proxy:
        async with emcache.create_client([proxy.address]) as client:
            keys = [some[0] for some in await keys_by_server(proxy, client)]
            direct = list(zip(keys, proxy.servers, strict=True))
            calls = {
                100: lambda: client.gat(100, keys[0]),
                200: lambda: client.gats(200, keys[0]),
            }
            for seconds, call in calls.items():
                item = await call()
                assert item.value == keys[0]
                assert (item.cas is not None) == (seconds == 200)
                assert seconds - 5 <= remaining(proxy.servers[0], keys[0]) <= seconds
            for seconds, call in {300: client.gat_many, 400: client.gats_many}.items():
                items = await call(seconds, [*keys, b"none"])
                assert {key: item.value for key, item in items.items()} == dict(
                    zip(keys, keys, strict=True)
                )
                for key, server in direct:
                    assert seconds - 5 <= remaining(server, key) <= seconds
            told = await client.gat_many(500, [*keys, b"none"], on_error="partial")
            assert set(told) == set(keys)
            assert told.errors == {}
            for key, server in direct:
                assert 495 <= remaining(server, key) <= 500
            assert await client.gat(60, b"none") is None
            # "Expires at once" gives the value once more.
            assert (await client.gat(-1, keys[0])).value == keys[0]
            assert await client.get(keys[0]) is None


@within(60)
async def test_get_and_touch_with_a_dead_server_fails_for_its_keys_only():
    with nutcracker() as proxy:
        async with emcache.create_client([proxy.address]) as client:
            dead, alive = await keys_by_server(proxy, client)
            proxy.servers[0].kill()
            assert (await client.gat(60, alive[0])).value == alive[0]
            with pytest.raises(emcache.CommandError, match="SERVER_ERROR"):
                await client.gat(60, dead[0])
            told = await client.gat_many(60, [alive[0], dead[0]], on_error="partial")
            assert told[alive[0]].value == alive[0]
            assert set(told.errors) == {dead[0]}
            assert health(client) == (1, 0)


@each_proxy
@within(60)
async def test_counters_begin_where_they_are_missing(proxy_of):
    with proxy_of() as proxy:
        async with emcache.create_client([proxy.address]) as client:
            got = [await client.increment(b"up", 1, initial=10) for _ in range(3)]
            assert got == [10, 11, 12]
            got = [await client.decrement(b"down", 1, initial=10) for _ in range(3)]
            assert got == [10, 9, 8]
            many = (client.increment(b"many", 1, initial=1) for _ in range(20))
            assert sorted(await asyncio.gather(*many)) == list(range(1, 21))


@within(30)
async def test_counters_use_one_command_where_it_is_known():
    with memcached() as server:
        before = settled_connections(server)
        async with emcache.create_client([server.address], max_connections=1) as client:
            many = (client.increment(b"%d" % at, 1, initial=7) for at in range(20))
            assert await asyncio.gather(*many) == [7] * 20
            (node,) = client.metrics().nodes
            assert set(node.commands) == {"ma"}
        # One besides the shared one found it out, for all of them.
        assert connections_so_far(server) - before == 1 + 2


@pytest.mark.parametrize("answer", [b"ERROR\r\n", b""], ids=["refused", "hung up on"])
@within(30)
async def test_counters_where_version_is_refused(answer):
    numbers = {}

    async def script(connection):
        while (command := await connection.command())[0] != [b""]:
            (verb, *rest), value = command
            key = rest.pop(0) if rest else b""
            if verb == b"add":
                known = numbers.setdefault(key, int(value)) != int(value)
                await connection.send(b"NOT_STORED\r\n" if known else b"STORED\r\n")
            elif verb == b"incr" and key in numbers:
                numbers[key] += int(rest[0])
                await connection.send(b"%d\r\n" % numbers[key])
            elif verb == b"incr":
                await connection.send(b"NOT_FOUND\r\n")
            else:
                await connection.send(answer)
                return

    async with scripted(script) as proxy, emcache.create_client([proxy.address]) as client:
        got = [await client.increment(b"count", 1, initial=10) for _ in range(3)]
        assert got == [10, 11, 12]


# -- is it there? --------------------------------------------------------------------------------


@each_proxy
@pytest.mark.parametrize("at", [0, 1])
@within(60)
async def test_a_proxy_with_a_dead_server_is_ready(proxy_of, at):
    with proxy_of() as proxy:
        proxy.servers[at].kill()
        async with emcache.create_client([proxy.address]) as client:
            await client.wait_ready(30)
            for _ in range(5):
                (answer,) = (await client.ping()).values()
                assert isinstance(answer, float), answer
            assert health(client) == (1, 0)


@each_proxy
@pytest.mark.parametrize("at", [0, 1])
@within(60)
async def test_a_proxy_with_a_hung_server_is_ready(proxy_of, at):
    with proxy_of() as proxy:
        proxy.servers[at].pause()
        async with emcache.create_client([proxy.address], timeout=4) as client:
            await client.wait_ready(30)
            (answer,) = (await client.ping()).values()
            assert isinstance(answer, float), answer


@pytest.mark.parametrize("answer", [b"ERROR\r\n", b""], ids=["refused", "hung up on"])
@within(30)
async def test_a_proxy_that_does_not_know_version_is_ready(answer):
    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if words[0] != b"get":
                await connection.send(answer)
                return
            await connection.send(b"END\r\n")

    async with scripted(script) as proxy, emcache.create_client([proxy.address]) as client:
        await client.wait_ready(20)
        (answer,) = (await client.ping()).values()
        assert isinstance(answer, float), answer


# -- what is learnt, and forgotten ---------------------------------------------------------------


@within(30)
async def test_a_known_command_shares_the_connection_of_the_others():
    with memcached() as server:
        before = settled_connections(server)
        async with emcache.create_client([server.address], max_connections=1) as client:
            await client.set(b"key", b"value")
            for _ in range(5):
                await asyncio.gather(*(client.gat(60, b"key") for _ in range(20)))
                await client.stats(server.address)
                await client.version(server.address)
        # The shared one, and one for each of gat, stats and version; a few more on a slow machine,
        # where others of the 110 do not wait for the first.
        assert 1 + 4 <= connections_so_far(server) - before < 20


@within(30)
async def test_a_proxy_in_place_of_a_server_is_learnt_anew():
    with memcached() as running, nutcracker(1) as proxy:
        target = running.port

        async def relay(connection):
            reader, writer = await asyncio.open_connection("127.0.0.1", target)

            async def back():
                while data := await reader.read(65536):
                    connection.writer.write(data)
                connection.writer.close()

            answers = asyncio.create_task(back())
            try:
                while data := await connection.reader.read(65536):
                    writer.write(data)
            finally:
                writer.close()
                await asyncio.gather(answers, return_exceptions=True)

        async with scripted(relay) as place, emcache.create_client([place.address]) as client:

            def pool():
                return client.cluster_managment().connection_pool_metrics()[place.address]

            await client.gat(60, b"key")
            await client.stats(place.address)
            target = proxy.port
            running.kill()
            await until(lambda: pool().reconnects == 1)
            await client.set(b"key", b"value")
            assert (await client.gat(60, b"key")).value == b"value"
            with pytest.raises(emcache.ConnectionFailedError):
                await client.stats(place.address)
            assert (await client.get(b"key")).value == b"value"
            assert health(client) == (1, 0)
            assert pool().reconnects == 1


@within(30)
async def test_a_command_without_an_answer_holds_nobody_up():
    classic = {b"get": b"END\r\n", b"incr": b"NOT_FOUND\r\n", b"add": b"STORED\r\n"}

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if words[0] in classic:
                await connection.send(classic[words[0]])

    async with (
        scripted(script) as proxy,
        emcache.create_client([proxy.address], max_connections=1, timeout=2) as client,
    ):
        asked = [
            asyncio.create_task(client.gat(60, b"key")),
            asyncio.create_task(client.stats(proxy.address)),
        ]
        counted = asyncio.create_task(client.increment(b"count", 1, initial=7))
        await until(lambda: proxy.accepted > 3)
        async with asyncio.timeout(1):
            await asyncio.gather(*(client.get(b"key") for _ in range(20)))
        for result in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(result, emcache.OperationTimeoutError), result
        assert await counted == 7
        assert health(client) == (1, 0)
        # That it does not answer is remembered.
        assert await client.gat(60, b"key") is None


@within(30)
async def test_a_slow_answer_does_not_hold_up_the_next_call():
    """Also one that comes later: behind a proxy the server of one key may hang."""
    slow = asyncio.Event()

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if words[-1] == b"slow":
                await slow.wait()
            await connection.send(b"END\r\n")

    async with (
        scripted(script) as proxy,
        emcache.create_client([proxy.address], timeout=20) as client,
    ):
        first = asyncio.create_task(client.gat(60, b"slow"))
        await until(lambda: proxy.accepted == 2)
        await asyncio.sleep(0.2)
        assert await client.gat(60, b"fast") is None
        assert not first.done()
        slow.set()
        assert await first is None


@within(30)
async def test_calls_that_are_given_up_leave_room_for_others():
    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if words[-1] != b"silent":
                await connection.send(b"END\r\n")

    async with (
        scripted(script) as proxy,
        emcache.create_client([proxy.address], timeout=None) as client,
    ):
        for number in range(8):
            call = asyncio.create_task(client.gat(60, b"silent"))
            await until(lambda: proxy.accepted == number + 2)  # noqa: B023 - awaited at once
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(0.12)
        assert await client.gat(60, b"other") is None


@within(60)
async def test_a_holder_of_a_connection_pays_for_its_own_commands():
    """With the pool of 1.3.3, too, no other connection and no health suffers."""
    with nutcracker() as proxy:
        changes = []
        pool = emcache.ConnectionPool(
            proxy.address,
            max_connections=2,
            min_connections=1,
            on_healthy_status_change_cb=changes.append,
        )
        try:
            async with pool.create_connection_context() as other:
                for _ in range(5):
                    with pytest.raises(emcache.ConnectionFailedError):
                        async with pool.create_connection_context() as connection:
                            await connection.get_and_touch_command(b"gat", 60, [b"key"])
                    assert (
                        await other.storage_command(b"set", b"key", b"value", 0, 0, False, None)
                        == b"STORED"
                    )
        finally:
            await pool.close()
        assert changes == []


@within(30)
async def test_flush_all_without_a_reply_is_not_overtaken(key):
    with memcached() as server:
        async with emcache.create_client([server.address]) as client:
            for _ in range(3):
                await client.flush_all(server.address, noreply=True)
                await client.set(key, b"value")
                assert (await client.get(key)).value == b"value"


# -- discovery -----------------------------------------------------------------------------------


@within(60)
async def test_discovery_at_a_proxy_uses_it_as_the_node(caplog):
    with nutcracker() as proxy, caplog.at_level(logging.WARNING, "emcache"):
        async with emcache.create_client([proxy.address], autodiscovery=True) as client:
            assert client.cluster_managment().nodes() == [proxy.address]
            await client.set(b"key", b"value")
            assert (await client.get(b"key")).value == b"value"
            assert health(client) == (1, 0)
    assert "no autodiscovery at" in caplog.text
