"""Threads that have no business with a call: they print it, close it, cancel its task, collect it.

With EMCACHE_TEST_THREADS=60 the storm takes a minute. On a free-threaded Python all of it runs at
the same time.
"""

import asyncio
import contextlib
import gc
import os
import random
import subprocess
import sys
import threading
import time
import warnings

import pytest

import emcache
import emcache.sync
from support.calls import client_of, within
from support.scripted import hold, scripted
from support.threads import in_threads

# asyncio's own tasks and futures may be used by other threads from free-threaded Python 3.14 on.
TASKS_ARE_SHARED = sys.version_info >= (3, 14) or getattr(sys, "_is_gil_enabled", lambda: True)()

SECONDS = float(os.environ.get("EMCACHE_TEST_THREADS", "2"))


def call_behind(coroutine):
    """Return the awaitable of the core on which a coroutine waits."""
    while (inner := getattr(coroutine, "cr_await", None)) is not None:
        coroutine = inner
    return coroutine


@within(30)
async def test_a_call_that_another_thread_prints_gets_its_answer(client, key):
    await client.set(key, b"v")
    calls, end = {}, threading.Event()

    def look():
        while not end.is_set():
            for call in list(calls.values()):
                assert repr(call).startswith(("<emcache request", "<coroutine"))

    async def get(number):
        for _ in range(200):
            coroutine = client.get(key)
            task = asyncio.create_task(coroutine)
            await asyncio.sleep(0)
            calls[number] = call_behind(coroutine)
            assert (await task).value == b"v"

    lookers = [asyncio.create_task(asyncio.to_thread(look)) for _ in range(2)]
    try:
        await asyncio.gather(*(get(number) for number in range(20)))
    finally:
        end.set()
        await asyncio.gather(*lookers)


@pytest.mark.driver_independent
def test_an_item_that_threads_share_can_be_read_and_changed():
    item = emcache.Item(b"value", 1, 2)
    together = threading.Barrier(4)

    def work(number):
        mine = emcache.Item(b"value %d" % number, number, number)
        together.wait()
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for _ in range(100):
                item.value = mine.value
                assert item.value.startswith(b"value")
                assert repr(item).startswith("Item(value=b'value")
                assert (item == mine) in (True, False)
            item.flags, item.cas = number, number
            assert 0 <= item.flags < 4
            item.__init__(mine.value, number, number)

    in_threads(4, work)


@pytest.mark.parametrize("where", ["the same thread", "another thread"])
@within(20)
async def test_a_call_that_other_code_closes_ends_for_its_task(where):
    async with scripted(hold) as server, client_of(server) as client:
        coroutine = client.get(b"key")
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0.01)
        call = call_behind(coroutine)
        if where == "the same thread":
            call.close()
        else:
            await asyncio.to_thread(call.close)
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="cancelled or closed"):
                await task


@within(20)
async def test_a_call_that_is_closed_before_it_is_awaited(client, key):
    await client.set(key, b"v")
    coroutine = client.get(key)
    coroutine.close()
    assert (await client.get(key)).value == b"v"


LINGERING = """
import asyncio, sys, threading
import emcache

kept = []

async def main():
    address = emcache.MemcachedHostAddress("127.0.0.1", int(sys.argv[1]))
    kept.append(await emcache.create_client([address]))
    await kept[0].set(b"lingering", b"v")

thread = threading.Thread(target=lambda: asyncio.run(main()))
thread.start()
thread.join()
"""


