"""The pool of connections to one node, for programs that check out whole connections."""

import dataclasses
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal

from ._address import Address, Node
from ._checks import check_timeouts
from ._emcache import CoreCheckout, CoreClient, Routing, Security
from ._errors import AuthenticationError, with_origin
from ._lifecycle import CoreOwner
from ._memcached.addresses import format_address, parse_node, to_endpoint
from ._options import Pem, check_limits, login_arguments, stats_arguments, tls_arguments
from ._pool_metrics import ConnectionPoolMetrics as ConnectionPoolMetrics
from ._types import Exptime, Value
from .default_values import (
    DEFAULT_CONNECTION_TIMEOUT,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MIN_CONNECTIONS,
    DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER,
    DEFAULT_ROUTING,
    DEFAULT_SSL,
    DEFAULT_SSL_VERIFY,
    DEFAULT_TIMEOUT,
)

logger: logging.Logger = logging.getLogger(__name__)

Fetched = tuple[list[bytes], list[bytes], list[int], list[int | None], bytearray]
"""``(keys, values, flags, cas tokens, error line)`` of the items that were found, in order."""

_MAX_KEYS_LENGTH = 1000 - len(b"gats -2147483648\r\n")
"""Servers may refuse longer retrieval lines if they arrive in several segments."""


def metrics_of(core: CoreClient, node: int) -> ConnectionPoolMetrics:
    """Read the counters of one node."""
    return ConnectionPoolMetrics(**core.metrics(node))  # type: ignore[arg-type]


