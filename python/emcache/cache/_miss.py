"""The computation of a missing value, with a lease or without one, in the task of a flight."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, Generic, TypeVar

from .._errors import CommandError, EmcacheError, SerializationError
from ._computing import Computing, UnusableError
from ._counts import Reason
from ._flights import MISSING, Flight, Origin, Outcome
from ._late_stores import LAST_TRY, NONE_OUTDATED
from ._leases import Epoch, Found, Guard, LeaseGuard, Lost, Taken, Won
from ._storage import NOTHING, Read
from ._tasks import in_task
from ._warnings import warn

T = TypeVar("T")

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25
PAUSE_GROWTH = 1.6
"""How the losers of a lease look for its value: the pauses between two looks, in seconds."""
LEASE_SLACK = 1.0
"""Seconds that a waiting process adds to the lease of another one before it ends it."""


class Miss(Generic[T]):
    """Computes the value of a key that is not in the cache."""

    def __init__(self, computing: Computing[T], flight: Flight, deadline: float) -> None:
        self.computing = computing
        self.flight = flight
        self._deadline = deadline
        """The ``time.monotonic()`` until which it waits for another process."""
        self._storage = computing.storage
        self._leases = computing.storage.leases
        self.policy = computing.policy
        self._counts = computing.counts
        self.name = computing.name
        self._has_unguarded_stub = False
        self.is_unfinished = True
        """Whether a batch has still to store the value, or to give its lease back."""
        self._epoch: Epoch = ()
        """The servers before the lease was taken."""

    async def compute_alone(self, reason: Reason) -> Outcome[T]:
        """Compute the value, and do not store it."""
        try:
            value = await self._call(is_stored=False)
        except UnusableError as error:
            return Outcome(MISSING, own_error=error.error)
        return Outcome(value, clock=self.flight.clock, not_stored=reason)

    async def compute_without_lease(self) -> Outcome[T]:
        """Compute and store the value; only writes of this client prevent that."""
        self.flight.uses_lease = False
        return await self._compute(None)

    async def compute_with_lease(self) -> Outcome[T]:
        """Take the lease, compute and store the value; or wait for the process that has it."""
        try:
            taken = await self._take()
        except EmcacheError as error:
            return Outcome(MISSING, cache_error=error)
        if isinstance(taken, Outcome):
            return taken
        if self.flight.stale:
            # The key was written or deleted meanwhile, maybe after the lease was won. Later callers
            # compute the value anyway, and these ones can share it.
            self.computing.found = NOTHING
            with contextlib.suppress(EmcacheError):
                await self._leases.give_back(self.name, taken.cas)
            return Outcome.superseded()
        if not taken.cas:
            # memcached -C: there is a stub, but nothing to guard a store with.
            self._has_unguarded_stub = True
            return await self.compute_without_lease()
        began = time.monotonic()
        outcome = await self._compute(LeaseGuard(self._leases, self.name, taken.cas, self._epoch))
        return self._in_time(outcome, began)

    def note_epoch(self) -> None:
        """Remember the servers, before a batch takes the lease."""
        self._epoch = self._leases.epoch(self.name)

    async def begin_in_batch(self, cas: int) -> None:
        """Begin to compute with a lease that a batch has taken, with the tags that it has read."""
        self.flight.guard = LeaseGuard(self._leases, self.name, cas, self._epoch)
        await self._begin()

    async def end_in_batch(self, value: Awaitable[T], began: float) -> Outcome[T]:
        """Store the value that a batch has computed since ``began``."""
        self.is_unfinished = False
        return self._in_time(await self._finish(value, self.flight.guard), began)

    def _in_time(self, outcome: Outcome[T], began: float) -> Outcome[T]:
        """Tell a computation that took longer than its lease from one that was invalidated."""
        is_late = time.monotonic() - began >= self.policy.lease_seconds
        if is_late and outcome.not_stored == "invalidated":
            outcome.not_stored = "expired"
            limit = TimeoutError(f"more than {self.policy.lease_seconds} s")
            warn("a computation took longer than its lease, and its value is not stored", limit)
        return outcome

    async def _compute(self, guard: Guard | None) -> Outcome[T]:
        if guard is not None:
            self.flight.guard = guard
        return await self._finish(self._call(), guard)

    async def _finish(self, computing: Awaitable[T], guard: Guard | None) -> Outcome[T]:
        try:
            value = await computing
            outcome = await self._store(value, guard)
        except UnusableError as error:
            await self._give_back(guard)
            return Outcome(MISSING, own_error=error.error)
        except BaseException:
            await self._give_back(guard)
            raise
        if guard is not None:
            outcome.clock = self.flight.clock
            if outcome.cache_error is not None and not outcome.is_refused:
                # The server may be slow or dead, so nobody waits for it.
                in_task(guard.give_back())
            elif outcome.not_stored not in (None, "replaced"):
                await self._give_back(guard)
        elif outcome.not_stored is not None or self._storage.has_lease_keys:
            await self._give_back(None)
        return outcome

    async def _call(self, *, is_stored: bool = True) -> T:
        await self._begin(is_stored=is_stored)
        return await self.computing.call()

    async def _begin(self, *, is_stored: bool = True) -> None:
        if is_stored:
            await self.computing.read_tags()
            self.flight.generations = self.computing.generations
        self.flight.clock = self._storage.flights.tick()
        self.flight.is_computing = True

    async def _store(self, value: T, guard: Guard | None) -> Outcome[T]:
        try:
            expires = self.computing.exptime(value)
        except Exception as error:
            return Outcome(value, own_error=error, not_stored="refused")
        if expires is None:
            return Outcome(value, not_stored="refused")
        data, flags = self.computing.dump(value)
        if self.flight.stale:
            return Outcome(value, not_stored="invalidated")
        try:
            sealed = await self.computing.seal(data, flags, expires)
            reason = await self._put(guard, *sealed)
            if reason is not None:
                self._storage.discard(self.name, *sealed[:2])
        except EmcacheError as error:
            if self.policy.ignores_errors:
                warn("storing a computed value failed", error)
            outcome = Outcome(value, cache_error=error, not_stored="failed")
            outcome.is_refused = isinstance(error, CommandError | SerializationError)
            return outcome
        return Outcome(value, not_stored=reason)

    async def _put(
        self, guard: Guard | None, data: bytes, flags: int, expires: int
    ) -> Reason | None:
        try:
            return await self._put_now(guard, data, flags, expires)
        finally:
            self._storage.flights.local.forget(self.name)

    async def _put_now(
        self, guard: Guard | None, data: bytes, flags: int, expires: int
    ) -> Reason | None:
        flight, name = self.flight, self.name
        if flight.stale:
            return "invalidated"
        if guard is not None:
            flight.is_storing = True
            try:
                stored = await guard.store(data, flags, expires)
            finally:
                flight.is_storing = False
            return None if stored == "stored" else stored
        put = self._storage.client.set
        await self._storage.flights.store(
            flight, name, data, lambda: put(name, data, flags=flags, exptime=expires)
        )
        return "invalidated" if flight.stale else None

    async def _take(self) -> Won | Outcome[T]:
        """Return the lease, or what is known without it: a value, or that there is none."""
        policy, flights = self.policy, self._storage.flights
        pause, again = FIRST_PAUSE, False
        holder, held_since = 0, time.monotonic()
        while True:
            clock = flights.tick()
            self._epoch = self._leases.epoch(self.name)
            taking = self._leases.take(self.name, policy.lease_exptime, again=again)
            taken = await self._winning(taking)
            if isinstance(taken, Found):
                found = await self._use(taken, clock, "waited" if again else "found")
                if isinstance(found, Outcome):
                    return found
                taken = found
            if isinstance(taken, Won):
                return taken
            now = time.monotonic()
            if now >= self._deadline or not isinstance(taken, Lost):
                return Outcome.lost(clock)
            self.computing.wait_for_others()
            if taken.cas != holder:
                holder, held_since = taken.cas, now
            elif now - held_since > policy.lease_seconds + LEASE_SLACK:
                # `touch` or `gat` has prolonged the lease of a process that is dead.
                await self._leases.give_back(self.name, holder)
            again = True
            self.computing.found = NOTHING  # too old by then
            wait = min(pause * random.uniform(0.75, 1.25), max(self._deadline - now, 0.0))
            await asyncio.sleep(wait)
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE)

    async def _use(self, found: Found, clock: int, origin: Origin) -> Taken | Outcome[T]:
        """Return a value that is there by now, or replace one that may not be served."""
        item = found.item
        try:
            tags = self.computing.tags
            read = await self._storage.read(self.name, item, NONE_OUTDATED, tags)
        except SerializationError as error:
            if not self.policy.ignores_errors:
                return Outcome(MISSING, cache_error=error)
            warn("reading the cache failed and counts as a miss", error)
            read = None
        if read is not None and read.is_within(self.policy.stale_for):
            return self._outcome(read, clock, origin)
        return await self._winning(
            self._leases.seize(self.name, item.cas or 0, self.policy.lease_exptime)
        )

    def _outcome(self, read: Read[T], clock: int, origin: Origin) -> Outcome[T]:
        outcome = Outcome(read.value, clock=clock, origin=origin)
        outcome.stale = read.freshness in ("stale", "invalidated")
        return outcome

    async def _winning(self, taking: Coroutine[Any, Any, Taken]) -> Taken:
        """Wait for a lease; if the wait is cancelled, give back what was won."""
        task = in_task(taking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LAST_TRY):
                    taken = await task
                    if isinstance(taken, Won):
                        await self._leases.give_back(self.name, taken.cas)
            raise

    async def _give_back(self, guard: Guard | None) -> None:
        """End the lease, also while this task is being cancelled."""
        if guard is not None:
            giving = guard.give_back()
        elif self._has_unguarded_stub:
            giving = self._leases.give_back(self.name, 0)
        else:
            return
        with contextlib.suppress(EmcacheError, TimeoutError):
            async with asyncio.timeout(LAST_TRY):
                await asyncio.shield(in_task(giving))
