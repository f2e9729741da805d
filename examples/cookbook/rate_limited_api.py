"""A rate limit for each API key, counted by all workers and hosts together.

Run it:
    EMCACHE_SERVERS=127.0.0.1:11211 uvicorn --app-dir examples/cookbook rate_limited_api:app
"""

import contextlib
import math
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Response

import emcache
from emcache import Cache

REQUESTS, SECONDS = 5, 60

cache: Cache[Any]


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global cache
    nodes = os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211")
    async with emcache.create_client(nodes, timeout=0.2) as client:
        # Callers choose their key, so it may contain anything: "hash" makes it a valid one.
        cache = Cache(client, prefix="api:", keys="hash")
        yield


async def limited(response: Response, x_api_key: Annotated[str, Header()]) -> str:
    """Count a request, and answer 429 when there were too many."""
    limit = cache.rate_limit(
        f"key:{x_api_key}", REQUESTS, per=SECONDS, window="sliding", on_error="allow"
    )
    hit = await limit.hit()
    if not hit:
        seconds = max(1, math.ceil(hit.retry_after))
        raise HTTPException(429, "too many requests", {"Retry-After": str(seconds)})
    response.headers["X-RateLimit-Limit"] = str(REQUESTS)
    response.headers["X-RateLimit-Remaining"] = str(hit.remaining)
    return x_api_key


app = FastAPI(lifespan=lifespan)


@app.get("/search")
async def search(words: str, api_key: Annotated[str, Depends(limited)]) -> dict[str, str]:
    return {"words": words, "for": api_key}
