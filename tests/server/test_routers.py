"""Rules written in Python: ``create_client(..., routing=router)``."""

import asyncio
import contextlib
import gc
import os
import weakref

import pytest

import emcache
from emcache import DiscoveredNode, MemcachedHostAddress, RouterNode, Topology
from support.memcached import memcached

NOWHERE = [MemcachedHostAddress(f"127.0.0.{n}", 1) for n in (1, 2, 3)]


class ByDigit:
    """The last byte of a key is the digit of its node's position."""

    def __init__(self):
        self.lists = []
        self.keys = []

    def build(self, nodes):
        self.lists.append(list(nodes))

        def choose(key):
            self.keys.append(key)
            return (key[-1] - ord("0")) % len(nodes)

        return choose


class Choosing:
    """A router with this function."""

    def __init__(self, choose):
        self._choose = choose

    def build(self, nodes):
        return self._choose


def on(cluster, router, **options):
    return emcache.create_client([node.address for node in cluster], routing=router, **options)


def test_the_protocol():
    assert isinstance(ByDigit(), emcache.Router)
    assert not isinstance(object(), emcache.Router)


async def test_every_command_goes_to_the_chosen_node(cluster, key):
    router = ByDigit()
    addresses = [node.address for node in cluster]
    keys = [key + b":%d" % n for n in range(3)]
    async with on(cluster, router) as client:
        for n, k in enumerate(keys):
            assert client.node_for(k) == addresses[n]
            await client.set(k, b"1")
            assert (await client.increment(k, 4)) == 5
            await client.touch(k, 60)
            assert (await client.gat(100, k)).value == b"5"
            await client.append(k, b"0", noreply=True)
            assert (await client.meta_get(k, value=True)).value == b"50"
            assert await client.increment(k + b"%d" % n, 1, initial=7) == 7
            await client.delete(k + b"%d" % n)
        found = await client.get_many(keys)
        assert {k: item.value for k, item in found.items()} == dict.fromkeys(keys, b"50")
        await client.set_many(dict.fromkeys(keys, b"many"))
        await client.touch_many(keys, 60)
        # Each node has its own key and no other.
        for address, own in zip(addresses, keys, strict=True):
            async with emcache.create_client([address]) as only:
                assert set(await only.get_many(keys)) == {own}
                assert (await only.get(own)).value == b"many"
        await client.delete_many(keys)
        assert await client.get_many(keys) == {}
    assert router.lists == [[RouterNode(a, 1, f"127.0.0.1:{a.port}") for a in addresses]]
    assert all(type(k) is bytes for k in router.keys)


async def test_duplicate_keys_and_no_keys(cluster, key):
    router = ByDigit()
    keys = [key + b":1", key + b":2", key + b":1"]
    async with on(cluster, router) as client:
        assert await client.get_many([]) == {}
        assert router.lists == []
        await client.set(keys[0], b"x")
        assert list(await client.get_many(keys)) == [keys[0]]


async def test_keys_of_one_node_share_a_line(cluster, key):
    keys = [key + b":%d1" % n for n in range(50)]
    async with on(cluster, ByDigit()) as client:
        await client.set_many(dict.fromkeys(keys, b"x"))
        before = int(cluster[1].stats()["cmd_get"])
        assert len(await client.get_many(keys)) == 50
        assert int(cluster[1].stats()["cmd_get"]) - before == 50


async def test_weights_and_names_reach_the_router():
    router = ByDigit()
    options = {"weights": {NOWHERE[1]: 3}, "names": {"127.0.0.1:1": "first"}}
    async with emcache.create_client(
        NOWHERE, routing=router, min_connections=0, **options
    ) as client:
        client.node_for(b"k0")
    assert [(node.weight, node.name) for node in router.lists[0]] == [
        (1, "first"),
        (3, "127.0.0.2:1"),
        (1, "127.0.0.3:1"),
    ]


