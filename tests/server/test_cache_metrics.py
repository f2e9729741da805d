"""The counts of caches in `client.metrics()`, for Prometheus and for OpenTelemetry."""

import asyncio
import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from emcache import Cache, CacheMetrics, cached
from emcache.cache._counts import counts_of
from emcache.contrib.opentelemetry import EmcacheInstrumentor
from emcache.contrib.prometheus import EmcacheCollector
from support.calls import client_of


def fill(counts, times=1):
    counts.hits, counts.stale, counts.misses = 10 * times, 3 * times, 5 * times
    counts.computed, counts.refreshed, counts.waited = 4 * times, 1 * times, 2 * times
    counts.seconds, counts.local = 0.5 * times, 2 * times
    for _ in range(times):
        counts.count_not_stored("invalidated")
        counts.count_not_stored("refused")


METRICS = CacheMetrics(
    hits=10,
    local=2,
    misses=5,
    stale=3,
    computed=4,
    refreshed=1,
    waited=2,
    not_stored={"invalidated": 1, "refused": 1},
    seconds=0.5,
)


async def test_a_snapshot(server):
    async with client_of(server) as client, client_of(server) as other:
        assert client.metrics().caches == {}
        fill(counts_of(client, "users"))
        counts_of(client, "unused")
        before = client.metrics().caches
        assert before == {"users": METRICS, "unused": CacheMetrics()}
        counts_of(client, "users").count_not_stored("failed")
        assert before["users"].not_stored == {"invalidated": 1, "refused": 1}
        assert client.metrics().caches["users"].not_stored["failed"] == 1
        assert (await asyncio.to_thread(client.metrics)).caches["users"].hits == 10
        assert other.metrics().caches == {}
    assert client.metrics().caches["users"].hits == 10


async def test_a_cache_and_a_function(client, key):
    cache = Cache(client, prefix=key, name="users")

    @cached(cache, key="{number}", tags=["t"], store_if=lambda value: value < 2)
    async def load(number):
        return number

    for number in (1, 1, 2):
        await load(number)
    await cache.invalidate_tag("t")
    await load(1)
    await cache.set("plain", 1)
    await cache.get_many(["plain", "missing"])
    caches = client.metrics().caches
    [name] = [name for name in caches if name.endswith("load")]
    function = caches[name]
    assert (function.hits, function.misses, function.computed) == (1, 3, 3)
    assert function.not_stored == {"refused": 1}
    assert function.seconds > 0
    assert (caches["users"].hits, caches["users"].misses) == (1, 1)


async def test_prometheus(server):
    async with client_of(server) as client:
        fill(counts_of(client, "users:"))
        registry = CollectorRegistry()
        registry.register(EmcacheCollector(client))
        text = generate_latest(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("emcache_cache_"):
            continue
        for sample in family.samples:
            assert sample.labels.pop("client") == "default"
            assert sample.labels.pop("cache") == "users:"
            found[sample.name.removeprefix("emcache_cache_"), *sample.labels.values()] = (
                sample.value
            )
    assert found == {
        ("lookups_total", "hit"): 5,
        ("lookups_total", "local"): 2,
        ("lookups_total", "stale"): 3,
        ("lookups_total", "miss"): 5,
        ("computations_total", "miss"): 3,
        ("computations_total", "refresh"): 1,
        ("computation_seconds_total",): 0.5,
        ("waits_total",): 2,
        ("not_stored_total", "invalidated"): 1,
        ("not_stored_total", "refused"): 1,
    }


async def test_opentelemetry(server):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with client_of(server) as client, client_of(server) as other:
        for each in (client, other):
            EmcacheInstrumentor.instrument_client(each, meter_provider=provider)
        fill(counts_of(client, "users:"))
        fill(counts_of(other, "users:"), times=2)
        await client.get(b"any")
        data = await asyncio.to_thread(reader.get_metrics_data)
    found = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        if not metric.name.startswith("emcache.cache."):
            continue
        assert metric.data.is_monotonic
        name = metric.name.removeprefix("emcache.cache.")
        for point in metric.data.data_points:
            attributes = dict(point.attributes)
            assert attributes.pop("emcache.cache.name") == "users:"
            found[name, *attributes.items()] = point.value
    provider.shutdown()

    def where(name, attribute, value):
        return name, (f"emcache.cache.{attribute}", value)

    assert found == {
        where("lookups", "result", "hit"): 15,
        where("lookups", "result", "local"): 6,
        where("lookups", "result", "stale"): 9,
        where("lookups", "result", "miss"): 15,
        where("computations", "cause", "miss"): 9,
        where("computations", "cause", "refresh"): 3,
        ("computation.time",): 1.5,
        ("waits",): 6,
        where("not_stored", "reason", "invalidated"): 3,
        where("not_stored", "reason", "refused"): 3,
    }


@pytest.mark.driver_independent
def test_metrics_do_not_import_the_cache(server):
    program = f"""
import asyncio, sys, emcache
async def main():
    node = emcache.MemcachedHostAddress("127.0.0.1", {server.port})
    async with emcache.create_client([node]) as client:
        assert client.metrics().caches == {{}}
    assert "emcache.cache" not in sys.modules
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
