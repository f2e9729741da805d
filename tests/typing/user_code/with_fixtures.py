"""Tests as users write them on the fixtures of the plugin, checked by mypy and pyright.

Run by tests/testing/test_plugin.py, in a project that has the plugin.
"""

from collections.abc import Callable
from typing import Any, assert_type

import pytest

import emcache
from emcache.testing import (
    CertificateAuthority,
    FakeServer,
    FaultProxy,
    Faults,
    Identity,
    Link,
    MemcachedServer,
    Tls,
)

Servers = Callable[..., list[MemcachedServer]]


@pytest.fixture(scope="session")
def memcached_args() -> tuple[str, ...]:
    return ("-m", "16")


@pytest.fixture
def emcache_client_options() -> dict[str, Any]:
    return {"timeout": 5.0}


async def test_client(emcache_client: emcache.Client) -> None:
    await emcache_client.set(b"key", b"value")
    item = await emcache_client.get(b"key")
    assert item is not None
    assert_type(item.value, bytes)


async def test_server(memcached_tls_server: MemcachedServer) -> None:
    server = memcached_tls_server
    assert_type(server.client_options, dict[str, Any])
    async with emcache.create_client([server.address], **server.client_options) as client:
        await client.set(b"key", b"value")
    assert_type(server.command(b"get key\r\n"), bytes)
    assert_type(server.stats(), dict[str, str])
    assert_type(server.running, bool)
    assert_type(server.log, str)


async def test_cluster(memcached_cluster: Servers) -> None:
    servers = memcached_cluster(2, "-c", "64")
    async with emcache.create_client([server.address for server in servers]) as client:
        assert len(client.cluster_managment().nodes()) == 2
    servers[0].restart()


async def test_proxy(
    memcached_server: MemcachedServer, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(memcached_server)
    proxy.answers.delay = 0.01
    async with emcache.create_client([proxy.address]) as client:
        await client.set(b"key", b"value")
    assert_type(proxy.accepted, int)
    assert_type(proxy.answers, Faults)


def test_without_fixtures() -> None:
    def plan(number: int) -> Link | None:
        return Link(answers=Faults(reset_after=10)) if number == 0 else None

    with MemcachedServer("-m", "8", unix=True) as server:
        assert_type(server, MemcachedServer)
        with FaultProxy(server, plan) as proxy:
            assert_type(proxy, FaultProxy)
            assert_type(proxy.address, emcache.MemcachedHostAddress)
            proxy.refuse()
            proxy.heal()
    with pytest.raises(ValueError):
        MemcachedServer(auth="sasl")
    with pytest.raises(TypeError):
        MemcachedServer(unknown=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def test_a_fake_server() -> None:
    async with FakeServer(memory_limit=1 << 20) as server:
        assert_type(server, FakeServer)
        server.advance(60)
        server.fail("set", times=2)
        assert_type(server.stats(), dict[str, str])
        async with emcache.create_client(str(server.address)) as client:
            assert_type(client, emcache.Client)
        async with emcache.from_url(f"memcached://{server.address}", timeout=1) as client:
            assert_type(client, emcache.Client)
    with FakeServer() as server, pytest.raises(TypeError):
        server.fail("set", times="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_certificates(tmp_path: Any) -> None:
    authority = CertificateAuthority(tmp_path)
    identity = authority.issue("server", "localhost")
    assert_type(identity, Identity)
    server = MemcachedServer(tls=Tls(identity, ca=authority.file, min_version="TLSv1.3"))
    assert server.client_options["ssl"] is True
    server.close()
