"""What the tests of faults have in common; the proxy is the one of `emcache.testing`."""

import contextlib
import os
import random
import secrets
from collections.abc import Iterable, Iterator

import emcache
from emcache.testing import FaultProxy, Faults, Link

from .calls import until
from .memcached import Memcached
from .oracle import value_of

__all__ = ["RESTING", "Faults", "Link", "Recorder", "at_rest", "fault_proxy", "fill", "seeded"]


def seeded() -> random.Random:
    """Randomness that a failed test tells how to repeat: pytest shows what it printed."""
    seed = int(os.environ.get("EMCACHE_TEST_SEED") or secrets.randbits(32))
    print(f"EMCACHE_TEST_SEED={seed}")  # noqa: T201
    return random.Random(seed)


@contextlib.contextmanager
def fault_proxy(
    server: Memcached, plan=lambda _: Link(), rng: random.Random | None = None
) -> Iterator[FaultProxy]:
    """Stand before a server."""
    with FaultProxy(server, plan, rng=rng or seeded()) as proxy:
        yield proxy


def fill(server: Memcached, keys: Iterable[bytes]) -> None:
    """Give a server the oracle's values, without the client."""
    for key in keys:
        value = value_of(key)
        assert (
            server.command(b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value)) == b"STORED\r\n"
        )


#: Connections without anything in flight are closed after a while: see `at_rest`.
RESTING = {"min_connections": 0, "purge_unused_connections_after": 0.4}


async def at_rest(client: emcache.Client) -> None:
    """Wait until nothing is in flight: a `RESTING` client then closes its connections."""
    metrics = client.cluster_managment().connection_pool_metrics
    await until(lambda: all(pool.cur_connections == 0 for pool in metrics().values()))


class Recorder(emcache.ClusterEvents):
    """What the client tells of its nodes."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    async def on_node_healthy(self, cluster_managment, host):
        self.events.append(("healthy", host))

    async def on_node_unhealthy(self, cluster_managment, host):
        self.events.append(("unhealthy", host))
