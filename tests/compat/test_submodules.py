"""The modules of emcache 1.3.3 are attributes of the package, with the names that they had."""

import asyncio
import subprocess
import sys

import pytest

import emcache

pytestmark = pytest.mark.driver_independent

# Those of 1.3.3, but for what it imported itself and what is part of the core now.
NAMES = {
    "autobatching": [],
    "base": ["Client", "ClusterEvents", "ClusterManagment", "Item"],
    "client": ["_Client", "create_client"],
    "client_errors": [
        "AuthenticationError",
        "ClusterNoAvailableNodes",
        "CommandError",
        "NotFoundCommandError",
        "NotStoredStorageCommandError",
        "StorageCommandError",
    ],
    "cluster": [],
    "connection_pool": ["ConnectionContext", "ConnectionPool", "ConnectionPoolMetrics"],
    "default_values": [
        "DEFAULT_AUTOBATCHING_ENABLED",
        "DEFAULT_AUTOBATCHING_MAX_KEYS",
        "DEFAULT_AUTODISCOVERY_POLL_INTERVAL",
        "DEFAULT_AUTODISCOVERY_TIMEOUT",
        "DEFAULT_CONNECTION_TIMEOUT",
        "DEFAULT_MAX_CONNECTIONS",
        "DEFAULT_MIN_CONNECTIONS",
        "DEFAULT_PURGE_UNHEALTHY_NODES",
        "DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER",
        "DEFAULT_SSL",
        "DEFAULT_SSL_VERIFY",
        "DEFAULT_STARTUP_WAIT_AUTODISCOVERY",
        "DEFAULT_TIMEOUT",
    ],
    "node": [],
    "protocol": [
        "DELETED",
        "END",
        "ERROR",
        "EXISTS",
        "MemcacheAsciiProtocol",
        "NOT_FOUND",
        "NOT_STORED",
        "OK",
        "STORED",
        "TOUCHED",
        "VERSION",
    ],
    "timeout": ["OpTimeout"],
    "version": ["__version__"],
}
LATER = ["cache", "discovery", "metrics"]


def run(program: str) -> str:
    """Run a program in a process that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", [*NAMES, *LATER])
def test_each_is_an_attribute(module):
    names = NAMES.get(module, [])
    out = run(
        f"import emcache; module = emcache.{module}; print(module.__name__)\n"
        f"print([name for name in {names!r} if not hasattr(module, name)])\n"
        f"import emcache.{module}; assert emcache.{module} is module\n"
        f"assert {module!r} in dir(emcache)"
    )
    assert out.split("\n")[:2] == [f"emcache.{module}", "[]"]


def test_they_are_imported_when_they_are_asked_for():
    out = run("import sys, emcache; print([n for n in sys.modules if n.startswith('emcache.')])")
    for module in (
        "autobatching",
        "base",
        "cache",
        "client",
        "client_errors",
        "cluster",
        "discovery",
        "metrics",
        "protocol",
    ):
        assert f"'emcache.{module}'" not in out


def test_what_is_no_module():
    with pytest.raises(AttributeError, match="has no attribute 'modules'"):
        emcache.modules  # noqa: B018


def test_all_that_is_public_is_listed():
    assert set(emcache.__all__) <= set(dir(emcache))


async def test_the_timeout():
    loop = asyncio.get_running_loop()
    async with emcache.timeout.OpTimeout(None, loop), emcache.timeout.OpTimeout(30, loop):
        await asyncio.sleep(0)
    with pytest.raises(asyncio.TimeoutError):
        async with emcache.timeout.OpTimeout(0.01, loop):
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_checked_out_connections_are_of_the_class_of_then(server):
    pool = emcache.ConnectionPool(server.address)
    async with pool.create_connection_context() as connection:
        assert isinstance(connection, emcache.protocol.MemcacheAsciiProtocol)
        reply = await connection.storage_command(b"set", b"submodules", b"v", 0, 0, False, None)
        assert reply == emcache.protocol.STORED
    await pool.close()
