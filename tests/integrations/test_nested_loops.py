"""Loops that are run again from within their tasks, as nest_asyncio allows it in notebooks."""

import pytest

from support.isolated import run_silent

pytest.importorskip("nest_asyncio")

USE = """
import nest_asyncio
if sys.argv[3] == "before":
    nest_asyncio.apply()

def now(awaitable):
    return asyncio.get_event_loop().run_until_complete(awaitable)

async def main():
    if sys.argv[4] == "debug":
        asyncio.get_running_loop().set_debug(True)
    client = await create()
    await client.set(b"nested", b"v")
    if sys.argv[3] == "after":
        await client.get(b"nested")
        nest_asyncio.apply()

    def inside(depth):
        assert now(client.get(b"nested")).value == b"v"
        assert len(now(client.get_many([b"nested", b"missing"]))) == 1
        assert len(now(client.set_many({b"n%d" % n: b"v" for n in range(100)})).done) == 100
        assert now(asyncio.gather(*map(client.get, [b"nested"] * 20)))[7].value == b"v"
        if depth:
            now(deeper(depth - 1))

    async def deeper(depth):
        await client.get(b"nested")
        inside(depth)

    async def outside(number):
        for _ in range(20):
            assert (await client.get(b"nested")).value == b"v"
            await client.set(b"n%d" % number, b"v")

    async with asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(outside(number))
                group.create_task(deeper(2))
        pool = emcache.ConnectionPool(emcache.MemcachedHostAddress("127.0.0.1", port))
        async with pool.create_connection_context() as connection:
            await connection.version_command()
            assert now(connection.version_command()).startswith(b"VERSION")
        await pool.close()
        for _ in range(3):
            assert b"v" == (await client.get(b"nested")).value
    await client.close()

loop = new_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(main())
loop.close()
"""


@pytest.mark.parametrize("debug", ["debug", "no debug"])
@pytest.mark.parametrize("applied", ["before", "after"])
def test_calls_within_calls(server, applied, debug):
    run_silent(USE, "asyncio", server.port, applied, debug, warnings="ignore")


CALLBACK = """
import nest_asyncio
nest_asyncio.apply()
asyncio.get_event_loop().close()  # apply() made it, and leaves it open
told = []

async def main():
    with __import__("socket").create_server(("127.0.0.1", 0)) as taken:
        down = emcache.MemcachedHostAddress(*taken.getsockname())
    client = await create()
    await client.set(b"nested", b"v")

    def changed(healthy):
        told.append(asyncio.get_event_loop().run_until_complete(client.get(b"nested")).value)

    pool = emcache.ConnectionPool(down, min_connections=1, on_healthy_status_change_cb=changed)
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.01)
    await pool.close()
    await client.close()

loop = new_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(main())
loop.close()
assert told == [b"v"]
"""


def test_a_callback_about_a_node_runs_the_loop(server):
    run_silent(CALLBACK, "asyncio", server.port, warnings="ignore")
