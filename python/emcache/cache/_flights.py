"""Single flight: concurrent callers of one key share one computation."""

import asyncio
import contextlib
import math
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, Final, Generic, Literal, TypeVar

from .._client import Client
from .._failures import SharedFailure
from .._lifecycle import before_close
from ._counts import Reason
from ._deadlock import Run, waiting_for
from ._late_stores import LAST_TRY, LateStores
from ._leases import Guard
from ._local_items import LocalChanges
from ._tags import Generations
from ._tasks import in_task

R = TypeVar("R")


class Missing:
    """The type of :data:`MISSING`, for type checkers."""


MISSING: Final = Missing()


Origin = Literal["computed", "found", "waited"]
"""Whether a value was computed, was there at the second look, or came from another process."""


class Outcome(Generic[R]):
    """The result of a computation that did not raise."""

    __slots__ = (
        "cache_error",
        "clock",
        "is_lost",
        "is_refused",
        "is_superseded",
        "not_stored",
        "origin",
        "own_error",
        "stale",
        "value",
    )

    def __init__(
        self,
        value: R | Missing,
        *,
        clock: float = math.inf,
        origin: Origin = "computed",
        own_error: Exception | None = None,
        cache_error: Exception | None = None,
        not_stored: Reason | None = None,
    ) -> None:
        self.value = value
        """``MISSING`` if there is none for any caller but the first."""
        self.clock = clock
        """The clock of the flights when the factory was called or the value was read. A caller who
        began later does not take the value: it may have been invalidated in between."""
        self.origin = origin
        self.is_lost = False
        """Whether another process has held the lease for too long."""
        self.is_superseded = False
        """Whether the key was written or deleted before the factory was called."""
        self.is_refused = False
        """Whether the cache certainly did not store the value, for another reason than a write."""
        self.stale = False
        """Whether the value is stale, which the first caller accepted."""
        self.own_error = own_error
        """An error of the first caller's arguments; other callers do not get it."""
        self.cache_error = None if cache_error is None else SharedFailure(cache_error)
        """Why the cache was not read or written, for callers with ``on_error="raise"``."""
        self.not_stored = not_stored

    @classmethod
    def lost(cls, clock: float = math.inf) -> "Outcome[R]":
        """Return the outcome of a wait for another process that was too long."""
        outcome = cls(MISSING, clock=clock)
        outcome.is_lost = True
        return outcome

    @classmethod
    def superseded(cls) -> "Outcome[R]":
        """Return the outcome of a flight that cannot store its value: its callers begin again."""
        outcome = cls(MISSING)
        outcome.is_superseded = True
        return outcome

    def set_cache_error(self, error: Exception) -> None:
        """Add an error of the cache to a result."""
        self.cache_error = SharedFailure(error)


