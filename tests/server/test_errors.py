"""What an exception says: its text, its node and its command; and that no two callers share one."""

import asyncio
import copy
import pickle
import traceback

import pytest

import emcache
from emcache.contrib.loops import ClientPerLoop
from support.calls import COMMANDS, client_of, outcomes, within
from support.memcached import free_port, memcached
from support.scripted import Connection, hold, scripted

MANY = {
    "set_many": lambda client, _: client.set_many({b"k": b"1", b"l": b"2"}),
    "add_many": lambda client, _: client.add_many({b"k": b"1", b"l": b"2"}),
    "delete_many": lambda client, _: client.delete_many([b"k", b"l"]),
    "touch_many": lambda client, _: client.touch_many([b"k", b"l"], 60),
    "get_many partial": lambda client, _: client.get_many([b"k", b"l"], on_error="partial"),
    "gets_many partial": lambda client, _: client.gets_many([b"k", b"l"], on_error="partial"),
    "gat_many partial": lambda client, _: client.gat_many(9, [b"k", b"l"], on_error="partial"),
    "gats_many partial": lambda client, _: client.gats_many(9, [b"k", b"l"], on_error="partial"),
}
CALLS = (
    COMMANDS
    | MANY
    | {
        "stats of all nodes": lambda client, _: client.stats(),
        "flush_all of all nodes": lambda client, _: client.flush_all(),
    }
)


def word_of(name: str) -> str:
    """Memcached's word for what a method sends."""
    method = name.split(" ")[0].removesuffix("_many")
    return {"increment": "incr", "decrement": "decr"}.get(method, method)


async def errors_of(call) -> list[Exception]:
    """Whatever way a call has to tell of them."""
    try:
        result = await call
    except ExceptionGroup as group:
        return list(group.exceptions)
    except emcache.EmcacheError as error:
        return [error]
    return list(result.errors.values())


async def refuse(connection: Connection) -> None:
    while (await connection.command())[0] != [b""]:
        await connection.send(b"SERVER_ERROR out of memory\r\n")


