"""A separate connection, for commands that the client does not have."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._errors import (
    AuthenticationError,
    ConnectionFailedError,
    EmcacheError,
    OperationTimeoutError,
    ProtocolError,
)
from ..discovery._dns import resolve
from ._exit_codes import ServerLacksError
from ._settings import Settings, node_name

_CHUNK = 64 * 1024
_LONGEST_LINE = 64 * 1024


def tls_context(settings: Settings, *, verify: bool | None = None) -> ssl.SSLContext:
    """Return a context for Python's TLS, from the options of the client."""
    context = ssl.create_default_context()
    # As in the client: the common name is not a host name.
    context.hostname_checks_common_name = False
    # Python 3.13 and later check more than the client does.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ca is not None:
        context.load_verify_locations(settings.ca)
    if settings.cert is not None:
        # Without a password function, OpenSSL would ask on the terminal.
        context.load_cert_chain(settings.cert, settings.tls_key, password=lambda: "")
    if settings.no_verify if verify is None else not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_name(settings: Settings, address: Address) -> str:
    """Return the name that a node's certificate must match; empty for a unix socket."""
    if settings.server_name is not None:
        return settings.server_name
    return address.address if isinstance(address, MemcachedHostAddress) else ""


@contextlib.contextmanager
def node_errors(address: Address, seconds: float) -> Iterator[None]:
    """Convert the errors of sockets to errors of this package."""
    node = node_name(address)
    try:
        yield
    except EmcacheError as error:
        error.node = error.node or node
        raise
    except TimeoutError as error:
        raise _named(
            OperationTimeoutError(f"{node} did not answer within {seconds:g} s"), node
        ) from error
    except (OSError, EOFError, UnicodeError) as error:
        reason = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
        text = f"{node}: {reason or error or type(error).__name__}"
        raise _named(ConnectionFailedError(text), node) from error


def _named(error: EmcacheError, node: str) -> EmcacheError:
    error.node = node
    return error


class RawConnection:
    """A connection that sends bytes and reads lines.

    Args:
        reader: the stream from the server.
        writer: the stream to the server.
        address: the node.
        seconds: the limit of each wait.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: Address,
        seconds: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.address = address
        self._seconds = seconds

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)

    async def line(self) -> bytes:
        """Read a line, without its CRLF."""
        async with asyncio.timeout(self._seconds):
            try:
                line = await self._reader.readline()
            except ValueError:
                raise self._too_long() from None
        if not line.endswith(b"\n"):
            raise EOFError("the connection was closed, as proxies do for unsupported commands")
        return line.rstrip(b"\r\n")

    async def lines(self) -> AsyncGenerator[list[bytes], None]:
        """Yield lines for ever, in batches as they arrive."""
        rest = b""
        while True:
            async with asyncio.timeout(self._seconds):
                chunk = await self._reader.read(_CHUNK)
            if not chunk:
                raise EOFError("the connection was closed, as proxies do for unsupported commands")
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise self._too_long()
            if whole:
                yield [line.removesuffix(b"\r") for line in whole]

    async def chunks_for(self, seconds: float) -> AsyncGenerator[bytes, None]:
        """Yield what arrives within a number of seconds, cut after the last whole line."""
        rest, deadline = b"", time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    chunk = await self._reader.read(_CHUNK)
            except TimeoutError:
                return
            if not chunk:
                raise EOFError("the connection was closed")
            end = chunk.rfind(b"\n") + 1
            if end:
                yield rest + chunk[:end]
                rest = chunk[end:]
            else:
                rest += chunk
            if len(rest) > _LONGEST_LINE:
                raise self._too_long()

    def _too_long(self) -> ProtocolError:
        return ProtocolError(f"{node_name(self.address)} sent a line without an end")

    def close(self) -> None:
        """Close the connection at once and discard unread data."""
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def raw_connection(settings: Settings, address: Address) -> AsyncIterator[RawConnection]:
    """Connect to a node, and log in.

    Raises:
        ConnectionFailedError: the connection failed or was lost.
        OperationTimeoutError: the node did not answer in time.
        AuthenticationError: the node refused the login.
        ServerLacksError: the node has no text protocol (SASL).
    """
    if settings.auth == "sasl":
        raise ServerLacksError("this command needs the text protocol, which SASL does not support")
    with node_errors(address, settings.timeout):
        async with asyncio.timeout(settings.timeout):
            reader, writer = await _connect(settings, address)
        connection = RawConnection(reader, writer, address, settings.timeout)
        try:
            await _log_in(connection, settings)
            yield connection
        finally:
            connection.close()


async def _connect(
    settings: Settings, address: Address
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = tls_context(settings) if settings.uses_tls else None
    name = server_name(settings, address) if tls is not None else None
    match address:
        case MemcachedUnixSocketPath(path):
            return await asyncio.open_unix_connection(path, ssl=tls, server_hostname=name)
        case MemcachedHostAddress(host, port):
            return await open_tcp(host, port, tls, name)


async def open_tcp(
    host: str, port: int, tls: ssl.SSLContext | None, name: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address of ``host`` that works; ``name`` is the TLS server name."""
    # asyncio's own lookup would delay the exit while a DNS server is silent.
    *others, last = await resolve(host, port)
    for ip in others:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(ip, port, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(last, port, ssl=tls, server_hostname=name)


async def _log_in(connection: RawConnection, settings: Settings) -> None:
    login = settings.login()
    if not login:
        return
    credentials = f"{login['username']} {login['password']}".encode()
    connection.send(b"set _ _ _ %d\r\n%b\r\n" % (len(credentials), credentials))
    if await connection.line() != b"STORED":
        # The reply may repeat the password.
        raise AuthenticationError(f"{node_name(connection.address)} refused the login")
