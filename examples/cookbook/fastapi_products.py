"""FastAPI: a product API that reads through memcached.

Run it:
    EMCACHE_SERVERS=cache-1:11211,cache-2:11211 \
        uvicorn --app-dir examples/cookbook fastapi_products:app --workers 4
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel

import emcache
from emcache import Cache, cached
from emcache.cache import cached_many


class Product(BaseModel):
    name: str
    category: str
    price: int


class Database:
    """A stand-in for your database; it counts its queries."""

    def __init__(self, path: str) -> None:
        self.queries = 0
        self._lock = asyncio.Lock()  # one connection: one query at a time
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS products"
            " (id INTEGER PRIMARY KEY, name TEXT, category TEXT, price INTEGER)"
        )

    async def execute(self, query: str, *values: object) -> list[Any]:
        self.queries += 1
        async with self._lock:
            return await asyncio.to_thread(
                lambda: self._connection.execute(query, values).fetchall()
            )

    def close(self) -> None:
        self._connection.close()


database: Database
cache: Cache[Any] | None = None


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # This runs in each worker process, so each has its own client.
    global cache, database
    database = Database(os.environ.get("PRODUCTS_DB", "products.db"))
    nodes = os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211")
    async with emcache.create_client(nodes, timeout=0.5) as client:
        cache = Cache(client, prefix="shop:", keys="hash")
        yield
    cache = None
    database.close()


app = FastAPI(lifespan=lifespan)


@cached_many(lambda: cache, key="product:{id}", ttl=300, jitter=0.1, stale_for=3600)
async def load_products(ids: list[int]) -> dict[int, Product]:
    """Load the products that the cache does not have, by one query."""
    marks = ",".join("?" * len(ids))
    query = f"SELECT id, name, category, price FROM products WHERE id IN ({marks})"
    rows = await database.execute(query, *ids)
    return {row[0]: Product(name=row[1], category=row[2], price=row[3]) for row in rows}


@cached(lambda: cache, key="ids:{category}", ttl=300, tags=["categories"])
async def ids_of(category: str) -> list[int]:
    query = "SELECT id FROM products WHERE category = ? ORDER BY id"
    return [row[0] for row in await database.execute(query, category)]


@app.get("/products/{product_id}")
async def read_product(product_id: int) -> Product:
    found = await load_products([product_id])
    if product_id not in found:
        raise HTTPException(404, "no such product")
    return found[product_id]


@app.get("/products")
async def read_products(
    category: str | None = None, ids: Annotated[list[int] | None, Query(max_length=100)] = None
) -> dict[int, Product]:
    return await load_products(await ids_of(category) if category else ids or [])


@app.put("/products/{product_id}")
async def write_product(product_id: int, product: Product) -> Product:
    # The database first: a computation that began before the invalidation is never stored.
    values = (product_id, product.name, product.category, product.price)
    await database.execute("REPLACE INTO products VALUES (?, ?, ?, ?)", *values)
    await invalidated(load_products.invalidate(product_id))
    if cache is not None:
        # All categories: if the request is repeated, the former category is not known any more.
        await invalidated(cache.invalidate_tag("categories"))
    return product


async def invalidated(invalidation: Awaitable[object]) -> None:
    """Report a failed invalidation: the old value may still be in the cache."""
    try:
        await invalidation
    except emcache.EmcacheError:
        raise HTTPException(503, "stored; repeat the request", {"Retry-After": "1"}) from None


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Liveness: restarting this process repairs no cache and no database."""
    return {"status": "alive"}


@app.get("/readyz")
async def readyz() -> dict[str, Any]:
    """Readiness: the service works without its cache, but not without its database."""
    await database.execute("SELECT 1")
    nodes = cache.client.cluster_managment().unhealthy_nodes() if cache else []
    return {"status": "ready", "unhealthy_cache_nodes": [str(node) for node in nodes]}
