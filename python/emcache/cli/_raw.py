"""A connection of its own, for what the client has no command for."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._errors import (
    AuthenticationError,
    ConnectionFailedError,
    EmcacheError,
    OperationTimeoutError,
    ProtocolError,
)
from .._lookups import addresses
from ._exits import ServerLacksError
from ._settings import Settings, node_name

_CHUNK = 64 * 1024
_LONGEST_LINE = 64 * 1024


def tls_context(settings: Settings, *, verify: bool | None = None) -> ssl.SSLContext:
    """Make what Python's TLS needs, of the same options that the client takes."""
    context = ssl.create_default_context()
    # As the client does: a common name is no name.
    context.hostname_checks_common_name = False
    # From Python 3.13 on it wants of certificates what the client does not.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ca is not None:
        context.load_verify_locations(settings.ca)
    if settings.cert is not None:
        # Without a password it would ask for one on the terminal.
        context.load_cert_chain(settings.cert, settings.tls_key, password=lambda: "")
    if settings.no_verify if verify is None else not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_name(settings: Settings, address: Address) -> str:
    """Give the name that a node's certificate must be valid for; empty for a unix socket."""
    if settings.server_name is not None:
        return settings.server_name
    return address.address if isinstance(address, MemcachedHostAddress) else ""


@contextlib.contextmanager
def node_errors(address: Address, seconds: float) -> Iterator[None]:
    """Make what sockets raise into the errors of this package."""
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
        what = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
        text = f"{node}: {what or error or type(error).__name__}"
        raise _named(ConnectionFailedError(text), node) from error


def _named(error: EmcacheError, node: str) -> EmcacheError:
    error.node = node
    return error


class RawConnection:
    """Sends lines, and reads lines until one that ends an answer.

    Args:
        reader: what the server sends.
        writer: what it is sent.
        address: which node it is.
        seconds: limit of each wait.
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
        """Send bytes as they are."""
        self._writer.write(data)

    async def line(self) -> bytes:
        """Read a line without its end."""
        async with asyncio.timeout(self._seconds):
            try:
                line = await self._reader.readline()
            except ValueError:
                raise self._too_long() from None
        if not line.endswith(b"\n"):
            raise EOFError("the connection was closed, as proxies do for what they do not know")
        return line.rstrip(b"\r\n")

    async def lines(self) -> AsyncGenerator[list[bytes], None]:
        """Read lines without end, those together that came together."""
        rest = b""
        while True:
            async with asyncio.timeout(self._seconds):
                chunk = await self._reader.read(_CHUNK)
            if not chunk:
                raise EOFError("the connection was closed, as proxies do for what they do not know")
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise self._too_long()
            if whole:
                yield [line.removesuffix(b"\r") for line in whole]

    def _too_long(self) -> ProtocolError:
        return ProtocolError(f"{node_name(self.address)} sent a line that does not end")

    def close(self) -> None:
        """Close it at once, with whatever is unread."""
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def raw_connection(settings: Settings, address: Address) -> AsyncIterator[RawConnection]:
    """Connect to a node that the client has been let in by, and log in.

    Raises:
        ConnectionFailedError: it cannot be connected, or the connection was lost.
        OperationTimeoutError: it did not answer in time.
        AuthenticationError: the login was refused.
        ServerLacksError: it has no text protocol.
    """
    if settings.auth == "sasl":
        raise ServerLacksError("a server with SASL has no text protocol, which this needs")
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
    """Connect to the first address of a name that can be connected; ``name`` is for TLS."""
    # asyncio's own lookup would keep the command from ending while a DNS server is silent.
    *others, last = await addresses(host, port)
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
        # What it said may repeat the password.
        raise AuthenticationError(f"{node_name(connection.address)} refused the login")
