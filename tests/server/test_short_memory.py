"""Real servers that have no memory left: for items, or for the replies of a connection."""

import asyncio

import pytest
import pytest_asyncio

import emcache
from support.calls import within
from support.memcached import memcached
from support.sasl import sasl_memcached

SIZE = 8192
REFUSED = emcache.StorageCommandError


def value_of(key: bytes) -> bytes:
    """The oracle: a value of another key is noticed."""
    return key.ljust(SIZE, b".")


async def outcome(call):
    """What a call returned, or the class of what it raised."""
    try:
        return await call
    except emcache.EmcacheError as error:
        return type(error)


class TestFullServer:
    """`memcached -M` refuses new items instead of evicting old ones."""

    @pytest_asyncio.fixture(params=[memcached, sasl_memcached], ids=["text", "sasl"])
    async def full(self, request):
        """A client of a full server, and the keys that are in it."""
        with request.param("-M", "-m", "2") as server:
            options = {"timeout": 10.0, "max_connections": 1} | server.login
            async with emcache.create_client([server.address], **options) as client:
                for number in range(1000):
                    key = b"k%d" % number
                    if await outcome(client.set(key, value_of(key))) is REFUSED:
                        break
                else:
                    pytest.fail("the server took 8 MB with a limit of 2")
                yield client, [b"k%d" % n for n in range(number)]

    @within(30)
    async def test_the_refusal_names_its_reason(self, full):
        client, _ = full
        with pytest.raises(REFUSED, match=r"(?i)out of memory") as raised:
            await client.set(b"new", value_of(b"new"))
        assert type(raised.value) is REFUSED
        assert raised.value.command == "set"

    @within(30)
    async def test_refusals_between_other_calls(self, full):
        """Each refused value is swallowed, so the replies behind it go to their own calls."""
        client, keys = full
        calls = []
        for key in keys:
            calls += [client.get(key), client.add(b"new" + key, value_of(key))]
        results = await asyncio.gather(*map(outcome, calls))
        assert [item.value for item in results[::2]] == [value_of(key) for key in keys]
        assert set(results[1::2]) == {REFUSED}
        found = await client.get_many(keys)
        assert {key: item.value for key, item in found.items()} == {k: value_of(k) for k in keys}

    @within(30)
    @pytest.mark.parametrize("verb", ["set", "replace"])
    async def test_a_refused_value_is_never_there(self, full, verb):
        client, keys = full
        assert await outcome(getattr(client, verb)(keys[0], b"n" * SIZE)) is REFUSED
        item = await client.get(keys[0])
        # The server itself drops the old value where `set` fails, so that it is not outdated.
        assert item is None if verb == "set" else item.value == value_of(keys[0])

    @within(30)
    async def test_room_can_be_made(self, full):
        client, keys = full
        await client.delete(keys[0])
        await client.set(b"new", value_of(b"new"))
        assert (await client.get(b"new")).value == value_of(b"new")


class TestShortReplies:
    """A thread of the server has 32 KiB for replies, so it refuses a `get` with 20 keys."""

    @pytest_asyncio.fixture(params=[True, False], ids=["merged", "single"])
    async def client(self, request):
        """A client that may send any number of keys at once."""
        with memcached("-t", "32", "-R", "500", "-o", "read_buf_mem_limit=1") as server:
            options = {"timeout": 10.0, "max_connections": 1, "autobatching": request.param}
            async with emcache.create_client([server.address], **options) as client:
                yield client

    @within(30)
    async def test_many_keys(self, client):
        """The keys of a refused command are requested again, each alone."""
        keys = [b"k%d" % number for number in range(500)]
        for key in keys:
            await client.set(key, key)
        found = await client.get_many(keys)
        assert {key: item.value for key, item in found.items()} == {key: key for key in keys}

    @within(30)
    async def test_gets_at_once(self, client):
        """Each is answered with its own value, or fails; none is a miss."""
        keys = [b"k%d" % number for number in range(500)]
        for key in keys:
            await client.set(key, key)
        results = await asyncio.gather(*(outcome(client.get(key)) for key in keys))
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, emcache.Item):
                assert result.value == key
            else:
                assert issubclass(result, emcache.EmcacheError)
        assert (await client.get(keys[7])).value == keys[7]

    @within(30)
    async def test_sets_at_once(self, client):
        """The server closes the connection: what was confirmed is there."""
        keys = [b"k%d" % number for number in range(500)]
        results = await asyncio.gather(*(outcome(client.set(key, key)) for key in keys))
        confirmed = [key for key, result in zip(keys, results, strict=True) if result is None]
        for result in set(results) - {None}:
            assert issubclass(result, emcache.EmcacheError)
        for key in confirmed:
            assert (await client.get(key)).value == key


class TestFewRequestsATurn:
    """`memcached -R 1` leaves a connection after each request, with the rest unread."""

    @within(30)
    async def test_pipelined_calls(self):
        async def cycle(client, key):
            await client.set(key, value_of(key))
            assert (await client.get(key)).value == value_of(key)
            await client.delete(key)
            assert await client.get(key) is None

        with memcached("-R", "1") as server:
            options = {"timeout": 10.0, "max_connections": 1, "autobatching": False}
            async with emcache.create_client([server.address], **options) as client:
                await asyncio.gather(*(cycle(client, b"k%d" % number) for number in range(300)))
            assert int(server.stats()["conn_yields"]) > 0
