"""The table of docs/caching-patterns.md: a hit on the server, in the local cache, and shared.

    python benches/python/local_cache.py [PORT]

Microseconds for a call, the best of 120 rounds, by one task at a memcached on loopback.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import emcache
from emcache import Cache, cached
from emcache.cache import LocalCache

ROUNDS = 120
ROW = {"id": 7, "name": "Ada", "tags": ["a", "b"]}


@dataclass
class User:
    id: int
    name: str


async def best(call: Callable[[], Awaitable[Any]], times: int) -> str:
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(times):
            await call()
        seconds.append((time.perf_counter() - begin) / times)
    return f"{min(seconds) * 1e6:8.2f}"


async def main(port: int) -> None:
    async with emcache.create_client([emcache.MemcachedHostAddress("127.0.0.1", port)]) as client:
        kinds: list[LocalCache | None] = [None, LocalCache(1000, 3600)]
        kinds.append(LocalCache(1000, 3600, copy=False))
        caches: list[Cache[Any]] = [
            Cache(client, prefix="local-cache:", local=local) for local in kinds
        ]
        values: dict[str, Any] = {"text": "x" * 100, "dict": ROW, "4kB": {"rows": [ROW] * 100}}
        many = {f"many:{number}": ROW for number in range(100)}
        await caches[0].set_many(values | many)
        for key in values:
            print(key, *[await best(lambda c=c, k=key: c.get(k), 100) for c in caches])
        print("many", *[await best(lambda c=c: c.get_many(many), 10) for c in caches])
        times = []
        for cache in caches:

            @cached(cache, key="user:{number}")
            async def load(number: int) -> User:
                return User(number, "Ada")

            times.append(await best(lambda load=load: load(1), 100))
        print("cached", *times)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 11211))
