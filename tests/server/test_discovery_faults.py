"""Autodiscovery when something is wrong: with the endpoint, a node, the resolver, a class."""

import asyncio
import socket
import time

import pytest

import emcache
from emcache.discovery import CallableDiscovery, DnsDiscovery, Topology
from emcache.discovery._config_endpoint import NoDiscoveryError
from emcache.discovery._watcher import Watcher
from support.discovery import SOON, discovering, endpoint, listed, nodes_of, polls, until
from support.memcached import memcached
from support.sasl import sasl_memcached
from support.scripted import hold, scripted

AUTODISCOVERY = "emcache.discovery._autodiscovery"

OFTEN = {"autodiscovery_poll_interval": SOON, "autodiscovery_timeout": 0.2}


@pytest.fixture(scope="module")
def nodes():
    with memcached() as a, memcached() as b, memcached() as c:
        yield [a, b, c]


@pytest.fixture
def one_try(monkeypatch):
    """At the beginning, and not three."""
    monkeypatch.setattr(f"{AUTODISCOVERY}._PAUSES", (0.0,))


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


class TestOnesOwn:
    @pytest.mark.parametrize("fault", [hanging, cancelled])
    async def test_a_question_that_does_not_end_well_is_not_the_last(self, nodes, fault):
        own = Own(*nodes[:2], 2, fault)
        async with emcache.create_client([], autodiscovery=own, **OFTEN) as client:
            assert nodes_of(client) == [nodes[0].address]
            await until(lambda: nodes_of(client) == [nodes[1].address])

    @pytest.mark.parametrize("fault", [hanging, cancelled])
    async def test_nor_is_the_first(self, nodes, fault):
        own = Own(*nodes[:2], 1, fault)
        async with emcache.create_client([], autodiscovery=own, **OFTEN) as client:
            assert nodes_of(client) == [nodes[0].address]

    async def test_the_client_that_asks_is_cancelled(self):
        own = CallableDiscovery(hanging)
        task = asyncio.ensure_future(emcache.create_client([], autodiscovery=own))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    async def test_an_object_is_asked_whatever_its_length(self, nodes):
        class Empty(Own):
            def __len__(self):
                return 0

        own = Empty(*nodes[:2], 0, hanging)
        async with emcache.create_client([], autodiscovery=own) as client:
            assert nodes_of(client) == [nodes[0].address]

    async def test_none_is_no_discovery(self, nodes):
        with pytest.raises(ValueError, match="At least one"):
            await emcache.create_client([], autodiscovery=None)
        async with emcache.create_client([nodes[0].address], autodiscovery=None) as client:
            assert nodes_of(client) == [nodes[0].address]

    @pytest.mark.usefixtures("one_try")
    async def test_a_socket_has_no_name_for_tls(self, nodes):
        own = CallableDiscovery(lambda: [emcache.MemcachedUnixSocketPath("/tmp/of-nobody.sock")])
        with pytest.raises(emcache.DiscoveryError, match="needs ssl_server_hostname"):
            await emcache.create_client([], autodiscovery=own, ssl=True)
        async with emcache.create_client(
            [], autodiscovery=own, ssl=True, ssl_server_hostname="memcached.example"
        ) as client:
            assert len(nodes_of(client)) == 1


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
            # One that has no list does not speak for one that is silent now.
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


def hang_up():
    raise ConnectionResetError