class ConnectionPool(CoreOwner):
    """Connections to one node, for callers that check out a whole connection.

    Create it while an event loop is running; synchronous code can do that too. A pool that is
    garbage-collected without :meth:`close` is closed with a ``ResourceWarning``.

    Example::

        pool = ConnectionPool(MemcachedHostAddress("127.0.0.1", 11211), max_connections=10)
        async with pool.create_connection_context() as connection:
            await connection.storage_command(b"set", b"key", b"value", 0, 0, False, None)
        await pool.close()

    Args:
        address: the node, as an address or as its text (``"cache-1:11211"``).
        max_connections: the most connections, >= 1.
        min_connections: connections that are opened at once and kept open, 0 <= min <= max.
        purge_unused_connections_after: seconds after which an unused connection above the minimum
            is closed; None for never.
        connection_timeout: seconds for name resolution and connect; None for no limit.
        on_healthy_status_change_cb: called in the event loop with True or False when the node
            becomes healthy or unhealthy. Its exceptions are logged and otherwise ignored.
        ssl: connect with TLS; for this and the options down to ``password`` see
            :func:`emcache.create_client`.
        ssl_verify: verify the server's certificate and its name.
        ssl_extra_ca: CAs to trust in addition to those of the system.
        username: the name for the login; together with ``password``.
        password: see ``username``.
        ssl_certfile: the client's certificate.
        ssl_keyfile: the key of ``ssl_certfile``.
        ssl_server_hostname: the name that the certificate must match.
        ssl_min_version: ``"TLSv1.2"`` or ``"TLSv1.3"``.
        auth: the kind of login, ``"ascii"`` or ``"sasl"``.
        timeout: seconds for each wait, for a connection or for a reply; None for no limit, as in
            emcache 1.3. (``asyncio.timeout`` around the whole works as well.)

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument has a wrong type.
        OSError: a file cannot be read.
        RuntimeError: no event loop is running.
    """

    def __init__(
        self,
        address: Node,
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
        address = parse_node(address)
        check_timeouts(
            timeout=timeout,
            connection_timeout=connection_timeout,
            purge_unused_connections_after=purge_unused_connections_after,
        )
        if on_healthy_status_change_cb is not None and not callable(on_healthy_status_change_cb):
            kind = type(on_healthy_status_change_cb).__name__
            raise TypeError(f"on_healthy_status_change_cb must be a function, not {kind}")
        # Tracebacks show local variables, so the password and the key must not be in any.
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
        self._close_timeout = DEFAULT_TIMEOUT if timeout is None else timeout
        self._last_metrics: ConnectionPoolMetrics | None = None
        self._on_healthy_status_change_cb = on_healthy_status_change_cb
        # A strong reference from the core would keep an unclosed pool alive for ever.
        pool = weakref.ref(self)

        def on_change(_node: int, change: str, _reason: str | None) -> None:
            if change in ("healthy", "unhealthy") and (alive := pool()) is not None:
                alive._health_changed(change == "healthy")

        self._core = CoreClient(
            [to_endpoint(address)],
            timeout=timeout,
            min_connections=limits[0],
            max_connections=limits[1],
            purge_unused_connections_after=purge_after,
            connection_timeout=connection_timeout,
            purge_unhealthy_nodes=False,
            max_merged_keys=1,
            security=security,
            routing=Routing(DEFAULT_ROUTING, [], None),  # there is one node
            failover=None,
            on_change=on_change,
        )

    @classmethod
    def _for_discovery(
        cls,
        address: Address,
        timeout: float,
        *,
        connection_timeout: float | None,
        security: Security,
    ) -> "ConnectionPool":
        """Create a pool for a few queries, with options that were checked before."""
        pool = cls.__new__(cls)
        pool._open(address, (0, 1), timeout, None, connection_timeout, security, None)
        return pool

    def __repr__(self) -> str:
        state = "closed" if self._core.closed else "open"
        minimum, maximum = self._limits
        node = format_address(self._address)
        return f"<emcache.ConnectionPool {state} node={node} min={minimum} max={maximum}>"

    def _health_changed(self, healthy: bool) -> None:
        if self._on_healthy_status_change_cb is None:
            return
        try:
            self._on_healthy_status_change_cb(healthy)
        except Exception:
            logger.exception("on_healthy_status_change_cb of %r failed", self)

    async def close(self) -> None:
        """Close all connections, including those that are checked out; pending calls fail.

        First waits, at most for ``timeout`` (1 s without one), for the replies to commands sent
        with ``noreply``. A second call does nothing.
        """
        try:
            await self._drain()
        finally:
            if not self._core.closed:
                self._last_metrics = self._metrics_after_close(self.metrics())
            self._core.close()

    def _metrics_after_close(self, metrics: ConnectionPoolMetrics) -> ConnectionPoolMetrics:
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
        """Check out a connection: ``async with pool.create_connection_context() as connection``.

        Waiting callers are served in order. No other caller uses the connection until the context
        is left, with or without an exception or a cancellation.

        Raises:
            NodeUnavailableError: on entering, the node is down.
            ClientClosedError: on entering, the pool is closed.
            OperationTimeoutError: on entering, no connection was free within ``timeout``.
        """
        return ConnectionContext(self)

    def metrics(self) -> ConnectionPoolMetrics:
        """Return a copy of the counters since the pool was created; they stop at its close."""
        if self._last_metrics is not None:
            return dataclasses.replace(self._last_metrics)
        return metrics_of(self._core, 0)

    @property
    def total_connections(self) -> int:
        """The number of open connections."""
        return self.metrics().cur_connections


class ConnectionContext:
    """See :meth:`ConnectionPool.create_connection_context`."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._entered = False
        self._connection: Connection | None = None

    async def __aenter__(self) -> "Connection":
        if self._entered:
            raise RuntimeError("this context was entered already; create another one")
        self._entered = True
        # The only reference: if a cancellation drops it, the connection returns to the pool.
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
    """A connection that is checked out. Its commands return replies instead of raising errors.

    Replies are the line of the server without CRLF, such as ``bytearray(b"STORED")``, and None with
    ``noreply``. Arguments are checked as those of :class:`emcache.Client`.

    Raises:
        ValueError, TypeError: an argument is not valid; nothing was sent.
        ConnectionFailedError: the connection was lost, or the server sent an unexpected reply.
        OperationTimeoutError: no reply within the pool's ``timeout``.
    """

    def __init__(self, pool: ConnectionPool, core: CoreCheckout) -> None:
        self._pool = pool
        self._core = core

    def closed(self) -> bool:
        """Return whether the connection is closed, or was returned to the pool."""
        return self._core.closed

    def close(self) -> None:
        """Close the connection instead of returning it to the pool."""
        self._core.close()

    async def fetch_command(self, cmd: bytes, keys: Sequence[bytes]) -> Fetched:
        """Send ``b"get"`` or ``b"gets"``. Misses are absent from the lists."""
        return await self._fetch_lines(keys, lambda line: self._core.fetch(cmd, line))

    async def get_and_touch_command(
        self, cmd: bytes, exptime: Exptime, keys: Sequence[bytes]
    ) -> Fetched:
        """Send ``b"gat"`` or ``b"gats"``. Misses are absent from the lists."""
        return await self._fetch_lines(
            keys, lambda line: self._core.get_and_touch(cmd, exptime, line)
        )

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
        """Send a storage command.

        Args:
            command: ``b"set"``, ``b"add"``, ``b"replace"``, ``b"append"``, ``b"prepend"`` or
                ``b"cas"``.
            key: see :class:`emcache.Client`.
            value: see :class:`emcache.Client`.
            flags: see :class:`emcache.Client`.
            exptime: see :class:`emcache.Client`.
            noreply: see :class:`emcache.Client`.
            cas: the token, with ``b"cas"`` only.
        """
        return await self._core.store(command, key, value, flags, exptime, noreply, cas)

    async def incr_decr_command(
        self, command: bytes, key: bytes, value: int, noreply: bool = False
    ) -> bytearray | None:
        """Send ``b"incr"`` or ``b"decr"``; the reply is the new number, or ``NOT_FOUND``."""
        return await self._core.count(command, key, value, noreply)

    async def touch_command(
        self, key: bytes, exptime: Exptime, noreply: bool = False
    ) -> bytearray | None:
        """Update an exptime; the reply is ``TOUCHED`` or ``NOT_FOUND``."""
        return await self._core.touch(key, exptime, noreply)

    async def delete_command(self, key: bytes, noreply: bool = False) -> bytearray | None:
        """Delete an item; the reply is ``DELETED`` or ``NOT_FOUND``."""
        return await self._core.delete(key, noreply)

    async def flush_all_command(self, delay: int = 0, noreply: bool = False) -> bytearray | None:
        """Invalidate all items; the reply is ``OK``."""
        return await self._core.flush_all(delay, noreply)

    async def version_command(self) -> bytearray | None:
        """Ask for the version; the reply is ``VERSION <text>``."""
        return await self._core.version()

    async def cache_memlimit_command(self, value: int, noreply: bool = False) -> bytearray | None:
        """Set the memory limit, in MiB; the reply is ``OK`` or an error."""
        return await self._core.cache_memlimit(value, noreply)

    async def stats_command(self, *args: str) -> bytearray | None:
        """Return all lines of statistics, from ``STAT pid 1`` to ``END``, joined by CRLF."""
        return await self._core.stats(stats_arguments(args))

    async def verbosity_command(self, level: int, noreply: bool = False) -> bytearray | None:
        """Set how much the server logs; the reply is ``OK``."""
        return await self._core.verbosity(level, noreply)

    async def auth_command(self, username: str, password: str) -> bytearray | None:
        """Log in as to ``memcached -Y``; the reply is ``STORED``, or an error before a close."""
        for name, value in (("username", username), ("password", password)):
            if value is None:
                raise TypeError(f"{name} must be a str, not NoneType")
        login_arguments(username, password, None)
        return await self._core.auth(username, password)

    async def auth(self, username: str, password: str) -> None:
        """Log in as :meth:`auth_command` does.

        Raises:
            AuthenticationError: the server refused the login, or does not support logins.
        """
        reply = await self.auth_command(username, password)
        if (words := bytes(reply or b"")) != b"STORED":
            refusal = Security.refusal(words, password)
            # Tracebacks show local variables, and the server may have repeated the password.
            del reply, words
            node = format_address(self._pool._address)
            error = AuthenticationError(f"{node} refused the login: {refusal}")
            raise with_origin(error, node, "auth")

    async def autodiscovery(self) -> tuple[bool, int, list[tuple[str, str, int]]]:
        """Ask a hosted cluster for its nodes: ``(True, version, [(host, ip, port), ...])``.

        A server without such a list returns ``(False, -1, [])``.

        Wire: ``config get cluster``
        """
        from ._memcached.cluster_config import parse_cluster_config

        try:
            version, nodes = parse_cluster_config(bytes(await self.config_command()))
        except ValueError:
            return False, -1, []
        return True, version, nodes

    async def config_command(self) -> bytearray:
        """Return the list of nodes as the cluster stores it, or the reply in place of a list."""
        return await self._core.config_get_cluster()

    async def _fetch_lines(
        self, keys: Iterable[bytes], fetch: Callable[[list[bytes]], Awaitable[Fetched]]
    ) -> Fetched:
        """Fetch any number of keys, in as many command lines as they need."""
        lines = _split_lines(list(keys))
        if len(lines) > 1:
            # Every key is checked before the first line is sent.
            self._core.check_keys(list(keys))
        replies = [fetch(line) for line in lines]
        found, values, flags, cas, error = await replies[0]
        for reply in replies[1:]:
            more = await reply
            found += more[0]
            values += more[1]
            flags += more[2]
            cas += more[3]
            error = error or more[4]
        return found, values, flags, cas, error


def _split_lines(keys: list[bytes]) -> list[list[bytes]]:
    """Group keys that fit one command line; at least one group, so that the core checks it."""
    lines: list[list[bytes]] = [[]]
    length = 0
    for key in keys:
        length += len(key) + 1 if isinstance(key, bytes) else 1
        if length > _MAX_KEYS_LENGTH and lines[-1]:
            lines.append([])
            length = len(key) + 1
        lines[-1].append(key)
    return lines
