"""The client of commands about keys, which says when a substitute served them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import click

from .._address import Address
from .._client import Client
from .._errors import EmcacheError
from ._settings import Settings, node_name

_POLL = 0.02


@contextlib.asynccontextmanager
async def item_client(settings: Settings) -> AsyncIterator[Client]:
    """Open a client with the failover of ``--failover``; report at the end whether it was used."""
    async with await settings.item_client() as client:
        yield client
        _report(client)


def _report(client: Client) -> None:
    counters = client.metrics().failover
    if counters is None or not (counters.reads or counters.writes):
        return
    down = ", ".join(map(node_name, client.cluster_managment().unhealthy_nodes()))
    click.echo(f"emcache: {down} is down; a substitute answered", err=True)
    if counters.writes:
        text = "an older value there is not deleted when the node comes back; see docs/failover.md"
        click.echo(f"emcache: {text}", err=True)


async def wait_for_health(client: Client, seconds: float) -> None:
    """Return when it is known of each node whether it is up, or after some seconds."""
    cluster = client.cluster_managment()

    async def known(node: Address) -> None:
        while node not in cluster.unhealthy_nodes():
            with contextlib.suppress(EmcacheError):
                await client.version(node)
                return
            await asyncio.sleep(_POLL)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(known, cluster.nodes()))
