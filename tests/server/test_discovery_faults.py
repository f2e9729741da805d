"""Autodiscovery when something is wrong: with the endpoint, a node, the resolver, a class."""

import asyncio
import socket
import time

import pytest

import emcache
from emcache._watcher import Watcher
from emcache.discovery import DnsDiscovery, Topology
from support.discovery import SOON, discovering, endpoint, listed, nodes_of, polls, until
from support.memcached import memcached

OFTEN = {"autodiscovery_poll_interval": SOON, "autodiscovery_timeout": 0.2}


@pytest.fixture(scope="module")
def nodes():
    with memcached() as a, memcached() as b, memcached() as c:
        yield [a, b, c]


@pytest.fixture
def one_try(monkeypatch):
    """At the beginning, and not three."""
    monkeypatch.setattr("emcache.client.DEFAULT_STARTUP_WAIT_AUTODISCOVERY", 0.4)


class Own:
    """A class of somebody's own, of which one call goes wrong."""

    def __init__(self, first, then, bad_call, fault):
        self.topologies = [Topology.of([first.address]), Topology.of([then.address])]
        self.calls = 0
        self.bad_call = bad_call
        self.fault = fault

    async def discover(self):
        self.calls += 1
        if self.calls == self.bad_call:
            await self.fault()
        return self.topologies[self.calls > 2]


async def hanging():
    await asyncio.Event().wait()


async def cancelled():
    task = asyncio.ensure_future(hanging())
    task.cancel()
    await task


class TestWhoIsAsked:
    async def test_on_gcp_only_the_endpoint(self, nodes):
        async with endpoint(host="127.0.0.2") as node, endpoint(node.listed) as source:
            node.nodes = [node.listed, listed(nodes[0])]
            async with discovering(source) as client:
                source.reply = lambda: b"SERVER_ERROR busy\r\n"
                await polls(source, 3)
                assert node.asked == 0
                assert nodes_of(client) == [node.address]

    async def test_on_aws_nodes_too_when_the_endpoint_is_none_any_more(self, nodes):
        async with (
            endpoint(host="127.0.0.2") as first,
            endpoint(host="127.0.0.3") as second,
            endpoint(host="127.0.0.4") as third,
        ):
            first.nodes = second.nodes = [first.listed, second.listed]
            async with discovering(first) as client:
                first.reply = lambda: b"SERVER_ERROR going\r\n"
                second.change(second.listed)
                await until(lambda: nodes_of(client) == [second.address])
                second.change(second.listed, third.listed)
                await until(lambda: nodes_of(client) == [second.address, third.address])
                second.reply = first.reply
                third.version = 3
                third.change(third.listed, listed(nodes[0]))
                await until(lambda: nodes_of(client) == [third.address, nodes[0].address])

    async def test_an_endpoint_that_cannot_be_looked_up_costs_no_list(self, nodes, monkeypatch):
        async def discover(self):
            await hanging()

        async with endpoint(listed(nodes[0])) as source:
            source.host = "localhost"
            monkeypatch.setattr(DnsDiscovery, "discover", discover)
            started = time.monotonic()
            async with discovering(source, autodiscovery_timeout=0.5) as client:
                assert time.monotonic() - started < 5
                assert nodes_of(client) == [nodes[0].address]

    @pytest.mark.parametrize("reply", [b"END\r\n", b"ERROR\r\n"])
    async def test_nodes_when_the_endpoint_has_no_list(self, nodes, reply):
        async with endpoint() as other, endpoint() as first:
            first.nodes = other.nodes = [first.listed, other.listed]
            async with discovering(first) as client:
                first.reply = lambda: reply
                other.change(first.listed, other.listed, listed(nodes[0]))
                await until(lambda: nodes[0].address in nodes_of(client))

    @pytest.mark.usefixtures("one_try")
    async def test_every_endpoint(self, nodes):
        async with endpoint() as plain, endpoint(listed(nodes[0])) as source:
            plain.reply = lambda: b"ERROR\r\n"
            both = [plain.address, source.address]
            async with emcache.create_client(both, autodiscovery=True) as client:
                assert nodes_of(client) == [nodes[0].address]
            # One that keeps no list does not speak for one that is silent now.
            source.reply = lambda: b"SERVER_ERROR busy\r\n"
            with pytest.raises(emcache.DiscoveryError, match="busy"):
                await emcache.create_client(both, autodiscovery=True)

    async def test_the_key_and_then_not_any_more(self, nodes):
        """Of an engine that was replaced by a newer one."""
        async with endpoint(listed(nodes[0])) as source:
            source.reply = lambda: b"ERROR\r\n"
            source.by_key = source.under_key
            async with discovering(source) as client:
                source.by_key = lambda: b"END\r\n"
                source.reply = source.list
                source.change(listed(nodes[1]))
                await until(lambda: nodes_of(client) == [nodes[1].address])

    async def test_a_name_of_one_version_of_ip(self, nodes):
        port = nodes[0].port
        for family, colons in ((socket.AF_INET, 0), (socket.AF_INET6, 2)):
            try:
                found = await DnsDiscovery("localhost", port, family=family).discover()
            except OSError:
                assert family == socket.AF_INET6  # which this host does not have
            else:
                assert {node.address.address.count(":") for node in found.nodes} == {colons}
        with pytest.raises(OSError):
            await DnsDiscovery("127.0.0.1", port, family=socket.AF_INET6).discover()


class TestOlderLists:
    async def test_for_a_moment(self, nodes):
        async with endpoint(listed(nodes[1])) as source:
            source.version = 5
            async with discovering(source) as client:
                source.version, source.nodes = 4, [listed(nodes[0])]
                await polls(source, 10)
                assert nodes_of(client) == [nodes[1].address]
                source.change(listed(nodes[2]))
                source.version = 6
                await until(lambda: nodes_of(client) == [nodes[2].address])

    async def test_of_a_node(self, nodes, monkeypatch):
        """Only the endpoint can take a client back."""
        monkeypatch.setattr(Watcher, "_STALE_SECONDS", 0.2)
        async with endpoint() as other, endpoint() as first:
            first.version, first.nodes = 5, [first.listed, other.listed, listed(nodes[0])]
            other.version, other.nodes = 4, [first.listed, other.listed]
            async with discovering(first) as client:
                before = nodes_of(client)
                first.reply = lambda: b"SERVER_ERROR gone\r\n"
                await polls(other, 10)
                assert nodes_of(client) == before
