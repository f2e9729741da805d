"""Writes with `noreply`: nothing overtakes them, and one that cannot be sent raises."""

import asyncio
import os

import pytest

import emcache
import emcache.connection_pool
from emcache.testing import FaultProxy
from support.calls import (
    NOREPLY_SETTINGS,
    NOREPLY_WRITES,
    client_of,
    frozen,
    full_backlog,
    learn,
    outcomes,
    until,
    within,
)
from support.faults import seeded
from support.memcached import free_port, memcached
from support.oracle import reply_to
from support.sasl import PASSWORD, USER, file_memcached
from support.scripted import scripted

WRITES = NOREPLY_WRITES | {
    "set_many": lambda client, _: client.set_many({b"a": b"v", b"k": b"v"}, noreply=True),
    "add_many": lambda client, _: client.add_many({b"k": b"v", b"a": b"v"}, noreply=True),
    "delete_many": lambda client, _: client.delete_many([b"k"], noreply=True),
    "touch_many": lambda client, _: client.touch_many([b"k"], 60, noreply=True),
    "flush_all later": lambda client, node: client.flush_all(node, 10, noreply=True),
}
EVERYTHING = WRITES | NOREPLY_SETTINGS
LATER = {
    "get": lambda client, _: client.get(b"k"),
    "gets": lambda client, _: client.gets(b"k"),
    "gat": lambda client, _: client.gat(60, b"k"),
    "get_many": lambda client, _: client.get_many([b"other", b"k"]),
    "gats_many": lambda client, _: client.gats_many(60, [b"k"]),
    "set": lambda client, _: client.set(b"k", b"w"),
    "large set": lambda client, _: client.set(b"k", bytes(200_000)),
    "delete": lambda client, _: client.delete(b"k"),
    "increment": lambda client, _: client.increment(b"k", 1),
    "set_many": lambda client, _: client.set_many({b"k": b"w"}),
    "flush_all": lambda client, node: client.flush_all(node),
    "stats": lambda client, node: client.stats(node),
}
EVERY_WRITE = pytest.mark.parametrize("write", WRITES)
EVERY_COMMAND = pytest.mark.parametrize("write", EVERYTHING)
TWO = {"min_connections": 2, "max_connections": 2}
CONTROL = b"control"
"""A key that nothing else is about."""


class Gates:
    """A script: the first connection that is asked something answers when it is opened.

    What is asked of the key `CONTROL` does not count.
    """

    def __init__(self):
        self.asked: list[tuple[int, list[bytes]]] = []
        self.opened = asyncio.Event()

    async def __call__(self, connection):
        while (words := (await connection.command())[0]) != [b""]:
            self.asked.append((connection.number, words))
            if connection.number in self.numbers()[:1]:
                await self.opened.wait()
            await connection.send(reply_to(words))

    def numbers(self) -> list[int]:
        return [number for number, words in self.asked if CONTROL not in words]

    def where(self, key: bytes) -> set[int]:
        return {number for number, words in self.asked if key in words}


async def both_connected(client):
    metrics = client.cluster_managment().connection_pool_metrics
    await until(lambda: all(pool.cur_connections == 2 for pool in metrics().values()))


@within(20)
@EVERY_WRITE
async def test_later_commands_follow_an_unanswered_write(write):
    gates = Gates()
    async with scripted(gates) as server, client_of(server, **TWO) as client:
        await both_connected(client)
        gates.opened.set()
        await learn(client, server.address)
        gates.opened.clear()
        gates.asked.clear()
        await WRITES[write](client, server.address)
        await until(gates.numbers)
        # For so long that others need not wait behind it.
        await asyncio.sleep(0.15)
        later = [asyncio.ensure_future(LATER[name](client, server.address)) for name in LATER]
        control = asyncio.ensure_future(client.get(CONTROL))
        if not write.startswith("flush_all"):
            await control
            assert not gates.where(CONTROL) & set(gates.numbers())
        await asyncio.sleep(0.05)
        gates.opened.set()
        await asyncio.gather(control, *later)
        assert len(set(gates.numbers())) == 1
        assert len(gates.numbers()) > len(LATER)


