"""Leases between clients, as between processes: one computation, and no value that is too old."""

import asyncio
import contextlib
import time

import pytest

import emcache
from emcache import Cache, LeaseLostError, cached
from emcache.cache import CacheInfo, Raw, Utf8, _flights, cached_many
from emcache.cache._counts import all_counts
from emcache.cache._marks import LEASE, mark_name
from support.calls import outcomes, until, within
from support.nutcracker import nutcracker
from support.without_meta import without_meta


@pytest.fixture
def other_client(server):
    """Another process has another client."""
    return emcache.create_client([server.address])


@contextlib.asynccontextmanager
async def clients_of(kind, server):
    """Two clients, and the second may not see meta commands: fleets are mixed while they change."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = [server.address] * 2
        if kind == "twemproxy":
            addresses = [stack.enter_context(nutcracker()).address] * 2
        elif kind != "meta":
            answer = kind.removeprefix("mixed ")
            plain, _ = await stack.enter_async_context(without_meta(server, answer))
            addresses = [server.address if kind.startswith("mixed ") else plain, plain]
        yield [
            await stack.enter_async_context(emcache.create_client([address]))
            for address in addresses
        ]


KINDS = {
    "meta": ("meta", "same"),
    "no meta: ERROR": ("ERROR", "same"),
    "no meta: close": ("close", "same"),
    "mixed": ("mixed ERROR", "same"),
    "twemproxy": ("twemproxy", "same"),
    "separate": ("meta", "separate"),
    "separate, no meta": ("ERROR", "separate"),
}


@pytest.fixture(params=KINDS)
async def caches(request, server, key):
    kind, lease_key = KINDS[request.param]
    async with clients_of(kind, server) as clients:
        yield [Cache(each, prefix=key, lease_key=lease_key) for each in clients]


@pytest.fixture
async def pair(client, other_client, key):
    async with await other_client as other:
        yield Cache(client, prefix=key), Cache(other, prefix=key)


class Factory:
    """Counts its calls, and goes on when it is told to."""

    def __init__(self, result="value"):
        self.calls = 0
        self.result = result
        self.go = asyncio.Event()

    async def __call__(self):
        self.calls += 1
        await self.go.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def started(self):
        await until(lambda: self.calls)


async def value(text="value"):
    return text


def of(text):
    return lambda: value(text)


@within(20)
async def test_one_computes_and_the_other_waits(caches):
    one, other = caches
    factory, never = Factory(), Factory()
    winner = asyncio.create_task(one.get_or_set("k", factory))
    await factory.started()
    info = CacheInfo()
    loser = asyncio.create_task(other.get_or_set("k", never, info=info))
    await asyncio.sleep(0.1)
    assert not loser.done()
    factory.go.set()
    assert await asyncio.gather(winner, loser) == ["value", "value"]
    assert (factory.calls, never.calls) == (1, 0)
    assert (info.waited, info.computed, info.fresh, info.stale) == (True, False, False, False)
    assert await other.get("k") == "value"


@within(20)
async def test_a_lease_is_a_miss_for_every_read(pair):
    one, other = pair
    factory = Factory()
    winner = asyncio.create_task(one.get_or_set("k", factory))
    await factory.started()
    stub = await other.client.get(other.wire_key("k"), return_flags=True)
    assert (stub.value, stub.flags) == (b"", 0)
    for cache in (one, other, Cache(other.client, serializer=Raw(), prefix=one.wire_key("k")[:-1])):
        assert await cache.get("k", "miss") == "miss"
        assert await cache.get_with_cas("k") is None
        assert await cache.get_and_touch("k", 30, "miss") == "miss"
        assert await cache.get_many(["k"]) == {}
    assert await other.add("k", "added") is False
    factory.go.set()
    assert await winner == "value"


CHANGES = {
    "delete": lambda cache: cache.delete("k"),
    "invalidate": lambda cache: cache.invalidate("k"),
    "invalidate softly": lambda cache: cache.invalidate("k", stale_for=60),
    "set": lambda cache: cache.set("k", "newer"),
    "delete_many": lambda cache: cache.delete_many(["k"]),
    "cached": lambda cache: cached(cache, key=lambda: "k")(value).invalidate(),
}


@pytest.mark.parametrize("change", CHANGES)
@within(20)
async def test_a_value_that_another_process_has_invalidated_is_not_stored(caches, change):
    one, other = caches
    factory = Factory("older")
    info = CacheInfo()
    winner = asyncio.create_task(one.get_or_set("k", factory, info=info))
    await factory.started()
    await CHANGES[change](other)
    factory.go.set()
    assert await winner == "older"
    assert info.computed
    assert info.not_stored == ("replaced" if change == "set" else "invalidated")
    assert await other.get("k") == ("newer" if change == "set" else None)
    fresh = await other.get_or_set("k", of("fresh"))
    assert fresh == ("newer" if change == "set" else "fresh")
    assert one._counts.not_stored[info.not_stored] == 1


@within(20)
async def test_a_caller_after_an_invalidation_does_not_join_a_computation_before_it(pair):
    """The process itself has not invalidated anything, so it must look."""
    one, other = pair
    factory = Factory("older")
    before = [asyncio.create_task(one.get_or_set("k", factory)) for _ in range(3)]
    await factory.started()
    joined = asyncio.create_task(one.get_or_set("k", factory))
    await asyncio.sleep(0.05)
    await other.delete("k")
    assert await one.get_or_set("k", of("newer")) == "newer"
    factory.go.set()
    assert await asyncio.gather(*before, joined) == ["older"] * 4
    assert await one.get("k") == "newer"


@within(20)
async def test_a_caller_joins_a_computation_whose_lease_is_still_valid(pair):
    one, _ = pair
    factory = Factory()
    callers = []
    for _ in range(5):
        callers.append(asyncio.create_task(one.get_or_set("k", factory)))
        await factory.started()
        await asyncio.sleep(0.02)
    factory.go.set()
    assert await asyncio.gather(*callers) == ["value"] * 5
    assert factory.calls == 1


@pytest.mark.parametrize("how", ["raises", "is cancelled"])
@within(20)
async def test_a_factory_that_fails_gives_the_lease_back(caches, how):
    one, other = caches
    factory = Factory(LookupError("no row"))
    caller = asyncio.create_task(one.get_or_set("k", factory))
    await factory.started()
    loser = asyncio.create_task(other.get_or_set("k", of("second")))
    await asyncio.sleep(0.05)
    if how == "raises":
        factory.go.set()
    else:
        caller.cancel()
    [error] = await outcomes(caller)
    assert isinstance(error, LookupError if how == "raises" else asyncio.CancelledError)
    # Long before the lease of 30 s would have ended.
    assert await loser == "second"


@within(20)
async def test_a_cancel_while_the_lease_is_taken_leaves_none(pair, monkeypatch):
    one, other = pair
    added, go = asyncio.Event(), asyncio.Event()
    original = one.client.meta_get

    async def held(*args, **kwargs):
        result = await original(*args, **kwargs)
        added.set()
        await go.wait()
        return result

    monkeypatch.setattr(one.client, "meta_get", held)
    caller = asyncio.create_task(one.get_or_set("k", value))
    await added.wait()
    caller.cancel()
    await asyncio.sleep(0.01)
    go.set()
    assert isinstance((await outcomes(caller))[0], asyncio.CancelledError)
    assert await other.client.get(other.wire_key("k")) is None


async def hold_lease(cache, seconds=30):
    """Take the lease as a process does that dies then."""
    leases = cache._storage.leases
    taken = await leases.take(cache.wire_key("k"), seconds)
    assert taken.cas


@within(20)
async def test_the_winner_dies(caches):
    one, other = caches
    await hold_lease(one, 3)
    began = time.monotonic()
    assert await other.get_or_set("k", value, lease=2) == "value"
    assert time.monotonic() - began > 0.5
    assert await one.get("k") == "value"


@pytest.mark.parametrize(("lease", "sent"), [(2, 3), (2.5, 4), (30, 31), (30 * 86400, 30 * 86400)])
@within(20)
async def test_a_lease_is_a_second_longer_at_the_server(client, key, monkeypatch, lease, sent):
    """memcached counts whole seconds, and may end an item up to one early."""
    cache, taken = Cache(client, prefix=key, lease=lease), []
    original = cache._storage.leases.take

    async def recorded(name, seconds, **options):
        taken.append(seconds)
        return await original(name, seconds, **options)

    monkeypatch.setattr(cache._storage.leases, "take", recorded)
    await cache.get_or_set("k", value)
    await cache.delete("k")
    await cache.renew("k", value)
    assert taken == [sent, sent]


@within(20)
async def test_on_lost(caches):
    one, other = caches
    await hold_lease(one)
    info = CacheInfo()
    options = {"wait": 0.1, "info": info}
    assert await other.get_or_set("k", of("own"), **options) == "own"
    assert (info.computed, info.not_stored) == (True, "lost")
    assert await other.get("k") is None
    with pytest.raises(LeaseLostError, match=r"for 0.1 s; see wait and on_lost"):
        await other.get_or_set("k", value, wait=0.1, on_lost="raise")
    assert await other.get_or_set("k", value, wait=0.1, on_lost="default", default=7) == 7
    assert await other.get_or_set("k", value, wait=0.1, on_lost="default", default=None) is None


@within(20)
async def test_all_that_lose_in_one_process_share_a_computation(pair):
    one, other = pair
    await hold_lease(one)
    factory = Factory("own")
    callers = [asyncio.create_task(other.get_or_set("k", factory, wait=0.1)) for _ in range(50)]
    strict = asyncio.create_task(other.get_or_set("k", factory, wait=0.1, on_lost="raise"))
    assert isinstance((await outcomes(strict))[0], LeaseLostError)

    def waiting():
        flights = other._flights.table.get(other.wire_key("k"), {}).values()
        return sum(flight.waiting for flight in flights if flight.is_computing)

    await until(lambda: waiting() == 50)
    factory.go.set()
    assert await asyncio.gather(*callers) == ["own"] * 50
    assert factory.calls == 1


@within(20)
async def test_each_caller_waits_as_long_as_it_wants(pair):
    """They wait together, whoever of them began."""
    one, other = pair
    await hold_lease(one)
    patient = asyncio.create_task(other.get_or_set("k", value, wait=25))
    await until(lambda: other._flights.table)
    hasty = asyncio.create_task(other.get_or_set("k", of("own"), wait=0.2))
    others = []
    while not hasty.done():
        others.append(asyncio.create_task(other.get_or_set("k", value, wait=25)))
        await asyncio.sleep(0.05)
    assert await hasty == "own"
    assert not any(each.done() for each in (patient, *others))
    await one.delete("k")
    assert set(await asyncio.gather(patient, *others)) == {"value"}


@within(20)
async def test_a_hasty_caller_does_not_end_the_wait_of_others(pair):
    one, other = pair
    await hold_lease(one)
    hasty = asyncio.create_task(other.get_or_set("k", of("own"), wait=0.2))
    await until(lambda: other._flights.table)
    patient = asyncio.create_task(other.get_or_set("k", value, wait=25))
    assert await hasty == "own"
    await asyncio.sleep(0.1)
    assert not patient.done()
    await one.delete("k")
    assert await patient == "value"


@within(20)
async def test_a_lease_that_was_prolonged_ends_all_the_same(pair, monkeypatch):
    """`touch` of a key that is being computed must not lock it for a day."""
    monkeypatch.setattr("emcache.cache._miss.LEASE_SLACK", 0.0)
    one, other = pair
    await hold_lease(one)
    await other.touch("k", 86400)
    assert await other.get_or_set("k", value, lease=2, wait=10) == "value"


@within(20)
async def test_a_computation_that_takes_longer_than_its_lease(pair, caplog):
    one, other = pair
    factory = Factory("slow")
    info = CacheInfo()
    caller = asyncio.create_task(one.get_or_set("k", factory, lease=2, info=info))
    await factory.started()
    name = one.wire_key("k")
    while await other.client.get(name) is not None:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    factory.go.set()
    assert await caller == "slow"
    assert info.not_stored in ("expired", "invalidated")
    assert await other.get("k") is None


@within(20)
async def test_without_a_lease_every_process_computes(pair):
    one, other = pair
    factory = Factory()
    callers = [asyncio.create_task(each.get_or_set("k", factory, lease=None)) for each in pair]
    await until(lambda: factory.calls == 2)
    factory.go.set()
    assert await asyncio.gather(*callers) == ["value"] * 2
    assert await one.get("k") == await other.get("k") == "value"


@within(20)
async def test_store_if_gives_the_lease_back(pair):
    one, other = pair
    info = CacheInfo()
    found = await one.get_or_set("k", of(""), store_if=bool, info=info)
    assert (found, info.not_stored) == ("", "refused")
    assert await other.client.get(other.wire_key("k")) is None


@within(20)
async def test_a_value_that_is_too_large_gives_the_lease_back(pair):
    one, other = pair
    cache = Cache(one.client, serializer=Utf8(), prefix=one.wire_key("k")[:-1])
    info = CacheInfo()
    assert len(await cache.get_or_set("k", of("x" * 3_000_000), info=info)) == 3_000_000
    assert info.not_stored == "failed"
    assert await other.client.get(other.wire_key("k")) is None


@within(20)
async def test_an_empty_value_is_stored_all_the_same(pair):
    one, other = pair
    prefix = one.wire_key("k")[:-1]
    for serializer, empty in ((Raw(), b""), (Utf8(flags=0), ""), (Utf8(), "")):
        cache = Cache(one.client, serializer=serializer, prefix=prefix)
        await cache.delete("k")
        assert await cache.get_or_set("k", of(empty)) == empty
        assert await Cache(other.client, serializer=serializer, prefix=prefix).get("k") == empty


@within(20)
async def test_an_unreadable_value_is_replaced(pair):
    one, other = pair
    await other.client.set(other.wire_key("k"), b"foreign", flags=3)
    assert await one.get_or_set("k", value) == "value"
    assert await other.get("k") == "value"


@within(20)
async def test_renew_wins_over_a_computation_of_another_process(caches):
    one, other = caches
    factory = Factory("older")
    winner = asyncio.create_task(one.get_or_set("k", factory))
    await factory.started()
    assert await other.renew("k", of("newer")) == "newer"
    factory.go.set()
    assert await winner == "older"
    assert await one.get("k") == "newer"


@within(20)
async def test_renew_is_not_stored_after_an_invalidation(pair):
    one, other = pair
    await one.set("k", "old")
    factory = Factory("older")
    renewing = asyncio.create_task(one.renew("k", factory))
    await factory.started()
    assert await other.get("k") == "old"
    await other.delete("k")
    factory.go.set()
    assert await renewing == "older"
    assert await other.get("k") is None


@within(20)
async def test_nothing_older_than_a_renewal_stays(pair):
    """A refresh that began before the renewal, and is stored during it, may be older."""
    one, other = pair
    await one.set("k", "old")
    factory = Factory("newer")
    renewing = asyncio.create_task(one.renew("k", factory))
    await factory.started()
    await other.set("k", "of unknown age")
    factory.go.set()
    assert await renewing == "newer"
    assert await other.get("k") is None


@within(20)
async def test_get_or_set_without_sharing_a_prefix_of_marks(client, key):
    """The key of a mark fits however long the key is."""
    assert mark_name(b"k" * 240, LEASE) == b"k" * 240 + LEASE
    assert len(mark_name(b"k" * 250, LEASE)) == 72
    cache = Cache(client, lease_key="separate", refresh=1)
    name = (key * 20)[:250]
    assert await cache.get_or_set(name, value) == "value"


@pytest.mark.parametrize("answer", ["ERROR", "close"])
@within(20)
async def test_meta_commands_are_tried_once(server, key, answer):
    """A node that does not have them is asked on a connection of its own."""
    async with (
        without_meta(server, answer) as (address, refused),
        emcache.create_client([address]) as client,
    ):
        cache = Cache(client, prefix=key)
        for number in range(20):
            assert await cache.get_or_set(f"k{number}", value) == "value"
        await asyncio.gather(*(cache.get_or_set(f"l{n}", value) for n in range(20)))
        nodes = client.cluster_managment().connection_pool_metrics().values()
        assert sum(node.connections_closed for node in nodes) == 0
    assert refused == [b"mn\r\n"]


@within(20)
async def test_round_trips_of_a_miss(server, key):
    """A look, the lease, and the store."""
    async with emcache.create_client([server.address]) as client:
        cache = Cache(client, prefix=key)
        await cache.get_or_set("warm", value)
        before = server.stats()
        await cache.get_or_set("k", value)
        after = server.stats()
        assert int(after["cmd_get"]) - int(before["cmd_get"]) == 2
        assert int(after["cmd_set"]) - int(before["cmd_set"]) == 1


@within(20)
async def test_a_server_without_cas(key):
    with emcache.testing.MemcachedServer("-C") as server:
        async with emcache.create_client([server.address]) as client:
            cache = Cache(client, prefix=key)
            assert await cache.get_or_set("k", value) == "value"
            assert await cache.get("k") == "value"
            assert await cache.renew("k", of("newer")) == "newer"
            assert await cache.get("k") == "newer"


@within(20)
async def test_a_recursion_is_a_deadlock(pair):
    one, _ = pair

    async def again():
        return await one.get_or_set("k", again)

    with pytest.raises(RuntimeError, match="deadlock"):
        await one.get_or_set("k", again)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lease": 1}, ValueError),
        ({"lease": True}, TypeError),
        ({"lease": "30"}, TypeError),
        ({"wait": -1}, ValueError),
        ({"refresh": -1}, ValueError),
        ({"stale_for": -1}, ValueError),
        ({"jitter": 1}, ValueError),
        ({"jitter": "0.1"}, TypeError),
        ({"on_lost": "wait"}, ValueError),
        ({"refresh_in": "thread"}, ValueError),
        ({"on_error": "ignore"}, ValueError),
        ({"ttl": 1.5}, TypeError),
        ({"store_if": 1}, TypeError),
        ({"store_if": value}, TypeError),
        ({"ttl": value}, TypeError),
        ({"tll": 1}, TypeError),
    ],
)
@within(20)
async def test_options_are_checked_before_anything_is_sent(client, options, error):
    with pytest.raises(error):
        await Cache(client).get_or_set("k", value, **options)
    with pytest.raises(error):
        cached(lambda: None, key="k", **options)
    if options.keys() & {"ttl", "store_if"}:
        return
    with pytest.raises(error):
        Cache(client, **options)


@within(20)
async def test_a_client_that_is_closed_gives_its_leases_back(server, key):
    async with clients_of("meta", server) as clients:
        one, other = (Cache(each, prefix=key) for each in clients)
        factories = Factory("first"), Factory("second")
        calls = [
            asyncio.create_task(one.get_or_set("k", factories[0])),
            asyncio.create_task(one.get_or_set_many(["l"], lambda keys: load(factories[1], keys))),
        ]
        for factory in factories:
            await factory.started()
        assert await other.client.get(other.wire_key("k")) is not None
        await one.client.close()
        for name in "kl":
            assert await other.client.get(other.wire_key(name)) is None
        for factory in factories:
            factory.go.set()
        assert await asyncio.gather(*calls) == ["first", {"l": "second"}]
        assert await other.get_or_set("k", of("third")) == "third"


async def load(factory, keys):
    return dict.fromkeys(keys, await factory())


@within(20)
async def test_default_and_on_lost_need_each_other(client, key):
    cache, giving = Cache(client), Cache(client, prefix=key, on_lost="default", default=0)
    for options, match in (({"on_lost": "default"}, "needs default="), ({"default": 1}, "no eff")):
        with pytest.raises(ValueError, match=match):
            Cache(client, **options)
        with pytest.raises(ValueError, match=match):
            await cache.get_or_set("k", value, **options)
        with pytest.raises(ValueError, match=match):
            cached(cache, key="k", **options)
        with pytest.raises(ValueError, match=match):
            cached_many(cache, key="{k}", **options)
        # The cache may have the other one.
        assert await cached(lambda: giving, key=lambda: "k", **options)(value)() == "value"
    assert await giving.get_or_set("k", value, on_lost="raise") == "value"
    with pytest.raises(ValueError, match="no effect"):
        await giving.get_or_set("k", value, on_lost="raise", default=1)
    with pytest.raises(ValueError, match="needs default="):
        await cached(lambda: cache, key=lambda: "k", on_lost="default")(value)()


@within(20)
async def test_what_is_counted(client, key):
    one = Cache(client, prefix=key, name="counted")
    counts = all_counts(client)["counted"]
    assert counts is Cache(client, name="counted")._counts
    await one.get("k")
    await asyncio.gather(*(one.get_or_set("k", value) for _ in range(5)))
    await one.get_or_set("k", value)
    await one.get_many(["k", "l"])
    await one.get_or_set("m", value, store_if=lambda _: False)
    assert (counts.hits, counts.misses, counts.computed, counts.waited) == (2, 8, 2, 4)
    assert counts.not_stored == {"refused": 1}

    @cached(one, key="k")
    async def function():
        await asyncio.sleep(0.05)
        return 1

    await one.delete("k")
    await function()
    await function()
    [own] = [each for name, each in all_counts(client).items() if name.endswith(".function")]
    assert (own.hits, own.misses, own.computed) == (1, 1, 1)
    assert own.seconds > 0.04


async def test_nothing_is_left(pair):
    one, _ = pair
    factory = Factory()
    factory.go.set()
    await asyncio.gather(*(one.get_or_set(f"k{i % 10}", factory) for i in range(100)))
    assert _flights.flights_of(one.client).table == {}
