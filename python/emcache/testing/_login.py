"""Logins of test servers: their users, and the helper's own login."""

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .._errors import EmcacheError

_HEADER = struct.Struct(">BBHBBHIIQ")
_FLUSH, _STAT, _SASL_AUTH = 0x08, 0x10, 0x21


class SaslNotFoundError(EmcacheError, FileNotFoundError):
    """The programs of SASL are not installed."""


def find_saslpasswd() -> str:
    """Return the program that manages the users of SASL."""
    found = shutil.which("saslpasswd2", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SaslNotFoundError(
            "saslpasswd2 is not installed (Debian: apt-get install sasl2-bin libsasl2-modules)"
        )
    return found


class AuthFile:
    """The users of ``-Y``, in a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "users"
        self.arguments = ["-Y", str(self.file)]
        self.environment: dict[str, str] = {}

    def allow(self, users: Mapping[str, str]) -> None:
        """Accept these users and no others."""
        self.file.write_text("".join(f"{user}:{secret}\n" for user, secret in users.items()))
        # The server may run as another user.
        self.file.chmod(0o644)


class SaslDatabase:
    """The users of ``-S``, in SASL's database."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "sasldb2"
        self.arguments = ["-S"]
        self.environment = {"SASL_CONF_PATH": str(folder)}
        (folder / "memcached.conf").write_text(
            "mech_list: plain\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
            f"sasldb_path: {self._file}\n"
        )

    def allow(self, users: Mapping[str, str]) -> None:
        """Accept these users and no others."""
        program = find_saslpasswd()
        self._file.unlink(missing_ok=True)
        for user, secret in users.items():
            command = [program, "-p", "-c", "-a", "memcached", "-f", str(self._file), user]
            subprocess.run(command, input=secret.encode(), check=True)
        self._file.chmod(0o644)


def ascii_login(sock: socket.socket, username: str, password: str) -> None:
    """Log in with the text protocol."""
    credentials = f"{username} {password}".encode()
    sock.sendall(b"set _ _ _ %d\r\n%b\r\n" % (len(credentials), credentials))
    _check(_exactly(sock, 8) == b"STORED\r\n")


def sasl_login(sock: socket.socket, username: str, password: str) -> None:
    """Log in with SASL PLAIN, over the binary protocol."""
    sock.sendall(_frame(_SASL_AUTH, b"PLAIN", f"\0{username}\0{password}".encode()))
    _check(_read_frame(sock)[0] == 0)


def binary_stats(sock: socket.socket) -> dict[str, str]:
    """Return the statistics, over the binary protocol."""
    sock.sendall(_frame(_STAT))
    found = {}
    while (answer := _read_frame(sock))[1]:
        found[answer[1].decode()] = answer[2].decode()
    return found


def binary_flush(sock: socket.socket) -> None:
    """Remove all items, over the binary protocol."""
    sock.sendall(_frame(_FLUSH))
    _read_frame(sock)


def _check(is_accepted: bool) -> None:
    if not is_accepted:
        raise PermissionError("the server refused the login of the test helper")


def _frame(opcode: int, key: bytes = b"", value: bytes = b"") -> bytes:
    size = len(key) + len(value)
    return _HEADER.pack(0x80, opcode, len(key), 0, 0, 0, size, 0, 0) + key + value


def _read_frame(sock: socket.socket) -> tuple[int, bytes, bytes]:
    """Return status, key and value of an answer."""
    _, _, key_size, extras, _, status, size, _, _ = _HEADER.unpack(_exactly(sock, _HEADER.size))
    body = _exactly(sock, size)[extras:]
    return status, body[:key_size], body[key_size:]


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    return data
