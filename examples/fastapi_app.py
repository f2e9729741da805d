"""FastAPI: one client for the application, injected as a dependency.

Usage: EMCACHE_SERVERS=10.0.0.1:11211,10.0.0.2:11211 uvicorn --app-dir examples fastapi_app:app
or: python examples/fastapi_app.py, which starts its own memcached and sends a few requests.

In Starlette, do the same without `Depends`: `request.app.state.memcached`.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

import emcache


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Each worker process has its own event loop, so it needs its own client.
    timeout = float(os.environ.get("EMCACHE_TIMEOUT", "0.5"))
    nodes = os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211")
    async with emcache.create_client(nodes, timeout=timeout) as client:
        app.state.memcached = client
        yield


def memcached(request: Request) -> emcache.Client:
    client: emcache.Client = request.app.state.memcached
    return client


Memcached = Annotated[emcache.Client, Depends(memcached)]

app = FastAPI(lifespan=lifespan)


@app.get("/squares/{number}")
async def square(number: int, client: Memcached, response: Response) -> dict[str, int]:
    key = b"square:%d" % number
    if (known := await read(client, key)) is not None:
        response.headers["x-cache"] = "hit"
        return known
    await asyncio.sleep(0.01)  # a slow computation that is worth caching
    computed = {"number": number, "square": number**2}
    await write(client, key, computed)
    response.headers["x-cache"] = "miss"
    return computed


@app.get("/ready")
async def ready(client: Memcached, response: Response) -> dict[str, str]:
    """Report whether all nodes answer; a service that works without its cache need not check."""
    known = client.cluster_managment().nodes()
    answers = await asyncio.gather(*map(client.version, known), return_exceptions=True)
    if any(isinstance(answer, BaseException) for answer in answers):
        response.status_code = 503
    return {str(node): str(answer) for node, answer in zip(known, answers, strict=True)}


async def read(client: emcache.Client, key: bytes) -> dict[str, int] | None:
    try:
        item = await client.get(key)
    except emcache.EmcacheError:
        return None  # without the cache the service is slower, not down
    return None if item is None else json.loads(item.value)


async def write(client: emcache.Client, key: bytes, value: dict[str, int]) -> None:
    with contextlib.suppress(emcache.EmcacheError):
        await client.set(key, json.dumps(value).encode(), exptime=300)


async def main() -> None:
    import httpx

    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as http,
    ):
        for path in ("/squares/12", "/squares/12", "/ready"):
            answer = await http.get(path)
            print(path, answer.status_code, answer.headers.get("x-cache", "-"), answer.text)


if __name__ == "__main__":
    from servers import memcached_cluster

    with memcached_cluster(tcp=1) as started:
        os.environ["EMCACHE_SERVERS"] = ",".join(map(str, started))
        asyncio.run(main())
