"""Signal handlers that raise in the calls of a synchronous cache."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import emcache.sync
from support.memcached import memcached

pytestmark = pytest.mark.driver_independent

TRIES = os.environ.get("EMCACHE_TEST_INTERRUPTIONS", "100")
"""How many calls of each kind are interrupted."""


class Stop(BaseException):
    """Like KeyboardInterrupt, which asyncio treats in its own way."""


class SoftLimit(Exception):
    """Like the one of Celery."""


@pytest.fixture(params=[KeyboardInterrupt, Stop, SoftLimit])
def interrupt(request):
    """Make a handler raise once after a number of seconds; None for never."""
    armed = False

    def handler(*_):
        if armed:
            raise request.param

    def after(seconds):
        nonlocal armed
        armed = seconds is not None
        if armed:
            signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield request.param, after
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def caches(sync_client, server, key):
    """Two caches with the same keys, as in two processes."""
    options = {"prefix": key.decode() + ":", "ttl": 60}
    with emcache.sync.create_client([server.address], timeout=10.0) as other:
        yield emcache.sync.Cache(sync_client, **options), emcache.sync.Cache(other, **options)


def test_a_lock_for_which_a_call_waited_is_free_afterwards(caches, interrupt):
    mine, others = caches
    error, after = interrupt
    held = others.lock("job", ttl=60)
    assert held.acquire()
    wanted = mine.lock("job", ttl=60, wait=30)
    after(0.2)
    with pytest.raises(error):
        wanted.acquire()
    assert held.release()
    assert not wanted.owned
    assert mine.get("unrelated") is None
    assert others.lock("job", ttl=60, wait=0).acquire()


def test_a_call_that_waited_for_a_value_does_not_compute_later(caches, interrupt):
    mine, others = caches
    error, after = interrupt
    started, may_end = threading.Event(), threading.Event()
    calls = []

    def compute():
        started.set()
        may_end.wait(30)
        raise LookupError("no value")

    def other_process():
        with pytest.raises(LookupError):
            others.get_or_set("key", compute)
        calls.append("other")

    thread = threading.Thread(target=other_process)
    thread.start()
    assert started.wait(30)
    after(0.2)
    with pytest.raises(error):
        mine.get_or_set("key", lambda: calls.append("mine"))
    may_end.set()
    thread.join(30)
    assert mine.get("unrelated") is None
    assert calls == ["other"]
    assert mine.get_or_set("key", lambda: 5) == 5


def test_a_factory_that_is_interrupted_gives_its_lease_back(caches, interrupt):
    mine, others = caches
    error, after = interrupt
    after(0.2)
    with pytest.raises(error):
        mine.get_or_set("key", lambda: time.sleep(30))
    info = emcache.cache.CacheInfo()
    assert others.get_or_set("key", lambda: "new", info=info) == "new"
    assert not info.waited


def test_a_handler_that_raises_in_a_factory_is_no_failure_of_it(caches, interrupt):
    """Otherwise the old value would be served, and the exception lost."""
    mine, _ = caches
    error, after = interrupt
    mine.get_or_set("key", lambda: "old", stale_for=60)
    mine.invalidate("key", stale_for=60)
    after(0.2)
    with pytest.raises(error):
        mine.get_or_set("key", lambda: time.sleep(30), stale_for=60)


def test_a_call_to_a_stopped_server_is_interrupted(interrupt):
    error, after = interrupt
    with memcached() as own, emcache.sync.create_client([own.address], timeout=60.0) as client:
        cache = emcache.sync.Cache(client, ttl=60)
        keys = [f"key-{number}" for number in range(20)]
        cache.set("unrelated", 1)
        own.pause()
        after(0.2)
        began = time.monotonic()
        with pytest.raises(error):
            cache.get_or_set_many(keys, lambda missing: dict.fromkeys(missing, 1))
        assert time.monotonic() - began < 30
        own.resume()
        assert cache.get_or_set("key", lambda: 5) == 5


def test_functions_of_the_user_find_their_own_handlers(caches, interrupt):
    mine, _ = caches
    expected = signal.getsignal(signal.SIGALRM)
    assert mine.get_or_set("key", lambda: signal.getsignal(signal.SIGALRM) is expected)
    assert signal.getsignal(signal.SIGALRM) is expected

    def replace():
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        return asyncio.run(asyncio.sleep(0, "result"))

    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert mine.get_or_set("other", replace) == "result"
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_handler_may_use_the_cache(caches, interrupt):
    mine, _ = caches
    values = []

    def handler(*_):
        values.append(mine.get_or_set("of-handler", lambda: 1))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(50):
            signal.setitimer(signal.ITIMER_REAL, 0.00001 * number + 0.00001)
            assert mine.get_or_set(f"key-{number}", lambda: 2) == 2
            mine.delete("of-handler")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(values) <= {1}


def test_a_child_forked_by_another_thread_has_its_handlers(caches):
    mine, _ = caches
    expected = signal.getsignal(signal.SIGINT)
    is_taken, may_end, codes = threading.Event(), threading.Event(), []

    def fork():
        assert is_taken.wait(30)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if signal.getsignal(signal.SIGINT) is expected else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        may_end.set()

    class Slow(emcache.cache.Json[int]):
        def dumps(self, value):
            is_taken.set()
            assert may_end.wait(30)
            return super().dumps(value)

    thread = threading.Thread(target=fork)
    thread.start()
    slow = emcache.sync.Cache(mine.client, ttl=60, serializer=Slow())
    assert slow.get_or_set(mine.wire_key("key"), lambda: 1) == 1
    thread.join(30)
    assert codes == [0]


STORM = """
import collections, gc, random, signal, sys, threading, time, warnings
import emcache.sync

