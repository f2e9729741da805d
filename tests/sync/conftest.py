"""These tests run no event loop, so one driver is enough."""

from collections.abc import Iterator

import pytest

import emcache.sync
from support.memcached import Memcached


@pytest.fixture
def sync_client(server: Memcached) -> Iterator[emcache.sync.Client]:
    """A client of the session's server."""
    with emcache.sync.create_client([server.address], timeout=10.0) as client:
        yield client
