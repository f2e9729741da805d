"""`emcache.testing.MemcachedServer`: it starts, fails and ends as it says."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import emcache
from emcache.testing import (
    CertificateAuthority,
    Identity,
    MemcachedNotFoundError,
    MemcachedServer,
    MemcachedStartError,
    Tls,
)
from support.calls import outcomes, until, within

independent = pytest.mark.driver_independent


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@within(30)
async def test_a_client_sees_it_die_and_come_back():
    with MemcachedServer("-m", "8") as server:
        async with emcache.create_client([server.address], timeout=10) as client:
            await client.set(b"k", b"v")
            server.restart()
            while (await outcomes(client.get(b"k"))) != [None]:
                pass
            assert (await client.stats(server.address))["pid"] == str(server.process.pid)


@within(30)
async def test_paused_it_answers_nothing_and_loses_nothing():
    with MemcachedServer() as server:
        async with emcache.create_client([server.address], timeout=0.3) as client:
            await client.set(b"k", b"v")
            server.pause()
            assert server.paused
            assert server.running
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(b"k")
            server.resume()
            assert not server.paused
            await until(lambda: not client.cluster_managment().unhealthy_nodes())
            assert server.command(b"get k\r\n") == b"VALUE k 0 1\r\nv\r\nEND\r\n"


@within(30)
async def test_mutual_tls(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        # A folder that nobody may read, as the server does.
        folder = Path(stack.enter_context(MemcachedServer(unix=True)).path).parent
        ca = CertificateAuthority(folder)
        tls = Tls(
            ca.issue("server", "127.0.0.1"),
            ca=ca.file,
            client_ca=ca.file,
            client=ca.issue("client"),
            min_version="TLSv1.3",
        )
        server = stack.enter_context(MemcachedServer(tls=tls))
        options = server.client_options
        async with emcache.create_client([server.address], **options) as client:
            await client.set(b"k", b"v")
            assert server.stats()["cmd_set"] == "1"
        del options["ssl_certfile"], options["ssl_keyfile"]
        async with emcache.create_client([server.address], **options) as client:
            with pytest.raises(ConnectionError, match="TLS"):
                await client.get(b"k")


@within(30)
@pytest.mark.parametrize("auth", ["ascii", "sasl"])
async def test_users(auth):
    with MemcachedServer(users={"a": "1", "b": "2"}, auth=auth) as server:
        for user, password in (("a", "1"), ("b", "2")):
            login = {"username": user, "password": password, "auth": auth}
            async with emcache.create_client([server.address], **login) as client:
                await client.set(b"k", b"v")
        server.flush()
        server.allow(c="3")
        login = {"username": "c", "password": "3", "auth": auth}
        async with emcache.create_client([server.address], timeout=10, **login) as client:
            while (await outcomes(client.get(b"k"))) != [None]:
                pass


@independent
def test_one_command_or_several_and_their_whole_answer():
    with MemcachedServer() as server:
        big = b"x" * 500_000
        assert server.command(b"set k 0 0 %d\r\n%b\r\n" % (len(big), big)) == b"STORED\r\n"
        assert server.command(b"get k\r\n") == b"VALUE k 0 500000\r\n%b\r\nEND\r\n" % big
        assert server.command(b"delete k\r\nget k\r\nbad\r\n") == b"DELETED\r\nEND\r\nERROR\r\n"
        assert server.command(b"quit\r\n") == b""
        server.command(b"set k 0 0 1\r\nv\r\n")
        server.flush()
        assert server.command(b"get k\r\n") == b"END\r\n"


@independent
def test_its_life():
    server = MemcachedServer("-vv")
    address, seen = server.address, set()
    with pytest.raises(RuntimeError, match="not started"):
        server.pause()
    with server:
        for again in (server.restart, lambda: (server.stop(), server.start())):
            seen.add(server.process.pid)
            server.pause()
            again()
            assert server.running
            assert not server.paused
            assert server.address == address
        with pytest.raises(RuntimeError, match="started already"):
            server.start()
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: not server.running)
        assert repr(server) == f"<MemcachedServer 127.0.0.1:{address.port} not running>"
        server.start()
        seen.add(server.process.pid)
        assert "server listening" in server.log
        server.kill()
        server.kill()
        server.resume()
    server.close()
    assert len(seen) == 3
    assert not any(is_alive(pid) for pid in seen)


@independent
def test_its_port_is_nobody_elses():
    """Neither before it starts, nor while it is down."""
    with MemcachedServer() as server:
        server.kill()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))
        with pytest.raises(ConnectionRefusedError):
            server.connect()
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))


@independent
def test_what_it_leaves_behind(tmp_path):
    with MemcachedServer(unix=True, users={"a": "b"}) as server:
        folder, pid = Path(server.path).parent, server.process.pid
        assert folder.stat().st_mode & 0o77 == 0
        assert {path.name for path in folder.iterdir()} == {"memcached.sock", "users"}
    assert not folder.exists()
    assert not is_alive(pid)


@independent
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_of_tests_that_are_interrupted(how):
    program = """