class Stop(BaseException): pass
class SoftLimit(Exception): pass

error = {each.__name__: each for each in (KeyboardInterrupt, Stop, SoftLimit)}[sys.argv[2]]
armed = False

def handler(*_):
    if armed:
        raise error

signal.signal(signal.SIGALRM, handler)
seen = collections.Counter()
warnings.simplefilter("always")
warnings.showwarning = lambda message, *_, **__: seen.update([str(message)])
client, other = (
    emcache.sync.create_client([f"127.0.0.1:{sys.argv[1]}"], timeout=30.0) for _ in range(2)
)
cache = emcache.sync.Cache(client, ttl=60)

def many(number):
    keys = [f"many:{number}:{index}" for index in range(20)]
    cache.get_or_set_many(keys, lambda missing: dict.fromkeys(missing, 1))

@emcache.sync.cached(cache, key="cached:{number}", tags=["tag:{number}", "all"])
def cached(number):
    return number

def lock(number):
    lock = cache.lock(f"lock:{number}", ttl=60)
    lock.acquire()
    lock.release()

kinds = {
    "one": lambda number: cache.get_or_set(f"one:{number}", lambda: 1),
    "many": many,
    "cached": cached,
    "lock": lambda number: cache.lock(f"lock:{number}", ttl=60).acquire(),
    "limit": lambda number: cache.rate_limit(f"limit:{number}", 5, per=60).hit(),
}

def left(kind, number):
    if kind == "lock":
        return other.get(f"#lock:lock:{number}".encode()) is not None
    names = [f"many:{number}:{index}" for index in range(20)] + [f"{kind}:{number}"]
    items = other.get_many([name.encode() for name in names], return_flags=True)
    return any(item.value == b"" and item.flags == 0 for item in items.values())

chance = random.Random(20)
for kind, call in kinds.items():
    began = time.perf_counter()
    for number in range(-20, 0):
        call(number)
    usual = (time.perf_counter() - began) / 20
    for number in range(int(sys.argv[3])):
        try:
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00001, usual))
                call(number)
            finally:
                armed = False
        except BaseException as raised:
            armed = False
            seen[f"{kind} interrupted" if type(raised) is error else repr(raised)] += 1
            if left(kind, number):
                seen[f"{kind} left"] += 1
gc.collect()
interrupted = {f"{kind} interrupted" for kind in kinds}
values = []

def other_thread():
    for number in range(100):
        values.append(cache.get_or_set(f"one:{number}", lambda: 1, wait=0))

thread = threading.Thread(target=other_thread, daemon=True)
thread.start()
thread.join(30)
print(set(seen) == interrupted or seen, len(cache._flights), values == [1] * 100)
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "Stop", "SoftLimit"])
def test_interruptions_at_any_point(error):
    """No lease and no lock is left for which others wait, and no coroutine that was not awaited."""
    with memcached() as own:
        command = [sys.executable, "-c", STORM, str(own.address.port), error, TRIES]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    # An interruption in a destructor is printed, as everywhere in Python.
    assert (done.returncode, done.stdout) == (0, "True 0 True\n"), done.stdout + done.stderr
