"""The rules of other clients through the public API: the node of each recorded key."""

import json
import pathlib

import pytest

import emcache
from emcache import MemcachedHostAddress, MemcachedUnixSocketPath
from emcache.discovery._ips import names_with_ips
from emcache.discovery._topology import DiscoveredNode, Topology

RECORDED = json.loads(pathlib.Path(__file__).with_name("routing_of_others.json").read_text())
WEIGHTED = ("rendezvous", "ketama", "dalli", "crc", "nginx-consistent", "pecl-memcache")
A, B = MemcachedHostAddress("10.0.0.1", 11211), MemcachedHostAddress("cache-b", 11222)


CASES = [
    pytest.param(choices, RECORDED["lists"][nodes], chosen, id=f"{client}-{nodes}")
    for client, choices in RECORDED["clients"].items()
    for nodes, chosen in choices["chosen"].items()
]


@pytest.mark.parametrize(("choices", "nodes", "chosen"), CASES)
async def test_the_choices_of_other_clients(choices, nodes, chosen):
    addresses = [MemcachedHostAddress(node["host"], node["port"]) for node in nodes]
    options = {"routing": choices["routing"]}
    if "weight" in nodes[0] and options["routing"].startswith(
        ("ketama", "dalli", "crc", "nginx", "twemproxy", "pecl", "libmemcached:consistent")
    ):
        pairs = zip(addresses, nodes, strict=True)
        options["weights"] = {address: node["weight"] for address, node in pairs}
    if options["routing"] == "spymemcached" and "ip" in nodes[0]:
        # Names of the place of the recording, which cannot be resolved here.
        texts = [f"{node['host']}/{node['ip']}:{node['port']}" for node in nodes]
        options["names"] = dict(zip(addresses, texts, strict=True))
    if "names" in choices:
        options["names"] = dict(zip(addresses, choices["names"], strict=True))
    async with emcache.create_client(addresses, min_connections=0, **options) as client:
        keys = [(choices["prefix"] + key).encode() for key in RECORDED["keys"][choices["keys"]]]
        assert [addresses.index(client.node_for(key)) for key in keys] == chosen


NAMES = json.loads(pathlib.Path(__file__).with_name("routing_names_of_others.json").read_text())
SOCKETS_AND_IPV6 = [
    pytest.param(choices, nodes, chosen, id=f"{client}-{nodes}")
    for client, choices in NAMES["clients"].items()
    for nodes, chosen in choices["chosen"].items()
]


@pytest.mark.parametrize(("choices", "nodes", "chosen"), SOCKETS_AND_IPV6)
async def test_ipv6_addresses_and_unix_sockets(choices, nodes, chosen):
    addresses = [
        MemcachedUnixSocketPath(node["unix"])
        if "unix" in node
        else MemcachedHostAddress(node["host"], node["port"])
        for node in NAMES["lists"][nodes]
    ]
    options = {"routing": choices["routing"]}
    if "suffix" in choices:
        options["names"] = {each: each.path + choices["suffix"] for each in addresses}
    async with emcache.create_client(addresses, min_connections=0, **options) as client:
        keys = [key.encode() for key in NAMES["keys"][choices["keys"]]]
        assert [addresses.index(client.node_for(key)) for key in keys] == chosen


@pytest.mark.parametrize("tie", NAMES["ties"], ids=lambda tie: tie["client"])
async def test_a_point_of_two_nodes(tie):
    hosts = [node.split(":") for node in tie["nodes"]]
    addresses = [MemcachedHostAddress(host, int(port)) for host, port in hosts]
    async with emcache.create_client(
        addresses, routing=tie["routing"], min_connections=0
    ) as client:
        found = [addresses.index(client.node_for(key.encode())) for key in tie["keys"]]
    assert found == tie["chosen"]


async def test_names_are_resolved_as_java_does():
    local = MemcachedHostAddress("localhost", 11211)
    other = MemcachedHostAddress("127.0.0.9", 11211)
    keys = [b"key:%d" % n for n in range(300)]

    async def nodes(**options):
        async with emcache.create_client(
            [local, other], routing="spymemcached", min_connections=0, **options
        ) as client:
            return [client.node_for(key) for key in keys]

    assert await nodes() == await nodes(names={local: "localhost/127.0.0.1:11211"})
    assert await nodes() != await nodes(names={local: "localhost:11211"})


@pytest.mark.parametrize(
    ("host", "ip", "name"),
    [
        ("cache", "10.0.0.1", "cache/10.0.0.1:7"),
        ("10.0.0.1", "10.0.0.1", "10.0.0.1:7"),
        ("cache", "fd00::1a", "cache/[fd00:0:0:0:0:0:0:1a]:7"),
        ("::1", "::1", "[0:0:0:0:0:0:0:1]:7"),
        ("0::1", "::1", "[0:0:0:0:0:0:0:1]:7"),
    ],
)
async def test_names_as_java_writes_them(host, ip, name):
    node = DiscoveredNode(MemcachedHostAddress(host, 7), ip=ip)
    assert await names_with_ips(Topology((node,)), {}) == {node.address: name}