class TestNodeAndCommand:
    @pytest.mark.parametrize("name", CALLS)
    @within(20)
    async def test_of_a_refusal(self, name):
        async with scripted(refuse) as peer, client_of(peer) as client:
            errors = await errors_of(CALLS[name](client, peer.address))
        assert errors
        for error in errors:
            assert isinstance(error, emcache.CommandError)
            assert error.node == f"127.0.0.1:{peer.port}"
            assert error.command == word_of(name)
            assert error.status == "SERVER_ERROR"
            text = f"{error.node} answered 'SERVER_ERROR out of memory' ({error.command})"
            assert str(error) == text

    @pytest.mark.parametrize("name", CALLS)
    @within(20)
    async def test_of_a_dead_node(self, name):
        node = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        async with emcache.create_client([node], timeout=30) as client:
            errors = await errors_of(CALLS[name](client, node))
        assert errors
        for error in errors:
            assert isinstance(error, emcache.ConnectionFailedError)
            assert error.node == f"127.0.0.1:{node.port}"
            assert error.command == word_of(name)

    @pytest.mark.parametrize("name", CALLS)
    @within(20)
    async def test_of_a_silent_node(self, name):
        async with scripted(hold) as peer, client_of(peer, timeout=0.05) as client:
            errors = await errors_of(CALLS[name](client, peer.address))
        assert errors
        for error in errors:
            assert isinstance(error, emcache.OperationTimeoutError)
            assert error.status is None
            assert error.node == f"127.0.0.1:{peer.port}"
            assert error.command == word_of(name)

    @pytest.mark.parametrize("name", CALLS)
    @within(20)
    async def test_of_a_client_that_is_closed_meanwhile(self, name):
        async with scripted(hold) as peer, client_of(peer) as client:
            call = asyncio.create_task(errors_of(CALLS[name](client, peer.address)))
            await asyncio.sleep(0.01)
            await client.close()
            errors = await call
        assert errors
        for error in errors:
            assert isinstance(error, emcache.ClientClosedError)
            assert (error.node, error.command) == (f"127.0.0.1:{peer.port}", word_of(name))

    @pytest.mark.parametrize("name", [*CALLS])
    async def test_where_all_nodes_are_down(self, name):
        node = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        async with emcache.create_client([node], purge_unhealthy_nodes=True) as client:
            while client.cluster_managment().healthy_nodes():
                await asyncio.sleep(0.01)
            errors = await errors_of(CALLS[name](client, node))
        assert errors
        for error in errors:
            # A command to a node that was named goes there.
            if isinstance(error, emcache.ClusterNoAvailableNodes):
                assert error.node is None
            assert error.command == word_of(name)

    @pytest.mark.parametrize(
        ("reply", "kind", "status"),
        [
            (b"NOT_STORED", emcache.NotStoredStorageCommandError, "NOT_STORED"),
            (b"EXISTS", emcache.NotStoredStorageCommandError, "EXISTS"),
            (b"NOT_FOUND", emcache.StorageCommandError, "NOT_FOUND"),
            (b"SERVER_ERROR no", emcache.StorageCommandError, "SERVER_ERROR"),
            (b"CLIENT_ERROR no", emcache.StorageCommandError, "CLIENT_ERROR"),
            (b"ERROR", emcache.StorageCommandError, "ERROR"),
        ],
    )
    @within(20)
    async def test_the_status_is_the_first_word_of_the_reply(self, reply, kind, status):
        async def answer(connection: Connection) -> None:
            await connection.command()
            await connection.send(reply + b"\r\n")

        async with scripted(answer) as peer, client_of(peer) as client:
            with pytest.raises(kind) as raised:
                await client.cas(b"k", b"v", 1)
        assert type(raised.value) is kind
        assert (raised.value.status, raised.value.command) == (status, "cas")
        again = pickle.loads(pickle.dumps(raised.value))
        assert (type(again), again.status) == (kind, status)

    async def test_each_node_of_a_cluster(self):
        """The case of a flush that two nodes of three refuse."""
        async with scripted(refuse) as one, scripted(refuse) as other, client_of(one, other) as c:
            names = {f"127.0.0.1:{peer.port}" for peer in (one, other)}
            for call in (c.flush_all(), c.stats()):
                assert {error.node for error in await errors_of(call)} == names
            keys = [b"key:%d" % number for number in range(40)]
            for result in (
                await c.get_many(keys, on_error="partial"),
                await c.set_many(dict.fromkeys(keys, b"")),
            ):
                assert result.errors.keys() == set(keys)
                for key, error in result.errors.items():
                    assert error.node == f"127.0.0.1:{c.node_for(key).port}"
                with pytest.raises(ExceptionGroup) as raised:
                    result.raise_errors()
                assert {error.node for error in raised.value.exceptions} == names

    async def test_a_unix_socket(self, key):
        with memcached(unix=True) as server:
            async with emcache.create_client([server.address]) as client:
                with pytest.raises(emcache.NotFoundCommandError) as raised:
                    await client.delete(key)
        assert raised.value.node == server.path

    async def test_of_a_counter_that_is_created(self):
        async def script(connection):
            while (words := (await connection.command())[0]) != [b""]:
                known = {b"version": b"VERSION 1.6.18\r\n", b"mn": b"MN\r\n"}
                await connection.send(known.get(words[0], b"SERVER_ERROR out of memory\r\n"))

        async with scripted(script) as peer, client_of(peer) as client:
            with pytest.raises(emcache.CommandError) as raised:
                await client.increment(b"k", 1, initial=1)
        assert raised.value.node == f"127.0.0.1:{peer.port}"
        assert raised.value.command in ("ma", "incr", "add")
        assert f"({raised.value.command})" in str(raised.value)

    async def test_of_checked_out_connections(self):
        async def script(connection):
            await connection.line()
            connection.close()

        async with scripted(script) as peer:
            node = f"127.0.0.1:{peer.port}"
            pool = emcache.ConnectionPool(peer.address, max_connections=1, timeout=0.2)
            async with pool.create_connection_context() as connection:
                with pytest.raises(emcache.OperationTimeoutError) as raised:
                    async with pool.create_connection_context():
                        pass
                assert (raised.value.node, raised.value.command) == (node, None)
                with pytest.raises(emcache.ConnectionFailedError) as raised:
                    await connection.fetch_command(b"gets", [b"k"])
                assert (raised.value.node, raised.value.command) == (node, "gets")
                with pytest.raises(emcache.ConnectionFailedError) as raised:
                    await connection.delete_command(b"k")
                assert (raised.value.node, raised.value.command) == (node, "delete")
            await pool.close()

    async def test_of_a_login_on_a_checked_out_connection(self):
        async def script(connection):
            await connection.command()
            await connection.send(b"CLIENT_ERROR authentication failure\r\n")
            await hold(connection)

        async with scripted(script) as peer:
            pool = emcache.ConnectionPool(peer.address)
            async with pool.create_connection_context() as connection:
                with pytest.raises(emcache.AuthenticationError) as raised:
                    await connection.auth("user", "password")
            await pool.close()
        assert raised.value.node == f"127.0.0.1:{peer.port}"
        assert str(raised.value).startswith(f"{raised.value.node} refused the login")

    async def test_of_discovery(self):
        async with scripted(refuse) as peer:
            with pytest.raises(emcache.DiscoveryError) as raised:
                await client_of(peer, autodiscovery=True)
        assert raised.value.node == f"127.0.0.1:{peer.port}"
        assert raised.value.command == "config get cluster"


