"""Calls over many nodes and many keys, and gets that share a command on the wire."""

import asyncio
import gc
import random

import pytest
import pytest_asyncio

import emcache


def value_of(key: bytes) -> bytes:
    """The oracle: a foreign or stale value is noticed."""
    return b"value of " + key * (1 + len(key) % 3)


def flags_of(key: bytes) -> int:
    return sum(key) * 2**17 % 2**32


def numbered(prefix: bytes, count: int) -> list[bytes]:
    return [b"%s:%d" % (prefix, n) for n in range(count)]


async def store(client, keys) -> None:
    await asyncio.gather(*(client.set(k, value_of(k), flags=flags_of(k)) for k in keys))


def held_by(node, keys) -> set[bytes]:
    """The keys that a node really has, asked without the client."""
    held: set[bytes] = set()
    for start in range(0, len(keys), 20):
        words = node.command(b"get %s\r\n" % b" ".join(keys[start : start + 20])).split(b"\r\n")
        held |= {word.split(b" ")[1] for word in words if word.startswith(b"VALUE ")}
    return held


def counted(nodes, *names: str) -> list[int]:
    return [int(node.stats()[name]) for node in nodes for name in names]


@pytest_asyncio.fixture(params=[True, False], ids=["merged", "single"])
async def client(request, cluster):
    """A client of three nodes."""
    addresses = [node.address for node in cluster]
    async with emcache.create_client(
        addresses, autobatching=request.param, timeout=10.0
    ) as running:
        yield running


RETRIEVALS = {
    "get_many": lambda client, keys, **options: client.get_many(keys, **options),
    "gets_many": lambda client, keys, **options: client.gets_many(keys, **options),
    "gat_many": lambda client, keys, **options: client.gat_many(0, keys, **options),
    "gats_many": lambda client, keys, **options: client.gats_many(0, keys, **options),
}
many = pytest.mark.parametrize("fetch", RETRIEVALS.values(), ids=RETRIEVALS)


def check(items, expected, *, flags: bool = False, cas: bool = False) -> None:
    assert items.keys() == set(expected)
    for key, item in items.items():
        assert type(key) is bytes
        assert type(item) is emcache.Item
        assert item.value == value_of(key)
        assert item.flags == (flags_of(key) if flags else None)
        assert (type(item.cas) is int) if cas else (item.cas is None)


class TestRouting:
    async def test_keys_lie_where_the_core_says(self, client, cluster, key):
        keys = numbered(key, 300)
        await store(client, keys)
        chosen = [client._core.node_for(k) for k in keys]
        for index, node in enumerate(cluster):
            expected = {k for k, at in zip(keys, chosen, strict=True) if at == index}
            assert held_by(node, keys) == expected
            assert expected

    @pytest.mark.parametrize(
        ("command", "gone"),
        [
            (lambda client, key: client.delete(key), True),
            (lambda client, key: client.touch(key, -1), True),
            (lambda client, key: client.gat(-1, key), True),
            (lambda client, key: client.append(key, b"!"), False),
            (lambda client, key: client.replace(key, b"new"), False),
        ],
        ids=["delete", "touch", "gat", "append", "replace"],
    )
    async def test_commands_go_to_the_same_node(self, client, cluster, key, command, gone):
        keys = numbered(key, 30)
        await store(client, keys)
        await asyncio.gather(*(command(client, k) for k in keys))
        held = set().union(*(held_by(node, keys) for node in cluster))
        assert held == (set() if gone else set(keys))

    async def test_node_commands_go_to_their_node(self, client, cluster):
        for node in cluster:
            assert (await client.stats(node.address))["pid"] == node.stats()["pid"]


