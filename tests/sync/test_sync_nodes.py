"""``from_url``, hot keys, and discovered weights of a synchronous client."""

import dataclasses
import logging
import re

import pytest

import emcache
import emcache.sync
from emcache import CallableDiscovery, DiscoveredNode, MemcachedHostAddress, Topology
from support.memcached import memcached
from support.threads import in_threads, until

pytestmark = pytest.mark.driver_independent

NAMES = [b"key:%d" % n for n in range(200)]


def test_from_url(server, key):
    port = server.address.port
    url = f"memcached://127.0.0.1:{port}/?timeout=2.5&routing=rendezvous"
    with emcache.sync.from_url(url, max_connections=1, allow_in_event_loop=True) as client:
        client.set(key, b"1")
        assert client.get(key).value == b"1"
        assert client.metrics().max_connections == 1
    with pytest.raises(ValueError, match="memcached://"):
        emcache.sync.from_url("redis://a")
    with pytest.raises(TypeError, match="unknown option wrong"):
        emcache.sync.from_url(url, wrong=1)
    secret = "hunter2"
    with pytest.raises(ValueError, match="percent-encode") as caught:
        emcache.sync.from_url(f"memcached://user:{secret}@a/#b")
    assert secret not in str(caught.value)


def test_hot_keys_of_all_threads(server, key):
    with emcache.sync.create_client([server.address], hot_keys=2) as client:

        def work(number):
            for n in range(60):
                client.get(key)
                client.get(b"%b:%d:%d" % (key, number, n))

        in_threads(4, work)
        first, _ = client.metrics().hot_keys
        assert (first.key, first.node) == (key, server.address)
        assert first.share == pytest.approx(0.5, abs=0.05)
        assert first.rate > 0
    with emcache.sync.create_client([server.address]) as client:
        client.get(key)
        assert not client.metrics().hot_keys


def expected(nodes, weights):
    with emcache.sync.create_client(nodes, routing="ketama", weights=weights) as client:
        return [client.node_for(name) for name in NAMES]


@pytest.mark.parametrize("failover", [None, "next"])
def test_keys_follow_discovered_weights(failover, caplog):
    caplog.set_level(logging.INFO, "emcache")
    a, b, c = (MemcachedHostAddress(f"127.0.0.{n}", 1) for n in (1, 2, 3))
    one, two = DiscoveredNode(a), DiscoveredNode(b)
    heavy = dataclasses.replace(two, weight=5)
    found = [(one, heavy)]
    source = CallableDiscovery(lambda: Topology(found[-1]))
    options = {"autodiscovery_poll_interval": 0.05, "min_connections": 0, "failover": failover}
    with emcache.sync.create_client(
        [], autodiscovery=source, routing="ketama", **options
    ) as client:

        def current():
            return [client.node_for(name) for name in NAMES]

        assert current() == expected([a, b], {b: 5})
        for nodes, addresses, weights in [
            ((one, two), [a, b], None),
            ((one, heavy, DiscoveredNode(c, weight=2)), [a, b, c], {b: 5, c: 2}),
            ((heavy, one), [b, a], {b: 5}),
        ]:
            found.append(nodes)
            want = expected(addresses, weights)
            until(lambda want=want: current() == want)
    lines = [r.message for r in caplog.records if re.match("weights or names", r.message)]
    assert lines[0] == "weights or names changed: ['127.0.0.2:1']"


def test_values_stay_right_while_weights_change(key):
    with memcached() as first, memcached() as second:
        nodes = [DiscoveredNode(first.address), DiscoveredNode(second.address)]
        source = CallableDiscovery(lambda: Topology(tuple(nodes)))
        with emcache.sync.create_client(
            [], autodiscovery=source, autodiscovery_poll_interval=0.02, routing="ketama"
        ) as client:

            def work(number):
                mine = [b"%b:%d:%d" % (key, number, n) for n in range(10)]
                for n in range(100):
                    if number == 0 and n % 10 == 0:
                        weight = 1 + n // 10
                        nodes[1] = DiscoveredNode(second.address, weight=weight)
                    client.set_many({name: name + b"=%d" % n for name in mine})
                    for name, item in client.get_many(mine).items():
                        assert item.value.startswith(name + b"=")

            in_threads(4, work)
