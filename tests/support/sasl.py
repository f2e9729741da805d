"""A memcached that wants a login: SASL PLAIN over the binary protocol (-S), or a file (-Y)."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .memcached import Memcached, memcached

USER = "user"
# Without a "-": memcached looks for one past the end of numbers, where the password has been.
PASSWORD = "correct.horse.battery"
HEADER = struct.Struct(">BBHBBHIIQ")
STAT, SASL_AUTH = 0x10, 0x21


def frame(opcode: int, key: bytes = b"", value: bytes = b"") -> bytes:
    """A request of the binary protocol."""
    size = len(key) + len(value)
    return HEADER.pack(0x80, opcode, len(key), 0, 0, 0, size, 0, 0) + key + value


def read_frame(sock: socket.socket) -> tuple[int, bytes, bytes]:
    """Status, key and value of an answer."""
    _, _, key_size, extras, _, status, size, _, _ = HEADER.unpack(_exactly(sock, HEADER.size))
    body = _exactly(sock, size)[extras:]
    return status, body[:key_size], body[key_size:]


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk, "the server closed the connection"
        data += chunk
    return data


@dataclass
class SaslMemcached(Memcached):
    """A server that hears nothing but the binary protocol."""

    def stats(self) -> dict[str, str]:
        user, password = self.login["username"], self.login["password"]
        with self.connect() as sock:
            sock.settimeout(5)
            sock.sendall(frame(SASL_AUTH, b"PLAIN", f"\0{user}\0{password}".encode()))
            assert read_frame(sock)[0] == 0
            sock.sendall(frame(STAT))
            found = {}
            while (answer := read_frame(sock))[1]:
                found[answer[1].decode()] = answer[2].decode()
            return found


@contextlib.contextmanager
def sasl_memcached(
    *args: str, username: str = USER, password: str = PASSWORD
) -> Iterator[SaslMemcached]:
    """Run a server that lets one user in."""
    # Not in pytest's own directory: the server runs as nobody, who may not enter that.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "memcached.conf").write_text(
            "mech_list: plain\npwcheck_method: auxprop\nauxprop_plugin: sasldb\n"
            f"sasldb_path: {folder}/sasldb2\n"
        )
        enrol(folder, username, password)
        server = SaslMemcached(
            environment={"SASL_CONF_PATH": name},
            login={"username": username, "password": password, "auth": "sasl"},
        )
        with memcached("-S", *args, server=server):
            yield server


def enrol(folder: Path | str, username: str, password: str) -> None:
    """Let a user in with a new password, from now on."""
    binary = shutil.which("saslpasswd2", path=f"{os.environ['PATH']}:/usr/sbin")
    assert binary, "saslpasswd2 is not installed: run the tests by `make test`"
    database = Path(folder) / "sasldb2"
    subprocess.run(
        [binary, "-p", "-c", "-a", "memcached", "-f", str(database), username],
        input=password.encode(),
        check=True,
    )
    database.chmod(0o644)


@dataclass
class FileMemcached(Memcached):
    """A server that lets in whom its file names."""

    file: Path = Path()

    def allow(self, **passwords: str) -> None:
        """Write the file; a server that runs reads it again."""
        lines = [f"{user}:{password}\n" for user, password in passwords.items()]
        self.file.write_text("".join(lines))
        self.file.chmod(0o644)
        if self.process:
            self.process.send_signal(signal.SIGHUP)

    def lets_in(self, username: str, password: str) -> bool:
        """What the server says to this login."""
        with self.connect() as sock:
            return self._log_in(sock, username, password)

    def _log_in(self, sock: socket.socket, username: str, password: str) -> bool:
        credentials = f"{username} {password}".encode()
        sock.settimeout(5)
        sock.sendall(b"set _ _ _ %d\r\n%b\r\n" % (len(credentials), credentials))
        return _exactly(sock, 8) == b"STORED\r\n"

    def ask(self, command: bytes) -> bytes:
        """Log in, then as without a login."""
        with self.connect() as sock:
            assert self._log_in(sock, **self.login)
            sock.sendall(command)
            answer = b""
            while not answer.endswith((b"END\r\n", b"OK\r\n", b"STORED\r\n", b"ERROR\r\n")):
                chunk = sock.recv(65536)
                if not chunk:
                    break
                answer += chunk
            return answer


@contextlib.contextmanager
def file_memcached(
    *args: str, username: str = USER, password: str = PASSWORD
) -> Iterator[FileMemcached]:
    """Run a server that lets one user in."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = FileMemcached(
            file=folder / "users", login={"username": username, "password": password}
        )
        server.allow(**{username: password})
        with memcached("-Y", str(server.file), *args, server=server):
            yield server
