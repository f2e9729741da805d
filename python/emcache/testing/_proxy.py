"""A proxy in front of a real server that simulates network faults.

It runs in its own thread, also while the test's loop is blocked. Faults are set for each direction,
and for each connection with a plan. You can change a `Faults` at any time, from any thread.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath, Node
from .._memcached.addresses import parse_node
from ._faults import CHUNK, Faults, Link
from ._managed import Managed
from ._wire import Reachable

# As on Ethernet. With loopback segments the kernel would buffer megabytes of unread data.
SEGMENT = 1448
_RESET = struct.pack("ii", 1, 0)
_CALL_WITHIN = 10.0

Plan = Callable[[int], Link | None]


class FaultProxy(Managed):
    """A TCP proxy on 127.0.0.1 in front of a server; it forwards all bytes until a fault is set.

    Example::

        with FaultProxy(server) as proxy:
            async with emcache.create_client([proxy.address], timeout=0.5) as client:
                proxy.answers.delay = 2.0
                with pytest.raises(emcache.OperationTimeoutError):
                    await client.get(b"key")
                proxy.heal()

    The methods may be called from any thread. They block briefly, until the change has happened.

    Args:
        upstream: the server, or its address, which may be a text.
        plan: returns the link of a connection by its number, from 0; None to close it at once.
            Without a plan, `requests` and `answers` apply to all connections.
        rng: the source of the jitter.

    Raises:
        TypeError: ``upstream`` is neither a server nor an address, or ``plan`` is not a function.
        ValueError: the address is not valid.
    """

    def __init__(
        self,
        upstream: Reachable | Node,
        plan: Plan | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._listener: socket.socket | None = None
        self.port: int = 0
        self.open: int = 0
        """Connections that are open now."""
        if plan is not None and not callable(plan):
            raise TypeError(f"plan must be a function, not {type(plan).__name__}")
        self._upstream = upstream if isinstance(upstream, Reachable) else _address(upstream)
        self._plan = plan
        self._rng = rng or random.Random()
        self.requests: Faults = Faults()
        """The faults of requests on all connections, without a plan."""
        self.answers: Faults = Faults()
        """The faults of answers on all connections, without a plan."""
        self.accepted: int = 0
        """Connections that were accepted."""
        self.most_open: int = 0
        """The most that were open at the same time."""
        self.request_bytes: int = 0
        """Bytes of requests that arrived, on all connections."""
        self.answer_bytes: int = 0
        """Bytes of answers that arrived, on all connections."""
        # Reserves the port while the proxy does not listen, so that connects are refused.
        self._holder = _bound(0)
        self.port = self._holder.getsockname()[1]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._healed = asyncio.Event()
        self._serving: dict[asyncio.Task[None], socket.socket] = {}

    def __repr__(self) -> str:
        state = "refusing" if self._listener is None else "listening"
        return f"<FaultProxy 127.0.0.1:{self.port} {state}, {self.open} open>"

    @property
    def address(self) -> MemcachedHostAddress:
        """The address that the proxy listens on."""
        return MemcachedHostAddress("127.0.0.1", self.port)

    @property
    def client_options(self) -> dict[str, Any]:
        """The options of `create_client` besides the address, for TLS and login of the server."""
        if isinstance(self._upstream, Reachable):
            return self._upstream.client_options
        return {}

    # -- start and close -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread and listen.

        Raises:
            RuntimeError: it was started already.
        """
        if self._loop is not None:
            raise RuntimeError(f"{self!r} was started already")
        self._loop = asyncio.SelectorEventLoop()
        # A daemon, so that the thread does not keep the process alive.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="emcache-fault-proxy", daemon=True
        )
        self._thread.start()
        self.listen()

    def close(self) -> None:
        """Close all connections and end the thread. A second call does nothing."""
        if self._loop is not None and self._thread is not None and not self._loop.is_closed():
            self.refuse()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._holder.close()

    # -- faults of the whole proxy ---------------------------------------------------------------

    def refuse(self) -> None:
        """Close all connections, and refuse new ones until :meth:`listen`."""
        self._do(self._refuse())

    def listen(self) -> None:
        """Accept connections again. Does nothing if the proxy is listening."""
        self._do(self._listen())

    def reset(self) -> None:
        """Reset all connections with RST; new ones are accepted."""
        self._do(self._reset())

    def black_hole(self) -> None:
        """Forward nothing in either direction, without a plan; connections stay open."""
        self.requests.stall_after = self.answers.stall_after = 0

    def heal(self) -> None:
        """Remove all faults and listen again; delayed bytes are forwarded at once."""
        self.requests.clear()
        self.answers.clear()
        self._do(self._heal())

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._loop is None or self._loop.is_closed():
            coroutine.close()
            raise RuntimeError(f"{self!r} was not started, or is closed")
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_WITHIN)

    async def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = listener = _bound(self.port)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        listener.listen(128)
        # Not `sock_accept`, which can lose an accepted connection when it is cancelled.
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _heal(self) -> None:
        self._healed.set()
        self._healed = asyncio.Event()
        await self._listen()

    async def _refuse(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await _ended(self._serving)

    async def _reset(self) -> None:
        for client in self._serving.values():
            # A connection may be closed while its task is still registered.
            if client.fileno() >= 0:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        await _ended(self._serving)

    # -- one connection --------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._serving[task] = client

        def done(task: asyncio.Task[None]) -> None:
            del self._serving[task]
            # A task that is cancelled before its first step does not close it.
            client.close()

        task.add_done_callback(done)

    async def _serve(self, client: socket.socket) -> None:
        link = self._plan(self.accepted) if self._plan else Link(self.requests, self.answers)
        self.accepted += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        where, family = self._behind()
        with client, socket.socket(family) as server:
            try:
                if link is not None:
                    server.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(server, where)
                    await self._relay(link, client, server)
            except OSError:
                pass
            finally:
                self.open -= 1

    def _behind(self) -> tuple[str | tuple[str, int], socket.AddressFamily]:
        address = self._upstream
        if isinstance(address, Reachable):
            address = address.address
        if isinstance(address, MemcachedUnixSocketPath):
            return address.path, socket.AF_UNIX
        family = socket.AF_INET6 if ":" in address.address else socket.AF_INET
        return (address.address, address.port), family

    async def _relay(self, link: Link, client: socket.socket, server: socket.socket) -> None:
        for sock in (client, server):
            # Each segment must be sent when it is written.
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pumps = {
            asyncio.create_task(self._pump(link.requests, client, server, is_request=True)),
            asyncio.create_task(self._pump(link.answers, server, client)),
        }
        running, is_over, is_cut = pumps, False, False
        try:
            # The end of one direction is forwarded like its bytes; the other direction continues.
            while running and not is_over:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                is_cut = any(pump.exception() is None and pump.result() for pump in done)
                is_over = is_cut or any(pump.exception() is not None for pump in done)
        finally:
            await _ended(pumps)
        if is_cut and link._is_reset():
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif is_cut:
            _discard_unread(client)

    async def _pump(
        self, faults: Faults, source: socket.socket, sink: socket.socket, is_request: bool = False
    ) -> bool:
        """Forward bytes until the sender ends; return True if a fault ends the connection."""
        passed, chunk, has_paused = 0, b"", False
        while True:
            # After every wait the faults are read again, because they may have changed.
            if faults._stalls(passed):
                await asyncio.sleep(0.005)
                continue
            if not chunk:
                chunk, has_paused = await self._read(faults, source), False
                self._count(len(chunk), is_request)
                if not chunk:
                    with contextlib.suppress(OSError):
                        sink.shutdown(socket.SHUT_WR)
                    return False
                continue
            if size := min(len(chunk), faults.split or CHUNK, max(faults._room(passed), 0)):
                if not has_paused:
                    await self._pause(faults, size)
                    has_paused = True
                    continue
                await asyncio.get_running_loop().sock_sendall(sink, chunk[:size])
                passed += size
                chunk, has_paused = chunk[size:], False
            if faults._ended(passed):
                return True

    def _count(self, size: int, is_request: bool) -> None:
        if is_request:
            self.request_bytes += size
        else:
            self.answer_bytes += size

    async def _pause(self, faults: Faults, size: int) -> None:
        pause = faults.delay + faults.jitter * self._rng.random()
        if faults.rate:
            pause += size / faults.rate
        if pause:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._healed.wait()

    async def _read(self, faults: Faults, source: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        chunk = await loop.sock_recv(source, CHUNK)
        until = loop.time() + faults.coalesce
        # Waits before it receives, because a receive that a time limit cancels could lose bytes.
        while chunk and await self._is_readable(source, until - loop.time()):
            try:
                more = source.recv(CHUNK)
            except BlockingIOError:
                continue
            if not more:
                break
            chunk += more
        return chunk

    async def _is_readable(self, source: socket.socket, seconds: float) -> bool:
        """Wait for bytes or the end of the stream, at most this long and until healed."""
        if seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def is_there() -> None:
            if not readable.done():
                readable.set_result(None)

        loop.add_reader(source, is_there)
        healed = loop.create_task(self._healed.wait())
        try:
            await asyncio.wait(
                (readable, healed), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            return readable.done()
        finally:
            loop.remove_reader(source)
            healed.cancel()


def _address(upstream: Node) -> Address:
    if not isinstance(upstream, Node):
        kind = type(upstream).__name__
        raise TypeError(f"upstream must be a MemcachedServer or an address of emcache, not {kind}")
    return parse_node(upstream)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _discard_unread(sock: socket.socket) -> None:
    """Read pending bytes, because closing a socket with unread bytes sends RST, not FIN."""
    with contextlib.suppress(OSError):
        while sock.recv(CHUNK):
            pass


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
