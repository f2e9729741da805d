"""Signal handlers that raise in the calls of a synchronous cache."""

import signal
import subprocess
import sys
import threading
import time

import pytest

import emcache.sync
from support.memcached import memcached

pytestmark = pytest.mark.driver_independent


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


STORM = """
import collections, random, signal, sys, threading
import emcache.sync

class Stop(BaseException): pass

error = {each.__name__: each for each in (KeyboardInterrupt, Stop)}[sys.argv[2]]
armed = False

def handler(*_):
    if armed:
        raise error

signal.signal(signal.SIGALRM, handler)
client = emcache.sync.create_client([f"127.0.0.1:{sys.argv[1]}"], timeout=30.0)
cache = emcache.sync.Cache(client, ttl=60)
chance = random.Random(20)
seen = collections.Counter()
for number in range(100):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00003, 0.002))
        cache.get_or_set(f"key-{number}", lambda: 1)
        cache.delete(f"key-{number}")
        cache.get_or_set(f"key-{number}", lambda: 1)
        armed = False
    except error:
        armed = False
        seen["interrupted"] += 1
    except RuntimeError as other:
        armed = False
        seen[repr(other)] += 1
values = []

def other_thread():
    for number in range(100):
        # A lease whose holder was interrupted may be left for its whole time, as when it is killed.
        values.append(cache.get_or_set(f"key-{number}", lambda: 1, wait=0))

thread = threading.Thread(target=other_thread, daemon=True)
thread.start()
thread.join(30)
print(set(seen) == {"interrupted"} or seen, len(cache._flights), values == [1] * 100)
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "Stop"])
def test_interruptions_at_any_point(error):
    """Afterwards no computation is left for which other threads wait.

    An ordinary exception could be taken for one of the serializer.
    """
    with memcached() as own:
        command = [sys.executable, "-c", STORM, str(own.address.port), error]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # An interruption in a destructor is printed, as everywhere in Python.
    assert (done.returncode, done.stdout) == (0, "True 0 True\n"), done.stderr
