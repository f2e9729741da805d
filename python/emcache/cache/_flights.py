"""Single flight: callers of one key who overlap share one computation."""

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from .._failures import SharedFailure
from ..base import Client
from ._late import LateStores, Outdated
from ._runs import Run, waiting_for

R = TypeVar("R")


class Missing:
    """The kind of :data:`MISSING`, for type checkers."""


MISSING: Final = Missing()


class Outcome(Generic[R]):
    """What became of a computation that did not raise."""

    __slots__ = ("own_error", "store_error", "value")

    def __init__(
        self,
        value: R | Missing,
        *,
        own_error: Exception | None = None,
        store_error: Exception | None = None,
    ) -> None:
        self.value = value
        """Missing: the caller who began it gave something that cannot compute it."""
        self.own_error = own_error
        """Due to what the caller who began it gave; other callers do not get it."""
        self.store_error = None if store_error is None else SharedFailure(store_error)
        """Why the value is not stored: for the callers who want errors of the cache."""


class Flight:
    """The callers of one key who overlap, and what they wait for.

    It is there from the first caller's look into the cache on: one whose look is late, and finds
    what was there before the value was stored, takes what the others have computed.
    """

    __slots__ = ("callers", "computation", "is_storing", "kind", "loop", "stale")

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: Hashable, stale: bool) -> None:
        self.loop = loop
        self.kind = kind
        self.computation: Computation[Any] | None = None
        self.callers = 0
        self.is_storing = False
        """Whether the value is on its way: not cancelled then, as its end must be seen."""
        self.stale = stale
        """Whether the key was written or deleted meanwhile: the result must not be stored."""

    @property
    def task(self) -> "asyncio.Task[Any] | None":
        """The task of the computation, if there is one."""
        return None if self.computation is None else self.computation.task


class Computation(Generic[R]):
    """One call of a factory in a task of its own, and those who wait for it."""

    __slots__ = ("_failure", "has_owner", "run", "task", "waiting")

    def __init__(self, task: "asyncio.Task[Outcome[R]]", run: Run) -> None:
        self.task = task
        self.run = run
        self.waiting = 0
        self.has_owner = True
        """Whether the caller whose factory it is still waits."""
        self._failure: SharedFailure | None = None

    def outcome(self, is_owner: bool) -> Outcome[R] | None:
        """Give what it came to; None if that is nothing to this caller, who computes instead.

        What the factory has from its caller may end with that caller: a session that is closed,
        a group of tasks that is cancelled.
        """
        if self.task.cancelled():
            if is_owner:
                raise asyncio.CancelledError
            return None
        error = self.task.exception()
        if error is None:
            outcome = self.task.result()
            return None if isinstance(outcome.value, Missing) and not is_owner else outcome
        if not is_owner and not self.has_owner:
            return None
        if self._failure is None:
            self._failure = SharedFailure(error)
        try:
            raise self._failure.take()
        finally:
            # Its traceback refers to this frame.
            del error


Compute = Callable[[Flight], Coroutine[Any, Any, Outcome[R]]]


class Changing:
    """While keys are written or deleted; what began before its end must not be stored."""

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
            # However it ended: the server may have done it, at any time up to now.
            self._flights.forget(key)


