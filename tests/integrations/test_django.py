"""Django's cache framework on emcache; Django's own tests of it run by `make test-django`."""

import asyncio
import datetime
import logging
import pickle
import socketserver
import sys
import threading
import time

import pytest
from django.contrib.sessions.backends import cache as sessions
from django.core.cache import CacheHandler, InvalidCacheKey
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

import emcache
from emcache.contrib import _django_store
from emcache.contrib import django as django_backend
from emcache.contrib.django import EmcacheCache
from support.isolated import run_silent
from support.memcached import free_port, memcached


@pytest.fixture
def cache(server, key):
    params = {"KEY_PREFIX": key.decode(), "OPTIONS": {"timeout": 30}}
    return EmcacheCache([f"127.0.0.1:{server.port}"], params)


@pytest.fixture(params=["sync", "async"])
def call(request, cache):
    """Call a method, or its async twin on one loop."""
    if request.param == "sync":
        yield lambda name, *args, **options: getattr(cache, name)(*args, **options)
        return
    with asyncio.Runner() as runner:
        yield lambda name, *args, **options: runner.run(
            getattr(cache, f"a{name}")(*args, **options)
        )


def use(cache, other):
    """Let a cache of the tests call the servers of another one."""
    cache._store, cache._sync = other._store, other._sync


def ttl_of(server, name):
    with server.connect() as sock:
        sock.sendall(b"mg " + name.encode() + b" t\r\n")
        return int(sock.recv(100).split()[1].removeprefix(b"t"))


def is_about(left, seconds):
    """memcached's clock ticks once a second, and late on a busy machine; -1 is for ever."""
    return abs(left - seconds) <= (10 if seconds > 0 else 0)


class Gone:
    """Of a class that a later deploy does not have."""


class Lazy:
    """Pickled as a queryset is that was not evaluated: not on an event loop."""

    def __getstate__(self):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return {"rows": 3}
        raise SynchronousOnlyOperation("You cannot call this from an async context")


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["ü", "", b"\0\xff", b"", 0, -5, 2**70, True, None, 1.5, [1, {"a": (2,)}], datetime.date.max],
)
def test_values(call, value):
    call("set", "k", value)
    got = call("get", "k", "default")
    assert got == value
    assert type(got) is type(value)
    assert call("get_many", ["k", "missing"]) == {"k": value}


@pytest.mark.parametrize("value", ["ü", b"\0\xff", 42, True, None, [1, "a"]])
def test_pymemcache_reads_and_writes_the_same(server, cache, key, value):
    other = PyMemcacheCache(f"127.0.0.1:{server.port}", {"KEY_PREFIX": key.decode()})
    cache.set("ours", value)
    other.set("theirs", value)
    for name in ("ours", "theirs"):
        for each in (cache, other):
            got = each.get(name, "default")
            assert got == value
            assert type(got) is type(value)
    other.close()


def test_misses_and_deletes(call):
    assert call("get", "k") is None
    assert call("get", "k", 7) == 7
    assert call("has_key", "k") is False
    assert call("delete", "k") is False
    assert call("touch", "k") is False
    call("set", "k", 1)
    assert call("has_key", "k") is True
    assert call("touch", "k", 50) is True
    assert call("delete", "k") is True
    assert call("get", "k") is None


def test_add(call):
    assert call("add", "k", 1) is True
    assert call("add", "k", 2) is False
    assert call("get", "k") == 1


def test_many(call):
    many = {f"k{n}": n for n in range(3000)}
    assert call("set_many", many) == []
    assert call("get_many", many) == many
    assert call("delete_many", [*list(many)[:2999], "missing"]) is None
    assert call("get_many", many) == {"k2999": 2999}
    assert call("set_many", {}) == []
    assert call("get_many", []) == {}


def test_set_many_tells_what_failed(call):
    assert call("set_many", {"large": "x" * 2**21, "small": "x"}) == ["large"]
    assert call("get_many", ["large", "small"]) == {"small": "x"}


