"""TLS against the system's memcached with -Z: who is trusted, and what a failure says."""

import asyncio
import contextlib
import ssl
import tempfile
import time
from pathlib import Path

import pytest

import emcache
from emcache._memcached.addresses import format_address
from support.calls import client_of, outcomes, until, within
from support.faults import Faults, Link, fault_proxy
from support.memcached import free_port, memcached
from support.oracle import answer, value_of
from support.scripted import hold, scripted, settled
from support.tls import HERE, certificates, peer_context, tls_memcached

# Longer than any handshake on a busy machine; only what stalls waits for it.
PATIENT = {"timeout": 20.0, "connection_timeout": 10.0}
HASTY = {"timeout": 20.0, "connection_timeout": 0.5}


@pytest.fixture(scope="module")
def certs():
    with certificates() as made:
        yield made


@pytest.fixture(scope="module")
def tls_server(certs):
    with tls_memcached(certs.good, "-t", "2", "-c", "2048") as running:
        yield running


@pytest.fixture(scope="module")
def strict(certs):
    """A server that wants a certificate of ours."""
    with tls_memcached(certs.good, client_ca=certs.ca.file, client=certs.client) as running:
        yield running


def trusting(certs, **options):
    return {"ssl": True, "ssl_extra_ca": certs.ca.file} | PATIENT | options


@contextlib.asynccontextmanager
async def pool_of(address, **options):
    pool = emcache.ConnectionPool(address, **options)
    try:
        yield pool
    finally:
        await pool.close()


async def by_client(address, **options):
    async with emcache.create_client([address], **options) as client:
        await client.set(b"by_client", b"value")
        return (await client.get(b"by_client")).value


async def by_pool(address, **options):
    async with (
        pool_of(address, **options) as pool,
        pool.create_connection_context() as connection,
    ):
        await connection.storage_command(b"set", b"by_pool", b"value")
        return (await connection.fetch_command(b"get", [b"by_pool"]))[1][0]


both = pytest.mark.parametrize("ask", [by_client, by_pool], ids=["client", "pool"])


async def refusal(ask, address, **options) -> str:
    """The text of the error that a call gets in time."""
    started = time.monotonic()
    with pytest.raises(emcache.ConnectionFailedError) as raised:
        await ask(address, **options)
    assert time.monotonic() - started < PATIENT["connection_timeout"]
    assert raised.value.node == format_address(address)
    return str(raised.value)


# -- what works ----------------------------------------------------------------------------------


