"""The keys of a call that nothing has cached: one task computes and stores all their values."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from .._errors import EmcacheError
from ._deadlock import Run
from ._flights import MISSING, Outcome
from ._get_or_set import GetOrSet
from ._late_stores import LAST_TRY
from ._leases import Lost, Won
from ._meta_leases import MetaLeases
from ._miss import Miss
from ._storage import Storage
from ._tags import make_generations
from ._tasks import in_task

T = TypeVar("T")

LEASES_AT_ONCE = 1000
"""How many leases are taken by one call of the client, which has one timeout."""
STORES_AT_ONCE = 64
"""How many values are stored at the same time."""


class Values(Protocol[T]):
    """The values of keys that ``load`` was called for."""

    futures: dict[bytes, "asyncio.Future[T]"]

    async def wait(self) -> None:
        """Wait until all futures are done; a cancelled wait gives up these keys."""
        ...


class Load(Protocol[T]):
    """Calls ``load`` for many keys."""

    def expect(self, names: Collection[bytes]) -> Values[T]:
        """Add keys to the next call."""
        ...

    def decide(self, name: bytes) -> None:
        """Do not wait for this key."""
        ...


class UnwonError(Exception):
    """A batch has not won the lease of this key; callers who waited for it begin again."""


class ColdKeys(Generic[T]):
    """Computes the missing keys of one call whose leases it can take by one command.

    Each key has a flight, which other callers may join. None of them has a task of its own.
    """

    def __init__(
        self, storage: Storage[T], leases: MetaLeases, calls: Mapping[bytes, GetOrSet[T]]
    ) -> None:
        self._storage = storage
        self._leases = leases
        self._calls = calls
        self.run = Run()
        self._misses = {name: call.begin(self.run) for name, call in calls.items()}
        self._won: dict[bytes, int] = {}
        self.lost: list[bytes] = []
        """Keys whose leases other processes have."""
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> dict[bytes, EmcacheError | None]:
        """Take the leases.

        Returns:
            The keys that were not won, and the error of each; each needs a task of its own.
        """
        taking = in_task(self._take())
        try:
            unwon = await asyncio.shield(taking)
        except BaseException:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LAST_TRY):
                    await taking
            self._hand_over(self._misses)
            await self._give_back(self._won)
            raise
        stale = {name: cas for name, cas in self._won.items() if self._misses[name].flight.stale}
        if stale:
            # Written or deleted meanwhile: later callers compute them anyway.
            for name in stale:
                del self._won[name]
                unwon[name] = None
            self._hand_over(unwon)
            await self._give_back(stale)
        self._hand_over(unwon)
        return unwon

    async def _take(self) -> dict[bytes, EmcacheError | None]:
        unwon: dict[bytes, EmcacheError | None] = dict.fromkeys(self._misses)
        if not await self._find_tags():
            return unwon
        self._began = time.monotonic()
        names = list(self._misses)
        for start in range(0, len(names), LEASES_AT_ONCE):
            some = names[start : start + LEASES_AT_ONCE]
            for name in some:
                self._misses[name].note_epoch()
            exptime = next(iter(self._misses.values())).policy.lease_exptime
            taken, errors = await self._leases.take_many(some, exptime)
            unwon.update(errors)
            for name, lease in taken.items():
                if isinstance(lease, Won) and lease.cas:
                    self._won[name] = lease.cas
                    del unwon[name]
                elif isinstance(lease, Lost):
                    self.lost.append(name)
        return unwon

    async def _find_tags(self) -> bool:
        """Read or create the generations of all tags; return whether that worked."""
        every = [miss.computing for miss in self._misses.values()]
        tags = tuple(dict.fromkeys(tag for computing in every for tag in computing.tags))
        if not tags:
            return True
        found = {tag: value for computing in every for tag, value in computing.found.items()}
        try:
            generations = dict(await make_generations(self._storage.client, tags, found))
        except EmcacheError:
            return False
        for computing in every:
            computing.found = generations
        return True

    def _hand_over(self, names: Iterable[bytes]) -> None:
        for name in names:
            self._end_flight(self._misses[name], Outcome(MISSING, own_error=UnwonError()))

    def start(self, load: Load[T]) -> None:
        """Compute and store the values of the keys that were won, in a task of its own."""
        if self._won:
            self._task = in_task(self._compute(load), "emcache computes many values")

    async def wait(self) -> None:
        """Wait for the values."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def results(self) -> dict[bytes, T | Exception]:
        """Return the values or errors after the wait."""
        results: dict[bytes, T | Exception] = {}
        for name in self._won:
            try:
                results[name] = self._calls[name].end(self._misses[name].flight)
            except Exception as error:
                results[name] = error
        return results

    async def leave(self) -> None:
        """Leave the computation to the callers that have joined; without any, end it."""
        if self._task is None:
            return
        rest: set[bytes] = set()
        for name in self._won:
            flight = self._misses[name].flight
            flight.has_owner = False
            if not self._storage.flights.leave(name, flight, is_batched=True) and flight.is_running:
                rest.add(name)
                flight.when_done(functools.partial(self._left, rest, name))
        if not rest:
            self._task.cancel()
            await self.wait()
            # The task may have been cancelled before it began.
            await self._give_back_unfinished()

    def _left(self, rest: set[bytes], name: bytes) -> None:
        rest.discard(name)
        if not rest and self._task is not None:
            self._task.cancel()

    async def _compute(self, load: Load[T]) -> None:
        self.run.begin()
        misses = {name: self._misses[name] for name in self._won}
        try:
            for name, miss in misses.items():
                await miss.begin_in_batch(self._won[name])
            values = load.expect(misses)
            await values.wait()
            await _at_once(self._end(miss, values.futures[name]) for name, miss in misses.items())
        except BaseException as error:
            for miss in misses.values():
                if miss.is_unfinished:
                    self._end_flight(miss, error if isinstance(error, Exception) else None)
            await self._give_back_unfinished()
            raise
        finally:
            for name in misses:
                load.decide(name)

    async def _give_back_unfinished(self) -> None:
        rest = {name: cas for name, cas in self._won.items() if self._misses[name].is_unfinished}
        for name in rest:
            self._misses[name].is_unfinished = False
        await self._give_back(rest)

    def _end_flight(self, miss: Miss[T], outcome: Outcome[T] | Exception | None) -> None:
        miss.flight.end(outcome)
        self._storage.flights.detach(miss.name, miss.flight)
        self._storage.flights.tick()

    async def _end(self, miss: Miss[T], value: "asyncio.Future[T]") -> None:
        """Store one value, and end its flight."""
        try:
            outcome = await miss.end_in_batch(value, self._began)
        except asyncio.CancelledError:
            self._end_flight(miss, None)
            if not value.cancelled():
                raise
        except Exception as error:
            self._end_flight(miss, error)
        else:
            self._end_flight(miss, outcome)

    async def _give_back(self, won: Mapping[bytes, int]) -> None:
        async def give_back(name: bytes, cas: int) -> None:
            with contextlib.suppress(EmcacheError):
                await self._leases.give_back(name, cas)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY):
                giving = _at_once(give_back(name, cas) for name, cas in won.items())
                await asyncio.shield(in_task(giving))


async def _at_once(calls: Iterator[Coroutine[Any, Any, None]]) -> None:
    """Run calls in a few tasks; the first error ends all."""

    async def some() -> None:
        for call in calls:
            await call

    async with asyncio.TaskGroup() as tasks:
        for _ in range(STORES_AT_ONCE):
            tasks.create_task(some())
