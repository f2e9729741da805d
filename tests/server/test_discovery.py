"""Autodiscovery: fake configuration endpoints, real nodes."""

import asyncio
import contextlib
import gc
import logging
import os
import random

import pytest

import emcache
from emcache.discovery import CallableDiscovery, DiscoveredNode, DnsDiscovery, Topology
from emcache.discovery._watcher import Watcher
from support.discovery import SOON, discovering, endpoint, listed, nodes_of, polls, until
from support.memcached import memcached
from support.oracle import value_of
from support.scripted import scripted

CHURN = float(os.environ.get("EMCACHE_TEST_CHURN", "4"))
"""Seconds for which nodes come and go under load."""


@pytest.fixture(scope="module")
def nodes():
    with memcached() as a, memcached() as b, memcached() as c, memcached() as d:
        yield [a, b, c, d]


class Events(emcache.ClusterEvents):
    def __init__(self):
        self.seen = []

    async def on_node_healthy(self, cluster_managment, host):
        self.seen.append(("healthy", host))

    async def on_node_unhealthy(self, cluster_managment, host):
        self.seen.append(("unhealthy", host))

    async def on_topology_change(self, cluster_managment, old, new, version):
        assert cluster_managment.nodes() == new
        self.seen.append((old, new, version))


async def test_a_client_has_the_nodes_of_the_list(nodes):
    async with endpoint(*map(listed, nodes[:2])) as source, discovering(source) as client:
        assert nodes_of(client) == [node.address for node in nodes[:2]]
        for n in range(20):
            key = b"discovered:%d" % n
            await client.set(key, value_of(key))
            assert (await client.get(key)).value == value_of(key)


async def test_nodes_come_and_go(nodes):
    events = Events()
    a, b, c = (node.address for node in nodes[:3])
    async with (
        endpoint(*map(listed, nodes[:2])) as source,
        discovering(source, cluster_events=events) as client,
    ):
        before = {key: client.node_for(key) for key in (b"key:%d" % n for n in range(300))}
        source.change(listed(nodes[0]), listed(nodes[2]))
        await until(lambda: events.seen)
        assert events.seen == [([a, b], [a, c], 2)]
        assert nodes_of(client) == [a, c]
        assert set(client.cluster_managment().connection_pool_metrics()) == {a, c}
        for key, node in before.items():
            now = client.node_for(key)
            assert now in (a, c)
            # A key moves only from a node that left, or to one that came.
            assert now in (node, c) or node == b
        with pytest.raises(ValueError, match="can not be found"):
            await client.version(b)
        assert await client.version(c)
        source.change(listed(nodes[0]), listed(nodes[1]))
        await until(lambda: len(events.seen) == 2)
        assert {key: client.node_for(key) for key in before} == before


async def test_under_load_no_call_fails_and_no_value_is_wrong(nodes):
    async with (
        endpoint(*map(listed, nodes[:2])) as source,
        discovering(source, timeout=10.0) as client,
    ):
        over = asyncio.Event()
        calls = 0

        async def load(number):
            nonlocal calls
            rng = random.Random(number)
            while not over.is_set():
                keys = [b"load:%d" % rng.randrange(500) for _ in range(10)]
                await client.set(keys[0], value_of(keys[0]))
                for key, item in (await client.get_many(keys)).items():
                    assert item.value == value_of(key)
                item = await client.get(keys[1])
                assert item is None or item.value == value_of(keys[1])
                calls += 3

        tasks = [asyncio.create_task(load(number)) for number in range(16)]
        chance = random.Random(9)
        end = asyncio.get_running_loop().time() + CHURN
        while asyncio.get_running_loop().time() < end:
            chosen = chance.sample(range(4), chance.randint(1, 4))
            source.change(*(listed(nodes[n]) for n in chosen))
            wanted = {nodes[n].address for n in chosen}
            await until(lambda wanted=wanted: set(nodes_of(client)) == wanted)
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in tasks)
        over.set()
        await asyncio.gather(*tasks)
        assert calls > 100
        assert set(client.cluster_managment().connection_pool_metrics()) == wanted