class TestTrust:
    @both
    @pytest.mark.parametrize("host", HERE)
    async def test_by_name_and_by_number(self, certs, tls_server, ask, host):
        address = emcache.MemcachedHostAddress(host, tls_server.port)
        assert await ask(address, **trusting(certs)) == b"value"

    @both
    @pytest.mark.parametrize("of", [str, Path, Path.read_bytes], ids=["str", "Path", "bytes"])
    async def test_a_ca_is_a_path_or_data(self, certs, tls_server, ask, of):
        options = trusting(certs, ssl_extra_ca=of(certs.ca.file))
        assert await ask(tls_server.address, **options) == b"value"

    @both
    async def test_a_ca_among_others(self, certs, tls_server, ask):
        several = certs.other_ca.pem + b"a comment\n" + certs.ca.pem
        assert await ask(tls_server.address, **trusting(certs, ssl_extra_ca=several)) == b"value"

    async def test_ssl_cert_file(self, certs, tls_server, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certs.ca.file))
        assert await by_client(tls_server.address, ssl=True, **PATIENT) == b"value"

    async def test_ssl_cert_dir(self, certs, tls_server, monkeypatch):
        # Named as OpenSSL's `rehash` does.
        folder = certs.folder / "hashed"
        folder.mkdir(exist_ok=True)
        (folder / "0a1b2c3d.0").write_bytes(certs.ca.pem)
        monkeypatch.setenv("SSL_CERT_DIR", str(folder))
        assert await by_client(tls_server.address, ssl=True, **PATIENT) == b"value"

    async def test_an_extra_ca_is_added_to_the_roots(self, certs, tls_server, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", str(certs.ca.file))
        options = trusting(certs, ssl_extra_ca=certs.other_ca.file)
        assert await by_client(tls_server.address, **options) == b"value"

    async def test_an_extra_ca_does_where_the_system_has_no_roots(
        self, certs, tls_server, monkeypatch
    ):
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/roots.pem")
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        assert await by_client(tls_server.address, **trusting(certs)) == b"value"

    async def test_the_system_alone_does_not_trust_our_ca(self, tls_server):
        assert "not trusted" in await refusal(by_client, tls_server.address, ssl=True, **PATIENT)

    @both
    @pytest.mark.parametrize(
        "flaw", ["good", "wrong_host", "expired", "self_signed", "no_san", "v1"]
    )
    async def test_unverified_takes_any_certificate(self, certs, ask, flaw):
        with tls_memcached(getattr(certs, flaw)) as server:
            options = PATIENT | {"ssl": True, "ssl_verify": False}
            assert await ask(server.address, **options) == b"value"

    async def test_another_name(self, certs):
        options = trusting(certs, ssl_server_hostname="memcached.example")
        with tls_memcached(certs.wrong_host) as server:
            assert await by_client(server.address, **options) == b"value"
            options["ssl_server_hostname"] = "MEMCACHED.example"
            assert await by_client(server.address, **options) == b"value"

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    async def test_a_server_is_told_the_name_that_is_verified(self, certs, host):
        names = []
        context = peer_context(certs.wrong_host)
        context.sni_callback = lambda _, name, __: names.append(name)
        options = trusting(certs, ssl_server_hostname="memcached.example")
        async with scripted(answer, context) as peer:
            address = emcache.MemcachedHostAddress(host, peer.port)
            async with emcache.create_client([address], **options) as client:
                assert (await client.get(b"k")).value == value_of(b"k")
        assert set(names) == {"memcached.example"}


class TestVersions:
    @pytest.mark.parametrize(
        ("served", "asked", "spoken"),
        [
            ("TLSv1_2", None, "TLSv1.2"),
            ("TLSv1_2", "TLSv1.2", "TLSv1.2"),
            ("TLSv1_3", None, "TLSv1.3"),
            ("TLSv1_3", "TLSv1.2", "TLSv1.3"),
            ("TLSv1_3", "TLSv1.3", "TLSv1.3"),
        ],
    )
    async def test_spoken(self, certs, served, asked, spoken):
        versions = []

        async def script(connection):
            versions.append(connection.writer.get_extra_info("ssl_object").version())
            await answer(connection)

        context = peer_context(certs.good, maximum_version=ssl.TLSVersion[served])
        async with (
            scripted(script, context) as peer,
            client_of(peer, **trusting(certs, ssl_min_version=asked)) as client,
        ):
            assert (await client.get(b"k")).value == value_of(b"k")
        assert set(versions) == {spoken}

    async def test_the_server_wants_1_3(self, certs):
        with tls_memcached(certs.good, min_version=3) as server:
            assert await by_client(server.address, **trusting(certs)) == b"value"

    async def test_the_client_wants_1_3(self, certs):
        context = peer_context(certs.good, maximum_version=ssl.TLSVersion.TLSv1_2)
        async with scripted(hold, context) as peer:
            options = trusting(certs, ssl_min_version="TLSv1.3")
            assert "TLS" in await refusal(by_client, peer.address, **options)


class TestClientCertificates:
    @both
    @pytest.mark.parametrize(
        "given",
        [
            lambda own: {"ssl_certfile": own.certificate, "ssl_keyfile": own.key},
            lambda own: {"ssl_certfile": str(own.both)},
            lambda own: {"ssl_certfile": own.both.read_bytes()},
            lambda own: {
                "ssl_certfile": own.certificate.read_bytes(),
                "ssl_keyfile": own.key.read_bytes(),
            },
        ],
        ids=["two files", "one file", "bytes in one", "bytes"],
    )
    async def test_with_one(self, certs, strict, ask, given):
        options = trusting(certs, **given(certs.client))
        assert await ask(strict.address, **options) == b"value"

    async def test_every_connection_is_let_in(self, certs, strict):
        """Not only the first: memcached refuses to resume the session of a certificate."""
        own = certs.client
        options = trusting(certs, ssl_certfile=own.certificate, ssl_keyfile=own.key)
        async with emcache.create_client(
            [strict.address], min_connections=4, max_connections=4, **options
        ) as client:

            def pool():
                return client.cluster_managment().connection_pool_metrics()[strict.address]

            await until(lambda: pool().cur_connections == 4)
            assert pool().connections_created_with_error == 0

    @both
    async def test_without_one(self, certs, strict, ask):
        text = await refusal(ask, strict.address, **trusting(certs))
        assert "client certificate" in text

    async def test_of_a_ca_that_the_server_does_not_know(self, certs, strict):
        own = certs.foreign_client
        options = trusting(certs, ssl_certfile=own.certificate, ssl_keyfile=own.key)
        text = await refusal(by_client, strict.address, **options)
        assert "client certificate" not in text
        assert "refused" in text or "alert" in text.lower()

    async def test_without_one_over_tls_1_2(self, certs):
        context = peer_context(certs.good, maximum_version=ssl.TLSVersion.TLSv1_2)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certs.ca.file)
        async with scripted(answer, context) as peer:
            await refusal(by_client, peer.address, **trusting(certs))


