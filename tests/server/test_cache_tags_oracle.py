"""An oracle for tags: processes read, compute and invalidate; each knows which value is too old.

The source of all values is a number that the test increments. After it has invalidated the tag, it
publishes the number as the floor. A process that reads the floor first must then read no smaller
value from the cache, in whatever way.
"""

import asyncio
import json
import random

import pytest

from emcache import Cache
from support.calls import client_of, within
from support.memcached import memcached
from support.workers import workers

READER = """
    import json, random

    prefix, options = sys.argv[3], json.loads(sys.argv[4])
    ports = json.loads(sys.argv[5])
    counts = {"hits": 0, "misses": 0, "computed": 0, "violations": []}

    async def main():
        nodes = [emcache.MemcachedHostAddress("127.0.0.1", each) for each in ports]
        source = await emcache.create_client(nodes[:1], timeout=30)
        client = await emcache.create_client(nodes, timeout=30)
        cache = emcache.Cache(client, prefix=prefix)
        keys = ["a", "b", "c"]

        async def number(name):
            return int((await source.get(name)).value)

        async def compute():
            counts["computed"] += 1
            value = await number(b"source")
            await asyncio.sleep(random.choice([0, 0.001, 0.005, 0.02]))
            return value

        @emcache.cached(cache, key="{key}", tags=["t"], **options)
        async def cached(key):
            return await compute()

        async def set(key):
            snapshot = await cache.read_tags(["t"])
            await cache.set(key, await compute(), tags=snapshot)

        async def many(**options):
            found = await cache.get_many(keys, **options)
            return min(found.values(), default=None)

        reads = [
            lambda key: cache.get(key),
            lambda key: cache.get(key, tags=["t"]),
            lambda key: many(),
            lambda key: many(tags=["t"]),
            lambda key: cache.get_or_set(key, compute, tags=["t"], **options),
            lambda key: cache.get_or_set(key, compute, tags=["t", "u"], **options),
            cached,
            cached,
            cached.refresh,
            set,
        ]

        async def reading():
            for _ in range(int(sys.argv[6])):
                at = random.randrange(len(reads))
                floor = await number(b"floor")
                value = await reads[at](random.choice(keys))
                if value is None:
                    counts["misses"] += 1
                    continue
                counts["hits"] += 1
                if value < floor:
                    counts["violations"].append([at, floor, value])

        print("ready")
        await hear()
        await asyncio.gather(*(reading() for _ in range(6)))
        await client.close()
        await source.close()
        print(json.dumps(counts))

    run(main())
"""

MODES = {
    "lease": {},
    "no lease": {"lease": None},
    "refresh": {"ttl": 1, "refresh": 1, "stale_for": 5},
    "refresh in the caller": {"ttl": 1, "refresh": 1, "refresh_in": "caller", "lease": 2},
}


@pytest.mark.parametrize("mode", MODES)
@within(50)
async def test_no_process_reads_an_older_value_after_an_invalidation(key, mode):
    with memcached() as first, memcached() as second:
        ports = json.dumps([first.port, second.port])
        arguments = (key.decode(), json.dumps(MODES[mode]), ports)
        async with (
            client_of(first) as source,
            client_of(first, second) as client,
            workers(3, READER, first.port, *arguments, "200") as processes,
            workers(1, READER, first.port, *arguments, "1000000") as [victim],
        ):
            cache = Cache(client, prefix=key)
            for name in (b"source", b"floor"):
                await source.set(name, b"0")
            for process in (*processes, victim):
                assert await process.line() == "ready"
            for process in (*processes, victim):
                await process.say()
            changing = asyncio.create_task(change(source, cache))
            # It dies with whatever it holds.
            await asyncio.sleep(1)
            await victim.kill()
            found = [json.loads((await process.rest())[0]) for process in processes]
            changing.cancel()
    assert [each["violations"] for each in found] == [[]] * 3
    # It is a test of a cache only if there were hits, and of tags only if they made misses.
    assert sum(each["hits"] for each in found) > 100
    assert sum(each["computed"] for each in found) > 20


async def change(source, cache):
    """Change the source, invalidate, publish; sometimes the server evicts a generation."""
    chance = random.Random(7)
    names = [cache.wire_key(f"#tag:{tag}") for tag in "tu"]
    while True:
        version = await source.increment(b"source", 1)
        tags = chance.choice(["t", "tu"])
        if tags == "t":
            await cache.invalidate_tag("t")
        else:
            await cache.invalidate_tags(["t", "u"])
        await source.set(b"floor", b"%d" % version)
        await asyncio.sleep(chance.choice([0, 0.002, 0.01, 0.05]))
        if chance.random() < 0.2:
            await cache.client.delete_many([chance.choice(names)])
