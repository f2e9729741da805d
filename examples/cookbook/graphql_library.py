"""GraphQL: a DataLoader of Strawberry in front of memcached.

Run it:
    EMCACHE_SERVERS=127.0.0.1:11211 uvicorn --app-dir examples/cookbook graphql_library:app
"""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import strawberry
from fastapi import FastAPI
from strawberry.dataloader import DataLoader
from strawberry.fastapi import GraphQLRouter

import emcache
from emcache import Cache
from emcache.cache import cached_many

# Stand-ins for tables of your database.
AUTHORS = {1: "Ada Lovelace", 2: "Grace Hopper"}
BOOKS = [("Notes", 1), ("Sketch", 1), ("Nanoseconds", 2), ("Compilers", 2)]
queries: list[list[int]] = []

cache: Cache[Any] | None = None


@cached_many(lambda: cache, key="author:{id}", ttl=300)
async def find_authors(ids: list[int]) -> dict[int, str]:
    queries.append(sorted(ids))  # SELECT id, name FROM authors WHERE id IN (...)
    return {author: AUTHORS[author] for author in ids if author in AUTHORS}


async def load_authors(ids: list[int]) -> list[str | None]:
    """Answer a DataLoader, which wants one value for each id, in order."""
    found = await find_authors(ids)
    return [found.get(author) for author in ids]


@strawberry.type
class Book:
    title: str
    author_id: strawberry.Private[int]

    @strawberry.field
    async def author(self, info: strawberry.Info) -> str | None:
        loader: DataLoader[int, str | None] = info.context["authors"]
        return await loader.load(self.author_id)


@strawberry.type
class Query:
    @strawberry.field
    def books(self) -> list[Book]:
        return [Book(title=title, author_id=author) for title, author in BOOKS]


async def context() -> dict[str, Any]:
    # One loader for each request: it collects the ids that one query needs.
    return {"authors": DataLoader(load_fn=load_authors)}


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global cache
    nodes = os.environ.get("EMCACHE_SERVERS", "127.0.0.1:11211")
    async with emcache.create_client(nodes, timeout=0.5) as client:
        cache = Cache(client, prefix="library:")
        yield
    cache = None


app = FastAPI(lifespan=lifespan)
schema = strawberry.Schema(Query)
app.include_router(GraphQLRouter(schema, context_getter=context), prefix="/graphql")
