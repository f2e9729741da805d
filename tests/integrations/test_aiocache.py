"""aiocache on emcache; its own tests run by `make test-aiocache`."""

import asyncio
import subprocess
import sys
from datetime import datetime, timedelta
from enum import Enum

import pytest
import pytest_asyncio
from aiocache import Cache, cached, caches, multi_cached
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock
from aiocache.plugins import HitMissRatioPlugin
from aiocache.serializers import (
    JsonSerializer,
    MsgPackSerializer,
    NullSerializer,
    PickleSerializer,
    StringSerializer,
)

import emcache
from emcache._memcached.keys import safe_key
from emcache.contrib.aiocache import EmcacheCache
from support.memcached import memcached

PATIENT = {"timeout": 60, "client_timeout": 30}
"""The machine may be busy."""


@pytest_asyncio.fixture
async def cache(server, key):
    namespace = f"{key.decode()}:"
    async with EmcacheCache(port=server.port, namespace=namespace, **PATIENT) as cache:
        yield cache


def ttl_of(server, key):
    """Seconds that an item has left, by the server's own word."""
    with server.connect() as sock:
        sock.sendall(b"mg " + key + b" t\r\n")
        return int(sock.recv(100).split()[1].removeprefix(b"t"))


# -- commands --------------------------------------------------------------------------------------


async def test_values(cache):
    assert await cache.get("k") is None
    assert await cache.get("k", default="d") == "d"
    assert await cache.set("k", {"a": [1, "ü"]}) is True
    assert await cache.get("k") == {"a": [1, "ü"]}
    assert await cache.exists("k") is True
    assert await cache.delete("k") == 1
    assert await cache.delete("k") == 0
    assert await cache.exists("k") is False


async def test_many_values(cache):
    assert await cache.multi_set([("a", 1), ("b", 2)]) is True
    assert await cache.multi_get(["b", "missing", "a", "b"]) == [2, None, 1, 2]
    assert await cache.multi_get([]) == []


async def test_add(cache):
    assert await cache.add("k", 1) is True
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("k", 2)
    assert await cache.get("k") == 1


async def test_increment(cache):
    assert await cache.increment("n") == 1
    assert await cache.increment("n", delta=41) == 42
    assert await cache.increment("n", delta=-2) == 40
    assert await cache.increment("n", delta=0) == 40
    assert await cache.increment("n", delta=-40) == 0
    await cache.set("text", "x")
    with pytest.raises(TypeError, match="cannot be incremented"):
        await cache.increment("text")


async def test_increments_of_a_key_that_many_create(cache):
    results = await asyncio.gather(*(cache.increment("n") for _ in range(50)))
    assert sorted(results) == list(range(1, 51))


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        *[(None, -1), (0, -1), (10, 10), (99.5, 100), (2592000, 2592000), (31536000, 31536000)],
        *[(timedelta(0), -1), (timedelta(seconds=99.5), 100), (timedelta(days=365), 31536000)],
    ],
)
async def test_times_to_live(server, cache, ttl, seconds):
    key = cache.build_key("k")
    for write in (
        cache.set("k", 1, ttl=ttl),
        cache.multi_set([("k", 1)], ttl=ttl),
        cache.expire("k", ttl),
    ):
        assert await write is True
        # memcached's clock ticks once a second, and late on a busy machine.
        assert abs(ttl_of(server, key) - seconds) <= (10 if seconds > 0 else 0)


@pytest.mark.parametrize("ttl", ["10", datetime(2026, 1, 1)], ids=["str", "datetime"])
async def test_what_is_no_time_to_live(cache, ttl):
    calls = cache.set("k", 1, ttl=ttl), cache.multi_set([("k", 1)], ttl), cache.expire("k", ttl)
    for call in (*calls, cache.add("k", 1, ttl=ttl)):
        with pytest.raises(TypeError, match="seconds, a timedelta or None, not"):
            await call
    assert await cache.get("k") is None


@pytest.mark.parametrize("ttl", [50, timedelta(seconds=50)], ids=str)
async def test_a_default_time_to_live(server, key, ttl):
    async with EmcacheCache(port=server.port, ttl=ttl) as cache:
        await cache.set(key.decode(), 1)
        assert 45 <= ttl_of(server, key) <= 50


async def test_expire(cache):
    assert await cache.expire("k", 5) is False
    await cache.set("k", 1)
    assert await cache.expire("k", -1) is True
    assert await cache.get("k") is None


