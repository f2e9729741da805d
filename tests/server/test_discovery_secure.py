"""Autodiscovery over TLS and with a login: the questions are as safe as what they are asked for."""

import contextlib

import pytest

import emcache
from emcache.discovery import CallableDiscovery, DnsDiscovery
from support.discovery import SOON, Endpoint, discovering, endpoint, listed, nodes_of, until
from support.sasl import file_memcached, sasl_memcached
from support.scripted import scripted
from support.tls import certificates, peer_context, tls_memcached

KEY = b"AmazonElastiCache:cluster"


@pytest.fixture(scope="module")
def certs():
    with certificates() as made:
        yield made


@pytest.fixture(autouse=True)
def one_try(monkeypatch):
    """At the beginning, and not three."""
    monkeypatch.setattr("emcache.discovery._autodiscovery._PAUSES", (0.0,))


async def publish(client, version, *nodes):
    """Keep a list as old engines do: a real server is an endpoint then."""
    await client.set(KEY, f"{version}\n{' '.join(nodes)}\n".encode())


async def works(client):
    for n in range(20):
        key = b"secure:%d" % n
        await client.set(key, key)
        assert (await client.get(key)).value == key


class TestTls:
    async def test_the_endpoint_and_the_nodes(self, certs):
        async with contextlib.AsyncExitStack() as stack:
            a, b = (stack.enter_context(tls_memcached(certs.good)) for _ in range(2))
            listener = endpoint(listed(a, "localhost"), tls=peer_context(certs.good))
            source = await stack.enter_async_context(listener)
            client = await stack.enter_async_context(
                discovering(source, ssl=True, ssl_extra_ca=certs.ca.file)
            )
            assert nodes_of(client) == [emcache.MemcachedHostAddress("localhost", a.port)]
            await works(client)
            source.change(listed(a, "localhost"), listed(b))
            await until(lambda: b.address in nodes_of(client))
            await works(client)

    async def test_a_real_server_as_endpoint(self, certs):
        options = {"ssl": True, "ssl_extra_ca": certs.ca.file}
        with tls_memcached(certs.good) as server:
            async with emcache.create_client([server.address], **options) as client:
                await publish(client, 1, listed(server, "localhost"))
            async with discovering(server, **options) as client:
                assert nodes_of(client) == [emcache.MemcachedHostAddress("localhost", server.port)]
                await works(client)

    async def test_a_node_of_another_name(self, certs):
        """The ip of a list says where a node is, and never who."""
        with tls_memcached(certs.good) as node:
            async with (
                endpoint(listed(node, "of-nobody.invalid"), tls=peer_context(certs.good)) as source,
                discovering(source, ssl=True, ssl_extra_ca=certs.ca.file, timeout=5.0) as client,
            ):
                with pytest.raises(emcache.ConnectionFailedError, match="certificate"):
                    await client.get(b"key")

    @pytest.mark.parametrize("identity", ["wrong_host", "self_signed"])
    async def test_an_endpoint_that_is_not_trusted(self, certs, identity):
        async with endpoint(tls=peer_context(getattr(certs, identity))) as source:
            with pytest.raises(emcache.DiscoveryError, match="certificate"):
                await discovering(source, ssl=True, ssl_extra_ca=certs.ca.file)
            assert source.asked == 0

    async def test_an_endpoint_without_tls(self, certs):
        async with endpoint() as source:
            with pytest.raises(emcache.DiscoveryError, match="TLS"):
                await discovering(source, ssl=True, ssl_extra_ca=certs.ca.file)


@pytest.mark.parametrize("server_with_login", [file_memcached, sasl_memcached])
class TestLogin:
    async def test_the_endpoint_and_the_nodes(self, server_with_login):
        """Over SASL the list is under a key: the binary protocol has no other question for it."""
        with server_with_login() as a, server_with_login() as b:
            async with emcache.create_client([a.address], **a.login) as writer:
                await publish(writer, 1, listed(a))
                async with discovering(a, **a.login) as client:
                    assert nodes_of(client) == [a.address]
                    await works(client)
                    await publish(writer, 2, listed(a), listed(b))
                    await until(lambda: nodes_of(client) == [a.address, b.address])
                    await works(client)

    async def test_a_server_without_lists_is_a_node(self, server_with_login):
        with server_with_login() as server:
            async with discovering(server, **server.login) as client:
                assert nodes_of(client) == [server.address]
                await works(client)

    async def test_a_wrong_password(self, server_with_login):
        with server_with_login() as server, pytest.raises(emcache.AuthenticationError):
            await discovering(server, **(server.login | {"password": "guessed"}))

    async def test_other_ways_to_find_nodes(self, server_with_login):
        with server_with_login() as a, server_with_login() as b:
            now = [a.address]
            async with emcache.create_client(
                [],
                autodiscovery=CallableDiscovery(lambda: now),
                autodiscovery_poll_interval=SOON,
                **a.login,
            ) as client:
                await works(client)
                now = [a.address, b.address]
                await until(lambda: nodes_of(client) == now)
                await works(client)
            by_name = DnsDiscovery("127.0.0.1", b.port)
            async with emcache.create_client([], autodiscovery=by_name, **b.login) as client:
                await works(client)


async def test_a_login_over_tls(certs):
    """As hosted clusters have it: a login, then the question, on one connection."""
    source, said = Endpoint(), []

    async def serve(connection):
        said.extend([await connection.line(), await connection.line()])
        await connection.send(b"STORED\r\n")
        await source.serve(connection)

    async with scripted(serve, peer_context(certs.good)) as server:
        source.port = server.port
        source.nodes = [f"localhost|127.0.0.1|{server.port}"]
        options = {"ssl": True, "ssl_extra_ca": certs.ca.file}
        async with discovering(source, username="user", password="secret", **options) as client:
            assert nodes_of(client) == [emcache.MemcachedHostAddress("localhost", server.port)]
    assert said[:2] == [b"set _ _ _ 11", b"user secret"]
    assert source.asked > 0
