"""Single flight: concurrent callers of one key share one computation."""

import asyncio
import contextlib
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

from .._client import Client
from .._failures import SharedFailure
from ._deadlock import Run, waiting_for
from ._late_stores import LateStores, Outdated

R = TypeVar("R")


class Missing:
    """The type of :data:`MISSING`, for type checkers."""


MISSING: Final = Missing()


class Outcome(Generic[R]):
    """The result of a computation that did not raise."""

    __slots__ = ("own_error", "store_error", "value")

    def __init__(
        self,
        value: R | Missing,
        *,
        own_error: Exception | None = None,
        store_error: Exception | None = None,
    ) -> None:
        self.value = value
        """``MISSING`` if the factory of the first caller was not valid."""
        self.own_error = own_error
        """An error of the first caller's arguments; other callers do not get it."""
        self.store_error = None if store_error is None else SharedFailure(store_error)
        """Why the value was not stored, for callers with ``on_error="raise"``."""


class Flight:
    """The concurrent callers of one key, and the computation that they wait for.

    It begins with the first caller's read of the cache. A caller whose read misses later than that
    takes the value that the others have computed.
    """

    __slots__ = ("callers", "computation", "is_storing", "kind", "loop", "stale")

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: Hashable, stale: bool) -> None:
        self.loop = loop
        self.kind = kind
        self.computation: Computation[Any] | None = None
        self.callers = 0
        self.is_storing = False
        """Whether the value is being stored; then the task is not cancelled."""
        self.stale = stale
        """Whether the key was written or deleted since; then the result must not be stored."""

    @property
    def task(self) -> "asyncio.Task[Any] | None":
        """The task of the computation; None before it starts."""
        return None if self.computation is None else self.computation.task


class Computation(Generic[R]):
    """One call of a factory in its own task, and the number of callers that wait for it."""

    __slots__ = ("_failure", "has_owner", "run", "task", "waiting")

    def __init__(self, task: "asyncio.Task[Outcome[R]]", run: Run) -> None:
        self.task = task
        self.run = run
        self.waiting = 0
        self.has_owner = True
        """Whether the caller of this factory is still waiting."""
        self._failure: SharedFailure | None = None

    def outcome(self, is_owner: bool) -> Outcome[R] | None:
        """Return the result; None if this caller must compute the value with its own factory.

        The resources of a factory may end with its caller, such as a session that is closed or a
        group of tasks that is cancelled.
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
        self._flights: dict[bytes, dict[Hashable, Flight]] = {}
        self._late = LateStores(client)
        self.writes: dict[bytes, int] = {}
        """The number of pending writes by key."""

    def changing(self, *keys: bytes) -> Changing:
        """Mark keys as being written or deleted for the duration of a ``with`` block."""
        return Changing(self, keys)

    def forget(self, key: bytes) -> None:
        """Detach the computations of a key: they are not stored, and later callers do not join."""
        if self._flights and (flights := self._flights.pop(key, None)) is not None:
            for flight in flights.values():
                flight.stale = True
        self._late.outdate(key)

    def outdated(self, *keys: bytes) -> Outdated:
        """Return the stores whose values a read of these keys that begins now must not return."""
        return self._late.outdated(keys)

    async def store(
        self, flight: Flight, key: bytes, data: bytes, put: Callable[[], Awaitable[None]]
    ) -> None:
        """Store the value of a flight, and remove it if the key is written in the meantime."""
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
        """Return the cached value, or the value that the first caller with a miss computes.

        Returns:
            The result, and whether this caller's own factory computed it.
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
        """Compute the value again, and share it with new callers; returns as :meth:`fetch`."""
        self.forget(key)
        return await self._join(key, self._enter(key, kind), compute)

    def _enter(self, key: bytes, kind: Hashable) -> Flight:
        flights = self._flights.setdefault(key, {})
        flight = flights.get(kind)
        loop = asyncio.get_running_loop()
        has_ended = flight is not None and flight.task is not None and flight.task.done()
        if flight is None or has_ended or flight.loop is not loop:
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
        """Wait for the computation of a flight, start it if needed, and leave the flight."""
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
                        # Wait for the clean-up of the factory, as a caller without a cache would.
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

        def has_ended(task: asyncio.Task[Outcome[R]]) -> None:
            if flight.computation is computation:
                self._remove(key, flight)
            # All callers may have left; asyncio must not log an unretrieved exception.
            if not task.cancelled():
                task.exception()

        task.add_done_callback(has_ended)
        return computation

    def _abandon(self, flight: Flight, computation: Computation[Any]) -> None:
        """Cancel a computation that has no callers any more."""
        if flight.computation is computation:
            flight.computation = None
        with contextlib.suppress(RuntimeError):  # the loop is closed
            computation.task.cancel()


_BY_CLIENT: weakref.WeakKeyDictionary[Client, Flights] = weakref.WeakKeyDictionary()


def flights_of(client: Client) -> Flights:
    """Return the flights of a client, which all caches on top of it share."""
    flights = _BY_CLIENT.get(client)
    if flights is None:
        flights = _BY_CLIENT[client] = Flights(client)
    return flights
