"""The meta commands against a real server, with every option that it knows."""

import re

import pytest

import emcache
from support.calls import client_of, within
from support.sasl import sasl_memcached

BINARY_KEYS = [b" ", b"a b\r\n", b"\0\xff\xfe", bytes(186)]


@pytest.fixture(scope="module")
def server_version(server) -> tuple[int, ...]:
    numbers = re.match(r"[0-9.]+", server.stats()["version"])
    return tuple(int(number) for number in numbers[0].split("."))


class TestGet:
    async def test_a_miss(self, client, key):
        assert await client.meta_get(key) is None

    async def test_attributes(self, client, key):
        await client.set(key, b"value", flags=7, exptime=1000)
        item = await client.meta_get(key)
        assert (item.value, item.flags, item.size) == (b"value", 7, 5)
        assert 500 < item.ttl <= 1000
        assert item.cas > 0
        assert (item.won, item.stale, item.recache) == (False, False, False)
        assert (item.last_access, item.hit_before) == (None, None)
        assert item.cas == (await client.gets(key)).cas

    async def test_only_attributes(self, client, key):
        await client.set(key, b"value")
        item = await client.meta_get(key, value=False, size=True, hit_before=True)
        assert (item.value, item.size, item.ttl, item.hit_before) == (None, 5, -1, False)
        assert (await client.meta_get(key, value=False)).size is None
        item = await client.meta_get(key, last_access=True, hit_before=True)
        assert item.hit_before is True
        assert item.last_access is not None

    async def test_no_bump(self, client, key):
        await client.set(key, b"value")
        for _ in range(2):
            item = await client.meta_get(key, no_bump=True, hit_before=True)
            assert item.hit_before is False

    async def test_touch(self, client, key):
        await client.set(key, b"value")
        assert 500 < (await client.meta_get(key, touch=1000)).ttl <= 1000
        assert (await client.meta_get(key, touch=0)).ttl == -1

    async def test_vivify_wins_once(self, client, key):
        first = await client.meta_get(key, vivify=30)
        other = await client.meta_get(key, vivify=30)
        assert (first.value, first.won, first.recache) == (b"", True, False)
        assert (other.value, other.won, other.recache) == (b"", False, True)
        assert first.cas == other.cas
        assert 0 < first.ttl <= 30
        assert (await client.meta_set(key, b"value", cas=first.cas)).done
        item = await client.meta_get(key, vivify=30)
        assert (item.value, item.won, item.recache) == (b"value", False, False)

    async def test_recache_wins_once_before_the_end(self, client, key):
        await client.set(key, b"value", exptime=1000)
        assert (await client.meta_get(key, recache=50)).won is False
        wins = [(await client.meta_get(key, recache=2000)).won for _ in range(3)]
        assert wins == [True, False, False]

    async def test_a_reserved_time_is_read_before_it_is_set(self, client, key):
        await client.set(key, b"value", exptime=20)
        item = await client.meta_get(key, recache=30, touch=300)
        assert item.won
        assert item.ttl > 100
        assert not (await client.meta_get(key, recache=30)).won

    @pytest.mark.parametrize("size", [0, 1, 100, 40_000, 900_000])
    async def test_a_value_of_any_size(self, client, key, size):
        value = b"\r\nEN\r\n"[: min(size, 6)] + b"x" * max(0, size - 6)
        assert (await client.meta_set(key, value, flags=1)).done
        assert (await client.meta_get(key)).value == value


class TestSet:
    async def test_flags_and_exptime(self, client, key):
        stored = await client.meta_set(
            key, bytearray(b"v"), flags=2**32 - 1, exptime=1000, return_cas=True
        )
        item = await client.meta_get(key)
        assert stored == emcache.MetaStored("stored", item.cas)
        assert stored.done
        assert (item.flags, item.value) == (2**32 - 1, b"v")
        assert 500 < item.ttl <= 1000

    async def test_conditions_are_results(self, client, key):
        async def status(value=b"v", **options):
            return (await client.meta_set(key, value, **options)).status

        assert await status(mode="replace") == "not_stored"
        assert await status(mode="append") == "not_stored"
        assert await status(cas=1) == "not_found"
        assert await status(mode="add") == "stored"
        assert await status(mode="add") == "not_stored"
        assert await status(b"w", mode="replace") == "stored"
        assert await status(b">", mode="append") == "stored"
        assert await status(b"<", mode="prepend") == "stored"
        item = await client.meta_get(key)
        assert item.value == b"<w>"
        assert await status(cas=item.cas + 1) == "exists"
        assert await status(cas=item.cas) == "stored"

    async def test_stored_as_stale(self, client, key):
        first = await client.meta_set(key, b"old", return_cas=True)
        await client.set(key, b"new")
        assert (await client.meta_set(key, b"late", cas=first.cas, invalidate=True)).done
        assert (await client.meta_get(key)).stale

    async def test_a_value_that_is_too_large_is_an_error_and_the_old_one_is_gone(self, client, key):
        for mode in ("set", "add"):
            await client.set(key, b"old")
            with pytest.raises(emcache.StorageCommandError, match="too large") as caught:
                await client.meta_set(key, b"x" * 2 * 2**20, mode=mode)
            assert (caught.value.command, caught.value.status) == ("ms", "SERVER_ERROR")
            assert await client.get(key) is None
        assert (await client.meta_set(key, b"fits")).done