@pytest.mark.parametrize(
    ("chosen", "error", "text"),
    [
        (3, ValueError, "a position from 0 to 2, not 3"),
        (-1, ValueError, "a position from 0 to 2, not -1"),
        (10**30, ValueError, "a position from 0 to 2, not 1000"),
        (1.0, TypeError, "a position, an int, not float"),
        (None, TypeError, "a position, an int, not NoneType"),
        (NOWHERE[0], TypeError, "a position, an int, not MemcachedHostAddress"),
    ],
)
async def test_a_wrong_position(cluster, key, chosen, error, text):
    is_wrong = True
    router = Choosing(lambda key: chosen if is_wrong else 1)
    before = [node.stats()["cmd_set"] for node in cluster]
    async with on(cluster, router) as client:
        for call in (
            lambda: client.get(key),
            lambda: client.set(key, b"x", noreply=True),
            lambda: client.get_many([key, b"other"]),
            lambda: client.set_many({key: b"x"}),
            lambda: client.meta_get(key),
        ):
            with pytest.raises(error, match=text):
                await call()
        with pytest.raises(error, match=text):
            client.node_for(key)
        assert [node.stats()["cmd_set"] for node in cluster] == before
        is_wrong = False
        await client.set(key, b"x")
        assert (await client.get(key)).value == b"x"


async def test_an_exception_of_the_router_is_raised_by_the_call(cluster, key):
    def choose(key):
        if key.endswith(b"bad"):
            raise LookupError("no place for it")
        return 0

    async with on(cluster, Choosing(choose)) as client:
        await client.set(key, b"x")
        calls = [client.get(key), client.get(b"bad"), client.get_many([key, b"bad"])]
        first, *failed = await asyncio.gather(*calls, return_exceptions=True)
        assert first.value == b"x"
        assert [type(error) for error in failed] == [LookupError, LookupError]
        with pytest.raises(LookupError, match="no place for it"):
            await client.set_many({key: b"y", b"bad": b"y"})
        assert (await client.get(key)).value == b"x"


async def test_a_build_that_fails_is_tried_again(cluster, key):
    class Failing(ByDigit):
        def build(self, nodes):
            self.lists.append(nodes)
            if len(self.lists) == 1:
                raise LookupError("not yet")
            if len(self.lists) == 2:
                return 7
            return lambda key: 0

    router = Failing()
    async with on(cluster, router) as client:
        with pytest.raises(LookupError, match="not yet"):
            await client.get(key)
        with pytest.raises(TypeError, match=r"build\(\) of a Router must return a function"):
            await client.get(key)
        assert await client.get(key) is None
        assert await client.get(key) is None
    assert len(router.lists) == 3


@pytest.mark.parametrize(
    ("router", "text"),
    [
        (7, "a method build.*, not int"),
        (ByDigit, "a method build.*, not the class ByDigit"),
        (lambda key: 0, "a method build.*, not function"),
    ],
)
async def test_what_is_not_a_router(router, text):
    with pytest.raises(TypeError, match=text):
        await emcache.create_client(NOWHERE, routing=router)


async def test_a_single_node_gets_all_keys_without_the_router(server, key):
    router = ByDigit()
    async with emcache.create_client([server.address], routing=router) as client:
        await client.set(key, b"x")
        assert len(await client.get_many([key])) == 1
    assert (router.lists, router.keys) == ([], [])


async def test_a_router_that_uses_its_client(cluster, key):
    """It asks about nodes, and closes the client in the middle of a call."""
    state = {}

    def choose(k):
        if k == key:
            assert state["client"].node_for(key + b"1") == cluster[1].address
            assert state["client"].cluster_managment().nodes()
        if k.endswith(b"close"):
            closing = state["client"].close()
            with pytest.raises(StopIteration):
                closing.send(None)
        return 1

    client = state["client"] = await on(cluster, Choosing(choose))
    await client.set(key, b"x")
    assert (await client.get(key)).value == b"x"
    with pytest.raises(emcache.ClientClosedError):
        await client.get(b"close")
    with pytest.raises(emcache.ClientClosedError):
        await client.get(key)


@pytest.mark.parametrize("call", ["get_many", "delete_many"])
async def test_a_router_that_closes_the_client_among_many_keys(cluster, call):
    def choose(key):
        with pytest.raises(StopIteration):
            client.close().send(None)
        return 1

    client = await on(cluster, Choosing(choose))
    with pytest.raises(emcache.ClientClosedError):
        await getattr(client, call)([b"a", b"b"])


async def test_a_recursive_router(cluster):
    client = await on(cluster, Choosing(lambda key: client.node_for(key)))
    with pytest.raises(RecursionError):
        await client.get(b"k")
    await client.close()