class Flight:
    """One computation in a task of its own, and the callers that wait for it."""

    __slots__ = (
        "_failure",
        "clock",
        "generations",
        "guard",
        "has_owner",
        "is_computing",
        "is_storing",
        "kind",
        "loop",
        "run",
        "stale",
        "task",
        "uses_lease",
        "waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: Hashable, stale: bool) -> None:
        self.loop = loop
        self.kind = kind
        self.run = Run()
        self.task: asyncio.Future[Outcome[Any]] | None = None
        """None while an eager task runs its first step; not a task if one computes many keys."""
        self.waiting = 0
        self.has_owner = True
        """Whether the caller of this factory is still waiting."""
        self.clock = 0
        """The clock of the flights when the factory was called; see :attr:`Outcome.clock`."""
        self.is_computing = False
        """Whether the factory was called; before that, a lease is being taken."""
        self.uses_lease = True
        """Whether invalidations of other processes count."""
        self.generations: Generations = ()
        """The generations of the tags that the value will have."""
        self.guard: Guard | None = None
        """The lease, or the value that is being replaced."""
        self.is_storing = False
        """Whether the value is being stored; then the task is not cancelled."""
        self.stale = stale
        """Whether the key was written or deleted since; then the result must not be stored."""
        self._failure: SharedFailure | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is no outcome yet."""
        return self.task is not None and not self.task.done()

    def end(self, outcome: Outcome[Any] | Exception | None) -> None:
        """Set the outcome of a flight without a task of its own; None cancels it."""
        assert self.task is not None
        if self.task.done():
            return
        if outcome is None:
            self.task.cancel()
        elif isinstance(outcome, Exception):
            self.task.set_exception(outcome)
            self.task.exception()  # all callers may have left
        else:
            self.task.set_result(outcome)

    def when_done(self, call: Callable[[], None]) -> None:
        """Have a function called when the flight has an outcome."""
        assert self.task is not None
        self.task.add_done_callback(lambda _: call())

    def outcome(self, is_owner: bool) -> Outcome[Any] | None:
        """Return the result; None if this caller must compute the value with its own factory.

        The resources of a factory may end with its caller, such as a session that is closed or a
        group of tasks that is cancelled.
        """
        assert self.task is not None
        if self.task.cancelled():
            if is_owner:
                raise asyncio.CancelledError
            return None
        error = self.task.exception()
        if error is None:
            outcome = self.task.result()
            if outcome.is_superseded:
                return None
            is_useless = outcome.own_error is not None and isinstance(outcome.value, Missing)
            return None if is_useless and not is_owner else outcome
        if not is_owner and not self.has_owner:
            return None
        if self._failure is None:
            self._failure = SharedFailure(error)
        try:
            raise self._failure.take()
        finally:
            # The traceback refers to this frame, which would be a reference cycle.
            del error


Compute = Callable[[Flight], Coroutine[Any, Any, Outcome[R]]]


class Changing:
    """A block in which keys are written or deleted.

    Computations that began before its end are not stored.
    """

    __slots__ = ("_flights", "_keys")

    def __init__(self, flights: "Flights", keys: Iterable[bytes]) -> None:
        self._flights = flights
        self._keys = keys

    def __enter__(self) -> None:
        writes = self._flights.writes
        for key in self._keys:
            self._flights.forget(key)
            writes[key] = writes.get(key, 0) + 1

    def __exit__(self, *_: object) -> None:
        writes = self._flights.writes
        for key in self._keys:
            if writes[key] == 1:
                del writes[key]
            else:
                writes[key] -= 1
            # Also after an error: the server may have done it at any time up to now.
            self._flights.forget(key)


class Flights:
    """The flights of one client, by the key on the wire and the kind of values.

    Caches that convert values in different ways must not share values.
    """

    def __init__(self, client: Client) -> None:
        self.table: dict[bytes, dict[Hashable, Flight]] = {}
        """The flights that later callers may join."""
        self.late = LateStores(client)
        self.local = LocalChanges()
        before_close(client, self.give_leases_back)
        before_close(client, self.local.close)
        self.writes: dict[bytes, int] = {}
        """The number of pending writes by key."""
        self.clock = 0
        """Counts the moments at which a lease is read, a factory is called or a flight ends."""

    def tick(self) -> int:
        """Advance the clock, and return it."""
        self.clock += 1
        return self.clock

    def changing(self, *keys: bytes) -> Changing:
        """Mark keys as being written or deleted for the duration of a ``with`` block."""
        return Changing(self, keys)

    def forget(self, key: bytes) -> None:
        """Detach the computations of a key: they are not stored, and later callers do not join.

        Its values in local caches are dropped.
        """
        if self.table and (flights := self.table.pop(key, None)) is not None:
            for flight in flights.values():
                flight.stale = True
                _give_back(flight)
        self.late.outdate(key)
        self.local.forget(key)

    def outdate(self, key: bytes, flight: Flight) -> None:
        """Detach a computation that must not be stored, and end its lease."""
        self.detach(key, flight)
        flight.stale = True
        _give_back(flight)

    async def give_leases_back(self) -> None:
        """End the leases of all computations, whose values a closed client cannot store."""
        loop = asyncio.get_running_loop()
        running = [flight for flights in self.table.values() for flight in flights.values()]
        giving = [
            flight.guard.give_back()
            for flight in running
            if flight.guard is not None and flight.loop is loop
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY):
                await asyncio.gather(*giving, return_exceptions=True)

    def detach(self, key: bytes, flight: Flight) -> None:
        """Let no later caller join a flight."""
        flights = self.table.get(key, {})
        if flights.get(flight.kind) is flight:
            del flights[flight.kind]
            if not flights:
                del self.table[key]

    def current(self, key: bytes, kind: Hashable) -> Flight | None:
        """Return the flight that a caller may join."""
        flight = self.table.get(key, {}).get(kind)
        if flight is None or flight.loop is not asyncio.get_running_loop():
            return None
        return None if flight.task is not None and flight.task.done() else flight

    async def store(
        self, flight: Flight, key: bytes, data: bytes, put: Callable[[], Awaitable[None]]
    ) -> None:
        """Store a value without a lease, and remove it if the key is written in the meantime."""
        flight.is_storing = True
        try:
            await self.late.store(key, data, put)
        finally:
            flight.is_storing = False

    async def join(
        self,
        key: bytes,
        kind: Hashable,
        compute: Compute[R],
        verified: Flight | None = None,
        deadline: float = math.inf,
    ) -> tuple[Outcome[R], Flight, bool]:
        """Wait for the computation of a key; start one if there is none.

        Args:
            key: the key on the wire.
            kind: the kind of values.
            compute: computes the value.
            verified: a flight whose ``waiting`` counts this caller already.
            deadline: the ``time.monotonic()`` until which this caller waits for another process.

        Returns:
            The result, its flight, and whether this caller's own factory computed it.
        """
        flight = verified
        while True:
            is_owner = False
            if flight is None:
                flight = self.current(key, kind)
                if flight is None:
                    is_owner = True
                    flight = self._start(key, kind, compute)
                flight.waiting += 1
            limit = math.inf if is_owner else deadline
            if not await self._wait(key, flight, is_owner, limit):
                return Outcome.lost(), flight, False
            outcome = flight.outcome(is_owner)
            if outcome is not None:
                return outcome, flight, is_owner
            flight = None

    async def _wait(self, key: bytes, flight: Flight, is_owner: bool, deadline: float) -> bool:
        """Wait for a flight whose ``waiting`` counts this caller; return whether it has ended.

        The deadline counts until the factory is called.
        """
        assert flight.task is not None
        try:
            with waiting_for(flight.run):
                while not flight.task.done():
                    is_limited = deadline < math.inf and not flight.is_computing
                    left = max(deadline - time.monotonic(), 0.0) if is_limited else None
                    await asyncio.wait([flight.task], timeout=left)
                    is_over = is_limited and time.monotonic() >= deadline
                    if is_over and not flight.is_computing and not flight.task.done():
                        self.leave(key, flight)
                        return False
        except BaseException as error:
            if is_owner:
                flight.has_owner = False
            if self.leave(key, flight) and isinstance(error, asyncio.CancelledError):
                # Wait for the clean-up of the factory, as a caller without a cache would.
                await asyncio.wait([flight.task])
            raise
        flight.waiting -= 1
        return True

    def leave(self, key: bytes, flight: Flight, *, is_batched: bool = False) -> bool:
        """End the wait of a caller; return whether that cancels the computation.

        With ``is_batched`` the caller ends its lease.
        """
        flight.waiting -= 1
        assert flight.task is not None
        if flight.waiting or flight.task.done() or flight.is_storing:
            return False
        self.detach(key, flight)
        if not is_batched:
            _give_back(flight)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            flight.task.cancel()
        return True

    def begin(self, key: bytes, kind: Hashable, run: Run) -> Flight:
        """Begin a flight without a task of its own, for a caller who waits."""
        loop = asyncio.get_running_loop()
        flight = Flight(loop, kind, stale=key in self.writes)
        flight.run, flight.task, flight.waiting = run, loop.create_future(), 1
        self.table.setdefault(key, {})[kind] = flight
        return flight

    def _start(self, key: bytes, kind: Hashable, compute: Compute[R]) -> Flight:
        loop = asyncio.get_running_loop()
        flight = Flight(loop, kind, stale=key in self.writes)

        async def computing() -> Outcome[R]:
            flight.run.begin()
            try:
                return await compute(flight)
            finally:
                self.tick()

        self.table.setdefault(key, {})[kind] = flight
        task = flight.task = loop.create_task(computing(), name=f"emcache computes {key!r}")

        def has_ended(task: asyncio.Task[Outcome[R]]) -> None:
            self.detach(key, flight)
            # All callers may have left; asyncio must not log an unretrieved exception.
            if not task.cancelled():
                task.exception()

        task.add_done_callback(has_ended)
        return flight


def _give_back(flight: Flight) -> None:
    """End the lease of a flight whose value will not be stored."""
    if flight.guard is not None:
        giving = flight.guard.give_back()
        try:
            in_task(giving)
        except RuntimeError:  # the loop is closed
            giving.close()


_BY_CLIENT: weakref.WeakKeyDictionary[Client, Flights] = weakref.WeakKeyDictionary()


def flights_of(client: Client) -> Flights:
    """Return the flights of a client, which all caches on top of it share."""
    flights = _BY_CLIENT.get(client)
    if flights is None:
        flights = _BY_CLIENT[client] = Flights(client)
    return flights
