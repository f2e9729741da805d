"""Weights and names of nodes that a discovery returns."""

import dataclasses
import logging

import pytest

import emcache
from emcache import CallableDiscovery, DiscoveredNode, MemcachedHostAddress, Topology
from emcache._routing import NodeRouting
from support.discovery import SOON, until

A, B, C = (MemcachedHostAddress(f"127.0.0.{n}", 1) for n in (1, 2, 3))
KEYS = [b"key:%d" % n for n in range(200)]


def topology(*nodes: DiscoveredNode) -> Topology:
    return Topology(nodes)


async def expected(nodes, routing, weights, names):
    options = {"weights": weights} if weights else {}
    options |= {"names": names} if names else {}
    async with emcache.create_client(
        nodes, routing=routing, min_connections=0, **options
    ) as client:
        return [client.node_for(key) for key in KEYS]


def discovered(*lists, **options):
    """A client whose first list is the first of these; the others are applied by the test."""
    source = CallableDiscovery(lambda: lists[0])
    return emcache.create_client([], autodiscovery=source, min_connections=0, **options)


@pytest.mark.parametrize("routing", ["rendezvous", "ketama", "dalli", "nginx-consistent"])
async def test_keys_follow_discovered_weights_and_names(routing, caplog):
    caplog.set_level(logging.INFO, "emcache")
    a, b, c = map(DiscoveredNode, (A, B, C))
    heavy = dataclasses.replace(b, weight=5)
    named = dataclasses.replace(c, name="cache-3:1", weight=2)
    lists = [
        (topology(a, heavy), [A, B], {B: 5}, None),
        (topology(a, b), [A, B], None, None),
        (topology(a, heavy, named), [A, B, C], {B: 5, C: 2}, {C: "cache-3:1"}),
        (topology(heavy, named), [B, C], {B: 5, C: 2}, {C: "cache-3:1"}),
        (topology(heavy, a), [B, A], {B: 5}, None),
        (topology(heavy, a, c), [B, A, C], {B: 5}, None),
    ]
    async with discovered(lists[0][0], routing=routing) as client:
        for found, nodes, weights, names in lists:
            await client._apply(found, 0.01)
            want = await expected(nodes, routing, weights, names)
            assert [client.node_for(key) for key in KEYS] == want
    changes = [r.message for r in caplog.records if "weights or names" in r.message]
    assert changes[0] == "weights or names changed: ['127.0.0.2:1']"
    assert len(changes) == 2


async def test_the_options_take_precedence():
    found = topology(DiscoveredNode(A, weight=9), DiscoveredNode(B, weight=5, name="b"))
    options = {"weights": {A: 2}, "names": {B: "other"}}
    async with discovered(found, routing="ketama", **options) as client:
        nodes = [client.node_for(key) for key in KEYS]
    assert nodes == await expected([A, B], "ketama", {A: 2, B: 5}, {B: "other"})


@pytest.mark.parametrize(
    ("routing", "node", "text"),
    [
        ("emcache", DiscoveredNode(B, weight=2), "'emcache' ignores weights"),
        ("crc", DiscoveredNode(B, name="b"), "'crc' does not hash names"),
        ("ketama", DiscoveredNode(B, weight=0), "weight of 127.0.0.2:1 must be between 1 and"),
        ("ketama", DiscoveredNode(B, weight=1.5), "weight of 127.0.0.2:1 must be an int"),
        ("ketama", DiscoveredNode(B, name=7), "name of 127.0.0.2:1 must be a text"),
        ("nginx-consistent", DiscoveredNode(B, weight=65535), "add up to 65535"),
    ],
)
@pytest.mark.driver_independent
def test_a_list_that_the_rule_cannot_use(routing, node, text):
    rule = NodeRouting(routing, None, None)
    rule.check(None)
    with pytest.raises((ValueError, TypeError), match=text):
        rule.check_topology(topology(DiscoveredNode(A), node))


@pytest.mark.driver_independent
async def test_such_a_list_is_an_error_at_the_start_and_later_ignored(caplog):
    wrong = topology(DiscoveredNode(A), DiscoveredNode(B, weight=2))
    with pytest.raises(emcache.DiscoveryError, match="'emcache' ignores weights"):
        await discovered(wrong)
    lists = [Topology.of([A])]
    source = CallableDiscovery(lambda: lists[-1])
    async with emcache.create_client(
        [], autodiscovery=source, autodiscovery_poll_interval=SOON, min_connections=0
    ) as client:
        lists.append(wrong)
        await until(lambda: "keeping the current nodes" in caplog.text)
        assert client.cluster_managment().nodes() == [A]
    assert "'emcache' ignores weights" in caplog.text


@pytest.mark.driver_independent
async def test_nodes_that_connect_lazily_join_at_once():
    lists = [Topology.of([A])]
    source = CallableDiscovery(lambda: lists[-1])
    async with emcache.create_client(
        [],
        autodiscovery=source,
        autodiscovery_poll_interval=SOON,
        min_connections=0,
        connection_timeout=3600,
    ) as client:
        lists.append(Topology.of([A, B]))
        await until(lambda: client.cluster_managment().nodes() == [A, B])
