"""Failover of a client whose routing is written in Python."""

import asyncio
import contextlib

import pytest

import emcache
from support.calls import client_of, until, within
from support.memcached import memcached

FAILURES = (emcache.OperationTimeoutError, emcache.ConnectionFailedError)


class ByDigit:
    """The last byte of a key is the digit of its node's position."""

    def __init__(self):
        self.lists = []

    def build(self, nodes):
        self.lists.append([node.address for node in nodes])
        return lambda key: (key[-1] - ord("0")) % len(nodes)


KEYS = [b"first:%d:0" % number for number in range(20)]
OTHERS = [b"second:%d:1" % number for number in range(20)]


@pytest.fixture
def servers():
    with memcached() as a, memcached() as b, memcached() as c:
        yield [a, b, c]


async def until_down(client, *keys):
    while len(client.cluster_managment().unhealthy_nodes()) < len(keys):
        for key in keys:
            with contextlib.suppress(*FAILURES):
                await client.get(key)
        await asyncio.sleep(0.01)


@within(30)
async def test_the_keys_of_a_dead_node_go_to_the_others_and_come_back(servers):
    router = ByDigit()
    a, b, c = servers
    async with client_of(*servers, routing=router, failover="next") as client:
        assert {client.node_for(key) for key in KEYS} == {a.address}
        await client.set_many(dict.fromkeys([*KEYS, *OTHERS], b"old"))
        a.kill()
        await until_down(client, KEYS[0])
        substitutes = {client.node_for(key) for key in KEYS}
        assert substitutes == {b.address, c.address}
        assert {client.node_for(key) for key in OTHERS} == {b.address}
        assert await client.get_many(KEYS) == {}
        await client.set(KEYS[0], b"new")
        await client.set_many(dict.fromkeys(KEYS[1:5], b"new"))
        await client.meta_set(KEYS[5], b"new")
        assert len(await client.get_many([*KEYS, *OTHERS])) == 6 + len(OTHERS)
        assert (await client.gets(KEYS[0])).value == b"new"
        await client.delete(KEYS[5])
        assert client.metrics().failover.writes == 7
        # It comes back with old values.
        a.start()
        for key in KEYS:
            a.command(b"set %b 0 0 3\r\nold\r\n" % key)
        await until(lambda: not client.cluster_managment().unhealthy_nodes())
        await until(lambda: client.metrics().failover.outdated_keys == 0)
        assert {client.node_for(key) for key in KEYS} == {a.address}
        assert sorted(await client.get_many(KEYS)) == sorted(KEYS[6:])
        assert client.metrics().failover.deleted >= 6
    # The router itself never sees a node leave.
    assert router.lists == [[server.address for server in servers]]


@within(30)
async def test_requests_that_a_dead_substitute_has_not_received_move_on(servers):
    """They wait for it, when it is found dead too; their homes are what the router chose."""
    a = servers[0]
    async with client_of(*servers, routing=ByDigit(), failover="next") as client:
        await client.set_many(dict.fromkeys(KEYS, b"v"))
        a.kill()
        await until_down(client, KEYS[0])
        await client.set_many(dict.fromkeys(KEYS, b"v"))
        substitute = client.node_for(KEYS[0])
        server = next(server for server in servers if server.address == substitute)
        moving = [key for key in KEYS if client.node_for(key) == substitute]
        server.kill()
        last = next(node for node in servers if node not in (a, server))
        calls = [client.set(key, b"last") for key in moving]
        calls += [client.get_many(moving), client.get(moving[0])]
        await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(20):
            while {client.node_for(key) for key in moving} != {last.address}:
                with contextlib.suppress(*FAILURES):
                    await client.get(moving[0])
                await asyncio.sleep(0.01)
        await client.set_many(dict.fromkeys(moving, b"last"))
        found = await client.get_many(moving)
        assert {item.value for item in found.values()} == {b"last"}
        assert len(found) == len(moving)


@within(30)
async def test_two_nodes_share_a_gutter(servers):
    """One line for the gutter would mix keys of two homes."""
    a, b, spare = servers
    failover = emcache.Gutter([spare.address])
    async with client_of(a, b, routing=ByDigit(), failover=failover) as client:
        a.kill()
        b.kill()
        await until_down(client, KEYS[0], OTHERS[0])
        await client.set_many(dict.fromkeys([*KEYS, *OTHERS], b"v"))
        assert len(await client.get_many([*KEYS, *OTHERS])) == len(KEYS) + len(OTHERS)
        assert {client.node_for(key) for key in [*KEYS, *OTHERS]} == {spare.address}
        a.start()
        await until(lambda: len(client.cluster_managment().unhealthy_nodes()) == 1)
        await until(lambda: client.node_for(KEYS[0]) == a.address)
        assert len(await client.get_many(OTHERS)) == len(OTHERS)
