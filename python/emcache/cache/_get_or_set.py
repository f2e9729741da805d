"""The reads and writes of ``get_or_set``, with a cache that may fail."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Generic, Literal, TypeVar

from .._client import Client
from .._errors import EmcacheError, InvalidKeyError, SerializationError
from ._flights import MISSING, Flight, Flights, Missing, Outcome
from ._values import Values
from ._warnings import warn

T = TypeVar("T")

OnError = Literal["miss", "raise"]


def check_on_error(on_error: OnError) -> None:
    """Refuse anything but ``"miss"`` and ``"raise"``."""
    if on_error not in ("miss", "raise"):
        raise ValueError("on_error must be 'miss' or 'raise'")


def check_function(name: str, given: object) -> None:
    """Refuse an argument that cannot be called, before anything is sent."""
    if not callable(given):
        raise TypeError(f"{name} must be a function, not {type(given).__name__}")


class GetOrSet(Generic[T]):
    """The state of one call of ``get_or_set`` or ``renew``."""

    def __init__(
        self,
        client: Client,
        flights: Flights,
        fetch: Callable[[bytes], Awaitable[T | Missing]],
        values: Values[T],
        expires: int,
        store_if: Callable[[T], bool] | None,
        on_error: OnError,
    ) -> None:
        check_on_error(on_error)
        if store_if is not None:
            check_function("store_if", store_if)
        self._client = client
        self._flights = flights
        self._fetch = fetch
        self._values = values
        self._expires = expires
        self._store_if = store_if
        self._ignore_errors = on_error == "miss"
        self._is_reachable = True

    async def look(self, name: bytes) -> T | Missing:
        """Return the cached value; ``MISSING`` on a miss, or if a failing cache is ignored."""
        try:
            return await self._fetch(name)
        except EmcacheError as error:
            if not self._ignore_errors or isinstance(error, InvalidKeyError):
                raise
            warn("reading the cache failed and counts as a miss", error)
            # A dead cache costs one timeout, not two. An unreadable value is replaced.
            self._is_reachable = isinstance(error, SerializationError)
            return MISSING

    async def compute(
        self, flight: Flight, name: bytes, factory: Callable[[], Awaitable[T]]
    ) -> Outcome[T]:
        """Compute the value, and store it unless ``store_if`` or a write of the key forbids it."""
        computing = factory()
        if not inspect.isawaitable(computing):
            kind = type(computing).__name__
            error = TypeError(f"factory must be an async function, but it returned {kind}")
            return Outcome(MISSING, own_error=error)
        value = await computing
        if not self._is_reachable or flight.stale:
            return Outcome(value)
        try:
            wanted = self._store_if is None or self._store_if(value)
        except Exception as error:
            return Outcome(value, own_error=error)
        if not wanted:
            return Outcome(value)
        # A value that the serializer refuses is an error of the program, not an outage.
        data, flags = self._values.dump(name, value)
        try:
            await self._store(flight, name, data, flags)
        except EmcacheError as error:
            if self._ignore_errors:
                warn("storing a computed value failed", error)
            return Outcome(value, store_error=error)
        return Outcome(value)

    async def _store(self, flight: Flight, name: bytes, data: bytes, flags: int) -> None:
        data, flags = await self._values.shrink(name, data, flags)
        if flight.stale:
            return
        put = self._client.set
        await self._flights.store(
            flight, name, data, lambda: put(name, data, flags=flags, exptime=self._expires)
        )

    def result(self, outcome: Outcome[T], is_owner: bool) -> T:
        """Return the value for this caller, or raise the errors that concern it."""
        if is_owner and outcome.own_error is not None:
            raise outcome.own_error
        if outcome.store_error is not None and not self._ignore_errors:
            raise outcome.store_error.take()
        assert not isinstance(outcome.value, Missing)
        return outcome.value
