"""The meta commands against a real server, with every option that it knows."""

import asyncio
import dataclasses
import re

import pytest

import emcache
from support.calls import client_of, within
from support.memcached import memcached
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
                ("new_cas", client.meta_set(key, b"1", new_cas=5)),
                ("new_cas", client.meta_get(key, vivify=30, new_cas=5)),
                ("new_cas", client.meta_arithmetic(key, initial=1, new_cas=5)),
                ("clear", client.meta_delete(key, clear=True)),
            ],
            (1, 6, 20): [("vivify", client.meta_set(key, b"v", mode="append", vivify=30))],
            (1, 6, 40): [("known_cas", client.meta_get(key, known_cas=5))],
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


class TestTtl:
    @within(20)
    async def test_seconds(self, client, key):
        assert await client.ttl(key) is None
        await client.set(key, b"v", exptime=1000)
        assert 500 < await client.ttl(key) <= 1000
        await client.set(key, b"v")
        assert await client.ttl(key) == -1
        await client.meta_set(key + b" ", b"v", exptime=1000)
        assert 500 < await client.ttl(key + b" ") <= 1000

    @within(20)
    @pytest.mark.parametrize("exptime", [0, 1000])
    async def test_no_win_is_taken(self, client, key, exptime):
        await client.set(key, b"old", exptime=exptime)
        await client.meta_delete(key, invalidate=True)
        for _ in range(3):
            assert (await client.ttl(key) == -1) == (exptime == 0)
        item = await client.meta_get(key)
        assert (item.won, item.stale) == (True, True)
        assert (await client.ttl(key) == -1) == (exptime == 0)
        assert (await client.meta_get(key)).recache

    @within(20)
    async def test_the_stub_of_a_lease(self, client, key):
        won = await client.meta_get(key, vivify=30)
        assert 0 < await client.ttl(key) <= 30
        assert (await client.meta_set(key, b"v", cas=won.cas)).done

    @within(20)
    async def test_it_is_no_access(self, client, key):
        await client.set(key, b"v")
        await client.ttl(key)
        assert (await client.meta_get(key, hit_before=True)).hit_before is False


class TestMany:
    @within(20)
    async def test_items_of_many_nodes(self, cluster, key):
        async with emcache.create_client([node.address for node in cluster]) as client:
            keys = [b"%b %d" % (key, number) for number in range(50)]
            for number in range(0, 50, 2):
                await client.meta_set(keys[number], b"%d" % number, flags=number)
            found = await client.meta_get_many([*keys, keys[0]], size=True)
            assert {name: (item.value, item.flags) for name, item in found.items()} == {
                keys[number]: (b"%d" % number, number) for number in range(0, 50, 2)
            }
            won = await client.meta_get_many(iter(keys), vivify=30)
            assert [won[name].won for name in keys] == [number % 2 == 1 for number in range(50)]
            assert await client.meta_get_many([]) == {}

    @within(20)
    async def test_partial(self, cluster, key):
        with memcached() as dead:
            addresses = [cluster[0].address, dead.address]
            async with emcache.create_client(addresses, timeout=5) as client:
                keys = [b"%b%d" % (key, number) for number in range(20)]
                for name in keys:
                    await client.set(name, b"v")
                dead.stop()
                found = await client.meta_get_many(keys, on_error="partial")
                assert found.keys() | found.errors.keys() == set(keys)
                assert found
                assert found.errors
                for name, error in found.errors.items():
                    assert client.node_for(name) == dead.address
                    assert isinstance(error, emcache.ConnectionFailedError)
                with pytest.raises(emcache.ConnectionFailedError):
                    await client.meta_get_many(keys)

    async def test_the_same_items_as_one_by_one(self, client, key):
        keys = [b"%b %d" % (key, number) for number in range(5)] + [key]
        for name in keys[:4]:
            await client.meta_set(name, b"v" * len(name), flags=7, exptime=100)
        await client.meta_delete(keys[1], invalidate=True)
        await client.meta_set(keys[2], b"", exptime=0)
        options = {"size": True, "last_access": True, "hit_before": True, "no_bump": True}
        for value in (True, False):
            # Before the single reads, so that this one wins.
            many = await client.meta_get_many(keys, value=value, **options)
            assert list(many) == keys[:4]
            assert (many[keys[1]].stale, many[keys[1]].won) == (True, value)
            for name in keys:
                alone = await client.meta_get(name, value=value, **options)
                found = many.get(name)
                if name == keys[1]:
                    alone = dataclasses.replace(alone, won=found.won, recache=found.recache)
                if alone is not None:
                    alone = dataclasses.replace(alone, hit_before=found.hit_before)
                assert alone == found

    async def test_one_call_for_more_keys_than_a_node_takes_at_once(self, client, key):
        keys = [b"%b%d" % (key, number) for number in range(20_000)]
        before = client.metrics().nodes[0].commands
        assert await client.meta_get_many(keys) == {}
        assert client.metrics().nodes[0].commands["mg"].results["miss"] == 20_000
        assert before.get("mg") is None

    async def test_a_cancelled_call_ends_and_the_next_is_right(self, client, key):
        keys = [b"%b%d" % (key, number) for number in range(300)]
        await client.set_many({name: name for name in keys})
        for steps in range(4):
            task = asyncio.create_task(client.meta_get_many(keys))
            for _ in range(steps):
                await asyncio.sleep(0)
            # A fast server may have answered within these turns.
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
            found = await client.meta_get_many(keys)
            assert {name: item.value for name, item in found.items()} == {n: n for n in keys}

    async def test_arguments(self, client, key):
        with pytest.raises(ValueError, match="vivify"):
            await client.meta_get_many([key], new_cas=1)
        with pytest.raises(ValueError, match="on_error"):
            await client.meta_get_many([key], on_error="ignore")
        with pytest.raises(ValueError, match="exclude"):
            await client.meta_get_many([key], vivify=30, touch=30)
        with pytest.raises(emcache.InvalidKeyError):
            await client.meta_get_many([key, b""])