class TestMany:
    @pytest.mark.parametrize("return_flags", [False, True], ids=["plain", "flags"])
    @many
    async def test_hits_misses_and_duplicates(self, client, key, fetch, return_flags):
        keys = numbered(key, 60)
        await store(client, keys[::2])
        asked = keys + keys[::-1] + keys[:7]
        items = await fetch(client, asked, return_flags=return_flags)
        cas = fetch in (RETRIEVALS["gets_many"], RETRIEVALS["gats_many"])
        check(items, keys[::2], flags=return_flags, cas=cas)

    @many
    async def test_return_flags_is_positional_too(self, client, key, fetch):
        await store(client, [key])
        names = {"get_many": (), "gets_many": (), "gat_many": (0,), "gats_many": (0,)}
        name = next(name for name, value in RETRIEVALS.items() if value is fetch)
        items = await getattr(client, name)(*names[name], [key], True)
        assert items[key].flags == flags_of(key)

    @many
    async def test_only_misses(self, client, key, fetch):
        assert await fetch(client, numbered(key, 50)) == {}

    @pytest.mark.parametrize(
        "keys", [[], (), None, set(), {}, b"", ""], ids=lambda keys: repr(keys) or "''"
    )
    @many
    async def test_falsy_keys(self, client, cluster, fetch, keys):
        before = counted(cluster, "cmd_get", "cmd_touch")
        assert await fetch(client, keys) == {}
        assert counted(cluster, "cmd_get", "cmd_touch") == before

    @pytest.mark.parametrize(
        "make",
        [
            list,
            tuple,
            set,
            frozenset,
            iter,
            dict.fromkeys,
            lambda keys: dict.fromkeys(keys).keys(),
            lambda keys: (key for key in keys),
        ],
        ids=["list", "tuple", "set", "frozenset", "iterator", "dict", "view", "generator"],
    )
    @many
    async def test_any_iterable(self, client, key, fetch, make):
        keys = numbered(key, 9)
        await store(client, keys)
        items = await fetch(client, make(keys))
        assert {k: item.value for k, item in items.items()} == {k: value_of(k) for k in keys}

    @many
    async def test_empty_generator(self, client, fetch):
        async with asyncio.timeout(1):
            assert await fetch(client, iter([])) == {}

    @many
    async def test_failing_generator(self, client, cluster, key, fetch):
        def keys():
            yield key
            raise ZeroDivisionError

        before = counted(cluster, "cmd_get", "cmd_touch")
        with pytest.raises(ZeroDivisionError):
            await fetch(client, keys())
        assert counted(cluster, "cmd_get", "cmd_touch") == before

    @pytest.mark.parametrize(
        ("bad", "error"),
        [(b"a b", ValueError), (b"", ValueError), (b"k" * 251, ValueError), ("k", TypeError)],
        ids=["space", "empty", "long", "str"],
    )
    @many
    async def test_one_bad_key_and_nothing_is_sent(self, client, cluster, key, fetch, bad, error):
        keys = numbered(key, 30)
        await store(client, keys)
        before = counted(cluster, "cmd_get", "cmd_touch")
        for asked in ([bad, *keys], [*keys, bad], [*keys[:15], bad, *keys[15:]]):
            with pytest.raises(error):
                await fetch(client, asked)
        for node in cluster:
            await client.version(node.address)
        assert counted(cluster, "cmd_get", "cmd_touch") == before

    @many
    async def test_2000_keys(self, client, key, fetch):
        keys = numbered(key, 2000)
        await store(client, keys[::3])
        items = await fetch(client, keys)
        assert {k: item.value for k, item in items.items()} == {k: value_of(k) for k in keys[::3]}

    @many
    async def test_keys_of_250_bytes(self, client, key, fetch):
        keys = [k.ljust(250, b"x") for k in numbered(key, 300)]
        await store(client, keys)
        items = await fetch(client, keys)
        assert {k: item.value for k, item in items.items()} == {k: value_of(k) for k in keys}

    async def test_gat_many_touches_all(self, client, cluster, key):
        keys = numbered(key, 40)
        await store(client, keys)
        check(await client.gat_many(-1, keys), keys)
        assert await client.get_many(keys) == {}

    async def test_gats_many_gives_tokens_that_cas_takes(self, client, key):
        keys = numbered(key, 20)
        await store(client, keys)
        for k, item in (await client.gats_many(100, keys)).items():
            await client.cas(k, b"new", item.cas)
        assert {item.value for item in (await client.get_many(keys)).values()} == {b"new"}

    async def test_keys_of_the_result_are_plain_bytes(self, client, key):
        class Key(bytes):
            def __hash__(self):
                return 0

        await store(client, [key])
        items = await client.get_many([Key(key)])
        assert items[key].value == value_of(key)
        assert type(next(iter(items))) is bytes


