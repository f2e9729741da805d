"""Is the installed emcache whole? For a clean environment's Python, outside of the repository.

Starts a memcached of its own and uses the package as a user would. Any failure ends it.
"""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import emcache

FILES = ("py.typed", "_emcache.pyi", "base.py", "discovery/__init__.py")


def check_files() -> None:
    """See that what type checkers, lawyers and packagers look for came along."""
    folder = Path(emcache.__file__).parent
    assert "site-packages" in folder.parts, f"this is not an installed package: {folder}"
    missing = [name for name in FILES if not (folder / name).is_file()]
    assert not missing, f"{missing} not in {folder}"
    about = importlib.metadata.distribution("emcache")
    names = {path.name for path in about.files or ()}
    assert {"LICENSE", "THIRD-PARTY-LICENSES"} <= names, "licences are missing"
    assert about.version == emcache.__version__, (about.version, emcache.__version__)
    needed = [line for line in about.requires or () if "extra ==" not in line]
    assert not needed, f"the core needs nothing: {needed}"


def check_entry_points() -> list[str]:
    """Load each; one that cannot be loaded must lack an optional library, and nothing of ours."""
    points = importlib.metadata.distribution("emcache").entry_points
    for point in points:
        with contextlib.suppress(ImportError):
            point.load()
        assert importlib.util.find_spec(point.module), point
    return [point.name for point in points]


def check_command_line() -> None:
    """Ask for the version, and for what needs an extra that is not here."""
    version = run("--version")
    assert version.stdout == f"emcache {emcache.__version__}\n", version
    ping = run("ping")
    assert ping.returncode == 2, ping
    assert "emcache[cli]" in ping.stderr, ping


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m emcache``."""
    command = [sys.executable, "-I", "-m", "emcache", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def free_port() -> int:
    """Return one that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def memcached() -> Iterator[int]:
    """Run a server on a free port, until the end."""
    port = free_port()
    binary = shutil.which("memcached")
    assert binary, "memcached is not installed"
    is_root = sys.platform != "win32" and os.geteuid() == 0
    user = ["-u", "nobody"] if is_root else []
    process = subprocess.Popen([binary, "-l", "127.0.0.1", "-p", str(port), *user])
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for(port: int) -> None:
    """Return when somebody listens there."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline, "memcached did not start"
            time.sleep(0.01)
        else:
            return


async def use(port: int) -> str:
    """Use the commands that everybody uses; the server's version."""
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    async with emcache.create_client([address], timeout=10.0) as client:
        await client.set(b"smoke:a", b"one", flags=7, exptime=60)
        item = await client.get(b"smoke:a", return_flags=True)
        assert item is not None
        assert (item.value, item.flags) == (b"one", 7)
        await client.set(b"smoke:large", bytes(500_000))
        found = await client.get_many([b"smoke:a", b"smoke:large", b"smoke:none"])
        assert {key: len(item.value) for key, item in found.items()} == {
            b"smoke:a": 3,
            b"smoke:large": 500_000,
        }
        await client.delete(b"smoke:a")
        assert await client.get(b"smoke:a") is None
        version = await client.version(address)
        assert version, "no version"
        return version


async def refuse_plain(port: int) -> None:
    """See that TLS is compiled in: a handshake with a server that has none fails as it should."""
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    async with emcache.create_client(
        [address], ssl=True, timeout=5.0, connection_timeout=2.0
    ) as client:
        try:
            await client.get(b"smoke:tls")
        except (emcache.ConnectionFailedError, emcache.OperationTimeoutError):
            return
    raise AssertionError("a plain server took part in TLS")


async def find_nobody() -> None:
    """See that a call to where nobody listens fails at once, and with the right error."""
    address = emcache.MemcachedHostAddress("127.0.0.1", free_port())
    async with emcache.create_client([address], timeout=10.0) as client:
        try:
            await client.get(b"smoke:nobody")
        except emcache.ConnectionFailedError:
            return
    raise AssertionError("somebody answered")


def with_server(drivers: tuple[str, ...]) -> str:
    """Use a real server with each driver; its version."""
    version = ""
    with memcached() as port:
        wait_for(port)
        for driver in drivers:
            os.environ["EMCACHE_DRIVER"] = driver
            version = asyncio.run(use(port))
            asyncio.run(refuse_plain(port))
    return f"memcached {version}"


def main() -> None:
    """Try everything, with the driver that is chosen by itself and with the thread."""
    check_files()
    points = check_entry_points()
    check_command_line()
    asyncio.run(find_nobody())
    # There is no memcached for Windows.
    server = "no server" if sys.platform == "win32" else with_server(("", "thread"))
    sys.stdout.write(
        f"emcache {emcache.__version__}, Python {sys.version.split()[0]}, {server},"
        f" entry points {points}: works\n"
    )


if __name__ == "__main__":
    main()
