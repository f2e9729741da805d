"""``flush_all`` of all nodes, for libraries that expect one exception."""

import asyncio

from .._client import Client


async def flush_nodes(client: Client) -> None:
    """Invalidate the items of all nodes; raise the first error after all nodes were tried."""
    nodes = client.cluster_managment().nodes()
    results = await asyncio.gather(*map(client.flush_all, nodes), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
