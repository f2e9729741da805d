"""One shape for every client that is compared: connect, then get, set and get_many that check.

Runs in the peers' environment too, so it imports nothing but the client asked for.
"""

import asyncio


class Emcache:
    """emcache, this one or 1.3.3: the same calls. `batch` turns the autobatching of 1.3.3 on."""

    def __init__(self, *, batch=None, connections=None):
        self.options = {}
        if batch is not None:
            self.options["autobatching"] = batch
        if connections is not None:
            self.options["max_connections"] = connections

    def use_tls(self, ca):
        self.options |= {"ssl": True, "ssl_extra_ca": ca}

    async def connect(self, ports):
        import emcache

        nodes = [emcache.MemcachedHostAddress("127.0.0.1", port) for port in ports]
        self.client = await emcache.create_client(nodes, **self.options)

    async def get(self, key):
        item = await self.client.get(key)
        return None if item is None else item.value

    async def set(self, key, value):
        await self.client.set(key, value)

    async def get_many(self, keys):
        return {key: item.value for key, item in (await self.client.get_many(keys)).items()}

    async def close(self):
        await self.client.close()


class Aiomcache:
    def __init__(self, connections):
        self.connections = connections

    async def connect(self, ports):
        import aiomcache

        self.client = aiomcache.Client("127.0.0.1", ports[0], pool_size=self.connections)

    async def get(self, key):
        return await self.client.get(key)

    async def set(self, key, value):
        await self.client.set(key, value)

    async def get_many(self, keys):
        return dict(zip(keys, await self.client.multi_get(*keys), strict=True))

    async def close(self):
        await self.client.close()


class Memcachio:
    async def connect(self, ports):
        import memcachio

        self.client = memcachio.Client([("127.0.0.1", port) for port in ports])

    async def get(self, key):
        item = (await self.client.get(key)).get(key)
        return None if item is None else item.value

    async def set(self, key, value):
        await self.client.set(key, value)

    async def get_many(self, keys):
        return {key: item.value for key, item in (await self.client.get(*keys)).items()}

    async def close(self):
        pass


class Synchronous:
    """A synchronous client, called from a coroutine: only for one task."""

    async def get(self, key):
        return self.client.get(key)

    async def set(self, key, value):
        self.client.set(key, value)

    async def get_many(self, keys):
        return self.client.get_multi(keys)

    async def close(self):
        pass


class Libmc(Synchronous):
    async def connect(self, ports):
        import libmc

        self.client = libmc.Client([f"127.0.0.1:{port}" for port in ports])

    async def get(self, key):
        return self.client.get(key.decode())

    async def set(self, key, value):
        self.client.set(key.decode(), value)

    async def get_many(self, keys):
        got = self.client.get_multi([key.decode() for key in keys])
        return {key.encode(): value for key, value in got.items()}


class Pylibmc(Synchronous):
    async def connect(self, ports):
        import pylibmc

        self.client = pylibmc.Client([f"127.0.0.1:{port}" for port in ports])


class Pymemcache(Synchronous):
    async def connect(self, ports):
        import pymemcache

        self.client = pymemcache.Client(("127.0.0.1", ports[0]))

    async def set(self, key, value):
        self.client.set(key, value, noreply=False)


class RedisPy:
    """redis-py's asyncio client; it uses hiredis if that is installed.

    By default it fails with more than 100 tasks. With this pool they wait for a connection.
    """

    async def connect(self, ports):
        from redis.asyncio import BlockingConnectionPool, Redis

        self.client = Redis.from_pool(
            BlockingConnectionPool(port=ports[0], max_connections=32, timeout=None)
        )

    async def get(self, key):
        return await self.client.get(key)

    async def set(self, key, value):
        await self.client.set(key, value)

    async def get_many(self, keys):
        return dict(zip(keys, await self.client.mget(keys), strict=True))

    async def close(self):
        await self.client.aclose()


class ValkeyGlide(RedisPy):
    async def connect(self, ports):
        import glide

        options = glide.GlideClientConfiguration([glide.NodeAddress("127.0.0.1", ports[0])])
        self.client = await glide.GlideClient.create(options)

    async def close(self):
        await self.client.close()


class Floor:
    """No client: a future that `call_soon` resolves, awaited."""

    async def connect(self, ports):
        self.loop = asyncio.get_running_loop()
        self.values = {}

    async def get(self, key):
        future = self.loop.create_future()
        self.loop.call_soon(future.set_result, self.values.get(key))
        return await future

    async def set(self, key, value):
        self.values[key] = value
        future = self.loop.create_future()
        self.loop.call_soon(future.set_result, None)
        await future

    async def get_many(self, keys):
        return {key: await self.get(key) for key in keys}

    async def close(self):
        pass


# name: (environment, how to make it); the environment decides which emcache is imported
CLIENTS = {
    "emcache": ("own", Emcache),
    "emcache one command per call": ("own", lambda: Emcache(batch=False)),
    "emcache 1.3.3": ("peers", lambda: Emcache(connections=32)),
    "emcache 1.3.3 autobatching": ("peers", lambda: Emcache(batch=True)),
    "aiomcache": ("peers", lambda: Aiomcache(32)),
    "memcachio": ("peers", Memcachio),
    "libmc": ("peers", Libmc),
    "pylibmc": ("peers", Pylibmc),
    "pymemcache": ("peers", Pymemcache),
    "redis-py": ("peers", RedisPy),
    "valkey-glide": ("peers", ValkeyGlide),
    "floor": ("own", Floor),
}
SYNCHRONOUS = {"libmc", "pylibmc", "pymemcache"}
MODULES = {"floor": "asyncio", "redis-py": "redis", "valkey-glide": "glide"}
"""What to import, where it is not named like the client."""
OF_REDIS = {"redis-py", "valkey-glide"}
