"""blockbuster raises where a function of Python's blocks the event loop."""

import asyncio

import pytest
from blockbuster import BlockBuster, BlockingError

import emcache
from emcache.contrib.fastapi import Memcached
from emcache.contrib.loops import ClientPerLoop
from support.tls import certificates, tls_memcached

pytestmark = pytest.mark.driver_independent


@pytest.fixture
def watched():
    """Calls of emcache and of what it calls are watched."""
    watch = BlockBuster(["emcache", "tests"])
    watch.activate()
    yield
    watch.deactivate()


@pytest.fixture(scope="module")
def tls():
    with certificates() as certs, tls_memcached(certs.good) as server:
        yield (
            server,
            {
                "ssl": True,
                "ssl_extra_ca": certs.ca.file,
                "ssl_certfile": certs.client.certificate,
                "ssl_keyfile": certs.client.key,
                "timeout": 30,
            },
        )


async def test_it_notices_what_blocks(watched, tmp_path):
    with pytest.raises(BlockingError):
        (tmp_path / "file").write_bytes(b"x")


async def test_files_of_tls_are_read_in_a_thread(watched, tls, key):
    server, options = tls
    async with emcache.create_client([server.address], **options) as client:
        await client.set(key, b"v")
        assert (await client.get(key)).value == b"v"
    with pytest.raises(FileNotFoundError):
        await emcache.create_client([server.address], **options | {"ssl_extra_ca": "/none.pem"})


async def test_a_service_blocks_nowhere(watched, server, key):
    async with emcache.create_client(f"localhost:{server.port}", timeout=30) as client:
        await client.wait_ready(30)
        cache = emcache.Cache(
            client, prefix=key.decode(), ttl=60, compression=emcache.cache.Zlib(), chunked=True
        )

        @emcache.cached(cache, ttl=60, key="{number}")
        async def load(number):
            return ["x" * 1000] * number

        assert await load(200) == await load(200)
        await load.invalidate(200)
        async with cache.lock("lock", ttl=5):
            await cache.rate_limit("limit", 5, per=60).hit()
        await cache.set("large", "x" * 3_000_000)
        assert len(await cache.get("large")) == 3_000_000
        await client.stats()
        client.metrics()
    clients = ClientPerLoop(lambda: emcache.create_client([server.address]))
    await (await clients.get()).get(key)
    await clients.close()
    memcached = Memcached(server.address)
    async with memcached.lifespan():
        await (await memcached.cache()).set("a", 1)


async def test_cancelled_while_files_are_read(tls):
    server, options = tls
    creating = asyncio.ensure_future(emcache.create_client([server.address], **options))
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
