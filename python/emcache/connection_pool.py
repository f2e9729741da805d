"""The pool of connections to one node, for those who want whole connections."""

import dataclasses
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal

from ._address import Address, MemcachedHostAddress
from ._arguments import (
    Exptime,
    Pem,
    Value,
    address_text,
    check_limits,
    check_patience,
    endpoint,
    login_arguments,
    stats_words,
    tls_arguments,
)
from ._emcache import CoreCheckout, CoreClient, Security
from ._errors import AuthenticationError, attributed
from ._owner import CoreOwner
from .default_values import (
    DEFAULT_CONNECTION_TIMEOUT,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MIN_CONNECTIONS,
    DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER,
    DEFAULT_SSL,
    DEFAULT_SSL_VERIFY,
    DEFAULT_TIMEOUT,
)

logger: logging.Logger = logging.getLogger(__name__)

Fetched = tuple[list[bytes], list[bytes], list[int], list[int | None], bytearray]
"""``(keys, values, flags, cas tokens, error line)`` of the items that came, in order."""

_MAX_KEYS_LENGTH = 1000 - len(b"gats -2147483648\r\n")
"""Servers refuse longer retrieval lines if they arrive in pieces."""


@dataclasses.dataclass
class ConnectionPoolMetrics:
    """Counters of the connections to one node. Times are seconds, of the last 100 connects.

    The fields up to ``create_connection_upper`` are those of emcache 1.3.
    """

    cur_connections: int
    """Open now."""
    connections_created: int
    connections_created_with_error: int
    """Dials that failed."""
    connections_purged: int
    """Closed because nobody used them for a while."""
    connections_closed: int
    """Closed for whatever reason, purged ones included."""
    operations_executed: int
    """Requests that were answered, and not by an error."""
    operations_executed_with_error: int
    """Requests that were answered by an error, or not at all."""
    operations_waited: int
    """Requests that had to wait for a connection."""
    create_connection_avg: float | None
    create_connection_p50: float | None
    create_connection_p99: float | None
    create_connection_upper: float | None
    connections_checked_out: int = 0
    """Now with a holder of their own."""
    requests_in_flight: int = 0
    """Sent, or about to be, and unanswered now."""
    requests_queued: int = 0
    """Waiting for a connection now."""
    requests_abandoned: int = 0
    """Of those in flight: cancelled, or timed out; their answers will be dropped."""
    requests_retried: int = 0
    """Reads that were asked again after their connection was lost."""
    requests_timed_out: int = 0
    protocol_errors: int = 0
    """Connections that were closed because what came was no reply to what was asked."""
    bytes_read: int = 0
    bytes_written: int = 0
    connections_idle: int = 0
    """Now neither leased nor with a request that is unanswered."""
    reconnects: int = 0
    """Connections that took the place of one that was lost."""
    keys_shared: int = 0
    """Keys that several gets of one loop iteration asked for: the server was asked once."""


def metrics_of(core: CoreClient, node: int) -> ConnectionPoolMetrics:
    """Read the counters of one node."""
    return ConnectionPoolMetrics(**core.metrics(node))  # type: ignore[arg-type]


