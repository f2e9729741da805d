"""Other Python clients write to three servers, and emcache reads every key with their rule."""

import asyncio
import logging

import pytest

import emcache

KEYS = [f"user:{n}:profile" for n in range(200)] + [f"{n:x}" for n in range(50)] + ["k" * 150]
WEIGHTS = (3, 1, 2)


def hosts(servers):
    return [f"127.0.0.1:{server.port}" for server in servers]


def pymemcache(servers, prefix):
    client = pytest.importorskip("pymemcache.client.hash").HashClient(
        [("127.0.0.1", server.port) for server in servers]
    )
    for key in KEYS:
        assert client.set(prefix + key, b"1", noreply=False)
    client.close()


def pymemcache_bytes(servers, prefix):
    client = pytest.importorskip("pymemcache.client.hash").HashClient(
        [("127.0.0.1", server.port) for server in servers]
    )
    for key in KEYS:
        assert client.set((prefix + key).encode(), b"1", noreply=False)
    client.close()


def django(servers, prefix):
    """Django's own backend, whose keys have a prefix and a version."""
    backend = pytest.importorskip("django.core.cache.backends.memcached").PyMemcacheCache
    client = backend(hosts(servers), {"KEY_PREFIX": prefix})
    for key in KEYS:
        client.set(key, "1")
    client.close()


def python_memcached(servers, prefix):
    client = pytest.importorskip("memcache").Client(hosts(servers))
    for key in KEYS:
        assert client.set(prefix + key, "1")
    client.disconnect_all()


def python_memcached_weights(servers, prefix):
    weighted = list(zip(hosts(servers), WEIGHTS, strict=True))
    client = pytest.importorskip("memcache").Client(weighted)
    for key in KEYS:
        assert client.set(prefix + key, "1")
    client.disconnect_all()


def pylibmc(**behaviors):
    def write(servers, prefix):
        module = pytest.importorskip("pylibmc")
        names = hosts(servers)
        if "ketama_weighted" in behaviors:
            names = [f"{name}:{weight}" for name, weight in zip(names, WEIGHTS, strict=True)]
        client = module.Client(names, behaviors=behaviors)
        for key in KEYS:
            assert client.set(prefix + key, "1")
        client.disconnect_all()

    return write


def libmc(**options):
    def write(servers, prefix):
        module = pytest.importorskip("libmc")
        hash_fn = {name: getattr(module, value) for name, value in options.items()}
        client = module.Client(hosts(servers), **hash_fn)
        for key in KEYS:
            assert client.set(prefix + key, "1")
        client.quit()

    return write


def meta_memcache(servers, prefix):
    module = pytest.importorskip("meta_memcache")
    client = module.CacheClient.cache_client_from_servers(
        servers=[module.ServerAddress("127.0.0.1", server.port) for server in servers],
        connection_pool_factory_fn=module.connection_pool_factory_builder(),
    )
    for key in KEYS:
        assert client.set(prefix + key, b"1", ttl=300)


def memcachio(servers, prefix):
    module = pytest.importorskip("memcachio")

    async def write():
        client = module.Client([("127.0.0.1", server.port) for server in servers])
        for key in KEYS:
            assert await client.set(prefix + key, b"1")

    asyncio.run(write())


def bmemcached(servers, prefix):
    client = pytest.importorskip("bmemcached").DistributedClient(hosts(servers))
    for key in KEYS:
        assert client.set(prefix + key, "1")
    client.disconnect_all()


CLIENTS = {
    "pymemcache": (pymemcache, "pymemcache"),
    "pymemcache-bytes": (pymemcache_bytes, "pymemcache:bytes"),
    "django": (django, "pymemcache"),
    "python-memcached": (python_memcached, "crc:python-memcached"),
    "python-memcached-weights": (python_memcached_weights, "crc:python-memcached"),
    "pylibmc": (pylibmc(), "libmemcached"),
    "pylibmc-md5": (pylibmc(hash="md5"), "libmemcached:md5"),
    "pylibmc-ketama": (pylibmc(ketama=True), "libmemcached:consistent"),
    "pylibmc-ketama-weights": (pylibmc(ketama_weighted=True), "ketama"),
    "libmc": (libmc(), "libmc"),
    "libmc-fnv1a": (libmc(hash_fn="MC_HASH_FNV1A_32"), "libmc:fnv1a_32"),
    "meta-memcache": (meta_memcache, "meta-memcache"),
    "memcachio": (memcachio, "memcachio"),
    "bmemcached": (bmemcached, "bmemcached"),
}


# Those of the other clients, which leave sockets open.
@pytest.mark.filterwarnings("default", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CLIENTS)
async def test_every_key_of_another_client_is_found(name, cluster, key, caplog):
    write, routing = CLIENTS[name]
    prefix = key.decode() + ":"
    caplog.set_level(logging.CRITICAL)
    await asyncio.to_thread(write, cluster, prefix)
    addresses = [server.address for server in cluster]
    weights = None
    if name.endswith("-weights"):
        weights = dict(zip(addresses, WEIGHTS, strict=True))
    # Django makes `prefix:version:key` of a key.
    prefix += ":1:" if name == "django" else ""
    keys = [(prefix + key).encode() for key in KEYS]
    async with emcache.create_client(addresses, routing=routing, weights=weights) as client:
        assert len(await client.get_many(keys)) == len(KEYS)
        assert len({client.node_for(key) for key in keys}) == 3
    # Another rule does not find them all, so the test can fail.
    async with emcache.create_client(addresses, routing="rendezvous") as client:
        assert len(await client.get_many(keys)) < len(KEYS)
