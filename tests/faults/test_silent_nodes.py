"""Nodes that say nothing: stopped, unplugged, or closing whatever they accept."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import statistics
import subprocess
import time

import pytest

import emcache
from support.calls import client_of, frozen, outcomes, until, within
from support.faults import Faults, Link, Recorder, fault_proxy, fill
from support.memcached import Memcached, memcached
from support.oracle import value_of

TIMEOUT = 0.5
KEYS = [b"silent:%d" % number for number in range(40)]


def is_down(error):
    return (
        isinstance(error, emcache.NodeUnavailableError)
        and isinstance(error, ConnectionError)
        and isinstance(error, TimeoutError)
    )


async def ask_until_down(client, key):
    """Ask one thing after the other; how many timed out before the node was known to be down."""
    management = client.cluster_managment()
    timed_out = 0
    async with asyncio.timeout(12):
        while not management.unhealthy_nodes():
            try:
                await client.get(key)
            except emcache.OperationTimeoutError:
                timed_out += 1
            except emcache.NodeUnavailableError:
                assert management.unhealthy_nodes()
    return timed_out


async def back(client, seconds=3.0):
    """Wait until all nodes are healthy, without a call that would help."""
    async with asyncio.timeout(seconds):
        await until(lambda: not client.cluster_managment().unhealthy_nodes())


async def patiently(call, *args):
    while True:
        with contextlib.suppress(emcache.ConnectionFailedError, emcache.OperationTimeoutError):
            return await call(*args)
        await asyncio.sleep(0.01)


# -- a stopped server ----------------------------------------------------------------------------


@within(50)
async def test_a_stopped_node_turns_unhealthy_and_comes_back():
    recorder = Recorder()
    with memcached() as server:
        fill(server, KEYS)
        async with client_of(server, timeout=TIMEOUT, cluster_events=recorder) as client:
            assert (await patiently(client.get, KEYS[0])).value == value_of(KEYS[0])
            management = client.cluster_managment()
            with frozen(server):
                started = time.monotonic()
                results = await outcomes(*map(client.get, KEYS))
                assert {type(result) for result in results} == {emcache.OperationTimeoutError}
                assert TIMEOUT - 0.01 < time.monotonic() - started < TIMEOUT + 2
                # Many at once are no more than one: two seconds must pass.
                if time.monotonic() - started < 1.5:
                    assert management.unhealthy_nodes() == []
                await ask_until_down(client, KEYS[0])
                assert time.monotonic() - started > 1.5
                assert management.unhealthy_nodes() == [server.address]
                for call in (client.get(KEYS[0]), client.set(b"k", b"v"), client.get_many(KEYS)):
                    started = time.monotonic()
                    (error,) = await outcomes(call)
                    assert time.monotonic() - started < 0.8 * TIMEOUT
                    assert is_down(error), repr(error)
                # The kernel takes connections for the stopped server: that is no sign of life.
                await asyncio.sleep(1.5)
                assert management.unhealthy_nodes() == [server.address]
                assert recorder.events == [("unhealthy", server.address)]
            await back(client)
            await until(lambda: len(recorder.events) == 2)
            for key in KEYS:
                assert (await patiently(client.get, key)).value == value_of(key)
            assert recorder.events == [("unhealthy", server.address), ("healthy", server.address)]


@within(50)
async def test_two_long_timeouts_are_not_enough(key):
    with memcached() as server:
        # Two of them are more than the two seconds.
        async with client_of(server, timeout=1.05) as client:
            await patiently(client.set, key, b"v")
            with frozen(server):
                assert await ask_until_down(client, key) >= 3
            await back(client)


@within(50)
async def test_keys_of_a_stopped_node_go_to_the_other_and_come_back():
    with memcached() as a, memcached() as b:
        options = {"timeout": TIMEOUT, "purge_unhealthy_nodes": True}
        async with client_of(a, b, **options) as client:
            home = {key: client.node_for(key) for key in KEYS}
            assert set(home.values()) == {a.address, b.address}
            for key in KEYS:
                await patiently(client.set, key, value_of(key))
            with frozen(a):
                theirs = next(key for key in KEYS if home[key] == a.address)
                await ask_until_down(client, theirs)
                assert {client.node_for(key) for key in KEYS} == {b.address}
                for key in KEYS:
                    await patiently(client.set, key, b"elsewhere")
                    assert (await patiently(client.get, key)).value == b"elsewhere"
            await back(client)
            assert {key: client.node_for(key) for key in KEYS} == home
            for key in KEYS:
                found = await patiently(client.get, key)
                assert found.value == (value_of(key) if home[key] == a.address else b"elsewhere")


# -- what is no silence --------------------------------------------------------------------------


async def stays_healthy(server, delay):
    recorder = Recorder()
    answers = Faults(delay=delay)
    with fault_proxy(server, lambda _: Link(answers=answers)) as proxy:
        async with client_of(proxy, timeout=TIMEOUT, cluster_events=recorder) as client:
            ended = time.monotonic() + 3
            timed_out = 0
            while time.monotonic() < ended:
                try:
                    assert (await client.get(KEYS[0])).value == value_of(KEYS[0])
                except emcache.OperationTimeoutError:
                    timed_out += 1
            assert timed_out >= (3 if delay > TIMEOUT else 0)
            assert client.cluster_managment().unhealthy_nodes() == []
            assert recorder.events == []
            # A call that timed out in silence is a reason to try another connection, once: then
            # the client knows how slow the answers are.
            assert proxy.accepted <= 2


async def stays_healthy_after_a_rest():
    """Nobody asked, so it owed no answer: that silence does not count."""
    recorder = Recorder()
    with memcached() as server:
        fill(server, KEYS)
        async with client_of(server, timeout=TIMEOUT, cluster_events=recorder) as client:
            await patiently(client.get, KEYS[0])
            await asyncio.sleep(2.3)
            started = time.monotonic()
            with frozen(server):
                results = await outcomes(*map(client.get, KEYS))
                assert {type(result) for result in results} == {emcache.OperationTimeoutError}
            hesitated = time.monotonic() - started
            for key in KEYS:
                assert (await patiently(client.get, key)).value == value_of(key)
            if hesitated < 1.5:
                assert recorder.events == []
                assert client.cluster_managment().unhealthy_nodes() == []


@within(50)
async def test_a_slow_or_idle_node_stays_healthy(server):
    """Whether its answers come before their deadline or after: they come. Or are not asked for."""
    fill(server, KEYS)
    # At the same time, as each takes its seconds.
    await asyncio.gather(
        stays_healthy(server, 0.3), stays_healthy(server, 0.8), stays_healthy_after_a_rest()
    )


# -- a server that takes connections and closes them ---------------------------------------------


@within(40)
async def test_a_node_that_closes_what_it_accepts_is_down(server):
    recorder = Recorder()
    fill(server, KEYS)
    broken = True
    with fault_proxy(server, lambda _: None if broken else Link()) as proxy:
        async with client_of(proxy, cluster_events=recorder) as client:
            management = client.cluster_managment()
            async with asyncio.timeout(5):
                await until(lambda: bool(management.unhealthy_nodes()))
            assert proxy.accepted >= 3
            started = time.monotonic()
            (error,) = await outcomes(client.get(KEYS[0]))
            assert time.monotonic() - started < 5  # the timeout is 30 s
            assert is_down(error), repr(error)
            before = proxy.accepted
            await asyncio.sleep(1)
            # Dialled with care, and each that is accepted is no sign of life.
            assert proxy.accepted - before < 20
            assert recorder.events == [("unhealthy", proxy.address)]
            broken = False
            await back(client)
            for key in KEYS:
                assert (await patiently(client.get, key)).value == value_of(key)
            await until(lambda: len(recorder.events) == 2)
            assert recorder.events[1] == ("healthy", proxy.address)


# -- the others ----------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped():
    with memcached() as server, frozen(server):
        yield server


@contextlib.contextmanager
def killed():
    with memcached() as server:
        server.kill()
        yield server


@contextlib.contextmanager
def swallowing_connects():
    """A full backlog: the kernel drops what else would connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield Memcached(port=full.getsockname()[1])


