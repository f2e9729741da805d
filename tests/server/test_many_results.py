"""Calls that change many keys, and retrievals that give what came (`on_error="partial"`)."""

import asyncio
import collections
import pickle
import types

import pytest
import pytest_asyncio

import emcache
from support.calls import client_of, until, within
from support.memcached import free_port
from support.scripted import hold, scripted


def numbered(prefix: bytes, count: int) -> list[bytes]:
    return [b"%s:%d" % (prefix, n) for n in range(count)]


def counted(nodes, name: str) -> list[int]:
    return [int(node.stats()[name]) for node in nodes]


@pytest_asyncio.fixture
async def client(cluster):
    """A client of three nodes."""
    async with emcache.create_client([node.address for node in cluster], timeout=10.0) as running:
        yield running


class TestChanges:
    async def test_set_many(self, client, cluster, key):
        items = {k: b"value of " + k for k in numbered(key, 100)}
        result = await client.set_many(items, flags=7, exptime=100)
        assert result == emcache.ManyResult(list(items), [], {})
        assert result.raise_errors() is None
        stored = await client.get_many(items, return_flags=True)
        assert stored == {k: emcache.Item(v, 7, None) for k, v in items.items()}
        for node in cluster:
            mine = [k for k in items if client.node_for(k) == node.address]
            assert mine
            assert node.command(b"mg %s t\r\n" % mine[0]).startswith(b"HD t")

    async def test_add_many(self, client, key):
        a, b, c = numbered(key, 3)
        await client.set(b, b"old")
        result = await client.add_many({c: b"new", b: b"new", a: b"new"})
        assert (result.done, result.missed, result.errors) == ([c, a], [b], {})
        assert {i.value for i in (await client.get_many([a, b, c])).values()} == {b"new", b"old"}

    async def test_delete_many_and_touch_many(self, client, key):
        a, b, c = numbered(key, 3)
        await client.set_many({a: b"1", c: b"3"})
        touched = await client.touch_many([c, b, a, c], 100)
        assert (touched.done, touched.missed, touched.errors) == ([c, a], [b], {})
        deleted = await client.delete_many(k for k in [a, b, c, a, b])
        assert (deleted.done, deleted.missed, deleted.errors) == ([a, c], [b], {})
        assert await client.get_many([a, b, c]) == {}

    async def test_touch_many_makes_them_expire(self, client, key):
        keys = numbered(key, 10)
        await client.set_many(dict.fromkeys(keys, b""))
        await client.touch_many(keys, -1)
        assert await client.get_many(keys) == {}

    async def test_nothing(self, client):
        nothing = emcache.ManyResult([], [], {})
        assert await client.set_many({}) == await client.add_many({}) == nothing
        assert await client.delete_many([]) == await client.touch_many([], 1) == nothing

    @pytest.mark.parametrize("kind", [types.MappingProxyType, collections.UserDict])
    async def test_any_mapping(self, client, key, kind):
        result = await client.set_many(kind({key: bytearray(b"a")}))
        assert result.done == [key]
        assert (await client.get(key)).value == b"a"

    async def test_values_are_those_of_the_call(self, client, key):
        value = bytearray(b"before" * 10_000)
        call = asyncio.ensure_future(client.set_many({key: memoryview(value)}))
        await asyncio.sleep(0)
        value[:] = b"after!" * 10_000
        await call
        assert (await client.get(key)).value == b"before" * 10_000

    async def test_keys_of_the_result_are_plain_bytes(self, client, key):
        class Key(bytes):
            def __hash__(self):
                return 0

        result = await client.set_many({Key(key): b"a"})
        assert type(result.done[0]) is bytes
        assert (await client.delete_many([Key(key), key])).done == [key]

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda c, good: c.set_many(good | {b"a b": b""}), ValueError),
            (lambda c, good: c.set_many({b"": b""} | good), ValueError),
            (lambda c, good: c.set_many(good | {"str": b""}), TypeError),
            (lambda c, good: c.set_many(good | {b"k": "str"}), TypeError),
            (lambda c, good: c.set_many(good | {b"k": None}), TypeError),
            (lambda c, good: c.set_many(good, flags=2**32), ValueError),
            (lambda c, good: c.set_many(good, exptime=2**31), ValueError),
            (lambda c, good: c.set_many(good, exptime=1.5), TypeError),
            (lambda c, good: c.set_many(list(good)), TypeError),
            (lambda c, good: c.set_many(None), TypeError),
            (lambda c, good: c.add_many(good | {b"k" * 251: b""}), ValueError),
            (lambda c, good: c.delete_many([*good, b"a\r\nflush_all"]), ValueError),
            (lambda c, good: c.delete_many(b"key"), TypeError),
            (lambda c, good: c.touch_many([*good, b"a\tb"], 1), ValueError),
            (lambda c, good: c.touch_many(good, True), TypeError),
        ],
    )
    async def test_one_bad_argument_and_nothing_is_sent(self, client, cluster, key, call, error):
        before = [counted(cluster, f"cmd_{name}") for name in ("set", "touch")]
        with pytest.raises(error):
            await call(client, dict.fromkeys(numbered(key, 30), b"good"))
        for node in cluster:
            await client.version(node.address)
        assert [counted(cluster, f"cmd_{name}") for name in ("set", "touch")] == before

    async def test_a_refused_key_fails_alone(self, client, key):
        a, b, c, d = numbered(key, 4)
        too_large = bytes(2 * 1024 * 1024)
        result = await client.set_many({a: b"1", b: too_large, c: b"3", d: too_large})
        assert (result.done, result.missed, list(result.errors)) == ([a, c], [], [b, d])
        with pytest.raises(ExceptionGroup, match="2 of 4 keys failed") as raised:
            result.raise_errors()
        # One for each node that refused something.
        assert len(raised.value.exceptions) == len({client.node_for(b), client.node_for(d)})
        for error in [*result.errors.values(), *raised.value.exceptions]:
            assert isinstance(error, emcache.StorageCommandError)
            assert "too large" in str(error)

    async def test_more_than_the_queues_take(self, client, cluster, key):
        keys = numbered(key, 70_000)
        assert (await client.set_many(dict.fromkeys(keys, b"small"))).done == keys
        assert len(await client.get_many(keys)) == len(keys)
        assert (await client.delete_many(keys)).done == keys

    async def test_more_bytes_than_the_queues_take(self, client, key):
        items = dict.fromkeys(numbered(key, 90), bytes(1_000_000))
        assert (await client.set_many(items)).done == list(items)
        await client.delete_many(items)

    @pytest.mark.parametrize("count", [1, 100, 3000])
    async def test_noreply(self, client, key, count):
        keys = numbered(key, count)
        nothing = emcache.ManyResult([], [], {})
        assert await client.set_many(dict.fromkeys(keys, b"quiet"), noreply=True) == nothing
        assert await client.add_many(dict.fromkeys(keys, b"late"), noreply=True) == nothing
        assert await client.touch_many(keys, 100, noreply=True) == nothing
        assert {i.value for i in (await client.get_many(keys)).values()} == {b"quiet"}
        assert await client.delete_many(keys, noreply=True) == nothing
        assert await client.get_many(keys) == {}

    async def test_noreply_of_many_bytes(self, client, key):
        items = dict.fromkeys(numbered(key, 40), bytes(1_000_000))
        await client.set_many(items, noreply=True)
        assert len(await client.get_many(items)) == 40
        await client.delete_many(items)

    @pytest.mark.parametrize("empty", [0, 1, 2])
    async def test_noreply_of_just_the_bytes_that_go_together(self, server, key, empty):
        items = dict.fromkeys(numbered(key, 32), bytes(512 * 1024))
        items |= dict.fromkeys(numbered(key + b":empty", empty), b"")
        async with client_of(server) as client:
            await client.set_many(items, noreply=True)
            # On the only connection, so behind all of them.
            assert (await client.get_many(items)).keys() == items.keys()
            assert client._core.noreply_unanswered == 0
            await client.delete_many(items)

    async def test_close_waits_for_noreply(self, server, key):
        keys = numbered(key, 500)
        async with client_of(server) as client:
            await client.set_many(dict.fromkeys(keys, b""), noreply=True)
        async with client_of(server) as client:
            assert len(await client.get_many(keys)) == 500