async def test_a_name_that_does_not_exist():
    nodes = [MemcachedHostAddress("nothing.invalid", 11211), A]
    with pytest.raises(OSError, match=r"nothing\.invalid cannot be resolved"):
        await emcache.create_client(nodes, routing="spymemcached")


async def test_rendezvous_does_not_depend_on_the_order():
    keys = [b"key:%d" % n for n in range(300)]
    weights = {A: 3}

    async def nodes(addresses):
        async with emcache.create_client(
            addresses, routing="rendezvous", weights=weights, min_connections=0
        ) as client:
            return [client.node_for(key) for key in keys]

    unix = MemcachedUnixSocketPath("/tmp/none.sock")
    first = await nodes([A, B, unix])
    assert first == await nodes([unix, B, A])
    assert first.count(A) > first.count(B) > 0


@pytest.mark.parametrize("routing", WEIGHTED)
async def test_weights_by_text(routing):
    options = {"routing": routing, "min_connections": 0}
    keys = [b"key:%x" % (n * 0x9E3779B97F4A7C15) for n in range(300)]
    async with (
        emcache.create_client([A, B], **options, weights={B: 9}) as client,
        emcache.create_client([A, B], **options, weights={"cache-b:11222": 9}) as by_text,
        emcache.create_client([A, B], **options) as without,
    ):
        heavy = [client.node_for(key) for key in keys]
        assert heavy == [by_text.node_for(key) for key in keys]
        assert heavy.count(B) > 230 > [without.node_for(key) for key in keys].count(B)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"routing": "katama"}, ValueError, "must be one of 'emcache', 'emcache-.*'katama'"),
        ({"routing": "ketama:sha"}, ValueError, "has no option 'sha'; its options are md5, "),
        ({"routing": None}, TypeError, "routing must be a str or an object with a method build"),
        ({"weights": {A: 2}}, ValueError, "'emcache' ignores weights"),
        ({"routing": "gomemcache", "weights": {A: 2}}, ValueError, "ignores weights"),
        ({"routing": "ketama", "weights": {A: 0}}, ValueError, "weight of 10.0.0.1:11211 must be"),
        ({"routing": "ketama", "weights": {A: 65536}}, ValueError, "between 1 and 65535"),
        ({"routing": "ketama", "weights": {A: 1.5}}, TypeError, "must be an int, not float"),
        ({"routing": "ketama", "weights": {A: True}}, TypeError, "must be an int, not bool"),
        ({"routing": "ketama", "weights": [1, 2]}, TypeError, "weights must be a dict"),
        ({"routing": "ketama", "weights": {"other:1": 1}}, ValueError, "other:1, which is not a"),
        ({"routing": "ketama", "weights": {7: 1}}, TypeError, "a node must be a text"),
        ({"routing": "nginx-consistent", "weights": {A: 65535}}, ValueError, "add up to 65535"),
        ({"routing": "crc", "names": {A: "a"}}, ValueError, "does not hash names"),
        ({"routing": "ketama", "names": {A: b"a"}}, TypeError, "name of 10.0.0.1:11211"),
    ],
)
async def test_wrong_options(options, error, text):
    with pytest.raises(error, match=text):
        await emcache.create_client([A, B], **options)


async def test_options_are_checked_before_discovery():
    class Never:
        async def discover(self):
            raise AssertionError("asked")

    for wrong in ({"routing": "x"}, {"weights": {A: 1}}):
        with pytest.raises(ValueError):
            await emcache.create_client([], autodiscovery=Never(), **wrong)


@pytest.mark.parametrize("routing", ["crc", "libmemcached", "ketama", "spymemcached"])
async def test_discovered_nodes_count_in_the_order_of_the_list(routing):
    first, second, third, new = (MemcachedHostAddress(f"127.0.0.{n}", 1) for n in (1, 2, 3, 4))
    keys = [b"key:%d" % n for n in range(200)]
    options = {"routing": routing, "min_connections": 0}
    weights = {} if routing in ("libmemcached", "spymemcached") else {"weights": {new: 2}}
    source = emcache.CallableDiscovery(lambda: [first, second, third])
    lists = ([first, new, third], [third, new], [new, second, third, first])
    async with emcache.create_client([], autodiscovery=source, **options, **weights) as client:
        for nodes in lists:
            await client._apply(emcache.Topology.of(nodes), 0.01)
            used = weights if new in nodes else {}
            async with emcache.create_client(nodes, **options, **used) as fresh:
                expected = [fresh.node_for(key) for key in keys]
            assert [client.node_for(key) for key in keys] == expected
