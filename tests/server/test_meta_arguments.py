"""Arguments of meta commands that are refused, and the truth value of results."""

import time
from datetime import UTC, datetime, timedelta

import pytest

import emcache


class TestArguments:
    @pytest.mark.parametrize(
        ("method", "options", "error"),
        [
            ("meta_get", {"vivify": 30, "touch": 30}, ValueError),
            ("meta_get", {"new_cas": 5}, ValueError),
            ("meta_get", {"known_cas": 5, "value": False}, ValueError),
            ("meta_get", {"recache": 0}, ValueError),
            ("meta_get", {"recache": 30 * 86400 + 1}, ValueError),
            ("meta_get", {"recache": 1.5}, TypeError),
            ("meta_get", {"vivify": "30"}, TypeError),
            ("meta_get", {"vivify": 0}, ValueError),
            ("meta_get", {"vivify": -1}, ValueError),
            ("meta_get", {"vivify": timedelta(0)}, ValueError),
            ("meta_get", {"vivify": datetime(2020, 1, 1, tzinfo=UTC)}, ValueError),
            ("meta_get", {"vivify": 1_577_836_800}, ValueError),
            ("meta_get", {"touch": 2**31}, ValueError),
            ("meta_get", {"value": "yes"}, TypeError),
            ("meta_set", {"value": b"", "mode": "upsert"}, ValueError),
            ("meta_set", {"value": b"", "mode": "append", "exptime": 5}, ValueError),
            ("meta_set", {"value": b"", "mode": "append", "flags": 5}, ValueError),
            ("meta_set", {"value": b"", "vivify": 5}, ValueError),
            ("meta_set", {"value": b"", "invalidate": True}, ValueError),
            ("meta_set", {"value": b"", "cas": -1}, ValueError),
            ("meta_set", {"value": b"", "flags": 2**32}, ValueError),
            ("meta_set", {"value": "text"}, TypeError),
            ("meta_delete", {"stale_for": 0}, ValueError),
            ("meta_delete", {"stale_for": -1}, ValueError),
            ("meta_delete", {"stale_for": 1_577_836_800}, ValueError),
            ("meta_delete", {"new_cas": 5}, ValueError),
            ("meta_delete", {"cas": "5"}, TypeError),
            ("meta_arithmetic", {"delta": -1}, ValueError),
            ("meta_arithmetic", {"mode": "multiply"}, ValueError),
            ("meta_arithmetic", {"exptime": 5}, ValueError),
            ("meta_arithmetic", {"initial": 2**64}, ValueError),
        ],
    )
    async def test_refused_before_anything_is_sent(self, client, key, method, options, error):
        await client.set(key, b"1")
        with pytest.raises(error) as caught:
            await getattr(client, method)(key, **options)
        assert not isinstance(caught.value, emcache.EmcacheError)
        assert (await client.get(key)).value == b"1"

    @pytest.mark.parametrize(
        "seconds", [1, timedelta(milliseconds=1), 30 * 86400, timedelta(days=31)]
    )
    async def test_times_of_a_lease(self, client, key, seconds):
        assert (await client.meta_get(key, vivify=seconds)).won

    async def test_a_lease_until_a_unix_time(self, client, key):
        assert (await client.meta_get(key, vivify=int(time.time()) + 1000)).won
        assert 500 < await client.ttl(key) < 1500

    async def test_messages_name_the_argument(self, client, key):
        with pytest.raises(ValueError, match="vivify must be at least 1 second"):
            await client.meta_get(key, vivify=0)
        with pytest.raises(ValueError, match="vivify must be at least 1 second"):
            await client.meta_get_many([key], vivify=-1)
        with pytest.raises(ValueError, match="stale_for must be at least 1 second"):
            await client.meta_delete(key, stale_for=0)

    @pytest.mark.parametrize("address", [11211, ("127.0.0.1", 11211), None])
    async def test_noop_without_an_address(self, client, address):
        with pytest.raises(TypeError, match=r"'memcached_host_address'.*MemcachedHostAddress"):
            await client.meta_noop(address)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("mg", b"k", "v q"), ValueError),
            (("mg", b"k", "b v"), ValueError),
            (("mg", b"k", "v\r\nflush_all"), ValueError),
            (("mg", b"k", "v  f"), ValueError),
            (("mg", b"k", "O" * 251), ValueError),
            (("mx", b"k"), ValueError),
            (("mn", b"k"), ValueError),
            (("ms", b"k", "T5"), ValueError),
            (("mg", b"k", "v", b"value"), ValueError),
            (("mg", b"", "v"), emcache.InvalidKeyError),
        ],
    )
    async def test_raw_arguments(self, client, arguments, error):
        with pytest.raises(error):
            await client.meta_raw(*arguments)

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            (("mg", b"k", b"v"), "flags"),
            (("mg", b"k", None), "flags"),
            ((b"mg", b"k", "v"), "command"),
        ],
    )
    async def test_raw_needs_text(self, client, arguments, name):
        with pytest.raises(TypeError, match=f"Argument '{name}' .*expected str, got "):
            await client.meta_raw(*arguments)


class TestTruth:
    """A result is true if the command was done."""

    async def test_stored(self, client, key):
        assert not await client.meta_set(key, b"v", mode="replace")
        assert await client.meta_set(key, b"v")
        assert not await client.meta_set(key, b"v", mode="add")

    async def test_deleted(self, client, key):
        assert not await client.meta_delete(key)
        await client.set(key, b"v")
        assert await client.meta_delete(key, invalidate=True)
        assert await client.meta_delete(key)

    async def test_number(self, client, key):
        assert not await client.meta_arithmetic(key)
        created = await client.meta_arithmetic(key, initial=0)
        assert (created.value, bool(created)) == (0, True)