@within(20)
@pytest.mark.parametrize("write", ["set", "delete", "set_many"])
@pytest.mark.parametrize("name", ["gat", "gats_many", "flush_all"])
async def test_a_command_on_a_connection_of_its_own_follows_too(write, name):
    """As long as it is not known whether the node answers it."""
    gates = Gates()
    async with scripted(gates) as server, client_of(server, **TWO) as client:
        await both_connected(client)
        await WRITES[write](client, server.address)
        await until(gates.numbers)
        later = asyncio.ensure_future(LATER[name](client, server.address))
        await until(lambda: server.accepted == 3)
        await asyncio.sleep(0.05)
        assert len(set(gates.numbers())) == 1
        gates.opened.set()
        await later
        assert gates.asked[-1][0] == 2


@within(20)
async def test_a_write_follows_one_that_is_much_longer():
    gates = Gates()
    async with scripted(gates) as server, client_of(server, **TWO) as client:
        await both_connected(client)
        # A small request otherwise goes to the connection that large ones do not take.
        await client.get(CONTROL)
        await client.set(b"k", bytes(100_000), noreply=True)
        await until(gates.numbers)
        deleted = asyncio.ensure_future(client.delete(b"k"))
        await client.get(CONTROL)
        gates.opened.set()
        await deleted
        assert len(gates.where(b"k")) == 1
        assert gates.where(b"k") != gates.where(CONTROL)


@within(30)
@pytest.mark.parametrize("pauses", [1, 5])
async def test_the_last_of_many_writes_stays(pauses):
    """A server that stands still while one task writes, and goes on before it reads."""
    with memcached() as server:
        async with client_of(server, **TWO) as client:
            await both_connected(client)
            for _ in range(pauses):
                with frozen(server):
                    for number in range(15):
                        await client.set(b"k", b"%d" % number, noreply=True)
                        await asyncio.sleep(0.02)
                assert (await client.get(b"k")).value == b"14"
                await client.append(b"k", b"!", noreply=True)
                await client.delete(b"k", noreply=True)
                assert await client.get(b"k") is None


@within(60)
async def test_one_task_sees_its_own_writes():
    """Any commands, while others read and the server stands still at times."""
    rng = seeded()
    with memcached() as server, FaultProxy(server) as proxy:
        proxy.requests.rate = 20_000_000
        async with client_of(proxy, max_connections=3) as client:
            over = asyncio.Event()

            async def read():
                while not over.is_set():
                    await client.get_many([b"long", b"k0"])
                    await asyncio.sleep(0.01)

            async def pause():
                while not over.is_set():
                    with frozen(server):
                        await asyncio.sleep(0.3)
                    await asyncio.sleep(0.05)

            others = [asyncio.create_task(read()) for _ in range(4)]
            others.append(asyncio.create_task(pause()))
            await client.set(b"long", bytes(300_000))
            try:
                await follow(client, rng, keys=[b"k0", b"k1", b"k2"])
            finally:
                over.set()
                await asyncio.gather(*others)


async def follow(client, rng, keys, steps=200):
    """Make calls one after the other, and compare what is read with what it must be."""
    known = {}
    for step in range(steps):
        key, noreply = rng.choice(keys), rng.random() < 0.95
        value = b"%d:" % step * rng.choice([1, 1, 1, 10, 15_000])
        options = {"noreply": noreply}
        match rng.randrange(14):
            case 0 | 1 | 9 | 10 | 11 | 12:
                await client.set(key, value, **options)
                known[key] = value
            case 2:
                await outcomes(client.add(key, value, **options))
                known.setdefault(key, value)
            case 3:
                await outcomes(client.append(key, b"+", **options))
                known |= {key: known[key] + b"+"} if key in known else {}
            case 4:
                await outcomes(client.delete(key, **options))
                known.pop(key, None)
            case 5:
                await client.set_many(dict.fromkeys(keys, value), **options)
                known |= dict.fromkeys(keys, value)
            case 6:
                await client.delete_many(keys[:2], **options)
                known = {key: value for key, value in known.items() if key not in keys[:2]}
            case 7 if rng.random() < 0.06:
                await client.flush_all(node_of(client), **options)
                known = {}
                # What is stored in the same second may be flushed as well.
                await asyncio.sleep(1.1)
            case 8:
                found = await client.get_many(keys)
                assert {key: item.value for key, item in found.items()} == known
            case _:
                found = await client.get(key)
                assert (found and found.value) == known.get(key), (step, key)
        await asyncio.sleep(rng.choice([0, 0.01, 0.02, 0.05]))