import signal, time
from emcache.testing import MemcachedServer
signal.signal(signal.SIGINT, signal.default_int_handler)
with MemcachedServer(tls=True) as a, MemcachedServer(unix=True) as b:
    b.pause()
    print(a.process.pid, b.process.pid, b.path, flush=True)
    # A signal just before a sleep is seen after it only.
    for _ in range(600):
        time.sleep(0.1)
"""
    # In a group of its own, which is interrupted as a whole, as by Ctrl-C.
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, process_group=0,
        stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        a, b, path = child.stdout.readline().split()
        assert is_alive(a)
        assert is_alive(b)
        os.killpg(child.pid, how)
    wait_until(lambda: not is_alive(a) and not is_alive(b))
    wait_until(lambda: not Path(path).parent.exists())


# -- what goes wrong -----------------------------------------------------------------------------


@independent
def test_no_program(monkeypatch):
    monkeypatch.delenv("EMCACHE_TEST_MEMCACHED", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MemcachedNotFoundError, match="not installed, or not on PATH"):
        MemcachedServer().__enter__()
    with pytest.raises(MemcachedNotFoundError, match="/nowhere is not an executable"):
        MemcachedServer(binary="/nowhere").__enter__()


@independent
def test_it_tells_why_it_did_not_start():
    with pytest.raises(MemcachedStartError, match="bad_suboption"):
        MemcachedServer("-o", "bad_suboption").__enter__()
    with MemcachedServer() as server, pytest.raises(MemcachedStartError, match="already in use"):
        MemcachedServer(port=server.port).__enter__()


@independent
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unix": True, "port": 11211}, "a port or a unix socket"),
        ({"auth": "sasl"}, "auth needs users"),
        ({"users": {}}, "users must not be empty"),
        ({"users": {"a": "b"}, "auth": "plain"}, "auth must be .* not 'plain'"),
        ({"port": 0}, "port must be between"),
        ({"port": "11211"}, "port must be an int, not str"),
        ({"unix": "/tmp/sock"}, "unix must be a bool, not str"),
        ({"tls": "yes"}, "tls must be a bool or a Tls, not str"),
        ({"users": ["a"]}, "users must be a dict of str, not list"),
        ({"users": {"a": 1}}, "users must be str, not int"),
        ({"environment": "A=B"}, "environment must be a dict of str, not str"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(options, text):
    with pytest.raises((TypeError, ValueError), match=text):
        MemcachedServer(**options)
    with pytest.raises(TypeError, match="options of memcached must be str, not int"):
        MemcachedServer("-m", 64)


@independent
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"identity": None}, "identity must be an Identity, not NoneType"),
        ({"identity": "server.pem"}, "identity must be an Identity, not str"),
        ({"client": "client.pem"}, "client must be an Identity, not str"),
        ({"min_version": "1.2"}, "min_version must be 'TLSv1.2' or"),
    ],
    ids=str,
)
def test_tls_that_makes_no_sense(options, text):
    here = Path("server.pem")
    with pytest.raises((TypeError, ValueError), match=text):
        Tls(**{"identity": Identity(here, here, here), **options})


@independent
def test_a_command_is_a_whole_line_of_bytes():
    server = MemcachedServer()
    with pytest.raises(TypeError, match="a command must be bytes, not str"):
        server.command("version\r\n")
    with pytest.raises(ValueError, match="end with CRLF"):
        server.command(b"version")
    server.close()


@independent
def test_one_that_was_refused_can_be_shown():
    """As debuggers and pytest do."""
    server = MemcachedServer.__new__(MemcachedServer)
    with pytest.raises(ValueError, match="users must not be empty"):
        server.__init__(users={})
    assert repr(server) == "<MemcachedServer 127.0.0.1:None not running>"


@independent
def test_what_a_server_cannot_do():
    binary = pytest.raises(RuntimeError, match="only the binary protocol")
    with MemcachedServer(users={"a": "b"}, auth="sasl") as server, binary:
        server.command(b"get k\r\n")
    with MemcachedServer() as server, pytest.raises(RuntimeError, match="has no login"):
        server.allow(a="b")