async def test_a_closed_client_drops_its_router(cluster, key):
    router = ByDigit()
    weak = weakref.ref(router)
    async with on(cluster, router) as client:
        await client.get(key + b"1")
    del router, client
    gc.collect()
    assert weak() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_router_that_forks(cluster, key):
    """The child may not use the client."""
    children = []

    def choose(k):
        if k == b"fork":
            child = os.fork()
            if child == 0:
                os.environ["IS_CHILD"] = "1"
            children.append(child)
        return 0

    async with on(cluster, Choosing(choose)) as client:
        call = client.get(b"fork")
        try:
            future = call.send(None)
        except RuntimeError as error:
            if "IS_CHILD" in os.environ:
                os._exit(0 if "before a fork" in str(error) else 1)
            raise
        if "IS_CHILD" in os.environ:
            os._exit(2)
        assert future is not None
        call.close()
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        assert await client.get(key) is None


async def test_only_healthy_nodes_are_listed_when_unhealthy_ones_are_purged(key):
    with memcached() as a, memcached() as b, memcached() as c:
        router, addresses = ByDigit(), [node.address for node in (a, b, c)]
        async with on(
            [a, b, c], router, purge_unhealthy_nodes=True, max_connections=1, timeout=1
        ) as client:
            await client.set(key + b":2", b"x")
            b.kill()
            while len(client.cluster_managment().healthy_nodes()) == 3:
                await asyncio.gather(client.get(key + b":1"), return_exceptions=True)
                await asyncio.sleep(0.02)
            client.node_for(key)
            assert [n.address for n in router.lists[-1]] == [addresses[0], addresses[2]]
            # Position 1 is node c now.
            assert client.node_for(key + b":1") == addresses[2]
            assert (await client.get(key + b":1")) is None
            assert len(router.lists) == 2


async def test_no_node_is_left(key):
    router = ByDigit()
    async with emcache.create_client(
        NOWHERE, routing=router, purge_unhealthy_nodes=True, min_connections=1
    ) as client:
        while client.cluster_managment().healthy_nodes():
            await asyncio.sleep(0.02)
        with pytest.raises(emcache.ClusterNoAvailableNodes):
            await client.get(key)
        with pytest.raises(emcache.ClusterNoAvailableNodes):
            await client.get_many([key])
        with pytest.raises(emcache.ClusterNoAvailableNodes):
            client.node_for(key)


async def test_discovery_rebuilds_the_router(cluster, key):
    addresses = [node.address for node in cluster]
    router = ByDigit()
    source = emcache.CallableDiscovery(lambda: addresses[:2])
    async with emcache.create_client([], autodiscovery=source, routing=router) as client:
        assert client.node_for(b"k1") == addresses[1]
        lists = [
            ([addresses[2], addresses[0]], [(1, None), (1, None)]),
            ([addresses[0], addresses[2]], [(1, None), (1, None)]),
            ([addresses[0], addresses[2]], [(1, None), (7, "seven")]),
            ([addresses[0], addresses[2], addresses[1]], [(1, None), (7, None), (2, "new")]),
        ]
        for nodes, specs in lists:
            pairs = zip(nodes, specs, strict=True)
            found = [DiscoveredNode(node, None, *spec) for node, spec in pairs]
            await client._apply(Topology(tuple(found)), 1)
            assert client.node_for(b"k1") == nodes[1]
            assert router.lists[-1] == [
                RouterNode(node, weight, name or f"127.0.0.1:{node.port}")
                for node, (weight, name) in zip(nodes, specs, strict=True)
            ]
            await client.set(key + b"1", b"x")
            assert (await client.get(key + b"1")).value == b"x"
        assert len(router.lists) == 5


async def test_a_restart_is_noticed_at_the_node_that_the_router_chose():
    """A cache then drops what it has computed meanwhile."""
    with memcached() as a, memcached() as b, memcached() as c:
        async with on((a, b, c), ByDigit()) as client:
            keys = [b"key:%d" % n for n in range(3)]

            def epochs():
                return [client._core_meta.server_epoch(key) for key in keys]

            await client.get_many(keys)
            before = epochs()
            assert [node for node, _ in before] == [0, 1, 2]
            b.kill()
            b.start()
            async with asyncio.timeout(10):
                while epochs()[1] == before[1]:
                    with contextlib.suppress(emcache.ConnectionFailedError):
                        await client.get(keys[1])
                    await asyncio.sleep(0.01)
            assert epochs()[0] == before[0]
            assert epochs()[2] == before[2]
