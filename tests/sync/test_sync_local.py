"""The local cache and values in pieces, with a synchronous client and threads."""

import threading

import pytest

import emcache
import emcache.sync
from emcache.cache import CacheInfo, LocalCache
from support.threads import in_child, in_threads

pytestmark = pytest.mark.driver_independent


@pytest.fixture
def local():
    return LocalCache(1000, 60)


def make(client, key, **options):
    return emcache.sync.Cache(client, prefix=key.decode() + ":", ttl=60, **options)


def sent(client):
    return sum(command.count for command in client.metrics().commands.values())


def test_a_second_read_sends_nothing_in_any_thread(sync_client, key, local):
    cache = make(sync_client, key, local=local)
    cache.set("a", {"x": 1})
    assert cache.get("a") == {"x": 1}
    for _ in range(2):
        assert cache.get_or_set("b", lambda: [2]) == [2]
    before = sent(sync_client)

    def work(_):
        info = CacheInfo()
        assert cache.get("a") == {"x": 1}
        assert cache.get_or_set("b", lambda: 0, info=info) == [2]
        assert info.local
        assert cache.get_many(["a", "b"]) == {"a": {"x": 1}, "b": [2]}
        assert cache.get("a") is not cache.get("a")

    in_threads(3, work)
    in_child(lambda: work(0) is None)
    assert sent(sync_client) == before


def test_a_write_of_any_thread_is_seen_at_once_by_all(sync_client, key, local):
    """Threads take turns, so the newest value is known."""
    cache, other = (make(sync_client, key, local=local) for _ in range(2))
    turn = threading.Lock()
    newest = dict.fromkeys(["a", "b", "c"], 0)

    def work(number):
        mine = (cache, other)[number % 2]
        for n in range(150):
            name = "abc"[n % 3]
            with turn:
                if n % 5 == 0:
                    newest[name] += 1
                    mine.set(name, newest[name])
                elif newest[name]:
                    assert mine.get(name) == newest[name]

    in_threads(4, work)


def test_a_read_that_began_before_a_write_is_not_kept(sync_client, key, local):
    """Threads do not take turns: no thread may read a value older than its own write."""
    cache = make(sync_client, key, local=local)
    cache.set("n", 0)
    finished = {}

    def work(number):
        for n in range(200):
            if number == 0:
                cache.set("n", n + 1)
                finished["n"] = n + 1
            else:
                least = finished.get("n", 0)
                assert cache.get("n") >= least

    in_threads(4, work)
    assert cache.get("n") == 200


def test_tags_that_another_thread_invalidates(sync_client, key, local):
    cache = make(sync_client, key, local=local)
    for n in range(3):
        value = cache.get_or_set("t", lambda n=n: n, tags=["tag"])
        assert value == n
        assert cache.get("t", tags=["tag"]) == n
        in_threads(1, lambda _: cache.invalidate_tag("tag"))


def test_a_closed_client_raises_for_a_value_that_is_here(server, key, local):
    with emcache.sync.create_client([server.address]) as client:
        cache = make(client, key, local=local)
        cache.set("a", 1)
        assert cache.get("a") == 1
    with pytest.raises(emcache.ClientClosedError):
        cache.get("a")


def test_cached_functions_and_misses(sync_client, key):
    cache = make(sync_client, key, local=LocalCache(10, 60, misses=60))
    calls = []

    @emcache.sync.cached(cache, key="f:{x}")
    def function(x: int) -> int:
        calls.append(x)
        return x

    assert [function(1), function(1)] == [1, 1]
    before = sent(sync_client)
    assert function(1) == 1
    assert cache.get("nothing") is None
    after = sent(sync_client)
    assert cache.get("nothing") is None
    assert (calls, sent(sync_client) - after, after - before) == ([1], 0, 1)


def test_values_in_pieces(sync_client, key):
    cache, plain = make(sync_client, key, chunked=True), make(sync_client, key)
    value = {"text": "é" * 1_500_000}
    cache.set("big", value)
    assert cache.get("big") == value
    assert cache.get_or_set("big", lambda: None) == value

    def work(number):
        name = f"big:{number % 2}"
        for n in range(3):
            mine = str(n) * 1_200_000
            cache.set(name, mine)
            found = cache.get(name)
            assert found is None or len(set(found)) == 1

    in_threads(3, work)
    with pytest.raises(emcache.SerializationError, match="chunked=True"):
        plain.get("big")
    assert cache.delete("big")
    assert cache.get("big") is None
