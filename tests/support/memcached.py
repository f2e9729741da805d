"""A real memcached of `emcache.testing`, as the tests start it."""

import contextlib
import socket
from collections.abc import Iterator

from emcache.testing import MemcachedServer as Memcached


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def memcached(*args: str, unix: bool = False) -> Iterator[Memcached]:
    """Run a server of its own for one test."""
    with Memcached(*args, unix=unix) as server:
        yield server


def connections_so_far(server: Memcached) -> int:
    """Return how many connections a server has counted, with the one that asks."""
    return int(server.stats()["total_connections"])


def settled_connections(server: Memcached) -> int:
    """Do the same once all are counted.

    The thread that a connection is given to counts it, and the threads take turns. One that
    answers has counted all that it was given before.
    """
    for _ in range(int(server.stats()["threads"])):
        count = connections_so_far(server)
    return count
