"""A fake server: its socket, in the running event loop or a thread, and its failures."""

import asyncio
import concurrent.futures
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..._checks import check_bools, check_range
from .._managed import Managed
from .._wire import Reachable
from ._connection import Connection
from ._meta import MetaCommands
from ._session import Fault, Session
from ._store import Store
from ._text import TextCommands

OUT_OF_MEMORY = "SERVER_ERROR out of memory storing object"
_CALL_WITHIN = 10.0
_MIB = 1 << 20


@dataclass
class _Failure:
    commands: tuple[str, ...]
    line: Fault
    times: int | None


_PROBES = ("version", "mn")
_COUNTERS = (
    *("cmd_get", "cmd_set", "cmd_flush", "cmd_touch", "cmd_meta", "get_hits", "get_misses"),
    *("delete_misses", "delete_hits", "incr_misses", "incr_hits", "decr_misses", "decr_hits"),
    *("cas_misses", "cas_hits", "cas_badval", "touch_hits", "touch_misses"),
    *("store_too_large", "store_no_memory", "evictions", "reclaimed", "total_items"),
)


class FakeServer(Reachable, Managed):
    """A memcached 1.6 in this process, on a real socket: no program has to be installed.

    It speaks the classic and the meta commands. ``async with`` runs it in the event loop of the
    test, and ``with`` in a thread.

    Example::

        async with FakeServer() as server, emcache.create_client(server.address) as client:
            await client.set(b"key", b"value", exptime=60)
            server.advance(61)
            assert await client.get(b"key") is None

    The methods may be called from any thread, and from the test's event loop.

    Args:
        port: the TCP port on 127.0.0.1; None for a free port.
        unix: listen on a unix socket instead, at ``path``.
        item_limit: the most bytes of an item with its key (memcached's ``-I``).
        memory_limit: the most bytes of all items (memcached's ``-m``). The least recently used
            items are evicted to make room.
        version: the answer to ``version``. Clients choose their commands by it.

    Raises:
        ValueError: an argument is out of range, or ``unix`` with ``port``.
        TypeError: an argument has a wrong type.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        unix: bool = False,
        item_limit: int = _MIB,
        memory_limit: int = 64 * _MIB,
        version: str = "1.6.45",
    ) -> None:
        check_bools(unix=unix)
        check_range("item_limit", item_limit, 1, 1 << 40)
        check_range("memory_limit", memory_limit, 1, 1 << 40)
        if port is not None:
            check_range("port", port, 1, 65535)
            if unix:
                raise ValueError("a server has a port or a unix socket, not both")
        self.path: str | None = None
        self.port: int | None = port
        self.login: dict[str, str] = {}
        self._tls = self._users = None
        self.delay: float = 0.0
        """Seconds by which each answer is delayed."""
        self.accepted: int = 0
        """Connections that were accepted."""
        self._store = Store(item_limit, memory_limit)
        self._text = TextCommands(self._store, version, self._stats)
        self._meta = MetaCommands(self._store, self._text)
        self._version = version
        self._faults: list[_Failure] = []
        self._lock = threading.RLock()
        self._connections: set[Connection] = set()
        self._is_paused = False
        self._is_closed = False
        self._opening: set[asyncio.Task[Any]] = set()
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._folder = tempfile.mkdtemp(prefix="emcache-") if unix else None
        if self._folder is not None:
            self.path = f"{self._folder}/memcached.sock"
        # Reserves the port while the server does not listen, so that connects are refused.
        self._holder = None if unix else _bound(port or 0)
        if self._holder is not None:
            self.port = self._holder.getsockname()[1]

    def __repr__(self) -> str:
        state = "paused" if self.paused else "running" if self.running else "not running"
        return f"<FakeServer {self.path or f'127.0.0.1:{self.port}'} {state}>"

    # -- start and close -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the server listens, paused or not."""
        return self._listener is not None

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` has stopped the server."""
        return self.running and self._is_paused

    async def __aenter__(self) -> Self:
        if self._loop is not None or self._is_closed:
            state = "is closed" if self._is_closed else "was started already"
            raise RuntimeError(f"{self!r} {state}")
        self._loop = asyncio.get_running_loop()
        self._listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        # Transports need an iteration of the loop to close their sockets.
        await asyncio.sleep(0)

    def start(self) -> None:
        """Start a thread with the server; after :meth:`kill` or :meth:`stop`, listen again.

        Raises:
            RuntimeError: it is running already.
        """
        if self.running:
            raise RuntimeError(f"{self!r} was started already")
        if self._is_closed:
            raise RuntimeError(f"{self!r} is closed")
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
            # A daemon, so that the thread does not keep the process alive.
            self._thread = threading.Thread(
                target=_run, args=(self._loop,), name="emcache-fake-server", daemon=True
            )
            self._thread.start()
        self.listen()

    def kill(self) -> None:
        """Close all connections, refuse new ones, and forget all items, until :meth:`start`."""
        if self._is_open:
            self.refuse()
        self._is_paused = False
        with self._lock:
            self._store.flush()
            self._store.counters.clear()

    stop = kill

    def restart(self) -> None:
        """Kill and start the server: same address, no items."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Stop the server and release its port and files. A second call does nothing."""
        self.kill()
        if self._thread is not None and self._loop is not None and self._is_open:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._is_closed = True
        if self._holder is not None:
            self._holder.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- the clock, commands and counters --------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Move the clock of the server forward: items expire as if the time had passed."""
        if seconds < 0:
            raise ValueError("seconds must not be negative")
        with self._lock:
            self._store.ahead += seconds

    def command(self, command: bytes) -> bytes:
        r"""Execute commands without a connection, and return the whole answer.

        Failures that were set do not apply.

        Args:
            command: one or more commands as sent on the wire, each with its CRLF.

        Raises:
            ValueError, TypeError: not bytes, or no CRLF at the end.
        """
        if not isinstance(command, bytes):
            raise TypeError(f"a command must be bytes, not {type(command).__name__}")
        if not command.endswith(b"\r\n"):
            raise ValueError("a command must end with CRLF")
        with self._lock:
            return Session(self._text, self._meta, lambda _: []).receive(command)[0]

    def stats(self) -> dict[str, str]:
        """Return the counters of the server, by memcached's names."""
        with self._lock:
            return self._stats("")

    def flush(self) -> None:
        """Remove all items."""
        with self._lock:
            self._store.flush()

    def _stats(self, kind: str) -> dict[str, str]:
        store = self._store
        if kind == "settings":
            found: dict[str, Any] = {
                "maxbytes": store.memory_limit,
                "maxconns": 1024,
                "tcpport": self.port or 0,
                "evictions": "on",
                "item_size_max": store.item_limit,
                "cas_enabled": "yes",
            }
        elif kind:
            found = {}
        else:
            found = {**dict.fromkeys(_COUNTERS, 0), **store.counters}
            found |= {
                "pid": os.getpid(),
                "time": int(store.now()),
                "version": self._version,
                "threads": 1,
                "max_connections": 1024,
                "curr_connections": len(self._connections),
                "total_connections": self.accepted,
                "limit_maxbytes": store.memory_limit,
                "bytes": store.bytes,
                "curr_items": len(store.items),
            }
        return {name: str(value) for name, value in found.items()}

    # -- failures --------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Close all connections, and refuse new ones until :meth:`listen`; items stay."""
        self._do(self._refuse)

    def listen(self) -> None:
        """Accept connections again. Does nothing if the server is listening."""
        self._do(self._listen)

    def drop(self) -> None:
        """Reset all connections with RST; new ones are accepted."""
        self._do(self._drop)

    def pause(self) -> None:
        """Stop executing commands: connections stay open, new ones open too, without answers.

        Raises:
            RuntimeError: it is not running.
        """
        if not self.running:
            raise RuntimeError(f"{self!r} was not started, or was killed")
        self._is_paused = True

    def resume(self) -> None:
        """Execute the commands that arrived since :meth:`pause`, and continue."""
        self._is_paused = False
        if self.running:
            self._do(self._resume)

    def fail(
        self, *commands: str, error: str | None = OUT_OF_MEMORY, times: int | None = 1
    ) -> None:
        """Make the next commands fail, without executing them.

        Args:
            *commands: names as on the wire (``get``, ``set``, ``mg``). None for all but ``version``
                and ``mn``, with which clients check a node.
            error: the line of the answer; None to close the connection without an answer.
            times: how many commands; None for all until :meth:`heal`.
        """
        if times is not None:
            check_range("times", times, 1, 1 << 31)
        line = None if error is None else error.encode() + b"\r\n"
        with self._lock:
            self._faults.append(_Failure(commands, line, times))

    def heal(self) -> None:
        """Remove all failures and the delay, resume, and listen again."""
        with self._lock:
            self._faults.clear()
        self.delay = 0.0
        self.resume()
        if self._is_open:
            self.listen()

    def _fault_of(self, command: str) -> list[Fault]:
        for fault in self._faults:
            if command in fault.commands or (not fault.commands and command not in _PROBES):
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        self._faults.remove(fault)
                return [fault.line]
        return []

    @property
    def _is_open(self) -> bool:
        return self._loop is not None and not self._loop.is_closed() and not self._is_closed

    # -- the socket ------------------------------------------------------------------------------

    def _do(self, function: Callable[[], None]) -> None:
        """Call a function in the loop of the server, and wait for its end."""
        if self._loop is None or not self._is_open:
            raise RuntimeError(f"{self!r} was not started, or is closed")
        if asyncio._get_running_loop() is self._loop:
            function()
            return
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def call() -> None:
            try:
                function()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(call)
        done.result(_CALL_WITHIN)

    def _listen(self) -> None:
        if self._listener is not None:
            return
        if self.path is not None:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path)
        else:
            assert self.port is not None
            listener = _bound(self.port)
        listener.setblocking(False)
        listener.listen(128)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        self.accepted += 1
        client.setblocking(False)
        session = Session(self._text, self._meta, self._fault_of)
        loop = asyncio.get_running_loop()
        opening = loop.create_task(
            loop.connect_accepted_socket(lambda: Connection(self, session), client)
        )
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def _connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._listener is None:
            # It was accepted just before `refuse`.
            connection.abort()

    def _disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _refuse(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            if self.path is not None:
                Path(self.path).unlink()
        self._drop()

    def _drop(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _resume(self) -> None:
        for connection in list(self._connections):
            connection.resume()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    # Transports that were aborted close their sockets in the next iteration.
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock
