"""twemproxy (Debian's package is called nutcracker) in front of real memcacheds."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import emcache

from .memcached import Memcached, free_port

_START_WITHIN = 20.0


class Nutcracker:
    """A running proxy.

    Args:
        servers: what it distributes the keys over.
        timeout: milliseconds after which a server that hangs is a SERVER_ERROR; None: never.
        eject: leave out servers that fail.
    """

    def __init__(
        self, servers: Sequence[Memcached], timeout: int | None = None, eject: bool = False
    ) -> None:
        program = shutil.which("nutcracker", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.skip("nutcracker is not installed: tools/install-memcached nutcracker")
        self.servers = servers
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="nutcracker"))
        config = self._folder / "nutcracker.yml"
        lines = [
            "cache:",
            f"  listen: 127.0.0.1:{self.port}",
            "  hash: murmur",
            "  distribution: modula",
            f"  auto_eject_hosts: {str(eject).lower()}",
            *([f"  timeout: {timeout}"] if timeout is not None else []),
            "  servers:",
            *(f"   - 127.0.0.1:{server.port}:1" for server in servers),
        ]
        config.write_text("\n".join(lines) + "\n")
        self._log = self._folder / "log"
        options = {"-c": config, "-o": self._log, "-p": self._folder / "pid"}
        options |= {"-a": "127.0.0.1", "-s": free_port()}
        self._process = subprocess.Popen(
            [program, *(str(word) for option in options.items() for word in option)],
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> emcache.MemcachedHostAddress:
        return emcache.MemcachedHostAddress("127.0.0.1", self.port)

    def _wait(self) -> None:
        until = time.monotonic() + _START_WITHIN
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, "nutcracker does not listen"
            time.sleep(0.01)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder)


@contextlib.contextmanager
def nutcracker(
    servers: int = 2, timeout: int | None = None, eject: bool = False
) -> Iterator[Nutcracker]:
    """Run a proxy and its servers for one test."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Memcached()) for _ in range(servers)]
        proxy = Nutcracker(running, timeout, eject)
        stack.callback(proxy.close)
        yield proxy


async def keys_by_server(
    proxy: Nutcracker, client: emcache.Client, count: int = 60
) -> list[list[bytes]]:
    """Store keys through the proxy, each its own value, and say which server has which."""
    keys = [b"key%d" % number for number in range(count)]
    for key in keys:
        await client.set(key, key)
    found = []
    for server in proxy.servers:
        async with emcache.create_client([server.address]) as direct:
            found.append(list(await direct.get_many(keys)))
    assert all(found), [len(some) for some in found]
    assert sorted(key for some in found for key in some) == sorted(keys)
    return found