class TestTheFirstAnswer:
    """It decides nothing: the endpoint may be starting, or be behind a proxy that is changed."""

    @pytest.mark.parametrize(
        "reply",
        [lambda: b"ERROR\r\n", lambda: b"CLIENT_ERROR unknown command\r\n", hang_up],
        ids=["ERROR", "CLIENT_ERROR", "closed"],
    )
    async def test_an_endpoint_without_a_list_is_asked_at_each_poll(self, nodes, reply, caplog):
        async with endpoint() as source:
            source.reply = reply
            async with discovering(source) as client:
                assert nodes_of(client) == [source.address]
                await polls(source, 3)
                assert nodes_of(client) == [source.address]
                source.reply = source.list
                source.change(listed(nodes[0]))
                await until(lambda: nodes_of(client) == [nodes[0].address])
                source.change(listed(nodes[0]), listed(nodes[1]))
                await until(lambda: nodes_of(client) == [nodes[0].address, nodes[1].address])
        assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
            r.getMessage() for r in caplog.records if "no autodiscovery at" in r.getMessage()
        ]

    @pytest.mark.parametrize("interval", [SOON, 3600])
    async def test_the_list_is_found_soon_whatever_the_interval(self, nodes, interval):
        async with endpoint(listed(nodes[0])) as source:
            source.reply = lambda: b"ERROR\r\n"
            async with discovering(source, autodiscovery_poll_interval=interval) as client:
                source.reply = source.list
                await until(lambda: nodes_of(client) == [nodes[0].address])

    async def test_under_the_key_later(self, nodes):
        async with endpoint(listed(nodes[0])) as source:
            source.reply = lambda: b"ERROR\r\n"
            async with discovering(source) as client:
                source.by_key = source.under_key
                await until(lambda: nodes_of(client) == [nodes[0].address])

    async def test_a_proxy_that_passes_the_key_on(self, nodes):
        async with endpoint(listed(nodes[0])) as source:
            source.reply, source.by_key = hang_up, source.under_key
            async with discovering(source) as client:
                assert nodes_of(client) == [nodes[0].address]

    @pytest.mark.usefixtures("one_try")
    @pytest.mark.parametrize(
        "reply",
        [
            lambda: b"END\r\n",
            lambda: b"SERVER_ERROR starting\r\n",
            lambda: b"CONFIG cluster 0 7\r\nnothing\r\nEND\r\n",
            lambda: b"what?\r\n",
        ],
        ids=["END", "SERVER_ERROR", "no list", "garbage"],
    )
    async def test_other_answers_fail_and_the_next_client_finds_the_list(self, nodes, reply):
        async with endpoint(listed(nodes[0])) as source:
            source.reply = reply
            with pytest.raises(emcache.DiscoveryError):
                await discovering(source)
            source.reply = source.list
            async with discovering(source) as client:
                assert nodes_of(client) == [nodes[0].address]

    @pytest.mark.usefixtures("one_try")
    async def test_no_list_and_no_address(self):
        async def discover():
            raise NoDiscoveryError("nothing here")

        own = CallableDiscovery(discover)
        with pytest.raises(emcache.DiscoveryError, match="nothing here"):
            await emcache.create_client([], autodiscovery=own)

    async def test_the_command_counts_more_than_a_key_that_stays(self, nodes):
        """An engine that was replaced by a newer one, to which somebody copied the items."""
        async with endpoint(listed(nodes[0])) as source:
            source.reply, source.by_key = lambda: b"ERROR\r\n", source.under_key
            async with discovering(source) as client:
                old = source.under_key()
                source.by_key, source.reply = lambda: old, source.list
                source.change(listed(nodes[1]))
                await until(lambda: nodes_of(client) == [nodes[1].address])


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


@pytest.mark.usefixtures("one_try")
class TestWhatIsSaid:
    """The limit that ended a question, and what it waited for."""

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, "within 0.5 s"),
            ({"ssl": True}, "TLS"),
            ({"ssl": True, "connection_timeout": None}, "TLS"),
            ({"username": "user", "password": "secret"}, "login"),
            ({"username": "user", "password": "secret", "auth": "sasl"}, "login"),
        ],
        ids=["plain", "TLS", "TLS without a limit", "login", "SASL"],
    )
    async def test_a_silent_endpoint(self, options, said):
        async with scripted(hold) as silent:
            with pytest.raises(emcache.DiscoveryError) as raised:
                await discovering(silent, autodiscovery_timeout=0.5, **options)
        text = str(raised.value)
        assert said in text
        assert f"127.0.0.1:{silent.port}" in text

    async def test_a_server_of_sasl_alone(self):
        with (
            sasl_memcached() as server,
            pytest.raises(emcache.DiscoveryError, match=r"within 0\.2 s"),
        ):
            await discovering(server, autodiscovery_timeout=0.2)

    async def test_the_whole_time(self, monkeypatch):
        monkeypatch.setattr(f"{AUTODISCOVERY}.DEFAULT_STARTUP_WAIT_AUTODISCOVERY", 0.2)
        async with scripted(hold) as silent:
            with pytest.raises(emcache.DiscoveryError, match=r"no answer within 0\.2 s"):
                await discovering(silent)

    async def test_the_last_cause(self, monkeypatch):
        monkeypatch.setattr(f"{AUTODISCOVERY}.DEFAULT_STARTUP_WAIT_AUTODISCOVERY", 0.3)
        monkeypatch.setattr(f"{AUTODISCOVERY}._PAUSES", (0.0, 60.0))
        async with endpoint() as source:
            source.reply = lambda: b"SERVER_ERROR busy\r\n"
            with pytest.raises(emcache.DiscoveryError, match="busy"):
                await discovering(source)

    async def test_no_list_yet(self):
        async with endpoint() as source:
            source.reply = lambda: b"END\r\n"
            with pytest.raises(emcache.DiscoveryError, match="no list of nodes yet"):
                await discovering(source)