class TestCommands:
    SIZES = [0, 1, 100, 16_383, 16_384, 16_385, 65_536, 300_000, 2**20 - 512]

    @pytest.mark.parametrize("autobatching", [True, False])
    @within(50)
    async def test_values_of_any_size_by_many_tasks(self, certs, tls_server, key, autobatching):
        options = trusting(certs, autobatching=autobatching, max_connections=3)
        values = {
            b"%s:%d" % (key, n): (b"%d\r\nEND\r\n" % n * size)[:size]
            for n, size in enumerate(self.SIZES * 8)
        }
        async with emcache.create_client([tls_server.address], **options) as client:
            await asyncio.gather(*(client.set(*pair) for pair in values.items()))
            items = await asyncio.gather(*(client.get(name) for name in values))
            assert [item.value for item in items] == list(values.values())
            found = await client.get_many(list(values))
            assert {name: item.value for name, item in found.items()} == values
            await asyncio.gather(*(client.delete(name) for name in values))

    @within(50)
    async def test_a_pool(self, certs, tls_server, key):
        async def store_and_load(pool, n):
            async with pool.create_connection_context() as connection:
                value = b"%d" % n * self.SIZES[n % len(self.SIZES) - 1]
                value = value[: 2**20 - 512]
                await connection.storage_command(b"set", b"%s:%d" % (key, n), value)
                found = await connection.fetch_command(b"get", [b"%s:%d" % (key, n)])
                assert found[1] == [value]

        async with pool_of(tls_server.address, **trusting(certs, max_connections=4)) as pool:
            await asyncio.gather(*(store_and_load(pool, n) for n in range(40)))

    async def test_a_server_that_is_started_again(self, certs):
        with tls_memcached(certs.good) as server:
            async with emcache.create_client([server.address], **trusting(certs)) as client:
                await client.set(b"k", b"v")
                server.kill()
                await outcomes(client.get(b"k"))
                server.start()

                async def answers():
                    return await outcomes(client.get(b"k")) == [None]

                async with asyncio.timeout(20):
                    while not await answers():
                        await asyncio.sleep(0.02)

    async def test_a_certificate_that_is_replaced(self, certs):
        """Connections live on; new ones are of the new certificate."""
        renewed = certs.ca.issue("renewed", *HERE)
        with tls_memcached(renewed) as server:
            async with emcache.create_client([server.address], **trusting(certs)) as client:
                await client.set(b"k", b"v")
                certs.other_ca.issue("renewed", *HERE)
                assert server.command(b"refresh_certs\r\n") == b"OK\r\n"
                assert (await client.get(b"k")).value == b"v"
                assert "not trusted" in await refusal(by_client, server.address, **trusting(certs))
                options = trusting(certs, ssl_extra_ca=certs.other_ca.file)
                assert await by_client(server.address, **options) == b"value"
                assert (await client.get(b"k")).value == b"v"


@contextlib.asynccontextmanager
async def unix_tls(server, context, path):
    """TLS on a unix socket, which memcached does not do itself."""
    tasks = set()

    async def pump(reader, writer):
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        upstream = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer))

    listener = await asyncio.start_unix_server(serve, path, ssl=context)
    try:
        yield emcache.MemcachedUnixSocketPath(path)
    finally:
        await settled()
        listener.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks)
        await settled()
        await listener.wait_closed()