async def test_clear():
    with memcached() as one, memcached() as two:
        nodes = [f"127.0.0.1:{one.port}", two.address]
        async with EmcacheCache(nodes=nodes, namespace="n:") as cache:
            await cache.multi_set([(str(n), n) for n in range(50)])
            assert all(int(node.stats()["curr_items"]) > 5 for node in (one, two))
            with pytest.raises(ValueError, match="cannot list keys"):
                await cache.clear(namespace="n:")
            assert await cache.clear() is True
            assert await cache.multi_get([str(n) for n in range(50)]) == [None] * 50


async def test_raw(cache, key):
    assert await cache.raw("set", key, b"value") is True
    assert await cache.raw("prepend", key, b"a ") is True
    assert await cache.raw("get", key) == "a value"
    assert await cache.raw("get_many", [key, b"missing"]) == {key: "a value"}
    assert await cache.raw("get", b"missing") is None
    assert (await cache.raw("stats", cache.nodes[0]))["pid"]
    with pytest.raises(AttributeError):
        await cache.raw("_node", key)


# -- keys ------------------------------------------------------------------------------------------


class Key(Enum):
    A = "a"


async def test_keys(server, cache):
    await cache.set(Key.A, 1)
    assert await cache.get("a") == 1
    await cache.set("b", 2, namespace="other:")
    assert await cache.get("b") is None
    assert await cache.get("b", namespace="other:") == 2
    for key in ("with spaces", "with_spaces", "new\nline", "k" * 300, "schlüssel"):
        await cache.set(key, key)
    for key in ("with spaces", "with_spaces", "new\nline", "k" * 300, "schlüssel"):
        assert await cache.get(key) == key


async def test_a_key_builder(server, key):
    def build(name, namespace=None):
        return f"{key.decode()} built {name}"

    async with EmcacheCache(port=server.port, key_builder=build) as cache:
        await cache.set("k", 1)
        assert await cache.multi_get(["k", "other"]) == [1, None]
        async with RedLock(cache, "k", 1):
            assert await cache.get("k-lock", loads_fn=str)


# -- serializers, plugins, decorators --------------------------------------------------------------


@pytest.mark.parametrize(
    ("serializer", "value"),
    [
        (JsonSerializer(), {"a": 1}),
        (StringSerializer(), "ü"),
        (NullSerializer(), "text"),
        (NullSerializer(encoding=None), b"\0\xff"),
        (PickleSerializer(), {1, 2}),
        (MsgPackSerializer(), [1, "ü"]),
    ],
)
async def test_serializers(cache, serializer, value):
    cache.serializer = serializer
    if isinstance(serializer, MsgPackSerializer):
        serializer.encoding = None  # aiocache's default asks for text, which msgpack is not
    await cache.set("k", value)
    got = await cache.get("k")
    assert got == value or list(got) == [1, "ü".encode()]
    assert (await cache.multi_get(["k"]))[0] == got


async def test_a_value_that_is_not_serialized(cache):
    cache.serializer = NullSerializer()
    with pytest.raises(TypeError, match="use a serializer"):
        await cache.set("k", 1)


async def test_plugins(cache):
    cache.plugins = [HitMissRatioPlugin()]
    await cache.set("k", 1)
    await cache.multi_get(["k", "missing"])
    assert cache.hit_miss_ratio["hits"] == 1
    assert cache.hit_miss_ratio["total"] == 2


async def test_cached(server, key):
    calls = []

    @cached(ttl=60, cache=EmcacheCache, port=server.port, namespace=f"{key.decode()}:")
    async def double(number, *, twice=False):
        calls.append(number)
        return {"is": number * 2}

    for _ in range(2):
        assert await double(21) == {"is": 42}
        assert await double(21, twice=True) == {"is": 42}
    assert calls == [21, 21]
    await double.cache.close()


async def test_multi_cached(server, key):
    asked = []

    @multi_cached("ids", cache=EmcacheCache, port=server.port, namespace=f"{key.decode()}:")
    async def names(ids):
        asked.append(list(ids))
        return {one: f"name of {one}" for one in ids}

    assert await names(ids=["1", "2"]) == {"1": "name of 1", "2": "name of 2"}
    assert await names(ids=["1", "2", "3"]) == {n: f"name of {n}" for n in "123"}
    assert asked == [["1", "2"], ["3"]]
    await names.cache.close()