@within(40)
@pytest.mark.parametrize("ill", [stopped, killed, swallowing_connects], ids=lambda f: f.__name__)
async def test_the_latency_of_other_nodes_does_not_move(server, ill):
    fill(server, KEYS)

    async def median(client):
        """Of calls to the good node, while others are made to the other."""
        took = []
        ours = [key for key in KEYS if client.node_for(key) == server.address]
        theirs = [key for key in KEYS if client.node_for(key) != server.address]
        stuck = [asyncio.create_task(client.get(key)) for key in theirs * 5]
        for number in range(400):
            key = ours[number % len(ours)]
            started = time.perf_counter()
            assert (await client.get(key)).value == value_of(key)
            took.append(time.perf_counter() - started)
        await outcomes(*stuck)
        return statistics.median(took)

    options = {"timeout": TIMEOUT, "connection_timeout": 0.3, "max_connections": 2}
    with memcached() as other:
        async with client_of(server, other, **options) as client:
            usual = await median(client)
    with ill() as other:
        async with client_of(server, other, **options) as client:
            unusual = await median(client)
    assert unusual < 3 * usual + 0.005


# -- a cable that is pulled ----------------------------------------------------------------------


class Cable:
    """A pair of network interfaces, one of them in a namespace of its own."""

    def __init__(self) -> None:
        tag = f"{os.getpid() % 10_000}{random.randrange(1000)}"
        self.namespace, self.ours, self.theirs = f"emc{tag}", f"ea{tag}", f"eb{tag}"
        # A network for tests of network devices (RFC 2544).
        self.net = f"198.18.{random.randrange(256)}"

    def ip(self, *words: str, inside: bool = False) -> None:
        where = ["ip", "netns", "exec", self.namespace] if inside else []
        subprocess.run([*where, "ip", *words], check=True, capture_output=True)

    def lay(self) -> None:
        self.ip("netns", "add", self.namespace)
        self.ip("link", "add", self.ours, "type", "veth", "peer", "name", self.theirs)
        self.ip("link", "set", self.theirs, "netns", self.namespace)
        self.ip("addr", "add", f"{self.net}.1/24", "dev", self.ours)
        self.ip("link", "set", self.ours, "up")
        self.ip("addr", "add", f"{self.net}.2/24", "dev", self.theirs, inside=True)
        self.ip("link", "set", self.theirs, "up", inside=True)

    def pull(self) -> None:
        """Both sides keep their connections, and what is sent is lost."""
        self.ip("link", "set", self.theirs, "down", inside=True)

    def plug(self) -> None:
        self.ip("link", "set", self.theirs, "up", inside=True)

    def remove(self) -> None:
        # The interfaces go with the namespace.
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)