class TestUnixSockets:
    @both
    async def test_over_one(self, certs, server, ask):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            async with unix_tls(server, peer_context(certs.good), f"{folder}/tls.sock") as address:
                options = trusting(certs, ssl_server_hostname="localhost")
                assert await ask(address, **options) == b"value"
                options = trusting(certs, ssl_verify=False)
                assert await ask(address, **options) == b"value"

    async def test_the_name_is_verified(self, certs, server):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            async with unix_tls(server, peer_context(certs.good), f"{folder}/tls.sock") as address:
                options = trusting(certs, ssl_server_hostname="memcached.example")
                assert "not valid for" in await refusal(by_client, address, **options)

    async def test_a_path_is_no_name(self, certs):
        address = emcache.MemcachedUnixSocketPath("/tmp/tls.sock")
        with pytest.raises(ValueError, match="ssl_server_hostname"):
            await emcache.create_client([address], **trusting(certs))
        with pytest.raises(ValueError, match="ssl_server_hostname"):
            emcache.ConnectionPool(address, **trusting(certs))


# -- what does not -------------------------------------------------------------------------------

# What only the error of this flaw says.
FLAWS = {
    "wrong_host": "only for memcached.example, 192.0.2.1",
    "expired": "expired",
    "self_signed": "self-signed",
    "no_san": "subjectAltName",
    "v1": "version 3",
    "other_ca": "unknown issuer",
}


class TestRefusals:
    @both
    @pytest.mark.parametrize("flaw", FLAWS)
    @within(30)
    async def test_a_bad_certificate(self, certs, ask, flaw):
        identity = certs.good if flaw == "other_ca" else getattr(certs, flaw)
        ca = certs.other_ca if flaw == "other_ca" else certs.ca
        with tls_memcached(identity) as server:
            text = await refusal(ask, server.address, **trusting(certs, ssl_extra_ca=ca.pem))
        assert [flaw for flaw, words in FLAWS.items() if words in text] == [flaw], text

    @within(30)
    async def test_every_call_gets_the_cause_at_once(self, certs):
        """Those that come when the node is known to be down too."""
        with tls_memcached(certs.expired) as server:
            async with emcache.create_client([server.address], **trusting(certs)) as client:
                metrics = client.cluster_managment().connection_pool_metrics
                for _ in range(4):
                    raised = await outcomes(*(client.get(b"k") for _ in range(20)))
                    assert {isinstance(e, emcache.ConnectionFailedError) for e in raised} == {True}
                    assert {"expired" in str(error) for error in raised} == {True}
                    await asyncio.sleep(0.2)
                counters = metrics()[server.address]
                # Backed off: not one for each call.
                assert 1 <= counters.connections_created_with_error < 40
                assert counters.connections_created == 0

    @within(30)
    async def test_the_number_that_a_certificate_does_not_have(self, certs):
        with tls_memcached(certs.ca.issue("named", "localhost")) as server:
            text = await refusal(by_client, server.address, **trusting(certs))
            assert "not valid for" in text
            options = trusting(certs, ssl_server_hostname="localhost")
            assert await by_client(server.address, **options) == b"value"

    @both
    @within(30)
    async def test_a_peer_that_answers_in_plain_text(self, certs, ask):
        async def script(connection):
            await connection.reader.read(1)
            await connection.send(b"ERROR\r\n")

        async with scripted(script) as peer:
            text = await refusal(ask, peer.address, **trusting(certs))
        assert "does not speak TLS" in text

    @within(30)
    async def test_a_memcached_without_tls(self, certs):
        """It answers if the handshake has a line feed in it, and waits for one otherwise."""
        with memcached() as server:
            options = trusting(certs, **HASTY)
            for _ in range(5):
                text = await refusal(by_client, server.address, **options)
                assert "does not speak TLS" in text or "0.5 s" in text, text
            assert server.stats()["cmd_set"] == "0"

    @both
    @within(30)
    async def test_a_plain_client_of_a_tls_server(self, tls_server, ask):
        await refusal(ask, tls_server.address, **PATIENT)

    @both
    @within(30)
    async def test_a_peer_that_does_not_answer(self, certs, ask):
        async with scripted(hold) as peer:
            text = await refusal(ask, peer.address, **trusting(certs, **HASTY))
        assert "0.5 s" in text

    @pytest.mark.parametrize("after", [1, 100, 600])
    @within(30)
    async def test_a_handshake_that_stalls(self, certs, tls_server, after):
        with fault_proxy(tls_server, lambda _: Link(answers=Faults(stall_after=after))) as proxy:
            text = await refusal(by_client, proxy.address, **trusting(certs, **HASTY))
        assert "0.5 s" in text

    @pytest.mark.parametrize("cut", ["fin_after", "reset_after"])
    @within(30)
    async def test_a_handshake_that_is_cut(self, certs, tls_server, cut):
        for after in (0, 1, 5, 100, 600):
            plan = lambda _, after=after: Link(answers=Faults(**{cut: after}))  # noqa: E731
            with fault_proxy(tls_server, plan) as proxy:
                await refusal(by_client, proxy.address, **trusting(certs))

    @within(40)
    async def test_nobody_listens(self, certs):
        address = emcache.MemcachedHostAddress("127.0.0.1", free_port())
        text = await refusal(by_client, address, **trusting(certs))
        assert "TLS" not in text