def test_a_value_that_is_too_large_leaves_nothing(call):
    call("set", "k", "small")
    with pytest.raises(emcache.StorageCommandError):
        call("set", "k", "x" * 2**21)
    assert call("get", "k") is None


def test_counting(call):
    call("set", "n", 41)
    assert call("incr", "n") == 42
    assert call("decr", "n", 2) == 40
    assert call("incr", "n", -50) == 0
    assert call("get", "n") == 0
    for name in ("incr", "decr"):
        with pytest.raises(ValueError, match="Key 'missing' not found"):
            call(name, "missing")
    call("set", "n", "text")
    with pytest.raises(emcache.ArithmeticCommandError):
        call("incr", "n")


def test_versions(call):
    call("set", "k", "one")
    call("set", "k", "two", version=2)
    assert call("get", "k") == "one"
    assert call("incr_version", "k", 2) == 3
    assert call("get", "k", version=3) == "one"
    assert call("get", "k", version=2) == "two"
    with pytest.raises(ValueError, match="not found"):
        call("incr_version", "k")


def test_get_or_set(call):
    assert call("get_or_set", "k", lambda: [1]) == [1]
    assert call("get_or_set", "k", "other") == [1]
    assert call("get_or_set", "none", None) is None
    assert call("get", "none", "default") is None


async def test_get_or_set_with_a_coroutine(cache):
    async def compute():
        return 42

    assert await cache.aget_or_set("k", compute) == 42
    assert await cache.aget("k") == 42
    await cache.aclose()


async def test_a_value_that_asks_the_database_when_pickled(cache):
    await cache.aset("k", Lazy())
    assert (await cache.aget("k")).rows == 3
    assert await cache.aset_many({"k": Lazy()}) == []
    await cache.aclose()


def test_a_value_that_asks_the_database_by_a_sync_call(cache):
    cache.set("k", Lazy())
    assert cache.get("k").rows == 3


def test_what_cannot_be_pickled(call):
    call("set", "k", "old")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        call("set", "k", lambda: None)
    assert call("get", "k") == "old"


def test_what_cannot_be_read_is_a_miss(server, cache, call, caplog, monkeypatch):
    now = 0.0
    monkeypatch.setattr("emcache._memcached.rate_limits.time.monotonic", lambda: now)
    _django_store.LOG.reset()
    call("set", "k", Gone())
    call("set", "kept", 1)
    monkeypatch.delattr(sys.modules[__name__], "Gone")
    assert call("get", "k", "default") == "default"
    assert call("get_many", ["k", "kept"]) == {"kept": 1}
    name = cache.make_key("k")
    server.command(f"set {name} 8 0 1\r\nx\r\n".encode())
    assert call("get", "k") is None
    now = 10.0
    server.command(f"set {name} 16 0 9\r\nsecret-\xff\xff\r\n".encode("latin-1"))
    assert call("get", "k") is None
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    # Neither one line for each read, nor the value: some errors show all of it.
    text = "the value of 'k' cannot be read and counts as a miss"
    assert told == [
        ("WARNING", f"{text}: AttributeError"),
        ("WARNING", f"{text}: UnicodeDecodeError (2 similar warnings suppressed)"),
    ]


# -- times and keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        *[(None, -1), (10, 10), (9.5, 10), (2592000, 2592000), (10**8, 10**8)],
        *[(datetime.timedelta(seconds=9.5), 10), (datetime.timedelta(days=365), 31536000)],
    ],
)
def test_timeouts(server, cache, call, timeout, seconds):
    name = cache.make_key("k")
    for write in (("set", "k", 1), ("touch", "k"), ("delete", "k"), ("add", "k", 1)):
        call(*write, *([timeout] if write[0] != "delete" else []))
        if write[0] != "delete":
            assert is_about(ttl_of(server, name), seconds)
    call("set_many", {"k": 2}, timeout)
    assert is_about(ttl_of(server, name), seconds)