@pytest.fixture
def cable():
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and `ip` of iproute2: a half-open connection takes two hosts")
    cable = Cable()
    try:
        try:
            cable.lay()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield cable
    finally:
        cable.remove()


@contextlib.contextmanager
def memcached_behind(cable):
    """A server at the other end; its address."""
    binary = shutil.which("memcached")
    assert binary
    command = [binary, "-l", f"{cable.net}.2", "-p", "11211", "-u", "nobody"]
    process = subprocess.Popen(["ip", "netns", "exec", cable.namespace, *command])
    try:
        address = (f"{cable.net}.2", 11211)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(address, 1):
                break
            time.sleep(0.02)
        yield emcache.MemcachedHostAddress(*address)
    finally:
        process.kill()
        process.wait()


@within(50)
async def test_a_half_open_connection(cable):
    recorder = Recorder()
    with memcached_behind(cable) as address:
        options = {"timeout": TIMEOUT, "connection_timeout": 0.5, "cluster_events": recorder}
        async with emcache.create_client([address], **options) as client:
            for key in KEYS:
                await patiently(client.set, key, value_of(key))
            cable.pull()
            async with asyncio.timeout(15):
                await ask_until_down(client, KEYS[0])
            (error,) = await outcomes(client.get(KEYS[0]))
            assert is_down(error), repr(error)
            cable.plug()
            await back(client, 10)
            for key in KEYS:
                assert (await patiently(client.get, key)).value == value_of(key)
            await until(lambda: len(recorder.events) == 2)
            assert recorder.events == [("unhealthy", address), ("healthy", address)]