class TestConcurrentGets:
    """Calls of one loop iteration, which share commands on the wire if `autobatching` is set."""

    async def test_duplicates(self, client, key):
        hit, miss = b"%s:hit" % key, b"%s:miss" % key
        await store(client, [hit])
        found = await asyncio.gather(*(client.get(k) for k in [hit, miss] * 20))
        assert [item and item.value for item in found] == [value_of(hit), None] * 20

    async def test_duplicates_do_not_share_the_item(self, client, key):
        await store(client, [key])
        first, second = await asyncio.gather(client.get(key), client.get(key))
        first.value = b"changed"
        assert second.value == value_of(key)

    async def test_many_keys_of_all_nodes(self, client, key):
        keys = numbered(key, 500)
        await store(client, keys[::2])
        found = await asyncio.gather(*(client.get(k) for k in keys))
        expected = [value_of(k) if n % 2 == 0 else None for n, k in enumerate(keys)]
        assert [item and item.value for item in found] == expected

    async def test_each_kind_gets_its_own_fields(self, client, key):
        """With two keys in a batch 1.3.3 never answered `gets` or `return_flags`."""
        keys = numbered(key, 12)
        await store(client, keys[:9])
        kinds = [
            (verb, flags, k) for verb in ("get", "gets") for flags in (False, True) for k in keys
        ]
        random.Random(1).shuffle(kinds)
        found = await asyncio.gather(
            *(getattr(client, verb)(k, return_flags=flags) for verb, flags, k in kinds)
        )
        for (verb, flags, k), item in zip(kinds, found, strict=True):
            expected = {k} if k in keys[:9] else set()
            items = {} if item is None else {k: item}
            check(items, expected, flags=flags, cas=verb == "gets")

    async def test_tokens_are_those_of_the_keys(self, client, key):
        keys = numbered(key, 10)
        await store(client, keys)
        items = await asyncio.gather(*(client.gets(k) for k in keys))
        for k, item in zip(keys, items, strict=True):
            await client.cas(k, b"new", item.cas)

    async def test_gets_of_different_exptimes_are_kept_apart(self, client, key):
        keep, drop = numbered(b"%s:keep" % key, 10), numbered(b"%s:drop" % key, 10)
        await store(client, keep + drop)
        pairs = zip(keep, drop, strict=True)
        calls = [client.gat(time, k) for pair in pairs for time, k in zip((0, -1), pair)]  # noqa: B905
        assert all(await asyncio.gather(*calls))
        assert (await client.get_many(keep + drop)).keys() == set(keep)

    async def test_mixed_with_everything_else(self, client, key):
        keys = numbered(key, 40)
        await store(client, keys)
        calls = {
            "get": client.get,
            "flags": lambda k: client.get(k, True),
            "many": lambda k: client.get_many([k, b"%s:none" % k]),
            "touch": lambda k: client.touch(k, 100),
            "gat": lambda k: client.gat(100, k),
            "set": lambda k: client.set(k, value_of(k), flags=flags_of(k)),
            "quiet": lambda k: client.set(k, value_of(k), flags=flags_of(k), noreply=True),
        }
        asked = [(name, k) for k in keys for name in calls]
        random.Random(2).shuffle(asked)
        found = await asyncio.gather(*(calls[name](k) for name, k in asked))
        for (name, k), answer in zip(asked, found, strict=True):
            if name in ("get", "flags", "gat"):
                check({k: answer}, {k}, flags=name == "flags")
            elif name == "many":
                check(answer, {k})
            else:
                assert answer is None

    @pytest.mark.parametrize("max_keys", [1, 2, 3, 1000])
    async def test_max_keys(self, cluster, key, max_keys):
        keys = numbered(key, 100)
        addresses = [node.address for node in cluster]
        async with emcache.create_client(
            addresses, autobatching=True, autobatching_max_keys=max_keys
        ) as client:
            await store(client, keys)
            items = await asyncio.gather(*(client.gets(k, True) for k in keys))
        check(dict(zip(keys, items, strict=True)), keys, flags=True, cas=True)

    async def test_a_bad_key_fails_alone(self, client, key):
        await store(client, [key])
        found = await asyncio.gather(
            client.get(key), client.get(b"a b"), client.get(key), return_exceptions=True
        )
        assert isinstance(found[1], ValueError)
        assert found[0] == found[2] == emcache.Item(value_of(key), None, None)


async def test_oracle_under_load(client, cluster, key):
    """Every value read is the one of its key, whatever else goes on."""
    keys = numbered(key, 200)

    async def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(40):
            k = choose.choice(keys)
            match choose.randrange(5):
                case 0:
                    await client.set(k, value_of(k), noreply=choose.random() < 0.5)
                case 1:
                    items = await client.get_many(choose.sample(keys, 20))
                    assert all(item.value == value_of(k) for k, item in items.items())
                case 2:
                    await client.set(k, value_of(k))
                case _:
                    item = await client.get(k)
                    assert item is None or item.value == value_of(k)

    await asyncio.gather(*(work(seed) for seed in range(50)))


async def test_the_collector_need_not_walk_items(client, key):
    """They refer to bytes and numbers only; with thousands of them each collection would."""
    await client.set(key, value_of(key), flags=5)
    found = [
        await client.get(key),
        await client.gets(key, return_flags=True),
        (await client.get_many([key, key + b"-"]))[key],
    ]
    assert [gc.is_tracked(item) for item in found] == [False] * 3
    found[0].value = None
    assert repr(found[0]) == "Item(value=None, flags=None, cas=None)"