def node_of(client):
    (node,) = client.cluster_managment().nodes()
    return node


@within(20)
async def test_the_next_holder_of_a_connection_comes_after_them():
    gates = Gates()
    async with scripted(gates) as server:
        pool = emcache.connection_pool.ConnectionPool(server.address, 2, 2)
        await until(lambda: pool.metrics().cur_connections == 2)
        async with pool.create_connection_context() as connection:
            await connection.storage_command(b"set", b"k", b"v", 0, 0, True, None)
        async with pool.create_connection_context() as connection:
            read = asyncio.ensure_future(connection.fetch_command(b"get", [b"k"]))
            await until(gates.numbers)
            gates.opened.set()
            await read
        assert len(gates.where(b"k")) == 1
        await pool.close()


# -- what cannot be sent -------------------------------------------------------------------------


async def raises(call, *errors):
    result = (await outcomes(call))[0]
    assert isinstance(result, errors), repr(result)


@within(20)
@EVERY_COMMAND
async def test_a_dead_node(write):
    dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
    async with emcache.create_client([dead], timeout=10) as client:
        # While the first dials fail, and when it is known to be down.
        for _ in range(2):
            await raises(EVERYTHING[write](client, dead), emcache.NodeUnavailableError)
            await until(client.cluster_managment().unhealthy_nodes)


@within(20)
@EVERY_WRITE
async def test_no_node_is_left(write):
    dead = emcache.MemcachedHostAddress("127.0.0.1", free_port())
    async with emcache.create_client([dead], purge_unhealthy_nodes=True) as client:
        await until(client.cluster_managment().unhealthy_nodes)
        expected = (
            emcache.NodeUnavailableError if "flush" in write else emcache.ClusterNoAvailableNodes
        )
        await raises(WRITES[write](client, dead), expected)


@within(20)
@EVERY_COMMAND
async def test_a_node_that_refuses_the_login(write):
    with file_memcached() as server:
        options = {"username": USER, "password": PASSWORD + "x"}
        async with client_of(server, **options) as client:
            await raises(EVERYTHING[write](client, server.address), emcache.AuthenticationError)


@within(20)
@EVERY_COMMAND
async def test_a_node_that_swallows_connects(write):
    with full_backlog() as address:
        async with emcache.create_client([address], timeout=0.3) as client:
            await raises(EVERYTHING[write](client, address), emcache.OperationTimeoutError)


@within(30)
async def test_too_much_for_a_node_that_does_not_read():
    async with scripted(hold_unread) as server, client_of(server, timeout=2) as client:
        calls = [client.set(b"k%d" % n, bytes(900_000), noreply=True) for n in range(100)]
        results = await outcomes(*(asyncio.wait_for(call, 5) for call in calls))
        assert any(isinstance(result, emcache.OverloadedError) for result in results)
        # Others waited until their time was up.
        known = (emcache.OverloadedError, emcache.OperationTimeoutError)
        assert all(result is None or isinstance(result, known) for result in results)


async def hold_unread(connection):
    await asyncio.Event().wait()


@within(20)
async def test_a_call_lasts_until_there_is_a_connection():
    opened, asked = asyncio.Event(), []

    async def late(connection):
        await connection.command()
        await opened.wait()
        await connection.send(b"STORED\r\n")
        while (words := (await connection.command())[0]) != [b""]:
            asked.append(words)
            await connection.send(reply_to(words))

    async with scripted(late) as server:
        async with client_of(server, username=USER, password=PASSWORD) as client:
            written = asyncio.ensure_future(client.set(b"k", b"v", noreply=True))
            given_up = asyncio.ensure_future(client.set(b"never", b"v", noreply=True))
            await asyncio.sleep(0.05)
            assert not written.done()
            given_up.cancel()
            opened.set()
            assert await written is None
            await until(lambda: asked)
        assert asked == [[b"set", b"k", b"0", b"0", b"1"]]


@pytest.mark.skipif(os.environ.get("EMCACHE_DRIVER") == "thread", reason="its thread says so")
@EVERY_WRITE
async def test_a_connection_that_is_there_takes_them_without_a_wait(write):
    with memcached() as server:
        async with client_of(server) as client:
            await learn(client, server.address)
            with pytest.raises(StopIteration):
                WRITES[write](client, server.address).send(None)