async def test_an_alias(server, key):
    config = {"cache": "emcache.contrib.aiocache.EmcacheCache", "port": server.port, "ttl": 9}
    caches.add("mem", config | {"serializer": {"class": "aiocache.serializers.PickleSerializer"}})
    cache = caches.create("mem")
    await cache.set(key.decode(), {1})
    assert await cache.get(key.decode()) == {1}
    await cache.close()


# -- locks -----------------------------------------------------------------------------------------


async def test_red_lock_lets_one_compute(cache):
    computed = []

    async def compute():
        async with RedLock(cache, "k", lease=5.5):
            if await cache.get("k") is None:
                computed.append(1)
                await asyncio.sleep(0.02)
                await cache.set("k", "v")

    await asyncio.gather(*(compute() for _ in range(5)))
    assert computed == [1]
    assert await cache.exists("k-lock") is False


async def test_red_lock_is_only_released_by_its_owner(cache):
    lock = RedLock(cache, "k", lease=5)
    async with lock:
        assert await cache._redlock_release(lock.key, "somebody else") == 0
        assert await cache.exists("k-lock") is True
    assert await cache._redlock_release(lock.key, lock._value) == 0


async def test_optimistic_lock(cache):
    await cache.set("k", "old")
    async with OptimisticLock(cache, "k") as lock:
        assert await lock.cas("new", ttl=5.5) is True
    async with OptimisticLock(cache, "k") as lock:
        await cache.set("k", "somebody else's")
        with pytest.raises(OptimisticLockError):
            await lock.cas("mine")
    async with OptimisticLock(cache, "k") as lock:
        await cache.delete("k")
        with pytest.raises(OptimisticLockError):
            await lock.cas("mine")


# -- clients and nodes -----------------------------------------------------------------------------


def test_several_loops_and_the_end_of_each(server, key):
    cache = EmcacheCache(port=server.port)

    async def use():
        await cache.set(key.decode(), 1)
        return await cache.client()

    one, two = asyncio.run(use()), asyncio.run(use())
    assert one is not two
    assert one.closed
    assert two.closed


async def test_usable_after_close(cache):
    await cache.set("k", 1)
    await cache.close()
    assert await cache.get("k") == 1


async def test_nothing_answers():
    with memcached() as server:
        async with EmcacheCache(port=server.port, **PATIENT) as cache:
            await cache.set("k", 1)
            server.kill()
            with pytest.raises(emcache.ConnectionFailedError):
                await cache.set("k", 2)
            with pytest.raises(emcache.ConnectionFailedError):
                await cache.multi_set([("a", 1), ("b", 2)])


async def ask_for_ever(cache):
    while True:  # a server stops when the machine gets to it
        await cache.get("k", timeout=0.01)


async def test_aiocache_own_timeout():
    with memcached() as silent:
        async with EmcacheCache(port=silent.port, client_timeout=30) as cache:
            await cache.set("k", 1)
            silent.pause()
            with pytest.raises(asyncio.TimeoutError) as raised:
                await ask_for_ever(cache)
            assert not isinstance(raised.value, emcache.OperationTimeoutError)
            silent.resume()
            assert await cache.get("k") == 1


async def test_a_unix_socket():
    with memcached(unix=True) as server:
        async with Cache.from_url(f"emcache://{server.path}?ttl=5") as cache:
            assert cache.nodes == [server.address]
            await cache.set("k", 1)
            assert await cache.get("k") == 1


async def test_urls():
    cache = Cache.from_url("emcache://host:1234/?namespace=n&timeout=2&max_connections=7&ssl=yes")
    assert isinstance(cache, EmcacheCache)
    assert (cache.namespace, cache.timeout) == ("n", 2.0)
    assert repr(cache) == "EmcacheCache (host:1234)"
    assert repr(EmcacheCache(nodes="[::1]:1,unix:/s")) == "EmcacheCache ([::1]:1, /s)"
    several = Cache.from_url("emcache://?nodes=a:1,b:2")
    assert [node.port for node in several.nodes] == [1, 2]
    login = EmcacheCache("host", username="u", password="p", pool_size="3")
    assert not (await login.client()).closed
    await login.close()


