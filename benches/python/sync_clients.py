"""One shape for every synchronous client: functions that take the number of a key.

``get`` and ``get_many`` return values, ``set`` and ``set_many`` True if everything was stored.
Each entry of ``CLIENTS`` returns two sets of them: for one thread, and for threads that share them.
"""

import importlib.metadata


def _value(key):
    return (key * 10)[:100].encode()


PAIRS = {f"bench:{n:04}": _value(f"bench:{n:04}") for n in range(1000)}
KEYS = list(PAIRS)[:100]
VALUES = [PAIRS[key] for key in KEYS]
CHOSEN = dict(zip(KEYS, VALUES, strict=True))


def emcache(ports, ca=""):
    import emcache.sync

    addresses = [emcache.MemcachedHostAddress("127.0.0.1", port) for port in ports]
    tls = {"ssl": True, "ssl_extra_ca": ca} if ca else {}
    client = emcache.sync.create_client(addresses, timeout=5.0, **tls)
    keys, pairs = [key.encode() for key in KEYS], {k.encode(): v for k, v in PAIRS.items()}
    calls = {
        "get": lambda at: client.get(keys[at]).value,
        "get_many": lambda _: {k: item.value for k, item in client.get_many(keys).items()},
        "set": lambda at: client.set(keys[at], VALUES[at]) is None,
        "set_many": lambda _: not client.set_many(pairs).errors,
    }
    return calls, calls


def libmc(ports):
    import libmc

    servers = [f"127.0.0.1:{port}" for port in ports]
    pool = libmc.ClientPool(servers)
    pool.config(libmc.MC_MAX_CLIENTS, 64)
    pool.config(libmc.MC_POLL_TIMEOUT, 5000)

    def get(at):
        with pool.client() as client:
            return client.get(KEYS[at])

    single = libmc.Client(servers)
    single.config(libmc.MC_POLL_TIMEOUT, 5000)
    return _mapping_calls(single) | {"set_many": lambda _: single.set_multi(PAIRS)}, {"get": get}


def pylibmc(ports):
    import pylibmc

    servers = [f"127.0.0.1:{port}" for port in ports]
    single = pylibmc.Client(servers, behaviors={"tcp_nodelay": True})
    pool = pylibmc.ThreadMappedPool(single)

    def get(at):
        with pool.reserve() as client:
            return client.get(KEYS[at])

    return _mapping_calls(single), {"get": get}


def pymemcache(ports, ca=""):
    from pymemcache import HashClient, PooledClient

    options = {"no_delay": True, "default_noreply": False}
    if ca:
        import ssl

        options["tls_context"] = ssl.create_default_context(cafile=ca)
    if len(ports) == 1:
        client = PooledClient(("127.0.0.1", ports[0]), **options)
    else:
        client = HashClient([("127.0.0.1", port) for port in ports], use_pooling=True, **options)
    calls = _mapping_calls(client)
    return calls, calls


def python_memcached(ports):
    import memcache

    servers = [f"127.0.0.1:{port}" for port in ports]
    calls = _mapping_calls(memcache.Client(servers, socket_timeout=5, dead_retry=1))
    # Its connections are thread-local.
    return calls, calls


def _mapping_calls(client):
    return {
        "get": lambda at: client.get(KEYS[at]),
        "get_many": lambda _: client.get_multi(KEYS),
        "set": lambda at: bool(client.set(KEYS[at], VALUES[at])),
        # The keys that could not be stored.
        "set_many": lambda _: not client.set_multi(PAIRS),
    }


def redis_py(ports):
    import redis

    client = redis.Redis(port=ports[0])
    calls = {
        "get": lambda at: client.get(KEYS[at]),
        "get_many": lambda _: dict(zip(KEYS, client.mget(KEYS), strict=True)),
        "set": lambda at: bool(client.set(KEYS[at], VALUES[at])),
        "set_many": lambda _: bool(client.mset(PAIRS)),
    }
    return calls, calls


def django(backend):
    """One of Django's backends; the caller measures `cache.get` and so on."""

    def make(ports):
        from django.conf import settings
        from django.core.cache import cache

        location = [f"127.0.0.1:{port}" for port in ports]
        settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": location}})
        values = [value.decode() for value in VALUES]
        chosen, texts = dict(zip(KEYS, values, strict=True)), dict(zip(values, VALUES, strict=True))
        calls = {
            "get": lambda at: texts[cache.get(KEYS[at])],
            "get_many": lambda _: CHOSEN if cache.get_many(KEYS) == chosen else {},
            "set": lambda at: cache.set(KEYS[at], values[at]) is None,
            "set_many": lambda _: not cache.set_many(chosen),
        }
        return calls, calls

    return make


CLIENTS = {
    "emcache": emcache,
    "libmc": libmc,
    "pylibmc": pylibmc,
    "pymemcache": pymemcache,
    "python-memcached": python_memcached,
    "redis": redis_py,
    "EmcacheCache": django("emcache.contrib.django.EmcacheCache"),
    "PyLibMCCache": django("django.core.cache.backends.memcached.PyLibMCCache"),
    "PyMemcacheCache": django("django.core.cache.backends.memcached.PyMemcacheCache"),
}
PACKAGES = {
    "redis": ("redis", "hiredis"),
    "EmcacheCache": ("emcache", "django"),
    "PyLibMCCache": ("pylibmc", "django"),
    "PyMemcacheCache": ("pymemcache", "django"),
}


def versions(client):
    return {name: importlib.metadata.version(name) for name in PACKAGES.get(client, (client,))}
