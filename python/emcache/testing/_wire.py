"""Connections to a test server, and the options that clients need for it."""

import socket
import ssl
from typing import Any

from .._address import MemcachedHostAddress, MemcachedUnixSocketPath
from ._login import AuthFile, SaslDatabase, ascii_login, binary_flush, binary_stats, sasl_login
from ._tls import Tls

_ANSWER_WITHIN = 5.0


class Reachable:
    """A server on this machine, running or not."""

    path: str | None
    """The path of the unix socket; None on TCP."""
    port: int | None
    """The TCP port; None on a unix socket."""
    login: dict[str, str]
    """The login options of `create_client`."""
    _tls: Tls | None
    _users: AuthFile | SaslDatabase | None

    @property
    def address(self) -> MemcachedHostAddress | MemcachedUnixSocketPath:
        """The address that the server listens on."""
        if self.path is not None:
            return MemcachedUnixSocketPath(self.path)
        if self.port is None:
            raise RuntimeError("the server is closed")
        return MemcachedHostAddress("127.0.0.1", self.port)

    @property
    def client_options(self) -> dict[str, Any]:
        """The options of `create_client` besides the address, for TLS and login."""
        return (self._tls._client_options() if self._tls else {}) | self.login

    def connect(self) -> socket.socket:
        """Open a connection, with TLS if the server uses it; certificates are not verified."""
        sock = socket.socket(socket.AF_INET if self.path is None else socket.AF_UNIX)
        sock.settimeout(_ANSWER_WITHIN)
        try:
            sock.connect(self.path if self.path is not None else ("127.0.0.1", self.port))
            return self._secured(sock)
        except BaseException:
            sock.close()
            raise

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._tls is None:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self._tls.client:
            context.load_cert_chain(self._tls.client.certificate, self._tls.client.key)
        return context.wrap_socket(sock)

    def command(self, command: bytes) -> bytes:
        r"""Send commands without the client, and return the whole answer; log in if needed.

        Example::

            assert server.command(b"get key\r\n") == b"END\r\n"

        Args:
            command: one or more commands as sent on the wire, each with its CRLF.

        Raises:
            ValueError, TypeError: not bytes, or no CRLF at the end.
            TimeoutError: no answer within 5 s.
            RuntimeError: the server supports only the binary protocol (``auth="sasl"``).
        """
        if self._is_binary:
            raise RuntimeError(f"{self!r} supports only the binary protocol")
        if not isinstance(command, bytes):
            raise TypeError(f"a command must be bytes, not {type(command).__name__}")
        if not command.endswith(b"\r\n"):
            raise ValueError("a command must end with CRLF")
        # The answer to `mn` is the last one, so it marks the end.
        return self._ask(command + b"mn\r\n", b"MN\r\n").removesuffix(b"MN\r\n")

    def _ask(self, command: bytes, end: bytes) -> bytes:
        answer = b""
        with self._logged_in() as sock:
            sock.sendall(command)
            while not answer.endswith(end) and (chunk := sock.recv(65536)):
                answer += chunk
        return answer

    def _logged_in(self) -> socket.socket:
        sock = self.connect()
        try:
            if self.login:
                log_in = sasl_login if self._is_binary else ascii_login
                log_in(sock, self.login["username"], self.login["password"])
        except BaseException:
            sock.close()
            raise
        return sock

    def stats(self) -> dict[str, str]:
        """Return the server's own statistics."""
        if self._is_binary:
            with self._logged_in() as sock:
                return binary_stats(sock)
        lines = self._ask(b"stats\r\n", b"END\r\n").decode().splitlines()
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))

    def flush(self) -> None:
        """Remove all items."""
        if self._is_binary:
            with self._logged_in() as sock:
                binary_flush(sock)
        else:
            self.command(b"flush_all\r\n")

    @property
    def _is_binary(self) -> bool:
        return isinstance(self._users, SaslDatabase)