class ConnectionPool(CoreOwner):
    """Connections to one node, each leased as a whole.

    Made in a running event loop, by synchronous code too. What is not closed is closed when it is
    dropped, with a ``ResourceWarning``.

    Example::

        pool = ConnectionPool(MemcachedHostAddress("127.0.0.1", 11211), max_connections=10)
        async with pool.create_connection_context() as connection:
            await connection.storage_command(b"set", b"key", b"value", 0, 0, False, None)
        await pool.close()

    Args:
        address: the node.
        max_connections: at most this many, >= 1.
        min_connections: this many are opened at once and kept, 0 <= min <= max.
        purge_unused_connections_after: seconds after which an unused connection above the minimum
            is closed; None: never.
        connection_timeout: seconds for resolving the name and connecting; None: no limit.
        on_healthy_status_change_cb: called in the event loop with True or False when the node turns
            healthy or unhealthy. An exception in it is logged and changes nothing.
        ssl: speak TLS; for this and what follows up to ``password`` see
            :func:`emcache.create_client`.
        ssl_verify: whether the server's certificate must be valid, and for its name.
        ssl_extra_ca: CAs to trust besides those of the system.
        username: together with ``password``: log in.
        password: see ``username``.
        ssl_certfile: the client's own certificate.
        ssl_keyfile: its key.
        ssl_server_hostname: the name that the certificate must be valid for.
        ssl_min_version: ``"TLSv1.2"`` or ``"TLSv1.3"``.
        auth: how to log in, ``"ascii"`` or ``"sasl"``.
        timeout: seconds for each wait, for a connection or for a reply; None, as in emcache 1.3: no
            limit. (``asyncio.timeout`` around the whole does as well.)

    Raises:
        ValueError: an argument out of its range.
        TypeError: an argument of a wrong type.
        OSError: a file cannot be read.
        RuntimeError: no event loop is running.
    """

    def __init__(
        self,
        address: Address,
        max_connections: int = DEFAULT_MAX_CONNECTIONS,
        min_connections: int = DEFAULT_MIN_CONNECTIONS,
        purge_unused_connections_after: float | None = DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER,
        connection_timeout: float | None = DEFAULT_CONNECTION_TIMEOUT,
        on_healthy_status_change_cb: Callable[[bool], object] | None = None,
        ssl: bool = DEFAULT_SSL,
        ssl_verify: bool = DEFAULT_SSL_VERIFY,
        ssl_extra_ca: Pem | None = None,
        username: str | None = None,
        password: str | None = None,
        *,
        ssl_certfile: Pem | None = None,
        ssl_keyfile: Pem | None = None,
        ssl_server_hostname: str | None = None,
        ssl_min_version: Literal["TLSv1.2", "TLSv1.3"] | None = None,
        auth: Literal["ascii", "sasl"] | None = None,
        timeout: float | None = None,
    ) -> None:
        check_limits(min_connections, max_connections)
        endpoint(address)
        check_patience(
            timeout=timeout,
            connection_timeout=connection_timeout,
            purge_unused_connections_after=purge_unused_connections_after,
        )
        if on_healthy_status_change_cb is not None and not callable(on_healthy_status_change_cb):
            kind = type(on_healthy_status_change_cb).__name__
            raise TypeError(f"on_healthy_status_change_cb must be a function, not {kind}")
        # Never in a frame by parts: it holds the password, and the key.
        security = Security(
            tls_arguments(
                ssl,
                ssl_verify,
                ssl_extra_ca,
                ssl_certfile,
                ssl_keyfile,
                ssl_server_hostname,
                ssl_min_version,
                [address],
            ),
            login_arguments(username, password, auth),
        )
        limits = (min_connections, max_connections)
        self._open(
            address,
            limits,
            timeout,
            purge_unused_connections_after,
            connection_timeout,
            security,
            on_healthy_status_change_cb,
        )

    def _open(
        self,
        address: Address,
        limits: tuple[int, int],
        timeout: float | None,
        purge_after: float | None,
        connection_timeout: float | None,
        security: Security,
        on_healthy_status_change_cb: Callable[[bool], object] | None,
    ) -> None:
        self._address = address
        self._limits = limits
        self._grace = DEFAULT_TIMEOUT if timeout is None else timeout
        self._last_metrics: ConnectionPoolMetrics | None = None
        self._on_healthy_status_change_cb = on_healthy_status_change_cb
        # The core must not keep its pool alive: it would never be seen that nobody closed it.
        pool = weakref.ref(self)

        def tell(_node: int, what: str, _why: str | None) -> None:
            if what in ("healthy", "unhealthy") and (alive := pool()) is not None:
                alive._health_changed(what == "healthy")

        self._core = CoreClient(
            [endpoint(address)],
            timeout=timeout,
            min_connections=limits[0],
            max_connections=limits[1],
            purge_unused_connections_after=purge_after,
            connection_timeout=connection_timeout,
            purge_unhealthy_nodes=False,
            max_merged_keys=1,
            security=security,
            on_change=tell,
        )

    @classmethod
    def _to_ask(
        cls,
        address: Address,
        timeout: float,
        *,
        connection_timeout: float | None,
        security: Security,
    ) -> "ConnectionPool":
        """Make one for a question or two, with what was checked before."""
        pool = cls.__new__(cls)
        pool._open(address, (0, 1), timeout, None, connection_timeout, security, None)
        return pool

    def __repr__(self) -> str:
        state = "closed" if self._core.closed else "open"
        minimum, maximum = self._limits
        node = address_text(self._address)
        return f"<emcache.ConnectionPool {state} node={node} min={minimum} max={maximum}>"

    def _health_changed(self, healthy: bool) -> None:
        if self._on_healthy_status_change_cb is None:
            return
        try:
            self._on_healthy_status_change_cb(healthy)
        except Exception:
            logger.exception("on_healthy_status_change_cb of %r failed", self)

    async def close(self) -> None:
        """Close all connections, leased ones too; calls under way fail. Idempotent.

        Waits, at most for ``timeout`` (1 s if there is none), for commands that nobody waits for.
        """
        try:
            await self._drain()
        finally:
            if not self._core.closed:
                self._last_metrics = self._ended(self.metrics())
            self._core.close()

    def _ended(self, metrics: ConnectionPoolMetrics) -> ConnectionPoolMetrics:
        return dataclasses.replace(
            metrics,
            cur_connections=0,
            connections_closed=metrics.connections_closed + metrics.cur_connections,
            connections_checked_out=0,
            connections_idle=0,
            requests_in_flight=0,
            requests_queued=0,
            requests_abandoned=0,
        )

    def create_connection_context(self) -> "ConnectionContext":
        """Lease a connection: ``async with pool.create_connection_context() as connection``.

        Who waits is served first come, first served. Nobody else uses the connection until the
        context is left; how it is left (an exception, a cancellation) does not matter.

        Raises:
            NodeUnavailableError: on entering, the node is down.
            ClientClosedError: on entering, the pool is closed.
            OperationTimeoutError: on entering, none was free within the pool's ``timeout``.
        """
        return ConnectionContext(self)

    def metrics(self) -> ConnectionPoolMetrics:
        """Counters since the pool was made, up to when it was closed; a copy."""
        if self._last_metrics is not None:
            return dataclasses.replace(self._last_metrics)
        return metrics_of(self._core, 0)

    @property
    def total_connections(self) -> int:
        """How many are open."""
        return self.metrics().cur_connections