class TestOrdinaryRefusals:
    """They have a text of their own, in which no key and no value is."""

    @pytest.mark.parametrize(
        ("call", "kind", "command", "why"),
        [
            (lambda c, k: c.delete(k), emcache.NotFoundCommandError, "delete", "key not found on"),
            (lambda c, k: c.touch(k, 9), emcache.NotFoundCommandError, "touch", "key not found on"),
            (
                lambda c, k: c.increment(k, 1),
                emcache.NotFoundCommandError,
                "incr",
                "key not found on",
            ),
            (
                lambda c, k: c.decrement(k, 1),
                emcache.NotFoundCommandError,
                "decr",
                "key not found on",
            ),
            (
                lambda c, k: c.add(k + b"!", b"secret"),
                emcache.NotStoredStorageCommandError,
                "add",
                "the key exists",
            ),
            (
                lambda c, k: c.replace(k, b"secret"),
                emcache.NotStoredStorageCommandError,
                "replace",
                "the key does not exist",
            ),
            (
                lambda c, k: c.append(k, b"secret"),
                emcache.NotStoredStorageCommandError,
                "append",
                "the key does not exist",
            ),
            (
                lambda c, k: c.prepend(k, b"secret"),
                emcache.NotStoredStorageCommandError,
                "prepend",
                "the key does not exist",
            ),
            (
                lambda c, k: c.cas(k + b"!", b"secret", 0),
                emcache.NotStoredStorageCommandError,
                "cas",
                "changed since it was read",
            ),
            (
                lambda c, k: c.cas(k, b"secret", 0),
                emcache.StorageCommandError,
                "cas",
                "key not found on",
            ),
            (
                lambda c, k: c.increment(k + b"!", 1),
                emcache.ArithmeticCommandError,
                "incr",
                "non-numeric",
            ),
        ],
    )
    async def test_text(self, server, client, key, call, kind, command, why):
        await client.set(key + b"!", b"secret")
        with pytest.raises(kind) as raised:
            await call(client, key)
        error, node = raised.value, f"127.0.0.1:{server.port}"
        assert type(error) is kind
        assert (error.node, error.command) == (node, command)
        text = str(error)
        assert why in text
        assert node in text
        assert text.endswith(f"({command})")
        assert "secret" not in text
        assert key.decode() not in text


class TestCopies:
    @pytest.mark.parametrize(
        "kind",
        [
            kind
            for kind in vars(emcache).values()
            if isinstance(kind, type) and issubclass(kind, emcache.EmcacheError)
        ],
    )
    @pytest.mark.parametrize(
        "copied",
        [
            copy.copy,
            copy.deepcopy,
            *(
                lambda e, protocol=protocol: pickle.loads(pickle.dumps(e, protocol))
                for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
            ),
        ],
    )
    @pytest.mark.driver_independent
    def test_keep_node_and_command(self, kind, copied):
        error = kind("what happened")
        error.node, error.command = "10.0.0.1:11211", "get"
        again = copied(error)
        assert type(again) is kind
        assert again is not error
        assert str(again) == "what happened"
        assert (again.node, again.command) == ("10.0.0.1:11211", "get")
        bare = copied(kind("what happened"))
        assert (bare.node, bare.command) == (None, None)

    async def test_of_what_a_call_raised(self, client, key):
        with pytest.raises(emcache.NotFoundCommandError) as raised:
            await client.delete(key)
        again = pickle.loads(pickle.dumps(raised.value))
        assert (str(again), again.node, again.command) == (
            str(raised.value),
            raised.value.node,
            "delete",
        )