@pytest.mark.parametrize("timeout", [10**12, 10**400], ids=["13 digits", "401 digits"])
def test_a_timeout_beyond_2038_ends_with_the_last_second_that_servers_know(server, call, timeout):
    call("set", "k", 1, timeout)
    assert call("get", "k") == 1


@pytest.mark.parametrize("timeout", ["10", datetime.datetime(2026, 1, 1)], ids=["str", "datetime"])
def test_what_is_no_timeout(call, timeout):
    for name, *args in [("set", "k", 1), ("add", "k", 1), ("touch", "k"), ("set_many", {"k": 1})]:
        with pytest.raises(TypeError, match="seconds, a timedelta or None, not"):
            call(name, *args, timeout)
    assert call("get", "k") is None


@pytest.mark.parametrize("timeout", [0, -1, -0.5, datetime.timedelta(0)])
def test_timeouts_that_are_over(call, timeout):
    call("set", "k", 1, timeout)
    assert call("get", "k") is None
    assert call("add", "k", 1, timeout) is True
    assert call("get", "k") is None
    call("set", "k", 1)
    assert call("touch", "k", timeout) is True
    assert call("get", "k") is None


@pytest.mark.parametrize(
    ("params", "seconds"),
    [
        ({}, 300),
        ({"TIMEOUT": None}, -1),
        ({"TIMEOUT": datetime.timedelta(hours=1)}, 3600),
        ({"timeout": datetime.timedelta(hours=1)}, 3600),
    ],
    ids=str,
)
def test_default_timeouts(server, key, params, seconds):
    cache = EmcacheCache(
        f"127.0.0.1:{server.port}",
        {"OPTIONS": {"timeout": 30}, "KEY_PREFIX": key.decode(), **params},
    )
    cache.set("k", 1)
    assert is_about(ttl_of(server, cache.make_key("k")), seconds)


@pytest.mark.parametrize("key_", ["with space", "new\nline", "k" * 250, "ü" * 120])
def test_keys_that_are_refused(call, key_):
    for name, *args in [
        ("get", key_),
        ("set", key_, 1),
        ("add", key_, 1),
        ("incr", key_),
        ("touch", key_),
        ("delete", key_),
        ("get_many", ["k", key_]),
        ("set_many", {"k": 1, key_: 1}),
        ("delete_many", ["k", key_]),
    ]:
        with pytest.raises(InvalidCacheKey, match="will cause errors if used with memcached"):
            call(name, *args)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.driver_independent
def test_a_timeout_that_is_infinite_is_refused():
    with pytest.raises(ImproperlyConfigured, match=r"TIMEOUT .*None never expires"):
        EmcacheCache("a", {"TIMEOUT": float("inf")})


@pytest.mark.driver_independent
@pytest.mark.parametrize("location", ["a:1,unix:/b", "a:1;unix:/b", ["a:1", "unix:/b"]])
def test_locations(location):
    one = EmcacheCache(location, {})
    assert one._servers == [
        emcache.MemcachedHostAddress("a", 1),
        emcache.MemcachedUnixSocketPath("/b"),
    ]
    assert EmcacheCache(location, {"OPTIONS": {}})._store._clients is one._store._clients
    other = EmcacheCache(location, {"OPTIONS": {"timeout": 2}})
    assert other._store._clients is not one._store._clients


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("location", "options", "says"),
    [
        ("", {}, "needs a LOCATION"),
        ([], {}, "needs a LOCATION"),
        ("::1", {}, r"is not a node address; write host:port"),
        (None, {}, "LOCATION"),
        ("a", {"no_delay": True, "ignore_exc": 1}, "unknown .*: ignore_exc, no_delay"),
        ("a", {5: 1}, "unknown .*: 5"),
        ("a", {"ignore_errors": "no"}, "ignore_errors must be a bool, not str"),
        ("a", None, "OPTIONS .* must be a dict, not NoneType"),
        ("a", ["timeout"], "OPTIONS .* must be a dict, not list"),
        ("a", {"failover": "other"}, "OPTIONS .* failover must be 'next'"),
        ("a", {"hot_keys": 101}, "OPTIONS .* hot_keys"),
        ("a", {"timeout": "1"}, "OPTIONS .* timeout"),
        ("a", {"routing": "x"}, "OPTIONS .* routing must be one of"),
        ("a", {"ssl": True, "ssl_extra_ca": "/no/such/file"}, "OPTIONS .*/no/such/file"),
        (5, {}, "LOCATION .* nodes must be a text .*, not int"),
        (["a", 5], {}, "LOCATION .* a node must be a text .*, not int"),
        ("a:0", {}, "LOCATION .* port must be between"),
        (
            emcache.MemcachedHostAddress("a:1", 1),
            {},
            "LOCATION .* pass the port as the second argument",
        ),
    ],
)
def test_settings_that_are_none(location, options, says):
    with pytest.raises(ImproperlyConfigured, match=says):
        EmcacheCache(location, {"OPTIONS": options})


