"""The load of `bench`, and its results."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from .._client import Client
from .._errors import CommandError, EmcacheError, NotFoundCommandError
from ._exit_codes import NODE, SERVER
from ._latency import Latencies

EXPTIME = 900
"""Seconds after which keys expire that could not be deleted."""
_AT_ONCE = 64


@dataclass(frozen=True)
class Load:
    """The parameters of a load."""

    get_ratio: float
    size: int
    tasks: int
    seconds: float
    keys: int


class Run:
    """One run of a load: its keys and its results."""

    def __init__(self, client: Client, load: Load) -> None:
        self._client = client
        self._load = load
        self.prefix = f"emcache-bench:{os.urandom(6).hex()}:"
        self._value = random.randbytes(load.size)
        self.gets = Latencies()
        self.sets = Latencies()
        self.misses = 0
        self.errors: Counter[str] = Counter()
        self.is_refused = False
        self.seconds = 0.0

    def _key(self, number: int) -> bytes:
        return f"{self.prefix}{number}".encode()

    async def fill(self) -> None:
        """Store every key once; the first error ends it."""
        await self._for_all(lambda key: self._client.set(key, self._value, exptime=EXPTIME))

    async def clean_up(self) -> int:
        """Delete the keys, and return how many could not be deleted."""
        remaining = 0

        async def delete(key: bytes) -> None:
            nonlocal remaining
            try:
                await self._client.delete(key)
            except NotFoundCommandError:
                pass
            except EmcacheError:
                remaining += 1

        await self._for_all(delete)
        return remaining

    async def _for_all(self, act: Callable[[bytes], Awaitable[None]]) -> None:
        waiting = iter(range(self._load.keys))

        async def work() -> None:
            for number in waiting:
                await act(self._key(number))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, self._load.keys)):
                group.create_task(work())

    async def go(self) -> None:
        """Run the load for its duration."""
        begin = time.perf_counter()
        end = begin + self._load.seconds
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._load.tasks):
                    group.create_task(self._task(random.Random(number), end))
        finally:
            self.seconds = time.perf_counter() - begin

    async def _task(self, chance: random.Random, end: float) -> None:
        now = time.perf_counter()
        while now < end:
            key = self._key(int(chance.random() * self._load.keys))
            is_get = chance.random() < self._load.get_ratio
            try:
                if is_get:
                    self.misses += await self._client.get(key) is None
                else:
                    await self._client.set(key, self._value, exptime=EXPTIME)
            except EmcacheError as error:
                self.errors[type(error).__name__] += 1
                self.is_refused |= isinstance(error, CommandError)
                # Errors that are immediate would otherwise dominate the run.
                await asyncio.sleep(0.01)
                now = time.perf_counter()
                continue
            before, now = now, time.perf_counter()
            (self.gets if is_get else self.sets).add(now - before)

    def document(self) -> dict[str, object]:
        """Return the JSON of the results."""
        both = self.gets + self.sets
        return {
            "load": asdict(self._load),
            "seconds": round(self.seconds, 3),
            "ops_per_second": round(both.count / self.seconds, 1) if self.seconds else 0.0,
            "all": both.fields(),
            "get": {**self.gets.fields(), "misses": self.misses},
            "set": self.sets.fields(),
            "errors": dict(self.errors),
        }

    def exit_code(self) -> int:
        """Return the exit code of the run."""
        if not self.errors:
            return 0
        return SERVER if self.is_refused else NODE


async def unwrapped(work: Awaitable[None]) -> None:
    """Await a task group, and raise its first error without the group."""
    try:
        await work
    except* EmcacheError as errors:
        failures = errors.exceptions
    else:
        return
    raise failures[0]
