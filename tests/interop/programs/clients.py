"""The Python clients. Usage: python clients.py VARIANT HOST:PORT,..."""

import importlib.metadata
import json
import struct
import sys
from collections.abc import Callable
from typing import Any

MISSING = object()
VALUES = {
    "text": "text",
    "unicode": "clé ключ",
    "empty": "",
    "long": "abcdefghij" * 2000,
    "huge": "0123456789abcdef" * 10_000,
    "int": 41,
    "zero": 0,
    "negative": -5,
    "large": 1 << 40,
    "float": 1.5,
    "true": True,
    "false": False,
    "null": None,
    "bytes": b"\xff\x00",
    "list": [1, "x"],
}

Functions = tuple[Callable[[str, Any], object], Callable[[str], Any]]


def pymemcache(servers: list[str], serde: str) -> Functions:
    import pymemcache.serde
    from pymemcache.client.hash import HashClient

    chosen = getattr(pymemcache.serde, serde)
    client = HashClient(servers, serde=chosen, default_noreply=False, allow_unicode_keys=True)
    return client.set, lambda key: client.get(key, MISSING)


def python_memcached(servers: list[str], _: str) -> Functions:
    import memcache

    client = memcache.Client(servers)
    return client.set, lambda key: client.get(key, MISSING)


def bmemcached(servers: list[str], _: str) -> Functions:
    import bmemcached

    client = bmemcached.DistributedClient(servers)
    return client.set, lambda key: client.get(key, MISSING)


def pylibmc(servers: list[str], behavior: str) -> Functions:
    import pylibmc

    client = pylibmc.Client(servers, behaviors={behavior: True} if behavior else {})
    return (
        lambda key, value: client.set(key, value, min_compress_len=1000),
        lambda key: client.get(key, MISSING),
    )


def meta_memcache(servers: list[str], _: str) -> Functions:
    import meta_memcache

    addresses = [meta_memcache.ServerAddress(*split(server)) for server in servers]
    client = meta_memcache.CacheClient.cache_client_from_servers(
        servers=addresses,
        connection_pool_factory_fn=meta_memcache.connection_pool_factory_builder(),
    )

    def get(key: str) -> Any:
        found = client.multi_get([key])
        return next(iter(found.values()))

    return lambda key, value: client.set(key, value, ttl=300), get


def libmc(servers: list[str], _: str) -> Functions:
    import libmc

    client = libmc.Client(servers)
    return client.set, lambda key: client.get_multi([key]).get(key, MISSING)


def memcachio(servers: list[str], _: str) -> Functions:
    import asyncio

    import memcachio

    loop = asyncio.new_event_loop()
    client = memcachio.Client([split(server) for server in servers])

    async def get(key: str) -> Any:
        found = await client.get(key)
        return next((item.value for item in found.values()), MISSING)

    return (
        lambda key, value: loop.run_until_complete(client.set(key, value)),
        lambda key: loop.run_until_complete(get(key)),
    )


def django(servers: list[str], _: str) -> Functions:
    from django.core.cache.backends.memcached import PyMemcacheCache

    client = PyMemcacheCache(servers, {"KEY_FUNCTION": lambda key, *_: key})

    def store(key: str, value: Any) -> bool:
        client.set(key, value)
        return True

    return store, lambda key: client.get(key, MISSING)


def split(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return host.strip("[]"), int(port)


CLIENTS = {
    "pymemcache": (pymemcache, "pickle_serde", "pymemcache"),
    "pymemcache:compressed": (pymemcache, "compressed_serde", "pymemcache"),
    "python-memcached": (python_memcached, "", "python-memcached"),
    "bmemcached": (bmemcached, "", "python-binary-memcached"),
    "pylibmc": (pylibmc, "", "pylibmc"),
    "pylibmc:ketama": (pylibmc, "ketama_weighted", "pylibmc"),
    "django": (django, "", "django"),
    "libmc": (libmc, "", "libmc"),
    "memcachio": (memcachio, "", "memcachio"),
    "meta-memcache": (meta_memcache, "", "meta-memcache"),
}


def described(value: Any) -> str:
    match value:
        case str():
            return f"text {value.encode().hex()}"
        case bytes():
            return f"bytes {value.hex()}"
        case bool():
            return f"bool {str(value).lower().encode().hex()}"
        case int():
            return f"int {str(value).encode().hex()}"
        case float():
            return f"float {struct.pack('>d', value).hex()}"
        case None:
            return "null "
    return "missing " if value is MISSING else f"json {json.dumps(value).encode().hex()}"


def main() -> None:
    make, option, distribution = CLIENTS[sys.argv[1]]
    store, load = make(sys.argv[2].split(","), option)
    for line in sys.stdin:
        command, key, *name = line.split()
        if command == "get":
            print(described(load(key)), flush=True)
        else:
            print("ok" if store(key, VALUES[name[0]]) else "failed", flush=True)
    print("version", importlib.metadata.version(distribution))


main()
