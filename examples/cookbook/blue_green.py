"""Move a service to new memcached nodes without losing the cache.

The nodes and the phase come from the environment, so that each step of the move is a deployment:

    EMCACHE_SERVERS      the nodes of the service
    EMCACHE_OLD_SERVERS  the nodes that it comes from; not set: no migration
    EMCACHE_PHASE        prepare, move or finish

Run it: uvicorn --app-dir examples/cookbook --factory blue_green:create_app
"""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Response

import emcache
from emcache import Cache


def nodes_and_migration(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of ``create_client`` for one step of the deployment."""
    options: dict[str, Any] = {
        "node_addresses": environment.get("EMCACHE_SERVERS", "127.0.0.1:11211"),
        "routing": "rendezvous",
    }
    if old := environment.get("EMCACHE_OLD_SERVERS"):
        phase: Any = environment["EMCACHE_PHASE"]  # Cluster checks it
        options["migrating_from"] = emcache.Cluster(old, routing="rendezvous", phase=phase)
    return options


def create_app(environment: Mapping[str, str] = os.environ) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with emcache.create_client(**nodes_and_migration(environment), timeout=0.5) as client:
            app.state.cache = Cache(client, prefix="shop:")
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/carts/{name}")
    async def read(name: str) -> Any:
        if (cart := await app.state.cache.get(name)) is None:
            raise HTTPException(404, "no such cart")
        return cart

    @app.put("/carts/{name}")
    async def write(name: str, items: Annotated[list[str], Body()]) -> None:
        await app.state.cache.set(name, items, ttl=3600)

    @app.delete("/carts/{name}", status_code=204)
    async def delete(name: str) -> Response:
        await app.state.cache.delete(name)
        return Response(status_code=204)

    @app.get("/migration")
    async def migration() -> dict[str, Any] | None:
        """Return the counters to look at before the next step."""
        metrics = app.state.cache.client.metrics().migration
        return metrics and asdict(metrics)

    return app