async def test_routing(cluster, key):
    weights = {server.address: weight for server, weight in zip(cluster, (3, 1, 2), strict=True)}
    nodes = ",".join(f"127.0.0.1:{server.port}" for server in cluster)
    text = ",".join(f"127.0.0.1:{node.port}={weight}" for node, weight in weights.items())
    names = [f"{key.decode()}:{n}" for n in range(30)]
    async with Cache.from_url(f"emcache://?nodes={nodes}&routing=ketama&weights={text}") as cache:
        await cache.multi_set([(name, 1) for name in names])
    async with emcache.create_client(list(weights), routing="ketama", weights=weights) as client:
        assert len(await client.get_many([name.encode() for name in names])) == 30


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"unheard_of": 1}, TypeError),
        ({"endpoint": "a", "nodes": ["b"]}, ValueError),
        ({"path": "/a", "port": 1}, ValueError),
        ({"nodes": ["a:b"]}, ValueError),
        ({"max_connections": "many"}, ValueError),
        ({"ssl": "perhaps"}, ValueError),
    ],
)
def test_options_that_are_none(options, error):
    with pytest.raises(error):
        EmcacheCache(**options)


@pytest.mark.driver_independent
@pytest.mark.parametrize("name", ["aiocache", "django"])
def test_the_extra_is_named_where_the_library_is_missing(name):
    program = f"import sys; sys.modules[{name!r}] = None; import emcache.contrib.{name}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"pip install 'emcache[{name}]'" in done.stderr


@pytest.mark.driver_independent
def test_a_url_in_a_program_that_imports_nothing_else():
    program = (
        "from aiocache import Cache; import emcache.contrib.aiocache;"
        "print(Cache.from_url('emcache://127.0.0.1:11211/?namespace=shop:').namespace)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "shop:", done.stderr


@pytest.mark.parametrize(
    "text", ["plain", "two words", "k" * 300, "ключ " * 60, "#sha256:" + "0" * 64]
)
async def test_keys_are_those_of_a_cache_that_hashes(cache, text):
    await cache.set(text, "value")
    client = await cache.client()
    name = emcache.Cache(client, keys="hash").wire_key(cache.namespace + text)
    assert (await client.get(name)).value == b'"value"'


async def test_no_key_is_taken_for_another(cache):
    secret, odd = "a b", safe_key("a b").decode()
    await cache.set(secret, 1)
    assert await cache.get(odd) is None
    await cache.multi_set([(odd, 2), ("plain", 3)])
    assert await cache.multi_get([secret, odd, "plain"]) == [1, 2, 3]
    assert await cache.delete(odd) == 1
    assert await cache.exists(secret)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"endpoint": 5}, "address must be a str, not int"),
        ({"endpoint": "host:1"}, "pass the port as the second argument"),
        ({"endpoint": "host", "port": "abc"}, "port must be a number, not 'abc'"),
        ({"endpoint": "host", "port": 0}, "port must be between"),
        ({"nodes": 5}, "nodes must be a text .* or a list of nodes, not int"),
        ({"nodes": []}, "nodes must have at least one"),
        ({"nodes": ""}, "nodes must have at least one"),
        ({"nodes": "a:0"}, "port must be between"),
        ({"path": 5}, "path must be a str, not int"),
        ({"path": ""}, "path must not be empty"),
        ({"pool_size": "many"}, "pool_size must be a number, not 'many'"),
        ({"pool_size": float("inf")}, "pool_size must be a finite number, not inf"),
        ({"client_timeout": 10**400}, "client_timeout is too large"),
        ({"ttl": 10**400}, "ttl is too large"),
        ({"client_timeout": "long"}, "client_timeout must be a number of seconds .*'long'"),
        ({"timeout": []}, "timeout must be a number of seconds or a timedelta"),
        ({"ttl": datetime(2026, 1, 1)}, "ttl must be a number of seconds or a timedelta"),
        ({"serializer": JsonSerializer}, r"write JsonSerializer\(\)"),
        ({"serializer": "json"}, "serializer must be one of aiocache.serializers, not str"),
        ({"max_conections": 2}, "max_conections"),
    ],
    ids=str,
)
def test_what_is_no_cache(options, says):
    with pytest.raises((TypeError, ValueError), match=says):
        EmcacheCache(**options)


async def test_times_of_a_cache_may_be_timedeltas(server):
    times = {"timeout": timedelta(seconds=20), "client_timeout": timedelta(seconds=10)}
    async with EmcacheCache(port=server.port, **times) as cache:
        assert cache.timeout == 20
        assert (await cache.client())._close_timeout == 10
        with pytest.raises(TypeError, match="delta must be an int, not str"):
            await cache.increment("k", "1")