class TestFailures:
    @within(20)
    async def test_all_are_sent_before_the_first_is_answered(self):
        async def script(connection):
            asked = [await connection.command() for _ in range(300)]
            await connection.send(b"STORED\r\n" * 299, b"NOT_STORED\r\n")
            assert [value for _, value in asked] == [b"%d" % n for n in range(300)]
            await hold(connection)

        keys = numbered(b"k", 300)
        items = {k: b"%d" % n for n, k in enumerate(keys)}
        async with scripted(script) as server, client_of(server) as client:
            result = await client.add_many(items)
        assert (result.done, result.missed) == (keys[:-1], keys[-1:])

    @within(20)
    async def test_a_dead_node_hides_no_other(self, server, key):
        dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        keys = numbered(key, 60)
        async with emcache.create_client([server.address, dead], timeout=10.0) as client:
            alive = [k for k in keys if client.node_for(k) == server.address]
            for call in (
                client.set_many(dict.fromkeys(keys, b"v")),
                client.touch_many(keys, 10),
                client.delete_many(keys),
            ):
                result = await call
                assert result.done == alive
                assert result.errors.keys() == set(keys) - set(alive)
                with pytest.raises(ExceptionGroup) as raised:
                    result.raise_errors()
                for error in raised.value.exceptions:
                    assert isinstance(error, emcache.NodeUnavailableError)
                    assert error.node == f"127.0.0.1:{dead.port}"

    @within(20)
    async def test_a_lost_connection(self):
        async def script(connection):
            await connection.command()
            await connection.send(b"STORED\r\n")
            await connection.command()
            await connection.send(b"SERVER_ERROR busy\r\n")
            for _ in range(3):
                await connection.command()
            connection.close()

        keys = numbered(b"k", 5)
        async with scripted(script) as server, client_of(server) as client:
            result = await client.set_many(dict.fromkeys(keys, b"v"))
            assert (result.done, result.missed) == (keys[:1], [])
            assert [type(error) for error in result.errors.values()] == [
                emcache.StorageCommandError,
                *[emcache.ConnectionFailedError] * 3,
            ]
            assert list(result.errors) == keys[1:]

    @within(20)
    async def test_what_is_no_answer(self):
        async def script(connection):
            await connection.command()
            await connection.send(b"STORED\r\nHELLO\r\n")
            await hold(connection)

        async with scripted(script) as server, client_of(server) as client:
            result = await client.set_many({b"a": b"", b"b": b"", b"c": b""})
        assert result.done == [b"a"]
        assert [type(error) for error in result.errors.values()] == [emcache.ProtocolError] * 2

    @within(20)
    async def test_one_deadline_for_all(self, server, key):
        """Of all windows too: the second is not given another timeout."""
        keys = numbered(key, 20_000)
        async with (
            scripted(hold) as silent,
            client_of(server, silent, timeout=1.0) as client,
        ):
            loop = asyncio.get_running_loop()
            started = loop.time()
            result = await client.set_many(dict.fromkeys(keys, b"v"))
            assert loop.time() - started < 1.9
        assert result.errors
        assert {type(error) for error in result.errors.values()} <= {
            emcache.OperationTimeoutError,
            emcache.NodeUnavailableError,
        }
        assert len(result.done) + len(result.errors) == len(keys)

    @within(20)
    @pytest.mark.parametrize("noreply", [False, True])
    async def test_nothing_is_sent_after_the_deadline(self, noreply):
        received, ended = [], asyncio.Event()

        async def script(connection):
            while data := await connection.reader.read(1024 * 1024):
                received.append(data)
            ended.set()

        keys = numbered(b"k", 40_000)
        async with scripted(script) as server:
            async with client_of(server, timeout=0.5) as client:
                call = client.set_many(dict.fromkeys(keys, b"v"), noreply=noreply)
                if noreply:
                    with pytest.raises(emcache.OperationTimeoutError):
                        await call
                else:
                    result = await call
                assert client._core.noreply_errors == (len(keys) if noreply else 0)
            await ended.wait()
        sent = b"".join(received).count(b"set ")
        assert 0 < sent <= 16 * 1024
        if noreply:
            return
        assert list(result.errors) == keys
        assert {type(e) for e in result.errors.values()} == {emcache.OperationTimeoutError}
        told = [str(error) for error in result.errors.values()]
        assert told.count("not sent within 0.5 s (set)") == len(keys) - sent
        assert told[-1] == "not sent within 0.5 s (set)"

    @within(20)
    async def test_a_cancelled_call_leaves_the_connection_alone(self, server, key):
        keys = numbered(key, 40_000)
        async with client_of(server) as client:
            call = asyncio.ensure_future(client.set_many(dict.fromkeys(keys, b"v")))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await client.set_many({key: b"after"})).done == [key]
            assert (await client.get(key)).value == b"after"
            # What was not sent when it was cancelled never was.
            assert await client.get(keys[-1]) is None
            (metrics,) = client.cluster_managment().connection_pool_metrics().values()
            assert metrics.connections_closed == 0

    @within(20)
    async def test_a_client_that_is_closed_meanwhile(self):
        async with scripted(hold) as server, client_of(server) as client:
            call = asyncio.ensure_future(
                client.set_many(dict.fromkeys(numbered(b"k", 20_000), b""))
            )
            await asyncio.sleep(0)
            await client.close()
            result = await call
            assert len(result.errors) == 20_000
            assert {type(e) for e in result.errors.values()} == {emcache.ClientClosedError}
            for again in (client.set_many({}), client.delete_many([b"k"]), client.ping()):
                with pytest.raises(emcache.ClientClosedError):
                    await again

    @within(20)
    async def test_no_node_is_left(self, key):
        dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        async with emcache.create_client([dead], purge_unhealthy_nodes=True) as client:
            await until(lambda: client.cluster_managment().unhealthy_nodes() == [dead])
            result = await client.delete_many([key, b"k"])
            assert {type(e) for e in result.errors.values()} == {emcache.ClusterNoAvailableNodes}
            with pytest.raises(emcache.ClusterNoAvailableNodes):
                await client.set_many({key: b""}, noreply=True)
            items = await client.get_many([key], on_error="partial")
            assert isinstance(items.errors[key], emcache.ClusterNoAvailableNodes)


