"""Update a value concurrently with cas: retry if another client changed it first."""

import asyncio
import json

import emcache
from servers import memcached_cluster


async def add_member(client: emcache.Client, key: bytes, name: str) -> int:
    """Add a name to a list; return the number of tries."""
    for tries in range(1, 100):
        item = await client.gets(key)
        assert item is not None
        assert item.cas is not None
        members = [*json.loads(item.value), name]
        try:
            await client.cas(key, json.dumps(members).encode(), item.cas)
        except emcache.NotStoredStorageCommandError:
            continue
        return tries
    raise RuntimeError("too much contention")


async def main() -> None:
    with memcached_cluster(tcp=1) as nodes:
        async with emcache.create_client(nodes) as client:
            await client.set(b"members", b"[]")
            names = ["ada", "grace", "barbara", "frances", "jean"]
            tries = await asyncio.gather(*[add_member(client, b"members", n) for n in names])
            item = await client.get(b"members")
            assert item is not None
            members = json.loads(item.value)
            print(f"{len(members)} members after {sum(tries)} tries:", ", ".join(sorted(members)))


if __name__ == "__main__":
    asyncio.run(main())