@pytest.mark.parametrize(
    "reply",
    [
        b"END\r\n",
        b"ERROR\r\n",
        b"SERVER_ERROR busy\r\n",
        b"CONFIG cluster 0 3\r\n9\n\n\r\nEND\r\n",
        b"CONFIG cluster 0 13\r\n9\n127.0.0.1|1\n\r\nEND\r\n",
        b"CONFIG cluster 0 20\r\n9\n127.0.0.1||0 x|y|z\n\r\nEND\r\n",
        b"CONFIG cluster 0 14\r\nx\n127.0.0.1||1\n\r\nEND\r\n",
        b"what is this\r\n",
    ],
)
async def test_what_is_no_list_changes_nothing(nodes, reply, caplog):
    async with endpoint(listed(nodes[0])) as source, discovering(source) as client:
        source.reply = lambda: reply
        await polls(source, 2)
        assert nodes_of(client) == [nodes[0].address]
        source.reply = source.list
        source.change(listed(nodes[1]))
        await until(lambda: nodes_of(client) == [nodes[1].address])
    # Once, however often it failed.
    said = [
        record for record in caplog.records if "keeping the current nodes" in record.getMessage()
    ]
    assert len(said) == 1


async def test_only_a_greater_version_counts(nodes):
    async with endpoint(listed(nodes[0])) as source, discovering(source) as client:
        source.version = 5
        source.nodes = [listed(nodes[1])]
        await until(lambda: nodes_of(client) == [nodes[1].address])
        source.nodes = [listed(nodes[0])]
        await polls(source, 2)
        source.version = 4
        await polls(source, 2)
        assert nodes_of(client) == [nodes[1].address]


async def test_a_cluster_made_anew_counts_from_1(nodes, caplog, monkeypatch):
    async with endpoint(listed(nodes[0])) as source:
        source.version = 7
        async with discovering(source) as client:
            monkeypatch.setattr(Watcher, "_STALE_SECONDS", 0.5)
            source.version, source.nodes = 1, [listed(nodes[1])]
            await until(lambda: nodes_of(client) == [nodes[1].address], seconds=20)
            assert source.asked >= 5
    assert any("from version 7 to 1" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("counted", [0, 5, 1000], ids="counted {}".format)
async def test_lists_that_are_framed_oddly(nodes, end, counted):
    payload = b"1" + end + listed(nodes[0]).encode() + b" " + listed(nodes[1]).encode() + end
    async with endpoint() as source:
        source.reply = lambda: b"CONFIG cluster 0 %d\r\n%b\r\nEND\r\n" % (counted, payload)
        async with discovering(source) as client:
            assert nodes_of(client) == [nodes[0].address, nodes[1].address]


async def test_a_list_that_is_split_at_every_byte(nodes):
    reply = b"CONFIG cluster 0 %d\r\n1\n%b\n\r\nEND\r\n"
    line = listed(nodes[0]).encode()
    reply %= (len(line) + 3, line)

    async def script(connection):
        at = 1 + connection.number
        assert await connection.line() == b"config get cluster"
        await connection.send(reply[:at], reply[at:], pause=0.002)
        await connection.line()

    async with scripted(script) as source:
        for _ in range(1, len(reply)):
            async with discovering(source, autodiscovery_poll_interval=60) as client:
                assert nodes_of(client) == [nodes[0].address]


async def test_an_old_engine_has_it_under_a_key(nodes):
    async with endpoint(listed(nodes[0])) as source:
        source.reply = lambda: b"ERROR\r\n"
        source.by_key = source.under_key
        async with discovering(source) as client:
            source.change(listed(nodes[1]))
            await until(lambda: nodes_of(client) == [nodes[1].address])


async def test_a_server_without_lists_is_a_node(nodes, caplog):
    async with discovering(nodes[0]) as client:
        assert nodes_of(client) == [nodes[0].address]
        await client.set(b"plain", b"value")
        assert (await client.get(b"plain")).value == b"value"
    assert len([r for r in caplog.records if "no autodiscovery" in r.getMessage()]) == 1


async def test_addresses_may_be_empty_and_of_version_6(nodes):
    port = nodes[0].port
    async with endpoint(f"127.0.0.1||{port}") as source, discovering(source) as client:
        assert nodes_of(client) == [nodes[0].address]
    async with endpoint(f"localhost|::1|{port}") as source, discovering(source) as client:
        # ::1 refuses; the name leads to where it listens.
        await client.set(b"six", b"value")
        assert nodes_of(client) == [emcache.MemcachedHostAddress("localhost", port)]


async def test_a_node_that_is_replaced_is_looked_for_at_its_new_address(nodes):
    port, connected = nodes[0].port, 0

    async def pump(source, sink):
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(65536):
                sink.write(chunk)
        sink.close()

    async def serve(reader, writer):
        nonlocal connected
        connected += 1
        source, sink = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, sink), pump(source, writer))

    replacement = await asyncio.start_server(serve, "127.0.0.2", port)
    async with (
        replacement,
        endpoint(f"localhost|127.0.0.1|{port}") as source,
        discovering(source) as client,
    ):
        before = nodes_of(client)
        await client.set(b"where", b"here")
        assert connected == 0
        source.change(f"localhost|127.0.0.2|{port}")
        while connected == 0:
            assert (await client.get(b"where")).value == b"here"
            await asyncio.sleep(0.01)
        assert (await client.get(b"where")).value == b"here"
        metrics = client.cluster_managment().connection_pool_metrics
        await until(lambda: metrics()[before[0]].connections_closed >= 1)
        assert nodes_of(client) == before