PARTIAL = {
    "get_many": lambda client, keys, **options: client.get_many(keys, **options),
    "gets_many": lambda client, keys, **options: client.gets_many(keys, **options),
    "gat_many": lambda client, keys, **options: client.gat_many(100, keys, **options),
    "gats_many": lambda client, keys, **options: client.gats_many(100, keys, **options),
}
many = pytest.mark.parametrize("fetch", PARTIAL.values(), ids=PARTIAL)


class TestPartial:
    @many
    async def test_as_without_it_where_nothing_fails(self, client, key, fetch):
        keys = numbered(key, 50)
        await client.set_many(dict.fromkeys(keys[::2], b"v"), flags=3)
        for flags in (False, True):
            items = await fetch(client, keys, return_flags=flags, on_error="partial")
            assert isinstance(items, emcache.PartialResult)
            assert items == await fetch(client, keys, return_flags=flags)
            assert items.errors == {}
            items.raise_errors()
        assert await fetch(client, [], on_error="partial") == {}

    @many
    @within(20)
    async def test_what_the_others_answered(self, server, key, fetch):
        dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        keys = numbered(key, 600)
        async with client_of(server) as client:
            await client.set_many(dict.fromkeys(keys[::2], b"v"))
        async with emcache.create_client([server.address, dead], timeout=10.0) as client:
            alive = {k for k in keys if client.node_for(k) == server.address}
            items = await fetch(client, keys, on_error="partial")
            assert items.keys() == alive & set(keys[::2])
            assert items.errors.keys() == set(keys) - alive
            with pytest.raises(ExceptionGroup) as raised:
                items.raise_errors()
            for error in raised.value.exceptions:
                assert isinstance(error, emcache.NodeUnavailableError)
            with pytest.raises(emcache.NodeUnavailableError):
                await fetch(client, keys)

    @within(20)
    async def test_items_before_an_error_are_kept(self):
        async def script(connection):
            while words := (await connection.line()).split():
                found = b"VALUE a 0 1\r\n1\r\n" if b"a" in words else b""
                await connection.send(found + b"SERVER_ERROR busy\r\n")

        async with scripted(script) as server, client_of(server) as client:
            items = await client.get_many([b"a", b"b", b"c"], on_error="partial")
        assert items == {b"a": emcache.Item(b"1", None, None)}
        assert {k: str(e) for k, e in items.errors.items()} == dict.fromkeys(
            [b"b", b"c"], f"127.0.0.1:{server.port} answered 'SERVER_ERROR busy' (get)"
        )

    @within(20)
    async def test_a_silent_node(self, server, key):
        keys = numbered(key, 40)
        async with scripted(hold) as silent, client_of(server, silent, timeout=0.5) as client:
            await client.set_many(dict.fromkeys(keys, b"v"))
            alive = [k for k in keys if client.node_for(k) == server.address]
            items = await client.get_many(keys, on_error="partial")
            assert list(items) == alive
            assert {type(e) for e in items.errors.values()} == {emcache.OperationTimeoutError}

    async def test_bad_arguments(self, client, key):
        with pytest.raises(ValueError, match="on_error"):
            await client.get_many([key], on_error="ignore")
        with pytest.raises(ValueError):
            await client.get_many([b"a b"], on_error="partial")
        with pytest.raises(TypeError):
            await client.gat_many(1.5, [key], on_error="partial")
        await client.close()
        with pytest.raises(emcache.ClientClosedError):
            await client.get_many([key], on_error="partial")


@pytest.mark.driver_independent
def test_results_are_plain_values():
    error = emcache.CommandError("no")
    partial = emcache.PartialResult({b"a": 1}, {b"b": error})
    assert repr(partial) == "PartialResult({b'a': 1}, errors={b'b': CommandError('no')})"
    copy = pickle.loads(pickle.dumps(partial))
    assert copy == partial == {b"a": 1}
    assert str(copy.errors[b"b"]) == "no"
    with pytest.raises(AttributeError):
        emcache.ManyResult([], [], {}).done = [b"a"]