class TestDebugAndRaw:
    async def test_debug(self, client, key):
        assert await client.meta_debug(key) is None
        await client.set(key, b"v", exptime=1000)
        seen = await client.meta_debug(key)
        assert seen.cas == (await client.gets(key)).cas
        assert 500 < seen.ttl <= 1000
        assert seen.fetched is False
        assert (await client.meta_debug(key)).fetched is True
        assert seen.size > len(key)
        assert seen.slab_class >= 1
        assert seen.last_access >= 0
        await client.meta_set(key + b" ", b"v")
        assert (await client.meta_debug(key + b" ")).ttl == -1

    async def test_noop(self, client, server):
        assert await client.meta_noop(server.address) is None
        with pytest.raises(ValueError, match="can not be found"):
            await client.meta_noop(emcache.MemcachedHostAddress("127.0.0.1", 1))

    @within(20)
    async def test_noop_of_all_nodes(self, cluster):
        with memcached() as dead:
            alive = [node.address for node in cluster]
            async with emcache.create_client(alive) as client:
                assert await client.meta_noop(emcache.ALL_NODES) is None
                counted = [node.commands["mn"].count for node in client.metrics().nodes]
                assert counted == [1] * len(alive)
            dead.stop()
            async with emcache.create_client([*alive, dead.address], timeout=5) as client:
                with pytest.raises(ExceptionGroup) as caught:
                    await client.meta_noop(emcache.ALL_NODES)
                (error,) = caught.value.exceptions
                assert error.node == f"127.0.0.1:{dead.port}"

    async def test_raw(self, client, key):
        assert await client.meta_raw("ms", key, "T1000 F7", b"v") == emcache.MetaReply(
            "HD", (), None
        )
        reply = await client.meta_raw("mg", key, "s v f t Oq1 k")
        assert (reply.status, reply.value) == ("VA", b"v")
        assert reply.flags[0] == "s1"
        assert reply.flags[3:] == ("Oq1", f"k{key.decode()}")
        assert (await client.meta_raw("me", key)).flags[1].startswith("exp=")
        assert (await client.meta_raw("md", key)).status == "HD"
        assert (await client.meta_raw("md", key)).status == "NF"
        assert (await client.meta_raw("ma", key, "N0 J5 v")).value == b"5"
        await client.meta_raw("ms", b"\0" + key, "T1000", b"binary")
        assert (await client.meta_raw("mg", b"\0" + key, "v")).value == b"binary"

    async def test_raw_errors(self, client, key):
        for command, value in (("mg", None), ("ms", b"flush_all")):
            with pytest.raises(emcache.CommandError) as caught:
                await client.meta_raw(command, key, "Y", value)
            assert (caught.value.command, caught.value.status) == (command, "CLIENT_ERROR")


@within(20)
async def test_a_closed_client(server, key):
    async with client_of(server) as client:
        pass
    for call in (
        client.meta_get(key),
        client.meta_set(key, b""),
        client.meta_debug(key),
        client.meta_noop(server.address),
        client.meta_get_many([key]),
        client.ttl(key),
    ):
        with pytest.raises(emcache.ClientClosedError):
            await call


async def test_counters_by_command(client, server, key):
    before = client.metrics().nodes[0].commands
    assert "mg" not in before
    await client.meta_get(key)
    await client.meta_set(key, b"v")
    await client.meta_get(key)
    counted = client.metrics().nodes[0].commands
    assert counted["mg"].results == {"hit": 1, "miss": 1}
    assert counted["ms"].results == {"ok": 1}