class TestTheBeginning:
    async def test_nobody_listens(self):
        gone = emcache.MemcachedHostAddress("127.0.0.1", 1)
        with pytest.raises(emcache.DiscoveryError, match=r"127\.0\.0\.1:1") as raised:
            await emcache.create_client([gone], autodiscovery=True)
        assert isinstance(raised.value, ConnectionError | TimeoutError)

    async def test_nobody_answers(self, nodes):
        async with endpoint(listed(nodes[0])) as source:
            source.is_stalled = True
            with pytest.raises(emcache.DiscoveryError):
                await discovering(source, autodiscovery_timeout=0.2)

    async def test_garbage(self):
        async with endpoint() as source:
            source.reply = lambda: b"CONFIG cluster 0 4\r\nnope\r\nEND\r\n"
            with pytest.raises(emcache.DiscoveryError, match="list of nodes"):
                await discovering(source)

    async def test_a_login_that_is_refused(self, nodes):
        async def script(connection):
            await connection.line()
            await connection.send(b"CLIENT_ERROR authentication failure\r\n")

        async with scripted(script) as source:
            with pytest.raises(emcache.AuthenticationError):
                await discovering(source, username="user", password="hunter2")

    async def test_it_is_cancelled(self, nodes):
        async with endpoint(listed(nodes[0])) as source:
            source.is_stalled = True
            task = asyncio.ensure_future(discovering(source))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gc.collect()

    @pytest.mark.parametrize(
        "options",
        [
            {"autodiscovery_poll_interval": 0},
            {"autodiscovery_poll_interval": "1"},
            {"autodiscovery_timeout": -1},
            {"autodiscovery_timeout": float("nan")},
            {"autodiscovery": object()},
        ],
        ids=" ".join,
    )
    async def test_bad_options(self, nodes, options):
        with pytest.raises((ValueError, TypeError)):
            await discovering(nodes[0], **options)


async def test_a_node_that_cannot_be_connected_gets_its_keys_all_the_same(nodes):
    """All clients must agree on which node has which key."""
    async with (
        endpoint(listed(nodes[0])) as source,
        discovering(source, connection_timeout=0.3, timeout=2.0) as client,
    ):
        source.change(listed(nodes[0]), "127.0.0.1|127.0.0.1|1")
        await until(lambda: len(nodes_of(client)) == 2)
        dead = emcache.MemcachedHostAddress("127.0.0.1", 1)
        assert client.cluster_managment().unhealthy_nodes() == [dead]
        key = next(key for n in range(100) if client.node_for(key := b"k:%d" % n) == dead)
        with pytest.raises(emcache.NodeUnavailableError):
            await client.get(key)