def test_several_servers_shared_with_pymemcache(cluster, key):
    location = [f"127.0.0.1:{server.port}" for server in cluster]
    theirs = PyMemcacheCache(location, {"KEY_PREFIX": key.decode()})
    options = {"routing": "pymemcache"}
    ours = EmcacheCache(location, {"KEY_PREFIX": key.decode(), "OPTIONS": options})
    values = {f"user:{n}": {"id": n} for n in range(60)}
    assert theirs.set_many(values) == []
    assert ours.get_many(values) == values
    theirs.close()
    weighted = {"routing": "ketama", "weights": {node: n + 1 for n, node in enumerate(location)}}
    EmcacheCache(location, {"OPTIONS": weighted}).set(key.decode(), 1)


def test_the_options_of_the_client():
    with memcached("-I", "2m") as server:
        options = {"timeout": 5.0, "max_connections": 1, "ssl": True, "ssl_verify": False}
        cache = EmcacheCache(server.address, {"OPTIONS": options})
        with pytest.raises(emcache.ConnectionFailedError, match="TLS"):
            cache.set("k", 1)
        cache = EmcacheCache(server.address, {"OPTIONS": {"timeout": 30, "max_connections": 1}})
        cache.set("k", "x" * 1_500_000)
        assert len(cache.get("k")) == 1_500_000
        cache.clear()
        assert cache.get("k") is None


@pytest.mark.parametrize("delta", ["1", 1.5, None])
def test_what_is_no_delta(call, delta):
    call("set", "k", 1)
    for name in ("incr", "decr"):
        with pytest.raises(TypeError):
            call(name, "k", delta)
    with pytest.raises(TypeError, match=f"delta must be an int, not {type(delta).__name__}"):
        call("incr", "k", delta)
    assert call("get", "k") == 1


def test_clear_on_all_nodes():
    with memcached() as a, memcached() as b, memcached() as c:
        servers = [a, b, c]
        cache = EmcacheCache([node.address for node in servers], {"OPTIONS": {"timeout": 30}})
        many = {f"k{n}": n for n in range(100)}
        cache.set_many(many)
        assert all(int(node.stats()["curr_items"]) > 10 for node in servers)
        cache.clear()
        assert cache.get_many(many) == {}


# -- servers that cannot be reached ----------------------------------------------------------------


def test_errors_are_raised(call, cache):
    with memcached() as server:
        use(cache, EmcacheCache(server.address, {"OPTIONS": {"timeout": 30}}))
        call("set", "k", 1)
        server.kill()
        for name, *args in [("get", "k"), ("set", "k", 2), ("delete", "k"), ("get_many", ["k"])]:
            with pytest.raises(emcache.ConnectionFailedError):
                call(name, *args)
        with pytest.raises(emcache.ConnectionFailedError):
            call("delete_many", ["k"])
        assert call("set_many", {"a": 1, "b": 2}) == ["a", "b"]


def test_errors_are_ignored(call, cache, caplog, monkeypatch):
    _django_store.LOG.reset()
    with memcached() as server:
        use(
            cache, EmcacheCache(server.address, {"OPTIONS": {"timeout": 30, "ignore_errors": True}})
        )
        call("set", "k", 1)
        assert call("get", "k") == 1
        server.kill()
        assert call("get", "k", "default") == "default"
        assert call("get_many", ["k"]) == {}
        assert call("set", "k", 2) is None
        assert call("add", "k", 2) is False
        assert call("touch", "k") is False
        assert call("delete", "k") is False
        assert call("delete_many", ["k"]) is None
        assert call("set_many", {"k": 2}) == ["k"]
        assert call("clear") is None
        assert call("get_or_set", "k", 3) == 3
        with pytest.raises(ValueError, match="not found"):
            call("incr", "k")
    ours = [record for record in caplog.records if record.name == "emcache.contrib.django"]
    assert [record.levelno for record in ours] == [logging.WARNING]
    assert f"127.0.0.1:{server.port}" in ours[0].getMessage()


def test_errors_of_one_node_are_ignored(call, cache):
    with memcached() as one, memcached() as two:
        params = {"OPTIONS": {"timeout": 30, "ignore_errors": True}}
        use(cache, EmcacheCache([one.address, two.address], params))
        many = {f"k{n}": n for n in range(100)}
        assert call("set_many", many) == []
        held = int(one.stats()["curr_items"])
        two.kill()
        assert 0 < len(call("get_many", many)) == held < 100
        lost = call("set_many", many)
        assert len(lost) == 100 - held
        assert call("get_many", many) == {key: many[key] for key in many if key not in lost}


class Refusing(socketserver.StreamRequestHandler):
    """A proxy whose servers are away, or that has its own opinion of every command."""

    def handle(self):
        for line in self.rfile:
            words = line.split()
            if words[0] in (b"set", b"add"):
                self.rfile.read(int(words[4]) + 2)
            if self.server.answer == b"closes":
                return
            if self.server.answer != b"silent":
                self.wfile.write(self.server.answer + b"\r\n")


@pytest.fixture
def refusing():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


REFUSALS = [
    b"SERVER_ERROR Reply timeout",
    b"SERVER_ERROR out of memory storing object",
    b"SERVER_ERROR object too large for cache",
    b"CLIENT_ERROR bad command line format",
    b"CLIENT_ERROR unauthenticated",
    b"CLIENT_ERROR line too long",
    b"ERROR",
    b"ERROR Too many open connections",
    b"HTTP/1.1 400 Bad Request",
    b"NOT_STORED",
    b"closes",
    b"silent",
]


@pytest.mark.parametrize("answer", REFUSALS, ids=bytes.decode)
def test_whatever_a_server_or_proxy_refuses_is_ignored(call, cache, refusing, answer):
    refusing.answer = answer
    options = {"timeout": 0.1 if answer == b"silent" else 30, "ignore_errors": True}
    location = "127.0.0.1:{1}".format(*refusing.server_address)
    use(cache, EmcacheCache(location, {"OPTIONS": options}))
    assert call("get", "k", "default") == "default"
    assert call("has_key", "k") is False
    assert call("get_many", ["a", "b"]) == {}
    assert call("set", "k", 1) is None
    assert call("add", "k", 1) is False
    assert call("touch", "k") is False
    assert call("delete", "k") is False
    assert call("set_many", {"a": 1, "b": 2}) == ["a", "b"]
    assert call("delete_many", ["a", "b"]) is None
    assert call("get_or_set", "k", lambda: 3) == 3
    assert call("clear") is None
    for name in ("incr", "decr"):
        with pytest.raises(ValueError, match=r"not found|CLIENT_ERROR"):
            call(name, "k")


def test_a_value_that_is_too_large_is_ignored(call, cache, caplog, monkeypatch):
    _django_store.LOG.reset()
    cache._store._ignore_errors = cache._sync._ignore_errors = True
    call("set", "k", "small")
    assert call("set", "k", "x" * 2**21) is None
    # As without ignore_errors, the server has dropped the old value too.
    assert call("get", "k", "default") == "default"
    assert call("add", "k", "x" * 2**21) is False
    assert call("set_many", {"large": "x" * 2**21, "small": "x"}) == ["large"]
    assert call("get_or_set", "k", "x" * 2**21) == "x" * 2**21
    assert "StorageCommandError: " in caplog.text
    assert "xxx" not in caplog.text


def test_mistakes_are_not_ignored(call, cache):
    params = {"OPTIONS": {"timeout": 30, "ignore_errors": True}}
    use(cache, EmcacheCache(f"127.0.0.1:{free_port()}", params))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        call("set", "k", lambda: None)
    with pytest.raises(TypeError):
        call("incr", "k", "1")
    with pytest.raises(TypeError):
        call("set", "k", 1, "10")
    with pytest.raises(InvalidCacheKey):
        call("get", "with space")


def test_a_value_that_is_no_number_is_not_ignored(call, cache):
    cache._store._ignore_errors = cache._sync._ignore_errors = True
    call("set", "k", "text")
    with pytest.raises(emcache.ArithmeticCommandError):
        call("incr", "k")


@pytest.mark.parametrize("answer", [None, b"SERVER_ERROR object too large for cache"])
def test_a_session_that_cannot_be_stored_fails_at_once(refusing, answer):
    """Django asks for another key as long as `add` says that there is one, 10,000 times."""
    refusing.answer = answer
    out = run_silent(
        """
        from django.conf import settings

        logging.getLogger("emcache").setLevel(logging.CRITICAL)
        settings.configure(
            CACHES={
                "default": {
                    "BACKEND": "emcache.contrib.django.EmcacheCache",
                    "LOCATION": [f"127.0.0.1:{port}"],
                    "OPTIONS": {"timeout": 30, "ignore_errors": True},
                }
            },
        )
        from django.contrib.sessions.backends.cache import SessionStore
        from django.core.cache import cache
        from emcache.contrib import _django_store

        from emcache.contrib import _django_sync_store

        real, adds = _django_store.Store.add, []
        real_sync = _django_sync_store.SyncStore.add

        async def counted(*arguments, **options):
            adds.append(arguments[1])
            return await real(*arguments, **options)

        def counted_sync(*arguments, **options):
            adds.append(arguments[1])
            return real_sync(*arguments, **options)

        _django_store.Store.add = counted
        _django_sync_store.SyncStore.add = counted_sync
        for create in (lambda: SessionStore().create(), lambda: run(SessionStore().acreate())):
            try:
                create()
            except emcache.EmcacheError as error:
                print(type(error).__name__, len(adds))
        print(cache.add("k", 1))
        """,
        "asyncio",
        free_port() if answer is None else refusing.server_address[1],
    )
    name = "NodeUnavailableError" if answer is None else "StorageCommandError"
    assert out.splitlines() == [f"{name} 1", f"{name} 2", "False"]


def test_keys_of_sessions_are_known():
    assert django_backend._SESSIONS == sessions.KEY_PREFIX
    assert sessions.SessionStore.cache_key_prefix == sessions.KEY_PREFIX


async def test_discovery_that_fails(caplog, monkeypatch):
    _django_store.LOG.reset()
    options = {"autodiscovery": True, "autodiscovery_timeout": 0.02}
    location = f"127.0.0.1:{free_port()}"
    strict = EmcacheCache(location, {"OPTIONS": options})
    lenient = EmcacheCache(location, {"OPTIONS": options | {"ignore_errors": True}})
    results = await asyncio.gather(
        strict.aget("k"),
        lenient.aget("k", "default"),
        lenient.aset_many({"a": 1}),
        lenient.adelete_many(["a"]),
        return_exceptions=True,
    )
    assert isinstance(results[0], emcache.DiscoveryError)
    assert results[1:] == ["default", ["a"], None]
    assert "DiscoveryError: " in caplog.text


