"""Single flight: callers of one key who overlap share one computation."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from ..base import Client
from ._runs import Run, waiting_for

R = TypeVar("R")


class Missing:
    """The kind of :data:`MISSING`, for type checkers."""


MISSING: Final = Missing()


class Flight:
    """The callers of one key who overlap, and what they wait for.

    It is there from the first caller's look into the cache on: one whose look is late, and finds
    what was there before the value was stored, takes what the others have computed.
    """

    __slots__ = ("callers", "kind", "loop", "run", "stale", "task", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: Hashable) -> None:
        self.loop = loop
        self.kind = kind
        self.task: asyncio.Task[Any] | None = None
        self.run = Run()
        self.callers = 0
        self.waiting = 0
        self.stale = False
        """Whether the key was written or deleted meanwhile: the result must not be stored."""


Compute = Callable[[Flight], Coroutine[Any, Any, R]]


class Flights:
    """Those of one client, by the key on the wire, and by the kind of values.

    Caches that read and write values in different ways must not get each other's.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, dict[Hashable, Flight]] = {}

    def forget(self, key: bytes) -> None:
        """Keep what is being computed from being stored, and from those who come later."""
        if self._flights and (flights := self._flights.pop(key, None)) is not None:
            for flight in flights.values():
                flight.stale = True

    async def fetch(
        self,
        key: bytes,
        kind: Hashable,
        look: Callable[[], Awaitable[R | Missing]],
        compute: Compute[R],
    ) -> R:
        """Give what is found, or what the first of those who miss computes for all."""
        flight = self._enter(key, kind)
        try:
            if flight.task is None:
                found = await look()
                if not isinstance(found, Missing):
                    return found
            return await self._share(key, flight, compute)
        finally:
            self._leave(key, flight)

    async def renew(self, key: bytes, kind: Hashable, compute: Compute[R]) -> R:
        """Compute anew, also for those who come meanwhile."""
        self.forget(key)
        flight = self._enter(key, kind)
        try:
            return await self._share(key, flight, compute)
        finally:
            self._leave(key, flight)

    def _enter(self, key: bytes, kind: Hashable) -> Flight:
        flights = self._flights.setdefault(key, {})
        flight = flights.get(kind)
        loop = asyncio.get_running_loop()
        landed = flight is not None and flight.task is not None and flight.task.done()
        if flight is None or landed or flight.loop is not loop:
            flight = flights[kind] = Flight(loop, kind)
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

    async def _share(self, key: bytes, flight: Flight, compute: Compute[R]) -> R:
        task = flight.task or self._start(key, flight, compute)
        with waiting_for(flight.run):
            flight.waiting += 1
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                flight.waiting -= 1
                if not flight.waiting and not task.done():
                    await self._abandon(flight, task)
                raise
            flight.waiting -= 1
        result: R = task.result()
        return result

    def _start(self, key: bytes, flight: Flight, compute: Compute[R]) -> asyncio.Task[R]:
        run = flight.run = Run()

        async def computing() -> R:
            run.begin()
            return await compute(flight)

        task = flight.loop.create_task(computing(), name=f"emcache computes {key!r}")

        def landed(task: asyncio.Task[R]) -> None:
            if flight.task is task:
                self._remove(key, flight)
            # Whoever wanted it has gone: nobody is to be told that nobody asked.
            if not task.cancelled():
                task.exception()

        task.add_done_callback(landed)
        flight.task = task
        return task

    async def _abandon(self, flight: Flight, task: asyncio.Task[Any]) -> None:
        """Cancel what nobody waits for any more, and see it end."""
        if flight.task is task:
            flight.task = None
        task.cancel()
        await asyncio.wait([task])


_OF_CLIENTS: weakref.WeakKeyDictionary[Client, Flights] = weakref.WeakKeyDictionary()


def flights_of(client: Client) -> Flights:
    """Give those of a client: the same for all caches on top of it."""
    flights = _OF_CLIENTS.get(client)
    if flights is None:
        flights = _OF_CLIENTS[client] = Flights()
    return flights
