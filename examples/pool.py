"""Connection pool: use whole connections, read raw replies, and print the pool's metrics.

Usage: python examples/pool.py
"""

import asyncio

import emcache
from servers import Address, memcached_cluster


async def store(pool: emcache.ConnectionPool, key: bytes, value: bytes) -> None:
    async with pool.create_connection_context() as connection:
        await connection.storage_command(b"set", key, value, flags=0, exptime=60)


async def main(nodes: list[Address]) -> None:
    pool = emcache.ConnectionPool(
        nodes[0],
        max_connections=4,
        on_healthy_status_change_cb=lambda healthy: print("healthy:", healthy),
    )
    keys = [b"key:%d" % number for number in range(20)]
    await asyncio.gather(*(store(pool, key, key.upper()) for key in keys))
    async with pool.create_connection_context() as connection:
        print("version:", await connection.version_command())
        found = await connection.fetch_command(b"get", [*keys, b"nothing"])
        print("found:", len(found[1]), "of", len(keys) + 1)
    metrics = pool.metrics()
    print("connections:", metrics.cur_connections, "waited:", metrics.operations_waited)
    await pool.close()


if __name__ == "__main__":
    with memcached_cluster(tcp=1) as started:
        asyncio.run(main(started))
