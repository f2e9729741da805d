"""What the README's table says of other clients, against the packages that are installed."""

import importlib.util
import inspect
import re
from importlib import metadata

import pytest

from support.pages import ROOT

pytestmark = pytest.mark.driver_independent

NAMES = {"redis-py": "redis"}


def rows():
    section = (ROOT / "README.md").read_text().split("## Beside other clients")[1].split("\n\n")[1]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    return [(cell.rpartition(" ")[0], cell.rpartition(" ")[2]) for cell in split[0][1:]], split[2:]


CLIENTS, ROWS = rows()
TABLE = {row[0]: dict(zip([name for name, _ in CLIENTS], row[1:], strict=True)) for row in ROWS}


def cell(row, client):
    return re.sub(r"\[(.+)\]\(.+\)", r"\1", TABLE[row][client])


def parameters(function):
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize(("client", "version"), CLIENTS[1:], ids=lambda value: value)
def test_versions(client, version):
    name = NAMES.get(client, client)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    assert metadata.version(name).startswith(f"{version}.")


def test_aiomcache():
    aiomcache = pytest.importorskip("aiomcache")
    has = parameters(aiomcache.Client.__init__)
    flags = parameters(aiomcache.FlagClient.__init__)
    assert "conn_args" in has
    assert cell("TLS", "aiomcache") == "yes"
    assert {"get_flag_handler", "set_flag_handler"} <= flags
    assert cell("objects as values", "aiomcache") == "your function"
    assert {"host", "port"} <= has
    assert cell("several nodes", "aiomcache") == "no"
    assert not {"username", "password"} & has
    assert cell("login", "aiomcache") == "no"


def test_memcachio():
    memcachio = pytest.importorskip("memcachio")
    has = parameters(memcachio.Client.__init__)
    assert "max_inflight_requests_per_connection" in has
    assert cell("concurrent calls share a connection", "memcachio") == "yes"
    assert "hashing_function" in has
    assert cell("rules of other clients (ketama, ...)", "memcachio") == "your function"
    assert {"endpoint_healthcheck_config", "ssl_context", "username"} <= has
    assert cell("keys of dead nodes on other nodes", "memcachio") == "yes"
    assert cell("TLS", "memcachio") == "yes"
    assert cell("login", "memcachio") == "ASCII"
    assert hasattr(memcachio.types, "AWSAutoDiscoveryEndpoint")
    assert cell("discovery", "memcachio") == "AWS"
    assert hasattr(memcachio.pool, "PoolMetrics")
    assert cell("metrics", "memcachio") == "pool only"


def test_pymemcache():
    pymemcache = pytest.importorskip("pymemcache")
    has = parameters(pymemcache.HashClient.__init__)
    assert {"hasher", "tls_context", "dead_timeout", "serde"} <= has
    assert cell("rules of other clients (ketama, ...)", "pymemcache") == "your class"
    assert cell("keys of dead nodes on other nodes", "pymemcache") == "yes"
    assert cell("TLS", "pymemcache") == "yes"
    assert cell("objects as values", "pymemcache") == "yes"
    assert hasattr(pymemcache.serde, "CompressedSerde")
    assert cell("compression", "pymemcache") == "yes"
    assert hasattr(pymemcache.Client, "raw_command")
    assert cell("meta commands", "pymemcache") == "as text"
    assert importlib.util.find_spec("pymemcache.fallback")
    assert cell("adding nodes without misses", "pymemcache") == "reads only"
    assert importlib.util.find_spec("pymemcache.test.utils")
    assert cell("pytest plugin, fake server, network faults", "pymemcache") == "a mock client"
    assert not {"username", "password"} & has
    assert cell("login", "pymemcache") == "no"


def test_pylibmc():
    pylibmc = pytest.importorskip("pylibmc")
    assert {"ketama", "auto_eject", "remove_failed"} <= set(pylibmc.all_behaviors)
    assert cell("rules of other clients (ketama, ...)", "pylibmc") == "ketama"
    assert cell("keys of dead nodes on other nodes", "pylibmc") == "yes"
    assert pylibmc.support_sasl
    assert cell("login", "pylibmc") == "SASL"
    assert pylibmc.support_compression
    assert cell("compression", "pylibmc") == "zlib"
    assert importlib.util.find_spec("pylibmc.autoconf")
    assert cell("discovery", "pylibmc") == "AWS, once"
    assert not any("tls" in name or "ssl" in name for name in pylibmc.all_behaviors)
    assert cell("TLS", "pylibmc") == "no"


def test_redis():
    redis = pytest.importorskip("redis")
    has = parameters(redis.asyncio.Redis.__init__)
    assert {"ssl", "username", "password"} <= has
    assert cell("TLS", "redis-py") == cell("login", "redis-py") == "yes"
    assert hasattr(redis.asyncio.Redis, "lock")
    assert cell("locks", "redis-py") == "yes"
    assert importlib.util.find_spec("redis.observability")
    assert cell("metrics", "redis-py") == "OpenTelemetry"
    assert hasattr(redis, "Sentinel")
    assert cell("discovery", "redis-py") == "Redis Cluster, Sentinel"