def length_of(error: BaseException) -> int:
    """Of its traceback, in frames."""
    return len(list(traceback.walk_tb(error.__traceback__)))


class TestNobodySharesOne:
    """Each raise lengthens an exception's traceback, for everybody who has it."""

    @within(20)
    async def test_keys_of_a_call(self):
        node = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        keys = [b"key:%d" % number for number in range(50)]
        async with emcache.create_client([node], timeout=30) as client:
            results = [
                await client.set_many(dict.fromkeys(keys, b"")),
                await client.delete_many(keys),
                await client.get_many(keys, on_error="partial"),
            ]
        for result in results:
            assert len({id(error) for error in result.errors.values()}) == len(keys)
            lengths = set()
            for error in result.errors.values():
                try:
                    raise error
                except emcache.EmcacheError as raised:
                    lengths.add(length_of(raised))
            assert lengths == {1}

    @within(20)
    async def test_a_group_that_is_raised_again_and_again(self):
        node = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        async with emcache.create_client([node], timeout=30) as client:
            results = [
                await client.set_many({b"k": b"", b"l": b""}),
                await client.get_many([b"k", b"l"], on_error="partial"),
                await client.stats(),
            ]
        for result in results:
            for _ in range(5):
                with pytest.raises(ExceptionGroup) as raised:
                    result.raise_errors()
                (error,) = raised.value.exceptions
                assert error not in result.errors.values()
                assert (error.node, error.__traceback__) == (f"127.0.0.1:{node.port}", None)

    @pytest.mark.parametrize("name", ["get", "set", "get_many", "stats"])
    @within(20)
    async def test_calls_that_fail_for_the_same_reason(self, name):
        node = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        async with emcache.create_client([node], timeout=30) as client:
            down = await outcomes(*(COMMANDS[name](client, node) for _ in range(20)))
        closed = await outcomes(*(COMMANDS[name](client, node) for _ in range(20)))
        for errors in (down, closed):
            assert all(isinstance(error, emcache.EmcacheError) for error in errors)
            assert len({id(error) for error in errors}) == 20
            assert len({length_of(error) for error in errors}) == 1

    @within(20)
    async def test_who_waits_for_one_client(self):
        """Fifty requests of a service whose discovery fails."""
        dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())

        def make():
            return emcache.create_client([dead], autodiscovery=True, autodiscovery_timeout=0.2)

        async def texts(count):
            clients = ClientPerLoop(make)

            async def request():
                try:
                    await clients.get()
                except emcache.DiscoveryError as error:
                    return error, traceback.format_exc()

            return await asyncio.gather(*(request() for _ in range(count)))

        ((_, alone),) = await texts(1)
        many = await texts(50)
        assert {error.node for error, _ in many} == {f"127.0.0.1:{dead.port}"}
        assert len({id(error) for error, _ in many}) == 50
        # The cause is told to each.
        assert all("The above exception was the direct cause" in text for _, text in many)
        longest = max(len(text.splitlines()) for _, text in many)
        assert longest <= len(alone.splitlines()) + 5

    async def test_an_exception_that_cannot_be_copied(self):
        class Odd(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} {two}")

        async def make():
            await asyncio.sleep(0)
            raise Odd(1, 2)

        clients = ClientPerLoop(make)
        lengths = []

        async def request():
            with pytest.raises(Odd, match="1 2") as raised:
                await clients.get()
            lengths.append(length_of(raised.value))

        await asyncio.gather(*(request() for _ in range(20)))
        assert len(lengths) == 20
        assert max(lengths) <= min(lengths) + 2