class Flights:
    """Those of one client, by the key on the wire, and by the kind of values.

    Caches that read and write values in different ways must not get each other's.
    """

    def __init__(self, client: Client) -> None:
        self._flights: dict[bytes, dict[Hashable, Flight]] = {}
        self._late = LateStores(client)
        self.writes: dict[bytes, int] = {}
        """How many writes of a key are under way."""

    def changing(self, *keys: bytes) -> Changing:
        """Mark keys as written or deleted for as long as the block lasts."""
        return Changing(self, keys)

    def forget(self, key: bytes) -> None:
        """Keep what is being computed from being stored, and from those who come later."""
        if self._flights and (flights := self._flights.pop(key, None)) is not None:
            for flight in flights.values():
                flight.stale = True
        self._late.outdate(key)

    def outdated(self, *keys: bytes) -> Outdated:
        """Give what a read of these keys that begins now must not return."""
        return self._late.outdated(keys)

    async def store(
        self, flight: Flight, key: bytes, data: bytes, put: Callable[[], Awaitable[None]]
    ) -> None:
        """Store what a flight has computed, so that it does not outlast a write of the key."""
        flight.is_storing = True
        try:
            await self._late.store(key, data, put)
        finally:
            flight.is_storing = False

    async def fetch(
        self,
        key: bytes,
        kind: Hashable,
        look: Callable[[], Awaitable[R | Missing]],
        compute: Compute[R],
    ) -> tuple[Outcome[R], bool]:
        """Give what is found, or what the first of those who miss computes for all.

        Returns:
            What became of it, and whether it is this caller's own computation.
        """
        flight = self._enter(key, kind)
        found: R | Missing = MISSING
        try:
            if flight.computation is None:
                found = await look()
        except BaseException:
            self._leave(key, flight)
            raise
        if isinstance(found, Missing):
            return await self._join(key, flight, compute)
        self._leave(key, flight)
        return Outcome(found), False

    async def renew(
        self, key: bytes, kind: Hashable, compute: Compute[R]
    ) -> tuple[Outcome[R], bool]:
        """Compute anew, also for those who come meanwhile; returns as :meth:`fetch`."""
        self.forget(key)
        return await self._join(key, self._enter(key, kind), compute)

    def _enter(self, key: bytes, kind: Hashable) -> Flight:
        flights = self._flights.setdefault(key, {})
        flight = flights.get(kind)
        loop = asyncio.get_running_loop()
        landed = flight is not None and flight.task is not None and flight.task.done()
        if flight is None or landed or flight.loop is not loop:
            flight = flights[kind] = Flight(loop, kind, stale=key in self.writes)
        flight.callers += 1
        return flight

    def _leave(self, key: bytes, flight: Flight) -> None:
        flight.callers -= 1
        if not flight.callers:
            self._remove(key, flight)

    def _remove(self, key: bytes, flight: Flight) -> None:
        flights = self._flights.get(key, {})
        if flights.get(flight.kind) is flight:
            del flights[flight.kind]
            if not flights:
                del self._flights[key]

    async def _join(
        self, key: bytes, flight: Flight, compute: Compute[R]
    ) -> tuple[Outcome[R], bool]:
        """Wait for the computation of a flight that was entered, and leave it."""
        while True:
            try:
                computation = flight.computation
                is_owner = computation is None
                if computation is None:
                    computation = self._start(key, flight, compute)
                await self._wait(flight, computation, is_owner)
                outcome = computation.outcome(is_owner)
                if outcome is not None:
                    return outcome, is_owner
            finally:
                self._leave(key, flight)
            flight = self._enter(key, flight.kind)

    async def _wait(self, flight: Flight, computation: Computation[Any], is_owner: bool) -> None:
        with waiting_for(computation.run):
            computation.waiting += 1
            try:
                await asyncio.wait([computation.task])
            except BaseException as error:
                computation.waiting -= 1
                if is_owner:
                    computation.has_owner = False
                if not (computation.waiting or computation.task.done() or flight.is_storing):
                    self._abandon(flight, computation)
                    if isinstance(error, asyncio.CancelledError):
                        # See it end, as without a cache.
                        await asyncio.wait([computation.task])
                raise
            computation.waiting -= 1

    def _start(self, key: bytes, flight: Flight, compute: Compute[R]) -> Computation[R]:
        run = Run()

        async def computing() -> Outcome[R]:
            run.begin()
            return await compute(flight)

        task = flight.loop.create_task(computing(), name=f"emcache computes {key!r}")
        computation = flight.computation = Computation(task, run)

        def landed(task: asyncio.Task[Outcome[R]]) -> None:
            if flight.computation is computation:
                self._remove(key, flight)
            # All callers may have left: asyncio must not log that its exception was not retrieved.
            if not task.cancelled():
                task.exception()

        task.add_done_callback(landed)
        return computation

    def _abandon(self, flight: Flight, computation: Computation[Any]) -> None:
        """Cancel what nobody waits for any more."""
        if flight.computation is computation:
            flight.computation = None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            computation.task.cancel()


_OF_CLIENTS: weakref.WeakKeyDictionary[Client, Flights] = weakref.WeakKeyDictionary()


def flights_of(client: Client) -> Flights:
    """Give those of a client: the same for all caches on top of it."""
    flights = _OF_CLIENTS.get(client)
    if flights is None:
        flights = _OF_CLIENTS[client] = Flights(client)
    return flights