class TestSources:
    async def test_a_node_is_asked_when_the_endpoint_is_gone(self, nodes):
        """As on AWS, where the endpoint is one of the nodes."""
        async with endpoint() as other, endpoint() as first:
            both = [f"127.0.0.1|127.0.0.1|{first.port}", f"127.0.0.1|127.0.0.1|{other.port}"]
            first.nodes = other.nodes = both
            async with discovering(first) as client:
                first.reply = lambda: b"SERVER_ERROR gone\r\n"
                other.version, other.nodes = 2, [*both, listed(nodes[0])]
                await until(lambda: nodes[0].address in nodes_of(client))

    async def test_a_node_that_turns_unhealthy_makes_it_ask_sooner(self, nodes):
        with memcached() as dying:
            async with (
                endpoint(listed(dying), listed(nodes[0])) as source,
                discovering(source, autodiscovery_poll_interval=60) as client,
            ):
                await client.set(b"k", b"v")
                source.change(listed(nodes[0]))
                dying.kill()
                await until(lambda: nodes_of(client) == [nodes[0].address])


class TestOthers:
    async def test_a_function(self, nodes):
        now = [nodes[0].address]
        async with emcache.create_client(
            [], autodiscovery=CallableDiscovery(lambda: now), autodiscovery_poll_interval=SOON
        ) as client:
            assert nodes_of(client) == now
            now = [nodes[1].address, nodes[2].address]
            await until(lambda: nodes_of(client) == now)

    async def test_a_class_of_ones_own_that_fails_at_first(self, nodes, caplog):
        class Own:
            def __init__(self):
                self.topology = None

            async def discover(self):
                if self.topology is None:
                    raise OSError("no such thing")
                return self.topology

        own = Own()
        async with emcache.create_client(
            [nodes[0].address], autodiscovery=own, autodiscovery_poll_interval=SOON
        ) as client:
            assert nodes_of(client) == [nodes[0].address]
            own.topology = Topology((DiscoveredNode(nodes[1].address),))
            await until(lambda: nodes_of(client) == [nodes[1].address])
        assert any("no such thing" in record.getMessage() for record in caplog.records)
        with pytest.raises(emcache.DiscoveryError, match="no nodes"):
            await emcache.create_client([], autodiscovery=CallableDiscovery(list))

    async def test_a_name(self, nodes):
        port = nodes[0].port
        async with emcache.create_client(
            [], autodiscovery=DnsDiscovery("127.0.0.1", port)
        ) as client:
            assert nodes_of(client) == [nodes[0].address]
        with pytest.raises(emcache.DiscoveryError):
            await emcache.create_client([], autodiscovery=DnsDiscovery("no.such.invalid", 1))


class TestTheEnd:
    async def test_nothing_is_left(self, nodes):
        before = asyncio.all_tasks()
        async with endpoint(listed(nodes[0])) as source:
            async with discovering(source):
                assert len(asyncio.all_tasks()) > len(before)
                await polls(source, 1)
            await until(lambda: not any("emcache" in t.get_name() for t in asyncio.all_tasks()))

    async def test_a_client_that_nobody_closed(self, nodes):
        async with endpoint(listed(nodes[0])) as source:
            client = await discovering(source)
            holder = [client]
            del client
            with pytest.warns(ResourceWarning, match="unclosed"):
                holder.clear()
            await until(lambda: not any("emcache" in t.get_name() for t in asyncio.all_tasks()))

    async def test_an_event_handler_that_fails(self, nodes, caplog):
        class Failing(Events):
            async def on_topology_change(self, cluster_managment, old, new, version):
                raise KeyError(version)

        async with (
            endpoint(listed(nodes[0])) as source,
            discovering(source, cluster_events=Failing()) as client,
        ):
            with caplog.at_level(logging.INFO, "emcache"):
                source.change(listed(nodes[1]))
                await until(lambda: nodes_of(client) == [nodes[1].address])
                await asyncio.sleep(0.05)
        assert "a cluster event handler failed" in caplog.text
        assert "nodes added" in caplog.text
