"""What all tests share: a memcached for the session, and both event loops."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))

import emcache
from support.eager import make_eager
from support.failures import pytest_terminal_summary as pytest_terminal_summary
from support.loops import LOOPS
from support.memcached import Memcached, memcached


def pytest_asyncio_loop_factories(config, item):
    """Run every asynchronous test under both loops; with EMCACHE_TEST_EAGER=1 with eager tasks."""
    factories = dict(LOOPS)
    if SYNC:
        factories.pop("uvloop", None)
    if os.environ.get("EMCACHE_TEST_EAGER") != "1":
        return factories
    return {name: lambda make=make: make_eager(make()) for name, make in factories.items()}


class NoParameters:
    """The parameters of a test that has none."""

    params: ClassVar[dict[str, object]] = {}


SYNC = os.environ.get("EMCACHE_TEST_CLIENT") == "sync"
if SYNC:
    from support import sync_adapter

    sync_adapter.install()


def pytest_collection_modifyitems(items):
    """Leave out what only the asynchronous client has, and programs that need a missing uvloop."""
    if "uvloop" not in LOOPS:
        skip = pytest.mark.skip(reason="uvloop is not installed")
        for item in items:
            if "uvloop" in getattr(item, "callspec", NoParameters).params.values():
                item.add_marker(skip)
    if SYNC:
        items[:] = [item for item in items if not sync_adapter.is_asynchronous(item.name)]


@pytest.fixture(scope="session")
def server() -> Iterator[Memcached]:
    """One server for many tests: use keys of your own.

    It refuses `flush_all`, which would remove the items of later tests if it has a delay.
    """
    with memcached("-F", "-t", "2", "-m", "1024", "-c", "2048") as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[Memcached]]:
    """Three servers for many tests, which refuse `flush_all` too."""
    with memcached("-F") as a, memcached("-F") as b, memcached("-F") as c:
        yield [a, b, c]


@pytest_asyncio.fixture
async def client(server: Memcached) -> AsyncIterator[emcache.Client]:
    """A client of the session's server."""
    async with emcache.create_client([server.address]) as running:
        yield running


@pytest.fixture
def key(request) -> bytes:
    """A key that no other test uses."""
    return f"test:{abs(hash(request.node.nodeid)):x}".encode()
