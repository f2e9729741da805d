"""The load of `bench`: what is done, and what came of it."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from .._errors import CommandError, EmcacheError, NotFoundCommandError
from ..base import Client
from ._exits import NODE, SERVER
from ._latency import Latencies

EXPTIME = 900
"""Seconds after which keys are gone that could not be deleted."""
_AT_ONCE = 64


@dataclass(frozen=True)
class Load:
    """What is to be done."""

    get_ratio: float
    size: int
    tasks: int
    seconds: float
    keys: int


class Run:
    """One run: its keys, and what came of it."""

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
        """Store every key once; the first failure ends it."""
        await self._for_all(lambda key: self._client.set(key, self._value, exptime=EXPTIME))

    async def clean_up(self) -> int:
        """Delete the keys, and give how many could not be."""
        left = 0

        async def delete(key: bytes) -> None:
            nonlocal left
            try:
                await self._client.delete(key)
            except NotFoundCommandError:
                pass
            except EmcacheError:
                left += 1

        await self._for_all(delete)
        return left

    async def _for_all(self, act: Callable[[bytes], Awaitable[None]]) -> None:
        waiting = iter(range(self._load.keys))

        async def work() -> None:
            for number in waiting:
                await act(self._key(number))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, self._load.keys)):
                group.create_task(work())

    async def go(self) -> None:
        """Run the load for its time."""
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
                # What fails at once would be all that is done.
                await asyncio.sleep(0.01)
                now = time.perf_counter()
                continue
            before, now = now, time.perf_counter()
            (self.gets if is_get else self.sets).add(now - before)

    def document(self) -> dict[str, object]:
        """Give what JSON says of it."""
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
        """Say how it went: errors are no success."""
        if not self.errors:
            return 0
        return SERVER if self.is_refused else NODE


async def unwrapped(work: Awaitable[None]) -> None:
    """Raise the first of the errors that tasks of a group ended with."""
    try:
        await work
    except* EmcacheError as errors:
        failures = errors.exceptions
    else:
        return
    raise failures[0]
