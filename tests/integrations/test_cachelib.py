"""`emcache.contrib.cachelib` and `.flask_caching`, with the real libraries."""

import logging
import threading
from datetime import timedelta

import flask
import pytest
from flask_caching import Cache

import emcache
import emcache.sync
from emcache.contrib.cachelib import EmcacheCache
from emcache.contrib.flask_caching import EmcacheCache as FlaskCache
from support.memcached import memcached

pytestmark = pytest.mark.driver_independent


@pytest.fixture
def cache(server):
    made = EmcacheCache(f"127.0.0.1:{server.port}", 60, "cachelib:")
    made.delete_many("a", "b", "n")
    yield made
    made.close()


@pytest.fixture
def down():
    """A cache whose only server has ended, and that ignores it."""
    with memcached() as server:
        address = server.address
    with EmcacheCacheOf(address, ignore_errors=True) as cache:
        yield cache


class EmcacheCacheOf(EmcacheCache):
    def __init__(self, *addresses, **options):
        super().__init__(addresses, timeout=1.0, connection_timeout=1.0, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def test_values(cache):
    values = {"a": {"x": [1, None]}, "b": "é", "c": b"\0", "d": -7, "e": True, "f": 1.5}
    assert cache.set_many(values) == list(values)
    assert cache.get_many(*values, "missing") == [*values.values(), None]
    assert cache.get_dict("a", "missing") == {"a": values["a"], "missing": None}
    for key, value in values.items():
        assert (cache.get(key), type(cache.get(key))) == (value, type(value))
    assert cache.delete_many("a", "b", "missing") == ["a", "b", "missing"]
    assert (cache.has("a"), cache.has("c")) == (False, True)
    assert (cache.delete("c"), cache.delete("c")) == (True, False)
    assert cache.get("c") is None


def test_none_is_a_value(cache):
    assert cache.set("n", None)
    assert (cache.get("n"), cache.has("n")) == (None, True)


def test_add(cache):
    assert (cache.add("a", 1), cache.add("a", 2), cache.get("a")) == (True, False, 1)


@pytest.mark.parametrize(
    ("timeout", "ttl"),
    [(None, 60), (90, 90), (timedelta(minutes=2), 120), (40 * 86400, 40 * 86400)],
)
def test_timeouts(cache, timeout, ttl):
    cache.set("a", 1, timeout)
    # Above 30 days it is a Unix time, and the server's clock lags behind.
    assert ttl - 20 < cache.client.ttl(b"cachelib:a") <= ttl + 5


def test_zero_never_expires(cache):
    cache.set_many({"a": 1}, timeout=0)
    assert cache.client.ttl(b"cachelib:a") == -1


def test_any_text_is_a_key(cache):
    for key in ("with space", "é" * 300, "line\nbreak", ""):
        assert cache.set(key, key)
        assert cache.get(key) == key
        assert cache.delete(key)


def test_numbers_below_zero(cache):
    assert (cache.inc("n"), cache.dec("n", 5), cache.inc("n", 2)) == (1, -4, -2)
    assert cache.get("n") == -2


def test_counting_with_floats(cache):
    """As cachelib's own caches do."""
    assert (cache.dec("n", 0.5), cache.inc("n", 2), cache.inc("n", 0.25)) == (-0.5, 1.5, 1.75)
    assert cache.get("n") == 1.75
    cache.set("text", "a")
    with pytest.raises(TypeError):
        cache.inc("text")
    assert cache.get("text") == "a"


def test_counting_is_atomic(cache):
    def count(change):
        for _ in range(50):
            change("n")

    changes = (cache.inc, cache.dec, cache.inc)
    threads = [threading.Thread(target=count, args=(change,)) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("n") == 50


def test_an_unreadable_value_is_a_miss(cache, caplog):
    caplog.set_level(logging.WARNING, "emcache")
    cache.client.set(b"cachelib:a", b"not a pickle", flags=1)
    cache.client.set(b"cachelib:b", b"compressed", flags=8)
    assert cache.get_many("a", "b") == [None, None]
    assert len(caplog.records) == 1


def test_errors_are_raised():
    with memcached() as server, EmcacheCacheOf(server.address) as cache:
        cache.set("a", 1)
        server.kill()
        for call in (
            lambda: cache.get("a"),
            lambda: cache.set_many({"a": 1}),
            lambda: cache.inc("a"),
            cache.clear,
        ):
            with pytest.raises(emcache.EmcacheError):
                call()
        # Its default in cachelib.
        assert cache.delete_many("a") == []


def test_ignored_errors(down, caplog):
    assert (down.get("a"), down.get_many("a", "b"), down.has("a")) == (None, [None, None], False)
    assert (down.set("a", 1), down.add("a", 1), down.set_many({"a": 1, "b": "2"})) == (
        False,
        False,
        [],
    )
    assert (down.delete("a"), down.delete_many("a"), down.inc("a")) == (False, [], None)
    assert down.clear() is False
    assert len(caplog.records) == 1


@pytest.fixture
def pair():
    """Two servers, and a cache on both."""
    with (
        memcached() as one,
        memcached() as two,
        EmcacheCacheOf(one.address, two.address, ignore_errors=True) as cache,
    ):
        yield two, cache


def test_a_closed_cache_is_no_outage(down):
    down.close()
    with pytest.raises(emcache.ClientClosedError):
        down.get("a")


def test_counting_gives_up_on_a_server_that_contradicts_itself(cache, monkeypatch):
    cache.set("n", 1)
    monkeypatch.setattr(cache.client, "gets", lambda *_, **__: None)
    with pytest.raises(emcache.NotStoredStorageCommandError):
        cache.inc("n")


def test_the_rest_of_a_cluster_answers(pair):
    two, cache = pair
    keys = [f"key{n}" for n in range(20)]
    cache.set_many(dict.fromkeys(keys, 1))
    two.kill()
    found = cache.get_many(*keys)
    assert 0 < found.count(1) < 20
    assert 0 < len(cache.set_many(dict.fromkeys(keys, 2))) < 20


def test_too_large_a_value():
    with memcached() as server, EmcacheCacheOf(server.address) as cache:
        with pytest.raises(emcache.CommandError):
            cache.set("a", b"x" * 2_000_000)
        cache.ignore_errors = True
        assert cache.set_many({"a": b"x" * 2_000_000, "b": b"y"}) == ["b"]


def test_clear_reaches_all_nodes(pair):
    _, cache = pair
    cache.set_many({f"key{n}": n for n in range(20)})
    assert cache.clear() is True
    assert cache.get_many(*(f"key{n}" for n in range(20))) == [None] * 20


def test_pylibmc_reads_the_same_values(server):
    pylibmc = pytest.importorskip("pylibmc")
    from cachelib import MemcachedCache

    theirs = MemcachedCache(pylibmc.Client([f"127.0.0.1:{server.port}"]))
    with EmcacheCacheOf(server.address) as ours:
        values = {"p1": {"x": 1}, "p2": "é", "p3": 5, "p4": b"raw"}
        ours.set_many(values)
        assert theirs.get_many(*values) == list(values.values())
        theirs.set_many(values)
        assert ours.get_many(*values) == list(values.values())


def test_wrong_options():
    with pytest.raises(TypeError, match="unknown options of EmcacheCache: fail_over"):
        EmcacheCache("127.0.0.1", fail_over="next")


def test_options_of_the_client_are_passed_on(server):
    cache = EmcacheCache(f"127.0.0.1:{server.port}", failover="next", hot_keys=8)
    assert cache.set("passed on", 1)
    assert cache.get("passed on") == 1


def make_app(server, **config):
    app = flask.Flask(__name__)
    app.config.from_mapping(
        CACHE_TYPE="emcache.contrib.flask_caching.EmcacheCache",
        CACHE_MEMCACHED_SERVERS=[f"127.0.0.1:{server.port}"],
        **config,
    )
    return app, Cache(app)


def test_flask_caching(server):
    app, cache = make_app(server, CACHE_KEY_PREFIX="site:", CACHE_OPTIONS={"timeout": 5.0})
    calls = []

    @app.get("/price/<article>")
    @cache.cached(timeout=30, query_string=True)
    def price(article):
        calls.append(article)
        return {"article": article}

    @cache.memoize(30)
    def total(*numbers):
        calls.append(numbers)
        return sum(numbers) or None

    with app.app_context(), app.test_client() as http:
        assert isinstance(cache.cache, FlaskCache)
        assert [http.get("/price/t ä?x=1").get_json() for _ in range(2)] == [{"article": "t ä"}] * 2
        assert [total(1, 2) for _ in range(2)] == [3, 3]
        assert calls == ["t ä", (1, 2)]
        cache.delete_memoized(total, 1, 2)
        assert total(1, 2) == 3
        assert len(calls) == 3
        cache.set("plain", 1)
        assert cache.cache.client.get(b"site:plain").value == b"1"
        cache.cache.close()


async def test_an_async_view_may_call_it(server):
    app, cache = make_app(server)
    with app.app_context():
        assert cache.set("in-a-loop", 1)
        cache.cache.close()


def test_a_view_works_while_memcached_is_down():
    with memcached() as server:
        app, cache = make_app(server, CACHE_OPTIONS={"timeout": 1.0})

    @app.get("/")
    @cache.cached(30)
    def index():
        return "computed"

    with app.app_context(), app.test_client() as http:
        assert http.get("/").data == b"computed"
        cache.cache.close()


def test_a_login_from_the_settings():
    with memcached() as server:
        _, cache = make_app(
            server, CACHE_MEMCACHED_USERNAME="user", CACHE_MEMCACHED_PASSWORD="secret"
        )
        with cache.app.app_context(), pytest.raises(emcache.AuthenticationError):
            cache.set("a", 1)
        with cache.app.app_context():
            cache.cache.close()
