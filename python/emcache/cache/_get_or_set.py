"""One call of ``get_or_set`` that its first read did not answer."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from .._errors import EmcacheError, InvalidKeyError, LeaseLostError, SerializationError
from .._item import Item
from .._results import PartialResult
from ._computing import Batch, Computing
from ._counts import Counts
from ._deadlock import Run
from ._flights import Flight, Missing, Outcome
from ._info import CacheInfo
from ._keys import shown
from ._late_stores import NONE_OUTDATED, Outdated
from ._miss import LONGEST_PAUSE, Miss
from ._policy import Policy
from ._refresh import Refresh
from ._renewal import Renewal
from ._storage import NOTHING, Read, Storage, looked
from ._tags import Found, TagNames, find_generations
from ._warnings import warn

T = TypeVar("T")


class GetOrSet(Generic[T]):
    """The state of one call."""

    def __init__(
        self,
        storage: Storage[T],
        policy: Policy,
        counts: Counts,
        name: bytes,
        factory: Callable[[], Awaitable[T]],
        info: CacheInfo | None,
        tags: TagNames = (),
        batch: Batch | None = None,
    ) -> None:
        self._storage = storage
        self._flights = storage.flights
        self._policy = policy
        self._counts = counts
        self._name = name
        self._tags = tags
        self._computing = Computing(storage, policy, counts, name, factory, tags, batch)
        self._info = CacheInfo() if info is None else info
        # Of the whole call: a value that is read later is kept for a shorter time.
        self._reading = None if storage.local is None else storage.local.begin()
        # Flights without a lease know nothing of the invalidations of other processes.
        self._kind: tuple[Hashable, ...] = (storage.values.kind, policy.lease is None)
        self._is_reachable = True
        self._verified: Flight | None = None
        """A flight whose lease was still valid when this call looked."""
        self._is_lost = False
        self._deadline = math.inf
        """The ``time.monotonic()`` until which this call waits for another process."""
        self.since: float | None = None
        """The ``time.monotonic()`` at which it has begun to wait, if that was before."""
        self._slack = min(LONGEST_PAUSE, policy.longest_wait / 2)
        """Callers whose deadlines are this close lose together, and share a computation."""

    async def fetch(self) -> T:
        """Return the cached value, or the value that the first caller with a miss computes."""
        began = self._flights.clock
        read = await self._look(began)
        return await self.finish(read, began)

    async def after(self, item: Item | None, began: int) -> T:
        """Go on after the first read; ``began`` is the clock of the flights when it began."""
        try:
            read = await self._storage.read(self._name, item, NONE_OUTDATED, self._tags)
        except EmcacheError as error:
            return await self.after_error(error, began)
        return await self.finish(read, began)

    async def after_look(self, items: PartialResult[bytes, Item], began: int) -> T:
        """Do the same after a first read together with the tags."""
        try:
            item, found = looked(items, self._name, self._tags)
            read = await self.read(item, NONE_OUTDATED, found)
        except EmcacheError as error:
            return await self.after_error(error, began)
        return await self.finish(read, began)

    async def after_many(self, read: Read[T] | None, began: int) -> T:
        """Go on after a read of many keys; see :meth:`finish`."""
        if read is None and self._flights.current(self._name, self._kind) is not None:
            # Another process may have invalidated what this process computes.
            read = await self._look(began)
        return await self.finish(read, began)

    async def after_error(self, error: EmcacheError, began: int) -> T:
        """Go on after the first read has failed."""
        self.ignore(error)
        return await self.finish(None, began)

    async def finish(self, read: Read[T] | None, began: int) -> T:
        """Serve what was read, or compute the value.

        Args:
            read: the value that was read; None on a miss.
            began: the clock of the flights when this call, and that read, began.
        """
        looks = 0
        if self._policy.lease is not None:
            since = time.monotonic() if self.since is None else self.since
            self._deadline = since + self._policy.longest_wait
        while read is None or not read.is_within(self._policy.stale_for):
            if not looks:
                self._counts.misses += 1
            looks += 1
            if looks > 1 or not self._must_look_again(began):
                outcome, flight, is_owner = await self._join(self._compute)
                is_current = is_owner or self._is_current(outcome, flight, began)
                self._verified = None
                if is_current and self._accepts(outcome):
                    return self._result(outcome, is_owner)
            read = await self._look(began) if self._is_reachable else None
        return await self.serve(read)

    @property
    def is_cold(self) -> bool:
        """Whether a batch may compute the value: no flight or write of this process has it."""
        has_flight = self._flights.current(self._name, self._kind) is not None
        return self._policy.lease is not None and not has_flight and not self._is_written

    @property
    def _is_written(self) -> bool:
        return self._name in self._flights.writes

    def begin(self, run: Run) -> Miss[T]:
        """Begin the flight of a cold key."""
        return Miss(self._computing, self._flights.begin(self._name, self._kind, run), math.inf)

    def end(self, flight: Flight) -> T:
        """Return the value of that flight, or raise its error."""
        flight.waiting -= 1
        self._counts.misses += 1
        outcome = flight.outcome(is_owner=True)
        assert outcome is not None
        return self._result(outcome, is_owner=True)

    async def renew(self) -> T:
        """Compute the value and replace the cached one, whatever is there."""
        self._flights.forget(self._name)
        outcome, _, is_owner = await self._join(self._replace)
        return self._result(outcome, is_owner)

    def _must_look_again(self, began: int) -> bool:
        """Return whether another caller may have stored the value since the read began.

        With a lease, taking it is a second look.
        """
        if self._policy.lease is not None or not self._is_reachable:
            return False
        is_current = self._flights.current(self._name, self._kind) is not None
        return not is_current and began != self._flights.clock

    async def _look(self, began: int) -> Read[T] | None:
        """Read the cache, unless a flight can be joined without that."""
        flight = self._flights.current(self._name, self._kind)
        is_guarded = flight is not None and (flight.uses_lease or flight.generations)
        if flight is not None and not (is_guarded and flight.is_computing):
            return None
        if flight is not None and flight.clock > began:
            return None
        try:
            if flight is None or (flight.uses_lease and flight.guard is None):
                return await self._read(flight)
            return await self._verify(flight)
        except EmcacheError as error:
            self.ignore(error)
            return None

    async def _read(self, flight: Flight | None) -> Read[T] | None:
        outdated = self._flights.late.outdated((self._name,))
        item, found = await self._storage.look(self._name, self._tags)
        if flight is not None:
            # It computes without a lease, because the cache failed or the lease was lost.
            self._flights.detach(self._name, flight)
        return await self.read(item, outdated, found)

    async def read(self, item: Item | None, outdated: Outdated, found: Found) -> Read[T] | None:
        """Return the value of an item that was read together with generations."""
        self._computing.found = found
        return await self._storage.read(self._name, item, outdated, self._tags, found)

    async def _verify(self, flight: Flight) -> Read[T] | None:
        """Read the cache, and check whether the guard of a flight is still valid.

        Another process may have invalidated the key, or a tag of it, while the flight computes.
        Then this caller must not get its value.
        """
        tags = tuple(dict.fromkeys((*self._tags, *(name for name, _ in flight.generations))))
        # Counted as one that waits, so that the last one to leave does not cancel the computation.
        flight.waiting += 1
        try:
            item, found = await self._look_for_guard(tags)
            guard = flight.guard if flight.uses_lease else None
            is_held = guard is None or guard.holds(item)
        except BaseException:
            self._flights.leave(self._name, flight)
            raise
        is_tagged_alike = len(flight.generations) == len(tags) and all(
            found.get(name) == generation for name, generation in flight.generations
        )
        if is_tagged_alike and is_held:
            self._verified = flight
            return None
        self._flights.leave(self._name, flight)
        if is_tagged_alike:
            self._flights.detach(self._name, flight)
        else:
            self._flights.outdate(self._name, flight)
        return await self.read(item, NONE_OUTDATED, found)

    async def _look_for_guard(self, tags: TagNames) -> tuple[Item | None, Found]:
        """Read what is under the key, and the generations of tags, in one round trip."""
        look = self._storage.leases.look(self._name)
        if not tags:
            return await look, NOTHING
        return await asyncio.gather(look, find_generations(self._storage.client, tags))

    def ignore(self, error: EmcacheError) -> None:
        """Count a failing read as a miss, or raise its error."""
        if not self._policy.ignores_errors or isinstance(error, InvalidKeyError):
            raise error
        warn("reading the cache failed and counts as a miss", error)
        # An unreadable value is replaced.
        if not isinstance(error, SerializationError):
            self._give_up()

    def _give_up(self) -> None:
        """Send nothing more: a dead cache costs one timeout, not two.

        This caller cannot check the lease of a computation that is running, so it shares the next
        one with the other callers that could not read.
        """
        if self._is_reachable and (self._policy.lease is not None or self._tags):
            self._kind = (*self._kind, "unreachable")
        self._is_reachable = False

    async def _join(
        self, compute: Callable[[Flight], Coroutine[Any, Any, Outcome[T]]]
    ) -> tuple[Outcome[T], Flight, bool]:
        if self._verified or self._flights.current(self._name, self._kind) is not None:
            self._computing.wait_for_others()
        deadline = math.inf if self._is_lost else self._deadline
        return await self._flights.join(self._name, self._kind, compute, self._verified, deadline)

    def _is_current(self, outcome: Outcome[T], flight: Flight, began: int) -> bool:
        """Return whether an invalidation before this call would have prevented the outcome."""
        if outcome.stale and not self._policy.stale_for:
            return False
        if flight is self._verified:
            return True
        if not flight.uses_lease and (self._is_reachable or not self._tags):
            return True
        return outcome.clock > began

    def _accepts(self, outcome: Outcome[T]) -> bool:
        """Return whether this call ends with an outcome; otherwise it looks again."""
        if outcome.is_lost and time.monotonic() + self._slack < self._deadline:
            # Only the caller that it waited with has lost.
            return False
        if outcome.is_lost and self._policy.on_lost == "compute":
            self._is_lost = True
            # Not with those who have just begun to wait.
            self._kind = (*self._kind, "lost")
            return False
        if isinstance(outcome.value, Missing) and outcome.cache_error is not None:
            self._give_up()
            return not self._policy.ignores_errors
        return True

    async def _compute(self, flight: Flight) -> Outcome[T]:
        miss = Miss(self._computing, flight, self._deadline)
        if self._policy.lease is None:
            flight.uses_lease = False
        if not self._is_reachable:
            return await miss.compute_alone("unreachable")
        if self._policy.lease is None:
            return await miss.compute_without_lease()
        if self._is_lost:
            return await miss.compute_alone("lost")
        if flight.stale:
            return await miss.compute_alone("invalidated")
        return await miss.compute_with_lease()

    async def _replace(self, flight: Flight) -> Outcome[T]:
        renewal = Renewal(self._computing, flight, self._deadline)
        if self._policy.lease is None:
            return await renewal.compute_without_lease()
        if flight.stale:
            return await renewal.compute_alone("invalidated")
        return await renewal.replace()

    def _result(self, outcome: Outcome[T], is_owner: bool) -> T:
        """Return the value for this caller, or raise the errors that concern it."""
        if outcome.is_lost:
            if self._policy.on_lost == "default":
                default: T = self._policy.default
                return default
            raise LeaseLostError(
                f"another process has been computing {shown(self._name)} for "
                f"{self._policy.longest_wait} s; see wait and on_lost"
            )
        self._describe(outcome, is_owner)
        if is_owner and outcome.own_error is not None:
            raise outcome.own_error
        if outcome.cache_error is not None and not self._policy.ignores_errors:
            raise outcome.cache_error.take()
        assert not isinstance(outcome.value, Missing)
        return outcome.value

    def _describe(self, outcome: Outcome[T], is_owner: bool) -> None:
        counts, info = self._counts, self._info
        if outcome.stale:
            info.stale = True
            counts.stale += 1
        elif not is_owner or outcome.origin == "waited":
            info.waited = True
        else:
            info.computed = outcome.origin == "computed"
            info.fresh = not info.computed
        if not is_owner or outcome.origin == "waited":
            counts.waited += 1
        if outcome.not_stored is not None:
            info.not_stored = outcome.not_stored
            if is_owner:
                counts.count_not_stored(outcome.not_stored)

    def keep(self, read: Read[T]) -> None:
        """Keep a fresh value in the local cache, if there is one."""
        if self._reading is not None:
            self._storage.keep(self._name, read.item, read, self._reading)

    async def serve(self, read: Read[T]) -> T:
        """Return a cached value, and see to its refresh if that is due."""
        freshness, counts, info = read.freshness, self._counts, self._info
        counts.hits += 1
        self.keep(read)
        refreshes = self._storage.refreshes
        if freshness != "fresh" and not refreshes.is_busy(self._name):
            refresh = Refresh(self._computing)
            if self._policy.refresh_in == "background":
                refreshes.start(self._name, refresh)
                info.refreshing = True
            elif not isinstance(value := await refreshes.run(self._name, refresh), Missing):
                info.computed, info.not_stored = True, refresh.not_stored
                return value
        info.stale = freshness in ("stale", "invalidated")
        info.fresh = not info.stale
        counts.stale += info.stale
        return read.value
