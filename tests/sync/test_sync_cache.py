"""The synchronous cache: typed values, single flight between threads and processes, functions."""

import inspect
import threading
import time

import pytest

import emcache
import emcache.sync
from emcache.cache import CacheInfo

pytestmark = pytest.mark.driver_independent


@pytest.fixture
def cache(sync_client, key):
    return emcache.sync.Cache(sync_client, prefix=key.decode() + ":", ttl=60)


def in_threads(count, work):
    results, errors = [], []

    def run(number):
        try:
            results.append(work(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results, errors


def test_it_has_the_methods_of_the_asynchronous_cache():
    def public(kind):
        return {n: m for n, m in inspect.getmembers(kind, callable) if not n.startswith("_")}

    ours, theirs = public(emcache.sync.Cache), public(emcache.Cache)
    assert ours.keys() == theirs.keys()
    for name, method in theirs.items():
        mine = inspect.signature(ours[name]).parameters.values()
        other = inspect.signature(method).parameters.values()
        assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in other], name


def test_typed_values(cache):
    cache.set("a", {"x": [1, None]})
    assert cache.get("a") == {"x": [1, None]}
    assert cache.get("b") is None
    assert cache.get("b", 7) == 7
    assert cache.add("a", 1) is False
    assert cache.add("n", 5) is True
    assert cache.set_many({"c": 1, "d": "é"}) == {}
    assert cache.get_many(["c", "d", "e"]) == {"c": 1, "d": "é"}
    assert cache.increment("n") == 6
    value, cas = cache.get_with_cas("c")
    assert value == 1
    assert cache.cas("c", 2, cas)
    assert not cache.cas("c", 3, cas)
    assert 0 < cache.ttl("c") <= 60
    assert cache.delete("c")
    assert not cache.delete("c")


def test_get_or_set_calls_a_plain_function_once(cache):
    calls, info = [], CacheInfo()
    assert cache.get_or_set("k", lambda: calls.append(1) or 5, info=info) == 5
    assert info.computed
    assert cache.get_or_set("k", lambda: calls.append(1) or 6) == 5
    assert len(calls) == 1
    found = cache.get_or_set_many(["k", "m"], lambda keys: {key: len(key) for key in keys})
    assert found == {"k": 5, "m": 1}


def test_threads_share_one_computation(cache):
    calls = []

    def compute():
        calls.append(1)
        time.sleep(0.2)
        return "value"

    results, errors = in_threads(8, lambda _: cache.get_or_set("k", compute))
    assert results == ["value"] * 8
    assert not errors
    assert len(calls) == 1


def test_threads_share_a_failure_and_the_next_call_computes(cache):
    calls, barrier = [], threading.Barrier(4)

    def fail():
        calls.append(1)
        time.sleep(0.2)
        raise LookupError("no such thing")

    def work(_):
        barrier.wait()
        return cache.get_or_set("k", fail)

    results, errors = in_threads(4, work)
    assert not results
    assert [type(error) for error in errors] == [LookupError] * 4
    assert len({id(error) for error in errors}) == 4
    assert len(calls) == 1
    assert cache.get_or_set("k", lambda: 1) == 1


def test_a_computation_that_began_before_a_change_is_not_shared_or_stored(cache):
    begun, go_on = threading.Event(), threading.Event()

    def old():
        begun.set()
        go_on.wait(5)
        return "old"

    first = []
    thread = threading.Thread(target=lambda: first.append(cache.get_or_set("k", old)))
    thread.start()
    begun.wait(5)
    cache.set("k", "written")
    assert cache.get_or_set("k", lambda: "new") == "written"
    go_on.set()
    thread.join(5)
    assert first == ["old"]
    assert cache.get("k") == "written"


def test_a_factory_may_use_the_cache_and_other_keys(cache, sync_client):
    def outer():
        assert sync_client.get(b"no-such-key") is None
        return cache.get_or_set("inner", lambda: 20) + 1

    assert cache.get_or_set("outer", outer) == 21
    with pytest.raises(RuntimeError, match="deadlock"):
        cache.get_or_set("k", lambda: cache.get_or_set("k", lambda: 1))
    assert cache.get_or_set("k", lambda: 2) == 2


def test_a_factory_may_run_a_loop_of_its_own(cache):
    import asyncio

    async def load():
        await asyncio.sleep(0)
        return "loaded"

    assert cache.get_or_set("k", lambda: asyncio.run(load())) == "loaded"


def test_stale_values_are_refreshed_by_one_call(cache):
    calls = []

    def compute():
        calls.append(1)
        return len(calls)

    options = {"stale_for": 30}
    assert cache.get_or_set("k", compute, **options) == 1
    cache.invalidate("k", stale_for=30)
    assert cache.get_or_set("k", compute, **options) in (1, 2)
    assert cache.get_or_set("k", compute, **options) == 2
    assert len(calls) == 2


def test_tags_locks_and_limits(cache):
    assert cache.get_or_set("k", lambda: 1, tags=["t"]) == 1
    cache.invalidate_tag("t")
    assert cache.get_or_set("k", lambda: 2, tags=["t"]) == 2
    with cache.lock("l", ttl=30) as lock:
        assert lock.owned
        assert not cache.lock("l", ttl=30, wait=0).acquire()
    assert cache.lock("l", ttl=30, wait=0).acquire()
    limit = cache.rate_limit("r", 2, per=100)
    assert [bool(limit.hit()) for _ in range(3)] == [True, True, False]


def test_cached_functions(cache):
    calls = []

    @emcache.sync.cached(cache, key="square:{x}")
    def square(x: int) -> int:
        calls.append(x)
        return x * x

    assert [square(3), square(3), square(4)] == [9, 9, 16]
    assert calls == [3, 4]
    assert square.invalidate(3)
    assert square(3) == 9
    assert calls == [3, 4, 3]
    assert square.refresh(4) == 16
    assert square.key_for(5) == "square:5"
    assert square.with_info(4)[1].fresh
    with pytest.raises(TypeError, match="plain function"):

        @emcache.sync.cached(cache)
        async def wrong():
            pass


def test_the_wrong_decorator_names_the_right_one(cache):
    with pytest.raises(TypeError, match=r"not emcache\.sync\.Cache; use emcache\.sync\.cached"):
        emcache.cached(cache)

    async def function():
        pass

    with pytest.raises(TypeError, match=r"function is async; use emcache\.cached"):
        emcache.sync.cached(cache)(function)
    asynchronous = cache._top()
    with pytest.raises(TypeError, match=r"not emcache\.Cache; use emcache\.cached"):
        emcache.sync.cached(asynchronous)


def test_cached_methods_and_no_cache():
    class Thing:
        @emcache.sync.cached(lambda: None, key="{self}:{x}")
        def double(self, x):
            return 2 * x

    assert Thing().double(4) == 8


def test_a_cache_needs_a_synchronous_client():
    with pytest.raises(TypeError, match=r"emcache\.sync\.Client"):
        emcache.sync.Cache(object())


def test_reprs(sync_client, server, key):
    cache = emcache.sync.Cache(sync_client, prefix="shop:", ttl=60)
    name = key.decode()
    nodes = f"up=[127.0.0.1:{server.address.port}] down=[]"
    client = f"<emcache.sync.Client open {nodes}>"
    assert repr(cache) == f"<emcache.sync.Cache prefix=b'shop:' of {client}>"
    limit = cache.rate_limit(name, 5, per=60)
    assert repr(limit) == f"<emcache.sync.RateLimit {key!r} 5 per 60.0 s fixed>"
    with cache.lock(name, ttl=5) as lock:
        assert repr(lock) == f"<emcache.sync.Lock b'shop:#lock:{name}' ttl=5 owned>"
    assert repr(lock).endswith(" not owned>")
