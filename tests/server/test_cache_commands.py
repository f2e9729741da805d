"""What the methods of a cache do on a real server."""

import asyncio
import datetime
import time

import pytest

import emcache
from emcache import Cache, cached
from emcache.cache import Json, MsgPack, Raw, Utf8, Zlib
from support.memcached import memcached


@pytest.fixture
def cache(client, key):
    return Cache(client, prefix=key + b":")


async def expires(server, name):
    """When an item expires as the server knows it: seconds from now, -1 never."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"mg %s t\r\n" % name)
    answer = await reader.readline()
    writer.close()
    return int(answer.split()[1][1:])


async def test_hits_and_misses(cache):
    assert await cache.get("k") is None
    assert await cache.get("k", "default") == "default"
    assert await cache.get("k", default=0) == 0
    assert await cache.get_with_cas("k") is None
    assert await cache.get_and_touch("k", 5) is None
    assert await cache.get_and_touch("k", 5, "default") == "default"
    await cache.set("k", [1])
    assert await cache.get("k") == [1]
    assert await cache.get_and_touch("k", 5) == [1]
    assert await cache.get_many(["k", "l"]) == {"k": [1]}


async def test_none_is_a_value(cache):
    await cache.set("k", None)
    assert await cache.get("k", "missing") is None
    assert await cache.get_many(["k"]) == {"k": None}
    assert (await cache.get_with_cas("k"))[0] is None


async def test_add_and_replace(cache):
    assert not await cache.replace("k", 1)
    assert await cache.add("k", 2)
    assert not await cache.add("k", 3)
    assert await cache.get("k") == 2
    assert await cache.replace("k", 4)
    assert await cache.get("k") == 4


async def test_cas(cache):
    await cache.set("k", 1)
    value, token = await cache.get_with_cas("k")
    assert await cache.cas("k", value + 1, token)
    assert not await cache.cas("k", 7, token)
    assert await cache.get("k") == 2
    _, token = await cache.get_with_cas("k")
    assert await cache.delete("k")
    assert not await cache.cas("k", 7, token)
    assert await cache.get("k") is None


async def test_delete_and_touch(cache):
    assert not await cache.delete("k")
    assert not await cache.touch("k", 5)
    await cache.set("k", 1)
    assert await cache.touch("k", 5)
    assert await cache.delete("k")
    assert await cache.get("k") is None


IN_TWO_MINUTES = datetime.timedelta(minutes=2)
IN_60_DAYS = datetime.timedelta(days=60)


def moment(delta):
    return datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=5))) + delta


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (120, 120),
        (IN_TWO_MINUTES, 120),
        (IN_60_DAYS, 60 * 24 * 3600),
        (lambda: moment(IN_TWO_MINUTES), 120),
        (lambda: moment(IN_60_DAYS), 60 * 24 * 3600),
        (lambda: int(time.time()) + 500, 500),
        (0, -1),
    ],
)
async def test_ttl(server, client, key, ttl, seconds):
    ttl = ttl() if callable(ttl) else ttl
    cache = Cache(client)
    default = Cache(client, ttl=ttl)
    writes = {
        "set": lambda: cache.set(key, 1, ttl=ttl),
        "replace": lambda: cache.replace(key, 1, ttl=ttl),
        "set_many": lambda: cache.set_many({key: 1}, ttl=ttl),
        "get_and_touch": lambda: cache.get_and_touch(key, ttl),
        "touch": lambda: cache.touch(key, ttl),
        "default": lambda: default.set(key, 1),
        "default of replace": lambda: default.replace(key, 1),
        "renew": lambda: default.renew(key, one),
    }
    for write in writes.values():
        await client.set(key, b"1", flags=0x0E400000, exptime=7)
        await write()
        # 10: its clock ticks once a second, and a busy machine lets that wait.
        assert abs(await expires(server, key) - seconds) <= 10


async def one():
    return 1


async def test_a_ttl_that_has_passed(cache):
    for ttl in (-1, datetime.timedelta(0), datetime.timedelta(-1), moment(-IN_TWO_MINUTES)):
        await cache.set("k", 1)
        await cache.set("k", 2, ttl=ttl)
        assert await cache.get("k") is None


async def test_a_wrong_ttl(cache):
    for ttl, error in (
        (datetime.datetime(2100, 1, 1), ValueError),
        ("5", TypeError),
        (1.5, TypeError),
        (30 * 24 * 3600 + 1, ValueError),
        (10 * 365 * 24 * 3600, ValueError),
    ):
        for call in (
            cache.set("k", 1, ttl=ttl),
            cache.touch("k", ttl),
            cache.get_and_touch("k", ttl),
            cache.get_or_set("k", one, ttl=ttl),
        ):
            with pytest.raises(error, match="ttl"):
                await call
    assert await cache.get("k") is None


async def test_days_in_seconds(client, cache):
    await cache.set("k", 1, ttl=30 * 24 * 3600)
    assert await cache.get("k") == 1
    for call in (lambda ttl: Cache(client, ttl=ttl), lambda ttl: cached(cache, ttl=ttl)):
        with pytest.raises(ValueError, match=r"use timedelta\(seconds=2678400\)"):
            call(31 * 24 * 3600)


@pytest.mark.parametrize("keys", ["abc", b"abc", bytearray(b"abc")])
async def test_one_key_is_no_list(cache, keys):
    await cache.set("a", 1)
    for call in (cache.get_many, cache.delete_many):
        with pytest.raises(TypeError, match="must be an iterable of keys, not one"):
            await call(keys)
    assert await cache.get("a") == 1
    with pytest.raises(TypeError, match="must be a mapping, not list"):
        await cache.set_many([("a", 1)])


async def test_many(cache):
    values = {f"k{n}": n for n in range(300)}
    assert await cache.set_many(values) == {}
    assert await cache.get_many([*values, "missing"]) == values
    assert await cache.delete_many(["k0", "k1", "missing"]) == {}
    assert set(values) - set(await cache.get_many(values)) == {"k0", "k1"}
    assert await cache.set_many({}) == {}
    assert await cache.delete_many([]) == {}


async def test_a_failing_key_hides_no_other(client, key):
    cache = Cache(client, serializer=Utf8(), prefix=key)
    errors = await cache.set_many({"a": "1", "large": "x" * 2_000_000, "wrong": 5, "b": "2"})
    assert errors.keys() == {"large", "wrong"}
    assert isinstance(errors["large"], emcache.StorageCommandError)
    assert isinstance(errors["wrong"], emcache.SerializationError)
    assert await cache.get_many(["a", "large", "wrong", "b"]) == {"a": "1", "b": "2"}


async def test_an_unreadable_value_hides_no_other(client, cache, key):
    await cache.set_many({"a": 1, "b": 2})
    await client.set(cache.wire_key("b"), b"2", flags=1)
    with pytest.raises(emcache.SerializationError):
        await cache.get_many(["a", "b", "c"])
    found = await cache.get_many(["a", "b", "c"], on_error="partial")
    assert found == {"a": 1}
    assert found.errors.keys() == {"b"}
    assert isinstance(found.errors["b"], emcache.SerializationError)
    quiet = Cache(client, prefix=key + b":", on_unreadable="miss")
    found = await quiet.get_many(["a", "b", "c"], on_error="partial")
    assert (found, found.errors) == ({"a": 1}, {})
    with pytest.raises(ValueError, match="on_error"):
        await cache.get_many(["a"], on_error="ignore")


async def test_many_with_different_flags(client, key):
    cache = Cache(client, serializer=Utf8(), compression=Zlib(), prefix=key)
    values = {"small": "s", "large": "l" * 5000, "other": "o"}
    assert await cache.set_many(values) == {}
    assert await cache.get_many(values) == values


async def test_a_dead_node_hides_no_other_key(server, key):
    with memcached() as other:
        nodes = [server.address, other.address]
        async with emcache.create_client(nodes, timeout=5) as client:
            cache = Cache(client, prefix=key)
            names = [str(n) for n in range(40)]
            assert await cache.set_many(dict.fromkeys(names, 1)) == {}
            other.kill()
            on_dead = {n for n in names if client.node_for(cache.wire_key(n)) == other.address}
            errors = await cache.set_many(dict.fromkeys(names, 2))
            assert errors.keys() == on_dead
            assert 0 < len(on_dead) < 40
            found = await cache.get_many(names, on_error="partial")
            assert dict(found) == dict.fromkeys(set(names) - on_dead, 2)
            assert found.errors.keys() == on_dead
            with pytest.raises(emcache.ConnectionFailedError):
                await cache.get_many(names)
            assert (await cache.delete_many(names)).keys() == on_dead


@pytest.mark.parametrize("serializer", [Json(), Json(flags=0), Utf8()])
async def test_numbers(client, key, serializer):
    cache = Cache(client, serializer=serializer)
    number = str if isinstance(serializer, Utf8) else int
    assert await cache.increment(key) is None
    await cache.set(key, number(99))
    assert await cache.increment(key) == 100
    assert await cache.increment(key, 10) == 110
    assert await cache.decrement(key, 105) == 5
    # The server pads what gets shorter.
    assert int(await cache.get(key)) == 5
    assert await cache.decrement(key, 100) == 0


async def test_numbers_with_a_beginning(server, cache):
    assert await cache.increment("n", 5, initial=10, ttl=100) == 10
    assert abs(await expires(server, cache.wire_key("n")) - 100) <= 10
    assert await cache.increment("n", 5, initial=10, ttl=5000) == 15
    assert abs(await expires(server, cache.wire_key("n")) - 100) <= 10
    assert await cache.get("n") == 15
    assert await cache.decrement("m", initial=3) == 3


async def test_a_ttl_of_no_number(cache):
    await cache.set("n", 1)
    for count in (cache.increment, cache.decrement):
        with pytest.raises(ValueError, match="pass initial as well"):
            await count("n", ttl=60)
    assert await cache.get("n") == 1


async def test_numbers_that_get_shorter(client, key):
    for serializer, ten, read in ((Utf8(), "10", "9 "), (Raw(), b"10", b"9 "), (Json(), 10, 9)):
        cache = Cache(client, serializer=serializer)
        await cache.set(key, ten)
        assert await cache.decrement(key) == 9
        assert await cache.get(key) == read


async def test_numbers_of_many_at_once(cache):
    results = await asyncio.gather(*(cache.increment("n", initial=1) for _ in range(50)))
    assert sorted(results) == list(range(1, 51))


async def test_what_is_no_number(client, cache, key):
    await cache.set("k", "text")
    with pytest.raises(emcache.ArithmeticCommandError):
        await cache.increment("k")
    packed = Cache(client, serializer=MsgPack(), prefix=key)
    with pytest.raises(emcache.SerializationError, match="decimal number"):
        await packed.increment("n", initial=1)
    with pytest.raises(emcache.SerializationError, match="decimal number"):
        await cache.increment("n", initial=-1)
    with pytest.raises(ValueError):
        await cache.increment("n", -1)


async def test_errors_of_the_client_pass(server, key):
    with memcached() as own:
        async with emcache.create_client([own.address]) as client:
            cache = Cache(client)
            assert cache.client is client
            assert str(own.port) in repr(cache)
            with pytest.raises(emcache.StorageCommandError):
                await cache.set(key, "x" * 2_000_000)
            own.kill()
            with pytest.raises(emcache.ConnectionFailedError):
                await cache.get(key)
    with pytest.raises(emcache.ClientClosedError):
        await cache.get(key)


async def test_the_time_that_is_left(cache):
    assert await cache.ttl("k") is None
    await cache.set("k", 1, ttl=100)
    assert 90 < await cache.ttl("k") <= 100
    await cache.set("k", 1, ttl=0)
    assert await cache.ttl("k") == -1


async def test_a_lease_has_no_time_left(cache):
    await cache.client.set(cache.wire_key("k"), b"", exptime=30)
    assert await cache.ttl("k") is None
