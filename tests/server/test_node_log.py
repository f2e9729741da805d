"""The logger `emcache`: what it says of nodes, and how often."""

import asyncio
import logging
import threading

import pytest

from emcache import _node_log
from emcache._node_log import NodeLog
from support.calls import client_of, outcomes, until
from support.isolated import run_program, run_silent
from support.memcached import free_port, memcached
from support.scripted import scripted
from support.tls import certificates, tls_memcached


@pytest.fixture(autouse=True)
def _all(caplog):
    caplog.set_level(logging.DEBUG, "emcache")


def said(caplog, level=None):
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "emcache" and level in (None, record.levelno)
    ]


async def test_a_server_that_is_killed_and_started_again(caplog):
    with memcached() as server:
        async with client_of(server, timeout=1) as client:
            await client.set(b"some-key", b"some-value")
            assert said(caplog) == []
            server.kill()
            name = f"127.0.0.1:{server.port}"
            await until(lambda: said(caplog, logging.WARNING))
            for _ in range(20):
                await outcomes(client.get(b"some-key"), client.set(b"some-key", b"some-value"))
            assert said(caplog) == [f"node {name} is unhealthy: Connection refused (os error 111)"]
            server.start()
            await until(lambda: said(caplog, logging.INFO))
            assert said(caplog, logging.INFO) == [f"node {name} is healthy"]
            assert len(said(caplog)) == 2
            assert {record.thread for record in caplog.records} == {threading.get_ident()}
    assert "some-" not in caplog.text


async def test_a_login_that_is_refused_is_said_once(caplog):
    async def refuse(connection):
        while await connection.line():
            await connection.send(b"CLIENT_ERROR authentication failure\r\n")

    login = {"username": "user-name", "password": "pass-word"}
    async with scripted(refuse) as server, client_of(server, **login) as client:
        await until(lambda: said(caplog))
        # Each call that needs a connection makes for another try.
        await until_dials(client, server, 4)
        (text,) = said(caplog)
        assert text.startswith(
            f"node 127.0.0.1:{server.port} rejects connections: the server refused"
        )
    assert "user-name" not in caplog.text
    assert "pass-word" not in caplog.text


async def until_dials(client, server, count):
    while server.accepted < count:
        await outcomes(client.get(b"some-key"))
        await asyncio.sleep(0.01)


async def test_a_server_that_takes_the_login_again(caplog):
    answers = [b"CLIENT_ERROR authentication failure\r\n", b"STORED\r\n"]

    async def serve(connection):
        await connection.line()
        await connection.line()
        await connection.send(answers[min(connection.number, 1)])
        while await connection.line():
            await connection.send(b"END\r\n")

    login = {"username": "user-name", "password": "pass-word"}
    async with scripted(serve) as server, client_of(server, **login):
        await until(lambda: len(said(caplog)) == 2)
        assert said(caplog, logging.INFO) == [
            f"node 127.0.0.1:{server.port} accepts connections again"
        ]


async def test_a_certificate_that_is_not_trusted(caplog):
    with certificates() as certs, tls_memcached(certs.good) as server:
        async with client_of(server, ssl=True) as client:
            while not any("is unhealthy" in text for text in said(caplog)):
                await outcomes(client.get(b"some-key"))
                await asyncio.sleep(0.01)
    barred = [
        text for text in said(caplog, logging.WARNING) if "rejects connections: TLS: " in text
    ]
    assert len(barred) == 1
    assert len(said(caplog)) == 2


async def test_what_a_babbler_sends_is_not_repeated(caplog):
    async def babble(connection):
        await connection.line()
        await connection.send(b"VALUE somebodys-key 0 1\r\n1\r\nEND\r\n")

    async with scripted(babble) as server, client_of(server) as client:
        while not said(caplog, logging.WARNING):
            await outcomes(client.get(b"k"))
            await asyncio.sleep(0.01)
    assert "the reply is not valid memcached protocol" in caplog.text
    assert "somebodys-key" not in caplog.text


class TestTooMany:
    async def test_the_last_is_said_when_there_is_room(self, caplog, monkeypatch):
        monkeypatch.setattr(_node_log, "WINDOW", 0.5)
        log = NodeLog()
        for _ in range(20):
            log.changed("one", "unhealthy", "why")
            log.changed("one", "healthy", None)
        log.changed("one", "unhealthy", "at last")
        log.changed("other", "unhealthy", "why")
        assert len(said(caplog)) == _node_log.MAX_LINES + 1
        await until(lambda: len(said(caplog)) > _node_log.MAX_LINES + 1)
        assert said(caplog)[-1].startswith("node one is unhealthy: at last (31 changes")
        log.close()

    async def test_nothing_after_the_end(self, caplog):
        log = NodeLog()
        for _ in range(20):
            log.changed("one", "healthy", None)
        timer = log._nodes["one"].timer
        assert not timer.cancelled()
        log.close()
        assert timer.cancelled()
        assert len(said(caplog)) == _node_log.MAX_LINES


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
class TestWithoutLogging:
    """What a service prints that has not set up any logging."""

    def test_a_dead_node_is_one_line(self, loop):
        port = free_port()
        done = run_program(
            """
            logging.getLogger("emcache").handlers.clear()

            async def main():
                async with create() as client:
                    failed = 0
                    while failed < 100:
                        try:
                            await client.get(b"k")
                        except emcache.ConnectionFailedError:
                            failed += 1
                assert client.closed

            run(main())
            """,
            loop,
            port,
        )
        assert (done.returncode, done.stdout) == (0, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"node 127.0.0.1:{port} is unhealthy: Connection refused")

    def test_healthy_servers_are_not_worth_a_line(self, server, loop):
        run_silent(
            """
            logging.getLogger("emcache").handlers.clear()

            async def main():
                async with create() as client:
                    await client.set(b"node-log", b"v", noreply=True)
                    await asyncio.gather(*(client.get(b"node-log") for _ in range(100)))
                    await client.get_many([b"node-log", b"node-log-none"])
                    await client.delete(b"node-log")
                    client.cluster_managment().connection_pool_metrics()
                    await client.wait_ready(10)
                    cache = emcache.Cache(client)
                    await cache.get_or_set("node-log", lambda: asyncio.sleep(0, 1), ttl=1)

            run(main())
            run(main())
            """,
            loop,
            server.port,
        )
