"""memcached servers for the examples, on free ports or unix sockets; stopped at the end."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import emcache

Address = emcache.MemcachedHostAddress | emcache.MemcachedUnixSocketPath


@contextlib.contextmanager
def memcached_cluster(
    tcp: int, unix: int = 0, memory_mib: int = 64, options: Sequence[str] = ()
) -> Iterator[list[Address]]:
    """Run servers and yield their addresses."""
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        addresses: list[Address] = []
        addresses += [emcache.MemcachedHostAddress("127.0.0.1", _free_port()) for _ in range(tcp)]
        addresses += [emcache.MemcachedUnixSocketPath(f"{folder}/{n}.sock") for n in range(unix)]
        try:
            processes += [_start(address, memory_mib, options) for address in addresses]
            for address in addresses:
                _wait(address)
            yield addresses
        finally:
            for process in processes:
                process.kill()  # SIGTERM would take a second
            for process in processes:
                process.wait()


def _start(address: Address, memory_mib: int, options: Sequence[str]) -> subprocess.Popen[bytes]:
    match address:
        case emcache.MemcachedUnixSocketPath(path):
            where = ["-s", path, "-a", "777"]
        case emcache.MemcachedHostAddress(host, port):
            where = ["-l", host, "-p", str(port)]
    as_root = ["-u", "nobody"] if os.geteuid() == 0 else []
    limits = ["-m", str(memory_mib), "-c", "4096"]
    # With TLS, memcached logs connections without a handshake, such as those of `_wait`.
    quiet = subprocess.DEVNULL if "-Z" in options else None
    return subprocess.Popen(["memcached", *where, *as_root, *limits, *options], stderr=quiet)


def _wait(address: Address) -> None:
    for _ in range(200):
        try:
            if isinstance(address, emcache.MemcachedUnixSocketPath):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(address.path)
            else:
                socket.create_connection((address.address, address.port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"memcached did not start on {address}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
