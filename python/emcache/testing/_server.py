"""A real memcached for tests, on its own port."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Literal

from .._checks import check_bools, check_range
from ._login import AuthFile, SaslDatabase
from ._managed import Managed
from ._process import MemcachedStartError, Process, find_memcached, private_folder
from ._tls import Tls, create_tls
from ._wire import Reachable

_START_WITHIN = 10.0


class MemcachedServer(Reachable, Managed):
    """A memcached on 127.0.0.1 or a unix socket; it starts in about 10 ms.

    Example::

        with MemcachedServer("-m", "64") as server:
            async with emcache.create_client([server.address]) as client:
                await client.set(b"key", b"value")
                server.restart()

    The methods block for a few milliseconds, in asynchronous tests too. If the user is root,
    memcached is started with ``-u nobody``. Servers end with the test process, even if it is
    killed, or with the last child that it forked.

    Args:
        args: options of memcached, such as ``"-m", "64"``.
        port: the TCP port, which must be free at the start; None for a free port, which stays
            reserved until :meth:`close`.
        unix: listen on a unix socket instead, at ``path``.
        tls: use TLS; with True, with new certificates for ``localhost`` and ``127.0.0.1`` (this
            needs ``cryptography``).
        users: passwords by name; other users are refused.
        auth: ``"ascii"`` (``-Y``) or ``"sasl"`` (``-S``: PLAIN over the binary protocol; needs
            ``saslpasswd2``).
        binary: the program; None for the variable ``EMCACHE_TEST_MEMCACHED``, or else
            ``memcached``.
        environment: environment variables of memcached in addition to those of this process.

    Raises:
        ValueError: ``unix`` with ``port``, ``auth`` without ``users``, empty ``users``, or an
            argument out of range.
        TypeError: an argument has a wrong type.
        ModuleNotFoundError: ``tls=True`` without `cryptography`.
    """

    process: "subprocess.Popen[bytes] | None"
    """The process; None before the start. After a kill it is the last process."""

    def __init__(
        self,
        *args: str,
        port: int | None = None,
        unix: bool = False,
        tls: Tls | bool = False,
        users: Mapping[str, str] | None = None,
        auth: Literal["ascii", "sasl"] | None = None,
        binary: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.args = args
        self.process = None
        self.environment: dict[str, str] = {}
        self.login: dict[str, str] = {}
        self.path: str | None = None
        self.port: int | None = port
        self._binary = binary
        self._process: Process | None = None
        self._holder: socket.socket | None = None
        self._log: IO[bytes] | None = None
        self._folder: Path | None = None
        self._users = None
        self._tls = None
        check_bools(unix=unix)
        _check_place(port, unix)
        _check_texts("options of memcached", args)
        _check_security(tls, users, auth)
        if environment is not None:
            _check_mapping("environment", environment)
            self.environment.update(environment)
        try:
            self._set_up(unix, tls, users or {}, auth)
        except BaseException:
            self.close()
            raise

    def _set_up(
        self, unix: bool, tls: Tls | bool, users: Mapping[str, str], auth: str | None
    ) -> None:
        if unix:
            self.path = str(self._own_folder() / "memcached.sock")
        elif self.port is None:
            self._holder = _reserved()
            self.port = self._holder.getsockname()[1]
        if tls:
            self._tls = create_tls(self._own_folder()) if tls is True else tls
        if users:
            kind = SaslDatabase if auth == "sasl" else AuthFile
            self._users = kind(self._own_folder())
            self._users.allow(users)
            username, password = next(iter(users.items()))
            self.login = {"username": username, "password": password}
            self.login |= {"auth": auth} if auth else {}
            self.environment |= self._users.environment

    def _own_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(private_folder())
        return self._folder

    def __repr__(self) -> str:
        where = self.path if self.path is not None else f"127.0.0.1:{self.port}"
        state = "not running" if not self.running else "paused" if self.paused else "running"
        return f"<MemcachedServer {where} {state}>"

    # -- the process -----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the process runs, paused or not."""
        return self.process is not None and self.process.poll() is None

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` has stopped the process."""
        return self.running and self._process is not None and self._process.paused

    @property
    def log(self) -> str:
        """The standard error of memcached since the first start; see ``-v``."""
        if self._log is None:
            return ""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors="replace")

    def start(self) -> None:
        """Start memcached and wait until it listens.

        Raises:
            MemcachedNotFoundError: memcached is not installed.
            MemcachedStartError: it exited, did not listen within 10 s, or its port is in use.
            RuntimeError: it is running already.
        """
        if self.running:
            raise RuntimeError(f"{self!r} was started already")
        binary = find_memcached(self._binary)
        if self._log is None:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # The previous process may have exited by itself.
        self.kill()
        self._check_port()
        folder = str(self._folder) if self._folder else ""
        self._process = Process(self._command(binary), self.environment, folder, self._log)
        self.process = self._process.popen
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _check_port(self) -> None:
        """Refuse a port on which another program listens, which tests would take for the server."""
        if self._holder is not None:
            if sys.platform != "linux":
                self._holder.close()
        elif self.port is not None:
            try:
                _reserved(self.port).close()
            except OSError as error:
                raise MemcachedStartError(f"port {self.port}: {error.strerror}") from error

    def _command(self, binary: str) -> list[str]:
        where = ["-l", "127.0.0.1", "-p", str(self.port)]
        if self.path is not None:
            where = ["-s", self.path, "-a", "700" if os.geteuid() else "777"]
        tls = self._tls._arguments() if self._tls else []
        users = self._users.arguments if self._users else []
        as_root = [] if os.geteuid() else ["-u", "nobody"]
        return [binary, *where, *as_root, *tls, *users, *self.args]

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_WITHIN
        while self.running:
            try:
                self.connect().close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise MemcachedStartError(
                        f"memcached does not listen: {error}; its output: {self.log.strip()!r}"
                    ) from error
                time.sleep(0.002)
            else:
                return
        status = self.process.returncode if self.process else None
        raise MemcachedStartError(f"memcached exited ({status}); its output: {self.log.strip()!r}")

    def stop(self, timeout: float = 5.0) -> None:
        """Stop memcached with SIGTERM, which takes up to a second; kill it after ``timeout`` s.

        ``start`` starts it again without items, at the same address.
        """
        if self.running and self._process:
            self._process.terminate(timeout)
            self._process = None

    def kill(self) -> None:
        """Kill memcached (SIGKILL); its connections are closed. Does nothing if it is not running.

        ``start`` starts it again without items, at the same address.
        """
        if self._process:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Kill and start memcached: same address, no items."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Pause memcached (SIGSTOP): connections stay open, new ones open too, without answers.

        Raises:
            RuntimeError: it is not running.
        """
        if self._process is None or not self.running:
            raise RuntimeError(f"{self!r} was not started, or has exited")
        self._process.pause()

    def resume(self) -> None:
        """Continue after :meth:`pause`. Does nothing if the server has exited."""
        if self._process is not None and self.running:
            self._process.resume()

    def close(self) -> None:
        """Kill memcached, and release its port and files. A second call does nothing."""
        self.kill()
        if self._holder is not None:
            self._holder.close()
            self._holder = None
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def allow(self, **users: str) -> None:
        """Replace the users; open connections stay logged in.

        Raises:
            RuntimeError: the server was created without ``users``.
        """
        if self._users is None:
            raise RuntimeError(f"{self!r} has no login; create it with users")
        _check_mapping("users", users)
        self._users.allow(users)
        if self.running and self.process and isinstance(self._users, AuthFile):
            self.process.send_signal(signal.SIGHUP)


def _check_place(port: int | None, unix: bool) -> None:
    if not isinstance(unix, bool):
        kind = type(unix).__name__
        raise TypeError(f"unix must be a bool, not {kind}; the server chooses its path")
    if port is not None:
        check_range("port", port, 1, 65535)
    if unix and port is not None:
        raise ValueError("a server has a port or a unix socket, not both")


def _check_security(
    tls: Tls | bool, users: Mapping[str, str] | None, auth: Literal["ascii", "sasl"] | None
) -> None:
    if not isinstance(tls, bool | Tls):
        raise TypeError(f"tls must be a bool or a Tls, not {type(tls).__name__}")
    if auth not in (None, "ascii", "sasl"):
        raise ValueError(f"auth must be 'ascii', 'sasl' or None, not {auth!r}")
    if users is None and auth is not None:
        raise ValueError("auth needs users")
    if users is not None:
        _check_mapping("users", users)
        if not users:
            raise ValueError("users must not be empty")


def _check_mapping(name: str, given: Mapping[str, str]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict of str, not {type(given).__name__}")
    _check_texts(name, (*given, *given.values()))


def _check_texts(name: str, texts: Iterable[str]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be str, not {type(text).__name__}")


def _reserved(port: int = 0) -> socket.socket:
    """Bind a socket to reserve a port; connects to it are refused.

    On Linux memcached can still listen on the port, because both sockets set SO_REUSEADDR and this
    one does not listen.
    """
    sock = socket.socket()
    try:
        if sys.platform == "linux":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock
