"""`emcache.contrib.dogpile`: dogpile.cache's own tests for backends, and what they do not see."""

import threading
from itertools import count

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

import emcache
import emcache.sync
from emcache.contrib.dogpile import EmcacheBackend
from support.memcached import memcached

pytestmark = pytest.mark.driver_independent


@pytest.fixture(scope="module", autouse=True)
def of_dogpile(server):
    """Tells dogpile's tests where the server is."""
    url = f"127.0.0.1:{server.port}"
    for suite, more in SUITES.items():
        suite.config_args = {"arguments": {"url": url, "memcached_expire_time": 60, **more}}


class Quick(_GenericBackendTestSuite):
    backend = "emcache"

    # The backend refuses arguments that it does not know.
    test_argument_dictionary_unmodified = None
    # 10 s, and about the region.
    test_threaded_get_multi = None


class TestBackend(Quick):
    test_threaded_dogpile = None


class TestSerializer(_GenericSerializerTestSuite, Quick):
    test_threaded_dogpile = None
    test_region_expire = None


class TestBackendWithLock(Quick):
    test_region_expire = None


class TestDistributedLock(_GenericMutexTestSuite):
    backend = "emcache"


LOCKS = {"distributed_lock": True}
SUITES = {
    TestBackend: {},
    TestSerializer: {},
    TestBackendWithLock: LOCKS,
    TestDistributedLock: LOCKS,
}


@pytest.fixture
def backend(server):
    made = EmcacheBackend({"url": [f"127.0.0.1:{server.port}"], "distributed_lock": True})
    yield made
    made.client.close()


def test_keys_that_memcached_refuses(server):
    arguments = {"url": f"127.0.0.1:{server.port}", "memcached_expire_time": 60}
    region = make_region().configure("emcache", arguments=arguments)
    calls = []

    @region.cache_on_arguments()
    def price(article, country):
        calls.append(article)
        return f"{article} in {country}"

    long = "tea" * 100
    assert [price(long, "é ?") for _ in range(2)] == [f"{long} in é ?"] * 2
    assert calls == [long]
    price.invalidate(long, "é ?")
    price(long, "é ?")
    assert len(calls) == 2


def test_a_client_is_shared(server):
    with emcache.sync.create_client([server.address]) as client:
        region = make_region().configure("emcache", arguments={"url": client})
        assert region.backend.client is client
        with pytest.raises(TypeError, match="timeout must be passed to create_client"):
            EmcacheBackend({"url": client, "timeout": 1})


def test_wrong_arguments():
    with pytest.raises(TypeError, match="unknown arguments of EmcacheBackend: behaviors"):
        EmcacheBackend({"url": "127.0.0.1:11211", "behaviors": {}})
    with pytest.raises(ValueError, match="at least one node"):
        EmcacheBackend({"url": []})


def test_the_server_forgets_after_memcached_expire_time(server):
    backend = EmcacheBackend({"url": f"127.0.0.1:{server.port}", "memcached_expire_time": 90})
    backend.set_serialized("dogpile-a", b"1")
    backend.set_serialized_multi({"dogpile-b": b"1"})
    assert all(60 < backend.client.ttl(key) <= 90 for key in (b"dogpile-a", b"dogpile-b"))
    backend.client.close()


def test_only_the_owner_releases_a_lock(backend):
    """Also if the lock has expired, and another thread of the process has it now."""
    mutex = backend.get_mutex("late")
    assert mutex.acquire()
    backend.client.delete(b"_locklate")
    other = threading.Thread(target=mutex.acquire)
    other.start()
    other.join()
    mutex.release()
    assert mutex.locked()
    assert not mutex.acquire(wait=False)
    mutex.release()
    assert not mutex.locked()
    mutex.release()


def test_another_thread_may_release_what_the_caller_acquired(backend):
    """As the runners of `async_creation_runner` do."""
    mutex = backend.get_mutex("runner")
    assert mutex.acquire()
    other = threading.Thread(target=mutex.release)
    other.start()
    other.join()
    assert not mutex.locked()


def test_another_thread_releases_what_was_acquired_first(backend):
    """Its lock ran out, and the thread that had acquired it has acquired it again."""
    mutex = backend.get_mutex("again")
    assert mutex.acquire()
    backend.client.delete(b"_lockagain")
    assert mutex.acquire()
    runner = threading.Thread(target=mutex.release)
    runner.start()
    runner.join()
    assert mutex.locked()
    mutex.release()
    assert not mutex.locked()


def test_an_interrupted_call_leaves_no_lock(backend, monkeypatch):
    mutex, client = backend.get_mutex("interrupted"), backend.client

    def interrupted(name):
        original, calls = getattr(client, name), count()

        def call(*args, **options):
            result = original(*args, **options)
            if next(calls) == 0:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(client, name, call, raising=False)

    interrupted("add")
    with pytest.raises(KeyboardInterrupt):
        mutex.acquire()
    assert not mutex.locked()
    assert mutex.acquire()
    interrupted("gets")
    with pytest.raises(KeyboardInterrupt):
        mutex.release()
    assert not mutex.locked()


def test_the_lock_of_a_process_that_died_ends(server):
    backend = EmcacheBackend({"url": f"127.0.0.1:{server.port}", "distributed_lock": True})
    assert backend.has_lock_timeout()
    assert backend.get_mutex("dead").acquire()
    assert 50 < backend.client.ttl(b"_lockdead") <= 60
    backend.client.close()


def test_errors_are_raised():
    with memcached() as server:
        backend = EmcacheBackend({"url": f"127.0.0.1:{server.port}", "timeout": 1.0})
        backend.set_serialized("a", b"1")
        assert backend.get_serialized_multi(["a", "b"]) == [b"1", NO_VALUE]
    with pytest.raises(emcache.EmcacheError):
        backend.set_serialized_multi({"a": b"2"})
    with pytest.raises(emcache.EmcacheError):
        backend.get_serialized("a")
    with pytest.raises(emcache.EmcacheError):
        backend.delete_multi(["a"])
    backend.client.close()
