"""A real memcached, started for the tests on a free port or a unix socket."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import emcache


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclass
class Memcached:
    """A running server; `port` and `path` are exclusive."""

    port: int | None = None
    path: str | None = None
    args: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    environment: dict[str, str] = field(default_factory=dict)
    login: dict[str, str] = field(default_factory=dict)
    """What a client has to say to be let in."""

    @property
    def address(self) -> emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath:
        if self.path is not None:
            return emcache.MemcachedUnixSocketPath(self.path)
        assert self.port is not None
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)

    def connect(self) -> socket.socket:
        if self.path is not None:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self.path)
            except OSError:
                sock.close()
                raise
            return sock
        return socket.create_connection(("127.0.0.1", self.port))

    def start(self) -> None:
        binary = shutil.which("memcached")
        assert binary, "memcached is not installed: run the tests by `make test`"
        where = (
            ["-s", self.path, "-a", "777"]
            if self.path
            else ["-l", "127.0.0.1", "-p", str(self.port)]
        )
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            [binary, *where, *user, *self.args], env=os.environ | self.environment
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.connect().close()
            except OSError:
                assert time.monotonic() < deadline, "memcached did not start"
                time.sleep(0.002)
            else:
                return

    def stop(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def ask(self, command: bytes) -> bytes:
        """The answer to one raw command, up to the first line that ends one."""
        with self.connect() as sock:
            sock.settimeout(5)
            sock.sendall(command)
            answer = b""
            while not answer.endswith((b"END\r\n", b"OK\r\n", b"STORED\r\n", b"ERROR\r\n")):
                chunk = sock.recv(65536)
                if not chunk:
                    break
                answer += chunk
            return answer

    def stats(self) -> dict[str, str]:
        lines = self.ask(b"stats\r\n").decode().splitlines()
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))


@contextlib.contextmanager
def memcached(
    *args: str,
    unix: bool = False,
    directory: Path | None = None,
    server: Memcached | None = None,
) -> Iterator[Memcached]:
    """Run a server of its own for one test; `server` is one of another kind to be started."""
    server = server or Memcached()
    server.args = args
    if unix:
        assert directory is not None
        directory.chmod(0o777)
        server.path = str(directory / f"memcached-{free_port()}.sock")
    else:
        server.port = free_port()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        if server.path:
            Path(server.path).unlink(missing_ok=True)