class TestDelete:
    async def test_statuses(self, client, key):
        assert (await client.meta_delete(key)).status == "not_found"
        await client.set(key, b"v")
        cas = (await client.gets(key)).cas
        wrong = await client.meta_delete(key, cas=cas + 1)
        assert (wrong.status, wrong.done) == ("exists", False)
        right = await client.meta_delete(key, cas=cas)
        assert (right.status, right.done) == ("deleted", True)
        assert await client.get(key) is None

    async def test_a_stale_item_is_won_once(self, client, key):
        await client.set(key, b"old", exptime=1000)
        assert (await client.meta_delete(key, stale_for=60)).status == "invalidated"
        first, other = await client.meta_get(key), await client.meta_get(key)
        assert (first.value, first.stale, first.won, first.recache) == (b"old", True, True, False)
        assert (other.value, other.stale, other.won, other.recache) == (b"old", True, False, True)
        assert first.ttl <= 60
        assert (await client.get(key)).value == b"old"
        assert (await client.meta_set(key, b"new", cas=first.cas)).done
        item = await client.meta_get(key)
        assert (item.value, item.stale, item.recache) == (b"new", False, False)

    async def test_invalidate_keeps_the_time(self, client, key):
        await client.set(key, b"old", exptime=1000)
        assert (await client.meta_delete(key, invalidate=True)).done
        assert (await client.meta_get(key)).ttl > 990

    async def test_a_win_is_given_back(self, client, key):
        won = await client.meta_get(key, vivify=30)
        assert (await client.meta_delete(key, cas=won.cas)).done
        assert (await client.meta_get(key, vivify=30)).won
        await client.set(key, b"old")
        await client.meta_delete(key, invalidate=True)
        won = await client.meta_get(key)
        assert (await client.meta_delete(key, cas=won.cas, stale_for=30)).done
        assert (await client.meta_get(key)).won

    async def test_an_invalidation_beats_a_winner(self, client, key):
        won = await client.meta_get(key, vivify=30)
        await client.meta_delete(key, stale_for=30)
        assert (await client.meta_set(key, b"late", cas=won.cas)).status == "exists"
        await client.meta_delete(key)
        assert (await client.meta_set(key, b"late", cas=won.cas)).status == "not_found"


class TestArithmetic:
    async def test_statuses(self, client, key):
        assert (await client.meta_arithmetic(key)).status == "not_found"
        created = await client.meta_arithmetic(key, 2, initial=10, exptime=1000)
        assert (created.status, created.value, created.done) == ("done", 10, True)
        assert 500 < created.ttl <= 1000
        assert created.cas > 0
        assert (await client.meta_arithmetic(key, 2)).value == 12
        assert (await client.meta_arithmetic(key, 100, mode="decrement")).value == 0
        touched = await client.meta_arithmetic(key, 0, touch=2000)
        assert touched.ttl > 1000
        assert (await client.meta_arithmetic(key, cas=touched.cas + 1)).status == "exists"
        assert (await client.meta_arithmetic(key, 2**64 - 1, cas=touched.cas)).value == 2**64 - 1

    async def test_not_a_number(self, client, key):
        await client.set(key, b"text")
        with pytest.raises(emcache.ArithmeticCommandError) as caught:
            await client.meta_arithmetic(key)
        assert (caught.value.command, caught.value.status) == ("ma", "CLIENT_ERROR")
        assert (await client.get(key)).value == b"text"

    async def test_cas_does_not_guard_the_creation(self, client, key):
        assert (await client.meta_arithmetic(key, cas=5, initial=3)).value == 3


@pytest.mark.parametrize("binary", BINARY_KEYS)
async def test_keys_of_any_bytes(client, binary):
    await client.meta_delete(binary)
    assert await client.meta_get(binary) is None
    assert (await client.meta_set(binary, b"5", mode="add")).done
    assert (await client.meta_get(binary)).value == b"5"
    assert (await client.meta_arithmetic(binary)).value == 6
    assert (await client.meta_delete(binary)).done


@pytest.mark.parametrize("bad", [b"", b"x" * 251, b" " * 187])
async def test_keys_that_fit_no_command(client, bad):
    with pytest.raises(emcache.InvalidKeyError):
        await client.meta_get(bad)


class TestOptionsThatTheServerLacks:
    @within(20)
    async def test_newer_options(self, client, key, server_version):
        later = {
            (1, 6, 27): [
                ("new_cas", client.meta_set(key, b"v", new_cas=5)),
                ("new_cas", client.meta_get(key, vivify=30, new_cas=5)),
                ("new_cas", client.meta_arithmetic(key, initial=1, new_cas=5)),
                ("clear", client.meta_delete(key, clear=True)),
            ],
            (1, 6, 20): [("vivify", client.meta_set(key, b"v", mode="append", vivify=30))],
            (1, 6, 45): [("known_cas", client.meta_get(key, known_cas=5))],
        }
        for since, calls in later.items():
            for option, call in calls:
                if server_version >= since:
                    await call
                    continue
                number = ".".join(map(str, since))
                with pytest.raises(emcache.UnsupportedError, match=option) as caught:
                    await call
                assert number in str(caught.value)
                assert caught.value.node is not None
                assert caught.value.command in ("mg", "ms", "md", "ma")
        assert server_version >= (1, 6, 20) or await client.get(key) is None

    @within(20)
    async def test_the_binary_protocol_has_none(self, key):
        with sasl_memcached() as sasl:
            async with client_of(sasl, **sasl.login) as client:
                for call in (
                    client.meta_get(key),
                    client.meta_set(key, b"v"),
                    client.meta_set(key, b"v" * 100_000),
                    client.meta_delete(key),
                    client.meta_arithmetic(key),
                ):
                    with pytest.raises(emcache.UnsupportedError, match="binary"):
                        await call
                await client.set(key, b"classic")
                assert (await client.get(key)).value == b"classic"


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
