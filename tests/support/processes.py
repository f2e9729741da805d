"""Processes that share a cache; each runs a coroutine function of this module."""

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import emcache
from emcache import Cache

from .loops import LOOPS

_CONTEXT = multiprocessing.get_context("spawn")
LONGEST = 60.0
"""Seconds after which a process that hangs is a failure."""


def first_of(processes: list["Process"]) -> "Process":
    """The process that sends something first."""
    by_pipe = {process.results: process for process in processes}
    [first, *_] = multiprocessing.connection.wait(list(by_pipe), LONGEST)
    return by_pipe[first]


class Process:
    """A process that was started."""

    def __init__(self, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        self.results, results = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(results, work, args), daemon=True)
        self._process.start()
        results.close()

    def result(self) -> Any:
        """What the coroutine sends next, or returns at its end."""
        if not self.results.poll(LONGEST):
            raise TimeoutError("a process hangs")
        kind, value = self.results.recv()
        if kind == "error":
            raise AssertionError(value)
        return value

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()

    def end(self) -> None:
        if self._process.is_alive():
            self._process.join(5)
        if self._process.is_alive():
            self.kill()
        self.results.close()


def barrier(parties: int) -> Any:
    """What the processes wait at, so that they begin together."""
    return _CONTEXT.Barrier(parties)


@contextlib.contextmanager
def running(
    count: int, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any
) -> Iterator[list[Process]]:
    processes = [Process(work, *args) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.end()


def run_all(count: int, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> list[Any]:
    """Run a coroutine function in processes, and return the results."""
    with running(count, work, *args) as processes:
        return [process.result() for process in processes]


def _run(results: Any, work: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any]) -> None:
    async def main() -> Any:
        return await work(lambda value: results.send(("sent", value)), *args)

    try:
        with asyncio.Runner(loop_factory=LOOPS[os.environ["EMCACHE_TEST_LOOP"]]) as runner:
            results.send(("returned", runner.run(main())))
    except BaseException as error:
        results.send(("error", f"{type(error).__name__}: {error}"))


async def crowd(send: Any, start: Any, client: dict[str, Any], work: dict[str, Any]) -> Any:
    """Many tasks want one missing key at once; returns the values and the calls of the factory."""
    calls = 0

    async def factory() -> Any:
        nonlocal calls
        calls += 1
        send("computing")
        if calls <= work.get("failures", 0):
            raise LookupError("no row")
        await asyncio.sleep(work["seconds"])
        return [os.getpid(), calls]

    async with emcache.create_client(**client) as running:
        # A connection, so that all begin at the same moment.
        await running.get(b"warm")
        cache: Cache[Any] = Cache(running, ttl=60, **work.get("cache", {}))
        await asyncio.to_thread(start.wait, LONGEST)
        send("started")
        tasks = [cache.get_or_set(work["key"], factory) for _ in range(work["tasks"])]
        values = await asyncio.gather(*tasks, return_exceptions=True)
    return [repr(value) if isinstance(value, Exception) else value for value in values], calls


async def refreshers(send: Any, start: Any, client: dict[str, Any], work: dict[str, Any]) -> Any:
    """Read a key for a while; returns the values, and the calls of the factory."""
    calls, values, waits = 0, [], 0

    async def factory() -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.2)
        return [os.getpid(), calls]

    async with emcache.create_client(**client) as running:
        cache: Cache[Any] = Cache(running, **work["cache"])
        await asyncio.to_thread(start.wait, LONGEST)
        until = time.monotonic() + work["seconds"]
        while time.monotonic() < until:
            info = emcache.cache.CacheInfo()
            value = await cache.get_or_set(work["key"], factory, info=info)
            waits += info.waited or info.computed
            if not values or values[-1] != value:
                values.append(value)
            await asyncio.sleep(random.random() * 0.02)
        # What was begun by the last reads.
        await asyncio.sleep(0.6)
        if (value := await cache.get(work["key"])) is not None and value != values[-1]:
            values.append(value)
    return values, calls, waits


async def oracle(send: Any, start: Any, client: dict[str, Any], work: dict[str, Any]) -> Any:
    """Run a random program; returns what happened, with times that all processes share.

    A value is the moment at which its computation, or the call of `set`, began.
    """
    events = []
    chance = random.Random(work["seed"] * 1000 + os.getpid())

    async def factory() -> Any:
        began = time.monotonic_ns()
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.02)
        if chance.random() < 0.1:
            raise LookupError("no row")
        return began

    async def read(cache: Cache[Any], key: str) -> None:
        info = emcache.cache.CacheInfo()
        began = time.monotonic_ns()
        try:
            if chance.random() < 0.8:
                call = cache.get_or_set(key, factory, info=info)
                value = await (asyncio.wait_for(call, 0.005) if chance.random() < 0.1 else call)
            else:
                value = await cache.get(key)
        except (LookupError, TimeoutError):
            return
        if value is not None:
            events.append(("read", key, began, value, info.stale))

    async def load(keys: list[str]) -> dict[str, int]:
        began = await factory()
        return dict.fromkeys(keys, began)

    async def read_many(cache: Cache[Any]) -> None:
        keys = [f"{work['key']}{number}" for number in range(3) if chance.random() < 0.8]
        began = time.monotonic_ns()
        try:
            call = cache.get_or_set_many(keys, load)
            found = await (asyncio.wait_for(call, 0.005) if chance.random() < 0.1 else call)
        except (LookupError, TimeoutError):
            return
        events.extend(("read", key, began, value, False) for key, value in found.items())

    async def write(cache: Cache[Any], key: str) -> None:
        how = chance.choice(["delete", "invalidate", "set", "renew", "soft"])
        if how == "soft" and work.get("many"):
            how = "delete"  # reads of many keys do not tell stale values
        began = time.monotonic_ns()
        if how == "delete":
            await cache.delete(key)
        elif how == "set":
            await cache.set(key, began)
        elif how == "renew":
            with contextlib.suppress(LookupError):
                await cache.renew(key, factory)
            return
        else:
            await cache.invalidate(key, stale_for=2 if how == "soft" else None)
        events.append(("write", key, began, time.monotonic_ns(), how))

    async def task(cache: Cache[Any]) -> None:
        for _ in range(work["steps"]):
            key = f"{work['key']}{chance.randrange(3)}"
            if work.get("many") and chance.random() < 0.5:
                await read_many(cache)
            else:
                await (write if chance.random() < 0.15 else read)(cache, key)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.003)

    async with emcache.create_client(**client) as running:
        cache: Cache[Any] = Cache(running, **work["cache"])
        await asyncio.to_thread(start.wait, LONGEST)
        if work.get("many"):
            from emcache.cache import _many

            _many.BATCH_FROM = 1
            send("begun")
        await asyncio.gather(*(task(cache) for _ in range(work["tasks"])))
    return events