class ConnectionContext:
    """See :meth:`ConnectionPool.create_connection_context`."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._entered = False
        self._connection: Connection | None = None

    async def __aenter__(self) -> "Connection":
        if self._entered:
            raise RuntimeError("this context was entered already")
        self._entered = True
        # The one reference until it is returned: a cancellation on the way gives it back.
        self._connection = Connection(self._pool, await self._pool._core.check_out())
        return self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection._core.release()


class Connection:
    """A leased connection. Its commands give what the server said, without making an error of it.

    Replies are the line as it came, without CRLF: ``bytearray(b"STORED")``. None if ``noreply``.
    Arguments are checked as those of :class:`emcache.Client`.

    Raises:
        ValueError, TypeError: a command may not be sent; nothing was.
        ConnectionFailedError: the connection ended, or the server sent what is no reply.
        OperationTimeoutError: no reply within the pool's ``timeout``.
    """

    def __init__(self, pool: ConnectionPool, core: CoreCheckout) -> None:
        self._pool = pool
        self._core = core

    def closed(self) -> bool:
        """Whether it has ended, or was given back."""
        return self._core.closed

    def close(self) -> None:
        """Close it instead of giving it back to the pool."""
        self._core.close()

    async def fetch_command(self, cmd: bytes, keys: Sequence[bytes]) -> Fetched:
        """``b"get"`` or ``b"gets"``. Misses are absent from the lists."""
        return await self._gather(keys, lambda some: self._core.fetch(cmd, some))

    async def get_and_touch_command(
        self, cmd: bytes, exptime: Exptime, keys: Sequence[bytes]
    ) -> Fetched:
        """``b"gat"`` or ``b"gats"``. Misses are absent from the lists."""
        return await self._gather(keys, lambda some: self._core.get_and_touch(cmd, exptime, some))

    async def storage_command(
        self,
        command: bytes,
        key: bytes,
        value: Value,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
        cas: int | None = None,
    ) -> bytearray | None:
        """``b"set"``, ``b"add"``, ``b"replace"``, ``b"append"``, ``b"prepend"``, ``b"cas"``."""
        return await self._core.store(command, key, value, flags, exptime, noreply, cas)

    async def incr_decr_command(
        self, command: bytes, key: bytes, value: int, noreply: bool = False
    ) -> bytearray | None:
        """``b"incr"`` or ``b"decr"``; the reply is the new number as text, or ``NOT_FOUND``."""
        return await self._core.count(command, key, value, noreply)

    async def touch_command(
        self, key: bytes, exptime: Exptime, noreply: bool = False
    ) -> bytearray | None:
        """Change an exptime: ``TOUCHED`` or ``NOT_FOUND``."""
        return await self._core.touch(key, exptime, noreply)

    async def delete_command(self, key: bytes, noreply: bool = False) -> bytearray | None:
        """Delete an item: ``DELETED`` or ``NOT_FOUND``."""
        return await self._core.delete(key, noreply)

    async def flush_all_command(self, delay: int = 0, noreply: bool = False) -> bytearray | None:
        """``OK``."""
        return await self._core.flush_all(delay, noreply)

    async def version_command(self) -> bytearray | None:
        """``VERSION <text>``."""
        return await self._core.version()

    async def cache_memlimit_command(self, value: int, noreply: bool = False) -> bytearray | None:
        """``OK``, or why not."""
        return await self._core.cache_memlimit(value, noreply)

    async def stats_command(self, *args: str) -> bytearray | None:
        """Get all lines, joined by CRLF: ``STAT pid 1``, and so on up to ``END``."""
        return await self._core.stats(stats_words(args))

    async def verbosity_command(self, level: int, noreply: bool = False) -> bytearray | None:
        """``OK``."""
        return await self._core.verbosity(level, noreply)

    async def auth_command(self, username: str, password: str) -> bytearray | None:
        """Log in as to ``memcached -Y``: ``STORED``, or why not (that ends the connection)."""
        for name, value in (("username", username), ("password", password)):
            if value is None:
                raise TypeError(f"{name} must be a str, not NoneType")
        login_arguments(username, password, None)
        return await self._core.auth(username, password)

    async def auth(self, username: str, password: str) -> None:
        """Log in as :meth:`auth_command` does.

        Raises:
            AuthenticationError: the server refused it, or asks for no login.
        """
        reply = await self.auth_command(username, password)
        if (words := bytes(reply or b"")) != b"STORED":
            refusal = Security.refusal(words, password)
            # Not in this frame: the server may have repeated the password.
            del reply, words
            node = address_text(self._pool._address)
            error = AuthenticationError(f"{node} refused the login: {refusal}")
            raise attributed(error, node, "auth")

    async def autodiscovery(self) -> tuple[bool, int, list[tuple[str, str, int]]]:
        """Ask a hosted cluster for its nodes: ``(True, version, [(host, ip, port), ...])``.

        ``(False, -1, [])`` from a server that keeps no such list.
        """
        from ._topology import parse

        try:
            topology = parse(bytes(await self.config_command()))
        except ValueError:
            return False, -1, []
        # What was parsed has hosts only.
        nodes = [(node.address, node.ip or "") for node in topology.nodes]
        return (
            True,
            topology.version if topology.version is not None else -1,
            [
                (address.address, ip, address.port)
                for address, ip in nodes
                if isinstance(address, MemcachedHostAddress)
            ],
        )

    async def config_command(self) -> bytearray:
        """Get the list of nodes as it is kept, or the line that came instead of it."""
        return await self._core.config_get_cluster()

    async def _gather(
        self, keys: Iterable[bytes], ask: Callable[[list[bytes]], Awaitable[Fetched]]
    ) -> Fetched:
        lines = _lines(list(keys))
        if len(lines) > 1:
            # All before the first is sent.
            self._core.check_keys(list(keys))
        asked = [ask(some) for some in lines]
        keys_found, values, flags, cas, error = await asked[0]
        for line in asked[1:]:
            more = await line
            keys_found += more[0]
            values += more[1]
            flags += more[2]
            cas += more[3]
            error = error or more[4]
        return keys_found, values, flags, cas, error


def _lines(keys: list[bytes]) -> list[list[bytes]]:
    """Keys in groups that fit a line each; at least one group, for the core to check."""
    lines: list[list[bytes]] = [[]]
    length = 0
    for key in keys:
        length += len(key) + 1 if isinstance(key, bytes) else 1
        if length > _MAX_KEYS_LENGTH and lines[-1]:
            lines.append([])
            length = len(key) + 1
        lines[-1].append(key)
    return lines