class TestCuts:
    VALUE = bytes(range(256)) * 400

    @pytest.mark.parametrize("cut", ["fin_after", "reset_after"])
    @within(50)
    async def test_within_a_value_without_close_notify(self, certs, tls_server, key, cut):
        """An error, and never a short value."""
        async with emcache.create_client([tls_server.address], **trusting(certs)) as client:
            await client.set(key, self.VALUE)
        for after in (10_000, 40_000, 60_001, 90_000, 102_400):
            plan = lambda _, after=after: Link(answers=Faults(**{cut: after}))  # noqa: E731
            with fault_proxy(tls_server, plan) as proxy:
                options = trusting(certs, max_connections=1)
                async with emcache.create_client([proxy.address], **options) as client:
                    for _ in range(3):
                        with pytest.raises(emcache.ConnectionFailedError):
                            await client.get(key)

    @within(50)
    async def test_are_survived_by_a_second_try(self, certs, tls_server, key):
        plan = lambda n: Link(answers=Faults(fin_after=None if n else 50_000))  # noqa: E731
        with fault_proxy(tls_server, plan) as proxy:
            options = trusting(certs, max_connections=1)
            async with emcache.create_client([proxy.address], **options) as client:
                await client.set(key, self.VALUE)
                assert (await client.get(key)).value == self.VALUE

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    @pytest.mark.parametrize("orderly", [True, False])
    @within(30)
    async def test_of_a_peer(self, certs, version, orderly):
        async def script(connection):
            await connection.line()
            await connection.send(b"VALUE k 0 10\r\nshort")
            # By then it has left.
            await asyncio.sleep(0.05)
            connection.close() if orderly else connection.abort()

        context = peer_context(certs.good, maximum_version=ssl.TLSVersion[version])
        async with scripted(script, context) as peer, client_of(peer, **trusting(certs)) as client:
            for _ in range(3):
                with pytest.raises(emcache.ConnectionFailedError):
                    await client.get(b"k")

    @within(50)
    async def test_pieces_and_pauses_change_nothing(self, certs, tls_server, key):
        link = Link(Faults(split=11), Faults(split=7, jitter=0.0005))
        with fault_proxy(tls_server, lambda _: link) as proxy:
            options = trusting(certs, max_connections=1)
            async with emcache.create_client([proxy.address], **options) as client:
                await client.set(key, self.VALUE[:5000])
                assert (await client.get(key)).value == self.VALUE[:5000]


class TestOtherCalls:
    @within(50)
    async def test_a_node_whose_handshake_stalls_holds_up_nobody(self, certs, tls_server, key):
        async with scripted(hold) as peer:
            options = trusting(certs, connection_timeout=2.0)
            nodes = [tls_server.address, peer.address]
            async with emcache.create_client(nodes, **options) as client:
                names = [b"%s:%d" % (key, n) for n in range(400)]
                here = [name for name in names if client.node_for(name) == nodes[0]]
                there = [name for name in names if client.node_for(name) == nodes[1]]
                stalled = [asyncio.create_task(client.get(name)) for name in there]
                await until(lambda: peer.accepted > 0)
                for name in here:
                    await client.set(name, name)
                    assert (await client.get(name)).value == name
                assert not any(task.done() for task in stalled)
                for error in await outcomes(*stalled):
                    assert isinstance(error, emcache.ConnectionFailedError)

    @within(50)
    async def test_handshakes_while_calls_are_under_way(self, certs, tls_server, key):
        """Fifty of them in the same loop; docs/security.md has the latencies."""
        slowest = 0.0
        async with (
            emcache.create_client([tls_server.address], **trusting(certs)) as client,
            pool_of(tls_server.address, **trusting(certs, max_connections=50)) as pool,
        ):
            await client.set(key, b"value")
            checkouts = [asyncio.create_task(self.check_out(pool)) for _ in range(50)]
            while not all(checkout.done() for checkout in checkouts):
                asked = time.monotonic()
                assert (await client.get(key)).value == b"value"
                slowest = max(slowest, time.monotonic() - asked)
            await asyncio.gather(*checkouts)
        assert slowest < 1.0

    async def check_out(self, pool):
        async with pool.create_connection_context() as connection:
            assert await connection.version_command()
            await until(lambda: pool.total_connections == 50)