# -- loops, threads, processes ---------------------------------------------------------------------


def test_sync_calls_beside_a_running_loop(cache):
    async def both():
        await cache.aset("k", 1)
        assert cache.get("k") == 1
        cache.set("k", 2)
        assert await cache.aget("k") == 2

    asyncio.run(both())


def test_backends_of_a_loop_share_a_client():
    with memcached() as server:
        settings = {"BACKEND": "emcache.contrib.django.EmcacheCache", "LOCATION": server.address}
        settings |= {"OPTIONS": {"timeout": 30}}

        async def requests():
            for _ in range(20):
                # As each request does, in a context of its own.
                cache = CacheHandler({"default": settings})["default"]
                await cache.aset("k", 1)
                cache.close()

        asyncio.run(requests())
        # One is that of the question, one that of the start.
        assert int(server.stats()["total_connections"]) <= 5


def test_a_client_ends_with_its_loop():
    with memcached() as server:
        cache = EmcacheCache(server.address, {"OPTIONS": {"timeout": 30}})
        asyncio.run(cache.aset("k", 1))
        deadline = time.monotonic() + 5
        while int(server.stats()["curr_connections"]) > 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        assert int(server.stats()["curr_connections"]) <= 2


def test_a_preloaded_server_that_forks(server):
    out = run_silent(
        """
        from emcache.contrib.django import EmcacheCache

        params = {"KEY_PREFIX": "fork", "OPTIONS": {"timeout": 30}}
        cache = EmcacheCache(f"127.0.0.1:{port}", params)
        cache.set("k", "preloaded")
        for number in range(3):
            if os.fork() == 0:
                assert cache.get("k") == "preloaded"
                cache.set(f"k{number}", number)
                assert run(cache.aget(f"k{number}")) == number
                sys.exit()
        for _ in range(3):
            assert os.wait()[1] == 0
        print(cache.get_many(["k0", "k1", "k2"]))
        """,
        "asyncio",
        server.port,
    )
    assert out == "{'k0': 0, 'k1': 1, 'k2': 2}\n"


def test_views_sessions_and_the_cache_middleware():
    program = """
        import django
        from django.conf import settings

        settings.configure(
            SECRET_KEY="s",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="__main__",
            CACHES={
                "default": {
                    "BACKEND": "emcache.contrib.django.EmcacheCache",
                    "LOCATION": [f"127.0.0.1:{port}"],
                    "KEY_PREFIX": "views",
                    "OPTIONS": {"timeout": 30},
                }
            },
            SESSION_ENGINE="django.contrib.sessions.backends.cache",
            MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        )
        django.setup()

        from django.core.cache import cache
        from django.http import HttpResponse
        from django.test import AsyncClient, Client
        from django.urls import path
        from django.views.decorators.cache import cache_page

        async def visits(request):
            await cache.aadd("visits", 0)
            visits = await request.session.aget("visits", 0) + 1
            await request.session.aset("visits", visits)
            return HttpResponse(f"{await cache.aincr('visits')} {visits}")

        def sync(request):
            return HttpResponse(str(cache.get("visits")))

        @cache_page(60)
        def page(request):
            return HttpResponse(str(cache.incr("pages")))

        urlpatterns = [path("visits", visits), path("sync", sync), path("page", page)]

        async def main():
            cache.clear()
            client = AsyncClient()
            for _ in range(3):
                print((await client.get("/visits")).content.decode())
            print((await client.get("/sync")).content.decode())
            cache.set("pages", 0)
            print({(await client.get("/page")).content for _ in range(3)})

        run(main())
        print(Client().get("/visits").content.decode(), Client().get("/page").content)
        """
    with memcached() as server:
        out = run_silent(program, "asyncio", server.port)
    assert out.splitlines() == ["1 1", "2 2", "3 3", "3", "{b'1'}", "4 1 b'1'"]
