"""Scrapes, read by prometheus_client's own parser."""

import asyncio
import gc
import math
import time
import urllib.request
import weakref

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import emcache
from emcache.contrib.prometheus import EmcacheCollector
from support.calls import client_of
from support.memcached import memcached

NAMES = {
    "emcache_operations",
    "emcache_operation_duration_seconds",
    "emcache_connections",
    "emcache_requests_in_flight",
    "emcache_queue_length",
    "emcache_abandoned_replies",
    "emcache_node_up",
    "emcache_bytes",
    "emcache_timeouts",
    "emcache_reconnects",
    "emcache_failed_connects",
    "emcache_retries",
    "emcache_protocol_errors",
    "emcache_failover_requests",
    "emcache_failover_outdated_keys",
    "emcache_failover_deleted",
    "emcache_failover_flushes",
    "emcache_snapshot_age_seconds",
    "emcache_cache_lookups",
    "emcache_cache_computations",
    "emcache_cache_computation_seconds",
    "emcache_cache_waits",
    "emcache_cache_not_stored",
}


def parsed(text):
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    return families, samples


def registered(*clients):
    registry = CollectorRegistry()
    collector = EmcacheCollector()
    for at, client in enumerate(clients):
        collector.add(client, f"c{at}")
    registry.register(collector)
    return registry, collector


def labels(server, **more):
    return sorted({"client": "c0", "node": f"127.0.0.1:{server.port}", **more}.items())


async def test_a_scrape():
    with memcached() as server:
        async with client_of(server) as client:
            registry, _ = registered(client)
            await client.set(b"secret-key", b"1")
            await client.get_many([b"secret-key", b"none"])
            text = generate_latest(registry).decode()
            stats = server.stats()
        families, samples = parsed(text)
        assert families.keys() == NAMES

        def value(name, **more):
            return samples["emcache_" + name, *labels(server, **more)]

        assert value("operations_total", op="get", result="hit") == int(stats["get_hits"]) == 1
        assert value("operations_total", op="get", result="miss") == int(stats["get_misses"]) == 1
        assert value("operations_total", op="set", result="stored") == int(stats["cmd_set"]) == 1
        assert families["emcache_operation_duration_seconds"].type == "histogram"
        assert value("operation_duration_seconds_count", op="get") == 1
        assert value("operation_duration_seconds_bucket", op="get", le="+Inf") == 1
        assert value("operation_duration_seconds_bucket", op="get", le="10.0") == 1
        assert value("operation_duration_seconds_bucket", op="get", le="1e-05") == 0
        assert 0 < value("operation_duration_seconds_sum", op="get") < 1
        assert value("connections", state="idle") == 1
        assert value("connections", state="used") == 0
        assert value("node_up") == 1
        assert value("bytes_total", direction="written") > len(b"set secret-key 0 0 1\r\n1\r\n")
        assert value("timeouts_total") == value("reconnects_total") == value("queue_length") == 0
        assert samples["emcache_snapshot_age_seconds", ("client", "c0")] < 0.5
        assert "secret-key" not in text


async def test_over_http(server):
    """The server of prometheus_client has a thread for each scrape."""
    async with client_of(server) as client:
        registry, _ = registered(client)
        await client.get(b"none")
        httpd, thread = start_http_server(0, "127.0.0.1", registry=registry)
        try:
            url = f"http://127.0.0.1:{httpd.server_port}/metrics"
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join()
        _, samples = parsed(text)
        assert samples["emcache_operations_total", *labels(server, op="get", result="miss")] == 1


async def test_several_clients(cluster):
    async with client_of(cluster[0]) as one, client_of(*cluster) as other:
        registry, collector = registered(one, other)
        await one.get(b"none")
        _, samples = parsed(generate_latest(registry).decode())
        ups = [key for key in samples if key[0] == "emcache_node_up"]
        assert len(ups) == 1 + len(cluster)
        with pytest.raises(ValueError, match="'c0' exists already"):
            collector.add(other, "c0")
        collector.remove("c0")
        collector.add(other, "c0")
        with pytest.raises(TypeError, match="not int"):
            collector.add(3, "c9")