def test_a_client_that_outlives_its_modules(server):
    program = [sys.executable, "-W", "always", "-c", LINGERING, str(server.port)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0
    assert "Error" not in done.stderr, done.stderr


DAEMONS = """
import asyncio, sys, threading, time
import emcache, emcache.sync

address = emcache.MemcachedHostAddress("127.0.0.1", int(sys.argv[1]))
begun = [threading.Event() for _ in range(4)]

async def main(number):
    client = await emcache.create_client([address])
    await client.set(b"daemon", b"v")
    while True:
        await asyncio.gather(*(client.get(b"daemon") for _ in range(10)))
        begun[number].set()

def wait(number):
    client = emcache.sync.create_client([address])
    while True:
        client.get(b"daemon")
        begun[number].set()

for number in range(4):
    target = wait if number >= 2 else lambda number: asyncio.run(main(number))
    threading.Thread(target=target, args=(number,), daemon=True).start()
for event in begun:
    assert event.wait(20)
"""


def test_the_process_ends_while_threads_call(server):
    for _ in range(max(3, int(SECONDS))):
        program = [sys.executable, "-c", DAEMONS, str(server.port)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
        assert (done.returncode, done.stderr) == (0, "")


FORKS = """
import asyncio, os, signal, sys, threading, warnings
import emcache, emcache.sync

warnings.simplefilter("ignore", DeprecationWarning)
address = emcache.MemcachedHostAddress("127.0.0.1", int(sys.argv[1]))
shared = emcache.sync.create_client([address], timeout=20)
shared.set(b"forks", b"v")
item = shared.get(b"forks")
end = threading.Event()

async def call():
    async with emcache.create_client([address], timeout=20) as client:
        while not end.is_set():
            found = await asyncio.gather(*(client.get(b"forks") for _ in range(20)))
            assert all(one.value == b"v" for one in found)

def wait():
    while not end.is_set():
        assert shared.get(b"forks").value == b"v"
        item.flags = item.flags

async def call_once():
    async with emcache.create_client([address], timeout=20) as client:
        assert (await client.get(b"forks")).value == b"v"

targets = [lambda: asyncio.run(call())] * 2 + [wait] * 2
threads = [threading.Thread(target=target) for target in targets]
for thread in threads:
    thread.start()
codes = set()
for _ in range(int(sys.argv[2])):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        code = 1
        try:
            assert shared.get(b"forks").value == b"v"
            item.flags = 1
            asyncio.run(call_once())
            code = 0
        finally:
            os._exit(code)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
end.set()
for thread in threads:
    thread.join()
print(codes)
"""


@pytest.mark.timeout(120)
def test_forks_while_threads_call(server):
    program = [sys.executable, "-c", FORKS, str(server.port), str(max(10, int(SECONDS)))]
    done = subprocess.run(program, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{0}\n", "")


class Storm:
    """Loops with a client each, a synchronous client for all, and threads that misuse them."""

    def __init__(self, server, key):
        self.server, self.key = server, key
        self.until = time.monotonic() + SECONDS
        self.calls, self.tasks, self.clients, self.items = {}, {}, {}, {}
        """What each loop has under way, for the threads that misuse it."""
        self.sync = emcache.sync.create_client([server.address], timeout=20.0)
        self.done = {}

    def is_going_on(self):
        return time.monotonic() < self.until

    def call(self, number):
        """A loop with a client, and tasks of which some are cancelled."""
        asyncio.run(self.run(number))

    async def run(self, number):
        loop, rng = asyncio.get_running_loop(), random.Random(number)
        async with emcache.create_client([self.server.address], timeout=20.0) as client:
            self.clients[number] = client

            async def work(part):
                name = b"%b:%d:%d" % (self.key, number, part)
                written = 0
                while self.is_going_on():
                    written += 1
                    value = b"%b=%d" % (name, written)
                    await client.set(name, value)
                    for _ in range(5):
                        coroutine = client.gets(name)
                        task = loop.create_task(coroutine)
                        await asyncio.sleep(0)
                        self.calls[number, part] = call_behind(coroutine)
                        self.tasks[number, part] = loop, task
                        if rng.random() < 0.05:
                            task.cancel()
                        try:
                            item = await task
                        except asyncio.CancelledError:
                            assert task.cancelled()
                            continue
                        assert item.value == value, (item, value)
                        self.items[number, part] = item
                    found = await client.get_many([name])
                    assert found[name].value == value
                self.done[number, part] = written

            async with asyncio.timeout(SECONDS + 60), asyncio.TaskGroup() as group:
                for part in range(10):
                    group.create_task(work(part))

    def call_and_wait(self, number):
        name = b"%b:sync:%d" % (self.key, number)
        written = 0
        while self.is_going_on():
            written += 1
            self.sync.set(name, b"%d" % written)
            assert self.sync.get(name).value == b"%d" % written
            assert self.sync.get_many([name])[name].value == b"%d" % written
            assert self.sync.increment(name, 1) == written + 1
        self.done[number, 0] = written

    def misuse(self, number):
        rng = random.Random(number)
        while self.is_going_on():
            for call in list(self.calls.values()):
                repr(call)
            for loop, task in list(self.tasks.values()) if TASKS_ARE_SHARED else ():
                repr(task)
                if task.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        task.result()
                with contextlib.suppress(RuntimeError):  # The loop has ended.
                    loop.call_soon_threadsafe(task.add_done_callback, repr)
                    if rng.random() < 0.01:
                        loop.call_soon_threadsafe(task.cancel)
            for client in list(self.clients.values()):
                repr(client)
                coroutine = client.get(self.key)
                with pytest.raises(RuntimeError, match=r"another event loop or thread|closed"):
                    coroutine.send(None)
            for item in list(self.items.values()):
                # The tasks have compared the value by now.
                item.flags = item.flags
                repr(item)
            time.sleep(0.001)
        self.done[number, 0] = 1

    def collect(self, number):
        collected = 0
        while self.is_going_on():
            asyncio.run(self.leave_behind())
            gc.collect()
            collected += 1
            time.sleep(0.01)
        self.done[number, 0] = collected

    async def leave_behind(self):
        """Leave a client and a call to the collector, whichever thread runs it."""
        client = await emcache.create_client([self.server.address], timeout=20.0)
        coroutine = client.get(self.key)
        coroutine.send(None)
        cycle = [client, coroutine]
        cycle.append(cycle)


@pytest.mark.timeout(SECONDS + 120)
def test_a_storm_of_8_threads(server, key, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    storm = Storm(server, key)
    roles = [storm.call] * 3 + [storm.call_and_wait] * 2 + [storm.misuse] * 2 + [storm.collect]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        in_threads(8, lambda number: roles[number](number), timeout=SECONDS + 90)
        storm.sync.close()
        storm.__dict__.clear()
        gc.collect()
    assert not [str(what.exc_value) for what in unraisable]
