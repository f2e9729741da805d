"""A network that fails as a test says: a proxy before a real server, in a thread of its own.

It goes on while the test's loop is blocked. What befalls the bytes is said for each connection and
each direction; a `Faults` may be changed at any time, from any thread.
"""

import asyncio
import contextlib
import os
import random
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import emcache

from .calls import until
from .memcached import Memcached
from .oracle import value_of

CHUNK = 64 * 1024
# As on an Ethernet: with the segments of the loopback the kernel takes megabytes that nobody reads.
SEGMENT = 1448


def seeded() -> random.Random:
    """Randomness that a failed test tells how to repeat: pytest shows what it printed."""
    seed = int(os.environ.get("EMCACHE_TEST_SEED") or secrets.randbits(32))
    print(f"EMCACHE_TEST_SEED={seed}")  # noqa: T201
    return random.Random(seed)


@dataclass
class Faults:
    """What befalls one direction; without any, all bytes pass at once."""

    delay: float = 0.0
    """Seconds before each piece."""
    jitter: float = 0.0
    """At most so many seconds more."""
    rate: float | None = None
    """Bytes a second."""
    split: int | None = None
    """The longest piece."""
    coalesce: float = 0.0
    """Seconds for which bytes are collected, to leave in one piece."""
    stall_after: int | None = None
    """Nothing is read or passed on after so many bytes, until this is None again."""
    reset_after: int | None = None
    """RST after so many bytes; 0: instead of the first."""
    fin_after: int | None = None
    """FIN after so many bytes; 0: instead of the first."""

    def stalls(self, passed: int) -> bool:
        return self.stall_after is not None and passed >= self.stall_after

    def room(self, passed: int) -> int:
        """How many bytes may pass before the next fault."""
        limits = (self.stall_after, self.reset_after, self.fin_after)
        return min((limit - passed for limit in limits if limit is not None), default=CHUNK)

    def ended(self, passed: int) -> bool:
        ends = (self.reset_after, self.fin_after)
        return any(end is not None and passed >= end for end in ends)


@dataclass
class Link:
    """One connection."""

    requests: Faults = field(default_factory=Faults)
    answers: Faults = field(default_factory=Faults)

    def is_reset(self) -> bool:
        return self.requests.reset_after is not None or self.answers.reset_after is not None


Plan = Callable[[int], Link | None]


class FaultProxy:
    """`plan` tells the link of each connection, counted from 0; None: it is closed at once."""

    def __init__(self, upstream: int, plan: Plan, rng: random.Random) -> None:
        self.upstream = upstream
        self.plan = plan
        self.rng = rng
        self.accepted = 0
        self.open = 0
        self.most_open = 0
        self.asked = 0
        """Bytes of requests that came, on all connections."""
        self.loop = asyncio.SelectorEventLoop()
        # Keeps the port ours while nobody listens, and connects to it refused.
        self._holder = _bound(0)
        self.port: int = self._holder.getsockname()[1]
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)

    def listen(self) -> None:
        self._do(self._listen())

    def refuse(self) -> None:
        """End all connections, and refuse new ones."""
        self._do(self._refuse())

    def close(self) -> None:
        self._holder.close()
        self.loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def _listen(self) -> None:
        self._listener = listener = _bound(self.port)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        listener.listen(128)
        # Not `sock_accept`: cancelled at the wrong time it loses what it accepted.
        self.loop.add_reader(listener, self._accept, listener)

    async def _refuse(self) -> None:
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await _ended(self._serving)

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        task = self.loop.create_task(self._serve(client))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # A task that is cancelled before it ran does not do it.
        task.add_done_callback(lambda _: client.close())

    async def _serve(self, client: socket.socket) -> None:
        link = self.plan(self.accepted)
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        with client, socket.socket() as server:
            try:
                if link is not None:
                    server.setblocking(False)
                    await self.loop.sock_connect(server, ("127.0.0.1", self.upstream))
                    await self._relay(link, client, server)
            except OSError:
                pass
            finally:
                self.open -= 1

    async def _relay(self, link: Link, client: socket.socket, server: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = [
            asyncio.create_task(self._pump(link.requests, client, server, is_request=True)),
            asyncio.create_task(self._pump(link.answers, server, client)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _ended(pumps)
        cut = any(pump.exception() is None and pump.result() for pump in done)
        if cut and link.is_reset():
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _pump(
        self, faults: Faults, source: socket.socket, sink: socket.socket, is_request: bool = False
    ) -> bool:
        """Pass bytes on until one side ends, or a fault does it: then true."""
        passed, chunk = 0, b""
        while True:
            if faults.stalls(passed):
                await asyncio.sleep(0.005)
                continue
            if not chunk:
                chunk = await self._read(faults, source)
                self.asked += len(chunk) if is_request else 0
                if not chunk:
                    return False
                # It may have been told to stall meanwhile.
                continue
            if size := min(len(chunk), faults.split or CHUNK, faults.room(passed)):
                pause = faults.delay + faults.jitter * self.rng.random()
                if faults.rate:
                    pause += size / faults.rate
                if pause:
                    await asyncio.sleep(pause)
                await self.loop.sock_sendall(sink, chunk[:size])
                passed += size
                chunk = chunk[size:]
            if faults.ended(passed):
                return True

    async def _read(self, faults: Faults, source: socket.socket) -> bytes:
        chunk = await self.loop.sock_recv(source, CHUNK)
        if faults.coalesce:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(faults.coalesce):
                    while more := await self.loop.sock_recv(source, CHUNK):
                        chunk += more
        return chunk


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def fault_proxy(
    server: Memcached, plan: Plan = lambda _: Link(), rng: random.Random | None = None
) -> Iterator[FaultProxy]:
    """Stand before a server."""
    assert server.port is not None
    proxy = FaultProxy(server.port, plan, rng or seeded())
    thread = threading.Thread(target=proxy.loop.run_forever, name="fault-proxy")
    thread.start()
    try:
        proxy.listen()
        yield proxy
    finally:
        proxy.refuse()
        proxy.loop.call_soon_threadsafe(proxy.loop.stop)
        thread.join()
        proxy.close()


# -- what the tests of faults have in common -----------------------------------------------------


def fill(server: Memcached, keys: Iterable[bytes]) -> None:
    """Give a server the oracle's values, without the client."""
    for key in keys:
        value = value_of(key)
        assert server.ask(b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value)) == b"STORED\r\n"


#: Connections without anything in flight are closed after a while: see `at_rest`.
RESTING = {"min_connections": 0, "purge_unused_connections_after": 0.4}


async def at_rest(client: emcache.Client) -> None:
    """Wait until nothing is in flight: a `RESTING` client then closes its connections."""
    metrics = client.cluster_managment().connection_pool_metrics
    await until(lambda: all(pool.cur_connections == 0 for pool in metrics().values()))


class Recorder(emcache.ClusterEvents):
    """What the client tells of its nodes."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    async def on_node_healthy(self, cluster_managment, host):
        self.events.append(("healthy", host))

    async def on_node_unhealthy(self, cluster_managment, host):
        self.events.append(("unhealthy", host))