async def test_the_same_node_twice(server):
    """As a scrape it must not say one thing twice."""
    async with client_of(server, server) as client:
        registry, _ = registered(client)
        _, samples = parsed(generate_latest(registry).decode())
        assert samples["emcache_connections", *labels(server, state="idle")] <= 2
        assert len([key for key in samples if key[0] == "emcache_node_up"]) == 1


async def test_no_client_is_kept(server):
    client = await client_of(server)
    registry, _ = registered(client)
    await client.close()
    assert parsed(generate_latest(registry).decode())[1] == {}
    alive = weakref.ref(client)
    del client
    gc.collect()
    assert alive() is None
    assert parsed(generate_latest(registry).decode())[0].keys() == NAMES


@pytest.mark.driver_independent
def test_a_second_collector_is_refused():
    registry = CollectorRegistry(auto_describe=True)
    registry.register(EmcacheCollector())
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(EmcacheCollector())
    registry.register(EmcacheCollector(namespace="other"))
    assert "other_node_up" in generate_latest(registry).decode()
    with pytest.raises(ValueError, match="namespace"):
        EmcacheCollector(namespace="a-b")


async def test_ipv6_nodes_are_named_as_elsewhere():
    address = emcache.MemcachedHostAddress("::1", 11211)
    async with emcache.create_client([address], min_connections=0) as client:
        registry = CollectorRegistry()
        registry.register(EmcacheCollector(client))
        assert b'node="[::1]:11211"' in generate_latest(registry)


def lag_of(collector, client="c0"):
    registry = CollectorRegistry()
    registry.register(collector)
    _, samples = parsed(generate_latest(registry).decode())
    name = "emcache_event_loop_lag_seconds"
    buckets = {
        float(dict(labels)["le"]): value
        for (sample, *labels), value in samples.items()
        if sample == f"{name}_bucket" and ("client", client) in labels
    }
    return buckets, samples.get((f"{name}_sum", ("client", client)))


async def until_sampled(collector, samples):
    async with asyncio.timeout(20):
        while lag_of(collector)[0].get(math.inf, 0) < samples:
            await asyncio.sleep(0.01)


class TestLoopLag:
    async def test_a_loop_that_was_blocked(self, server):
        async with client_of(server) as client:
            collector = EmcacheCollector(loop_lag=True)
            collector.add(client, "c0")
            collector.add(client, "c0")  # has no second effect
            await until_sampled(collector, 1)
            before, _ = lag_of(collector)
            time.sleep(0.75)
            await until_sampled(collector, before[math.inf] + 6)
            after, total = lag_of(collector)
            # Samples were due each 0.1 s meanwhile; the first waited for at least 0.65 s.
            slow = after[math.inf] - after[0.25] - (before[math.inf] - before[0.25])
            assert slow >= 4
            assert after[math.inf] - after[0.5] > before[math.inf] - before[0.5]
            assert total > 2

    async def test_it_ends_with_the_client_and_the_collector(self, server):
        loop = asyncio.get_running_loop()
        collector = EmcacheCollector(loop_lag=True)
        async with client_of(server) as client:
            collector.add(client, "c0")
            lag = collector._lags["c0"]
            await until_sampled(collector, 1)
        lag._handle.cancel()
        lag._sample()
        assert lag._handle.cancelled(), "a closed client is sampled"
        async with client_of(server) as other:
            collector.add(other, "c0")
            assert collector._lags["c0"] is not lag
            lag = collector._lags["c0"]
            collector.remove("c0")
            lag._handle.cancel()
            lag._sample()
            assert lag._handle.cancelled(), "a client is sampled that was removed"
            assert loop is lag._loop

    async def test_a_client_is_not_kept(self, server):
        client = await client_of(server)
        collector = EmcacheCollector(loop_lag=True)
        collector.add(client, "c0")
        await client.close()
        alive = weakref.ref(client)
        del client
        gc.collect()
        assert alive() is None

    async def test_it_needs_the_loop(self, server):
        async with client_of(server) as client:
            collector = EmcacheCollector(loop_lag=True)
            with pytest.raises(RuntimeError, match="running event loop"):
                await asyncio.to_thread(collector.add, client, "c0")
            assert lag_of(collector) == ({}, None)
            with pytest.raises(TypeError, match="loop_lag"):
                EmcacheCollector(loop_lag="yes")
            collector.add(client, "c0")
            await until_sampled(collector, 1)