# -- arguments -----------------------------------------------------------------------------------


async def create(address, **options):
    async with emcache.create_client([address], **options):
        pass


async def make_pool(address, **options):
    async with pool_of(address, **options):
        pass


@pytest.mark.parametrize("make", [create, make_pool], ids=["client", "pool"])
class TestArguments:
    @pytest.mark.parametrize(
        "options",
        [
            {"ssl_certfile": "x"},
            {"ssl_keyfile": "x"},
            {"ssl_server_hostname": "localhost"},
            {"ssl_min_version": "TLSv1.3"},
            {"ssl": True, "ssl_min_version": "TLSv1.1"},
            {"ssl": True, "ssl_min_version": "1.3"},
            {"ssl": True, "ssl_keyfile": b"x"},
            {"ssl": True, "ssl_extra_ca": b""},
            {"ssl": True, "ssl_extra_ca": b"no certificate"},
            {"ssl": True, "ssl_certfile": b"no certificate"},
            {"ssl": True, "ssl_server_hostname": ""},
            {"ssl": True, "ssl_server_hostname": "no name"},
            {"ssl": True, "ssl_server_hostname": "a\0b"},
        ],
        ids=repr,
    )
    async def test_bad_values(self, server, make, options):
        with pytest.raises(ValueError):
            await make(server.address, **options)

    @pytest.mark.parametrize(
        "options",
        [
            {"ssl_extra_ca": 1},
            {"ssl_certfile": 1},
            {"ssl_certfile": bytearray(b"")},
            {"ssl_server_hostname": b"localhost"},
        ],
        ids=repr,
    )
    async def test_bad_types(self, server, make, options):
        with pytest.raises(TypeError):
            await make(server.address, ssl=True, **options)

    async def test_a_context_of_the_standard_library(self, server, make):
        with pytest.raises(TypeError, match=r"ssl_extra_ca.*ssl_certfile"):
            await make(server.address, ssl=ssl.create_default_context())

    @pytest.mark.parametrize("name", ["ssl_extra_ca", "ssl_certfile"])
    async def test_a_file_that_is_not_there(self, server, make, name):
        with pytest.raises(FileNotFoundError, match=r"/nowhere/x\.pem"):
            await make(server.address, ssl=True, **{name: "/nowhere/x.pem"})

    @pytest.mark.parametrize("name", ["ssl_extra_ca", "ssl_certfile"])
    async def test_a_file_without_a_certificate(self, server, make, name, tmp_path):
        file = tmp_path / "empty.pem"
        file.write_bytes(b"nothing")
        with pytest.raises(ValueError, match=name):
            await make(server.address, ssl=True, **{name: file})

    async def test_a_certificate_without_its_key(self, certs, server, make):
        with pytest.raises(ValueError, match="key"):
            await make(server.address, ssl=True, ssl_certfile=certs.client.certificate)

    async def test_a_key_of_another(self, certs, server, make):
        with pytest.raises(ValueError, match="key"):
            await make(
                server.address,
                ssl=True,
                ssl_certfile=certs.client.certificate,
                ssl_keyfile=certs.foreign_client.key,
            )

    async def test_a_broken_certificate(self, certs, server, make):
        broken = certs.ca.pem.replace(b"MII", b"AAA", 1)
        with pytest.raises(ValueError, match="ssl_extra_ca"):
            await make(server.address, ssl=True, ssl_extra_ca=broken)
