"""`emcache.testing.FaultProxy`: each fault, as plain sockets and as the client see it."""

import contextlib
import random
import socket
import threading
import time

import pytest

import emcache
from emcache.testing import FaultProxy, Faults, Link, MemcachedServer
from support.calls import until, within

independent = pytest.mark.driver_independent
GET, MISS = b"get no-such-key\r\n", b"END\r\n"


@contextlib.contextmanager
def connected(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(20)
        yield sock


def read(sock, size):
    data = b""
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return data


def answers_nothing(sock):
    sock.settimeout(0.1)
    try:
        with pytest.raises(TimeoutError):
            sock.recv(1)
    finally:
        sock.settimeout(20)


def passes(proxy):
    with connected(proxy) as sock:
        sock.sendall(GET)
        return read(sock, len(MISS)) == MISS


@independent
def test_without_faults_bytes_pass_and_are_counted(server):
    with FaultProxy(server) as proxy:
        with connected(proxy) as a, connected(proxy) as b:
            for sock in (a, b, a):
                sock.sendall(GET)
                assert read(sock, len(MISS)) == MISS
            assert (proxy.accepted, proxy.open, proxy.most_open) == (2, 2, 2)
            assert (proxy.request_bytes, proxy.answer_bytes) == (3 * len(GET), 3 * len(MISS))
        deadline = time.monotonic() + 10
        while proxy.open and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (proxy.accepted, proxy.open, proxy.most_open) == (2, 0, 2)


@independent
def test_faults_that_come_and_go_on_an_open_connection(server):
    with FaultProxy(server) as proxy, connected(proxy) as sock:
        proxy.black_hole()
        sock.sendall(GET)
        answers_nothing(sock)
        proxy.heal()
        assert read(sock, len(MISS)) == MISS
        proxy.answers.delay = 100.0
        sock.sendall(GET)
        answers_nothing(sock)
        proxy.heal()
        assert read(sock, len(MISS)) == MISS
        assert proxy.answers == Faults()
        assert proxy.accepted == 1


@independent
def test_pieces(server):
    with FaultProxy(server) as proxy, connected(proxy) as sock:
        proxy.answers.split, proxy.answers.delay = 2, 0.05
        sock.sendall(GET)
        assert [sock.recv(100) for _ in range(3)] == [b"EN", b"D\r", b"\n"]
        proxy.answers.clear()
        proxy.requests.coalesce = 0.1
        sock.sendall(GET)
        time.sleep(0.01)
        sock.sendall(GET)
        assert sock.recv(100) == MISS + MISS


@independent
def test_a_rate(server):
    with FaultProxy(server) as proxy, connected(proxy) as sock:
        proxy.answers.rate = 50.0
        started = time.monotonic()
        sock.sendall(GET * 4)
        assert read(sock, 4 * len(MISS)) == 4 * MISS
        assert time.monotonic() - started >= 0.3


@independent
@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("how", ["fin_after", "reset_after"])
def test_cut(server, how, size):
    with FaultProxy(server) as proxy:
        with connected(proxy) as sock:
            setattr(proxy.answers, how, size)
            sock.sendall(GET)
            assert read(sock, size) == MISS[:size]
            if how == "fin_after":
                assert sock.recv(1) == b""
            else:
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
        proxy.heal()
        assert passes(proxy)


@independent
def test_all_at_once(server):
    with FaultProxy(server) as proxy:
        with connected(proxy) as sock:
            sock.sendall(GET)
            assert read(sock, len(MISS)) == MISS
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        with connected(proxy) as sock:
            sock.sendall(GET)
            assert read(sock, len(MISS)) == MISS
            proxy.refuse()
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            proxy_connect(proxy)
        proxy.listen()
        proxy.listen()
        assert passes(proxy)


@independent
def test_reset_leaves_out_what_has_just_ended(server):
    with FaultProxy(server) as proxy:
        with connected(proxy) as ended, connected(proxy) as other:
            for sock in (ended, other):
                sock.sendall(GET)
                assert read(sock, len(MISS)) == MISS
            # As a connection closes its socket before its task is forgotten.
            next(iter(proxy._serving.values())).close()
            proxy.reset()
            assert ended.recv(1) == b""
            with pytest.raises(ConnectionResetError):
                other.recv(1)
        assert passes(proxy)


def proxy_connect(proxy):
    socket.create_connection(("127.0.0.1", proxy.port)).close()


@independent
def test_a_plan(server):
    links = [None, Link(requests=Faults(stall_after=0))]
    with FaultProxy(server, lambda number: links[number] if number < 2 else Link()) as proxy:
        with connected(proxy) as sock:
            assert sock.recv(1) == b""
        with connected(proxy) as sock:
            sock.sendall(GET)
            answers_nothing(sock)
        assert passes(proxy)


@independent
def test_before_a_unix_socket_and_before_an_address():
    with MemcachedServer(unix=True) as server, FaultProxy(server) as proxy:
        assert passes(proxy)
        with FaultProxy(proxy.address) as second:
            assert passes(second)
            assert second.client_options == {}


@independent
def test_a_server_that_is_down(server):
    with MemcachedServer() as server, FaultProxy(server) as proxy:
        server.kill()
        with connected(proxy) as sock:
            assert sock.recv(1) == b""
        server.start()
        assert passes(proxy)


@independent
def test_its_life(server):
    proxy = FaultProxy(server)
    with pytest.raises(RuntimeError, match="not started"):
        proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        proxy_connect(proxy)
    with proxy, pytest.raises(RuntimeError, match="started already"):
        proxy.start()
    proxy.close()
    with pytest.raises(RuntimeError, match="closed"):
        proxy.heal()
    assert not [thread for thread in threading.enumerate() if "fault-proxy" in thread.name]


@independent
@pytest.mark.parametrize(
    "fault",
    [
        {"delay": -1},
        {"split": 0},
        {"rate": 0.0},
        {"fin_after": -1},
        {"delay": "1"},
        {"jitter": None},
        {"stall_after": 1.5},
        {"rate": True},
    ],
    ids=str,
)
def test_faults_that_make_no_sense(fault):
    ((name, value),) = fault.items()
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        Faults(**fault)
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        setattr(Faults(), name, value)


@independent
def test_a_fault_that_there_is_not():
    with pytest.raises(AttributeError, match="deley"):
        Faults().deley = 1.0


@independent
@pytest.mark.parametrize(
    ("upstream", "text"),
    [
        (None, "upstream must be a MemcachedServer or an address of emcache, not NoneType"),
        (5, "not int"),
        (b"host:1", "not bytes"),
        (MemcachedServer, "not ABCMeta"),
        (emcache.MemcachedHostAddress("host", 0), "port must be between"),
        (emcache.MemcachedHostAddress("host:1", 1), "pass the port as the second argument"),
    ],
    ids=str,
)
def test_a_proxy_before_nothing(upstream, text):
    proxy = FaultProxy.__new__(FaultProxy)
    with pytest.raises((TypeError, ValueError), match=text):
        proxy.__init__(upstream)
    assert repr(proxy) == "<FaultProxy 127.0.0.1:0 refusing, 0 open>"


@contextlib.contextmanager
def stream_of(lines, pauses=(0.0,)):
    """The address of a server that sends numbered lines to its first client, and then FIN."""
    rng = random.Random(1)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number in range(lines):
                connection.sendall(b"%d\n" % number)
                if pause := rng.choice(pauses):
                    time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield emcache.MemcachedHostAddress(*listener.getsockname())
        thread.join(20)


def numbered(lines):
    return b"".join(b"%d\n" % number for number in range(lines))


@independent
def test_bytes_that_come_when_the_time_of_collecting_ends_are_kept():
    pauses = (0.01, 0.005, 0.01001, 0.0005)
    with stream_of(300, pauses) as address, FaultProxy(address) as proxy:
        proxy.answers.coalesce = 0.01
        with connected(proxy) as sock:
            assert read(sock, 1 << 20) == numbered(300)


@independent
@pytest.mark.parametrize("seed", range(3))
def test_faults_that_change_in_running_traffic_lose_no_byte(seed):
    changes = [
        {"delay": 0.001},
        {"jitter": 0.002},
        {"rate": 10_000_000.0},
        {"split": 7},
        {"split": 5_000},
        {"coalesce": 0.002},
        {"coalesce": 0.0005},
        {"stall_after": 0},
    ]
    rng, lines = random.Random(seed), 60_000
    with stream_of(lines, (0.0,) * 400 + (0.001,)) as address, FaultProxy(address) as proxy:
        ended = threading.Event()

        def change():
            while not ended.wait(rng.random() * 0.005):
                rng.choice([proxy.heal, proxy.answers.clear, lambda: None])()
                ((name, value),) = rng.choice(changes).items()
                setattr(proxy.answers, name, value)
                if proxy.answers.stall_after is not None and rng.random() < 0.8:
                    proxy.answers.stall_after = None
            proxy.heal()

        changing = threading.Thread(target=change, daemon=True)
        with connected(proxy) as sock:
            changing.start()
            threading.Timer(2.0, ended.set).start()
            assert read(sock, 1 << 20) == numbered(lines)
        ended.set()
        changing.join(10)


@independent
def test_a_stall_that_begins_during_a_delay_holds_the_piece(server):
    with FaultProxy(server) as proxy, connected(proxy) as sock:
        proxy.answers.delay = 1.0
        sock.sendall(GET)
        while proxy.answer_bytes < len(MISS):
            time.sleep(0.001)
        proxy.answers.stall_after = 0
        sock.settimeout(1.6)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(20)
        proxy.heal()
        assert read(sock, len(MISS)) == MISS


@independent
@pytest.mark.parametrize("faults", [{}, {"delay": 0.05}, {"split": 1}, {"coalesce": 0.05}], ids=str)
def test_answers_pass_after_the_last_request(server, faults):
    """A client that has nothing more to send may end its side and read on, as `nc -N` does."""
    with FaultProxy(server) as proxy, connected(proxy) as sock:
        for name, value in faults.items():
            setattr(proxy.requests, name, value)
            setattr(proxy.answers, name, value)
        sock.sendall(GET * 3 + b"quit\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert read(sock, 1 << 20) == MISS * 3


@independent
def test_fin_is_no_reset_when_requests_are_unread(server):
    with FaultProxy(server) as proxy, connected(proxy) as sock:
        proxy.requests.stall_after = len(GET)
        proxy.answers.delay = 0.1
        proxy.answers.fin_after = 3
        sock.sendall(GET)
        time.sleep(0.02)
        sock.sendall(GET * 100)
        assert read(sock, 1 << 20) == MISS[:3]


@independent
def test_a_plan_that_is_no_function(server):
    with pytest.raises(TypeError, match="plan must be a function, not Link"):
        FaultProxy(server, Link())


@within(30)
async def test_the_client_behind_a_proxy(server, key):
    with FaultProxy(server) as proxy:
        async with emcache.create_client([proxy.address], timeout=0.3) as client:
            await client.set(key, b"value")
            proxy.answers.stall_after = 0
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(key)
            proxy.heal()
            await until(lambda: not client.cluster_managment().unhealthy_nodes())
            proxy.refuse()
            with pytest.raises(ConnectionError):
                await client.set(key, b"other")
