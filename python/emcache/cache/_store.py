"""What ``get_or_set`` does with the cache, which may fail."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Generic, Literal, TypeVar

from .._errors import EmcacheError, InvalidKeyError, SerializationError
from ..base import Client
from ._complaints import complain
from ._flights import MISSING, Flight, Flights, Missing, Outcome
from ._values import Values

T = TypeVar("T")

OnError = Literal["miss", "raise"]


def check_on_error(on_error: OnError) -> None:
    """Refuse what is none of the two."""
    if on_error not in ("miss", "raise"):
        raise ValueError("on_error must be 'miss' or 'raise'")


def check_function(name: str, given: object) -> None:
    """Refuse what cannot be called, and say so before it is to be."""
    if not callable(given):
        raise TypeError(f"{name} must be a function, not {type(given).__name__}")


class Store(Generic[T]):
    """One call's reads and writes."""

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
        self._quiet = on_error == "miss"
        self._reachable = True

    async def look(self, name: bytes) -> T | Missing:
        """Give what is in the cache."""
        try:
            return await self._fetch(name)
        except EmcacheError as error:
            if not self._quiet or isinstance(error, InvalidKeyError):
                raise
            complain("the cache cannot be read, which counts as a miss", error)
            # One wait for a dead cache is enough. An unreadable value is replaced.
            self._reachable = isinstance(error, SerializationError)
            return MISSING

    async def compute(
        self, flight: Flight, name: bytes, factory: Callable[[], Awaitable[T]]
    ) -> Outcome[T]:
        """Compute the value, and store it if that is wanted."""
        computing = factory()
        if not inspect.isawaitable(computing):
            kind = type(computing).__name__
            error = TypeError(f"factory must be an async function: it returned {kind}")
            return Outcome(MISSING, own_error=error)
        value = await computing
        if not self._reachable or flight.stale:
            return Outcome(value)
        try:
            wanted = self._store_if is None or self._store_if(value)
        except Exception as error:
            return Outcome(value, own_error=error)
        if not wanted:
            return Outcome(value)
        # A value that the serializer does not take would never be stored: that is not an outage.
        data, flags = self._values.dump(name, value)
        try:
            await self._keep(flight, name, data, flags)
        except EmcacheError as error:
            if self._quiet:
                complain("a computed value cannot be stored", error)
            return Outcome(value, store_error=error)
        return Outcome(value)

    async def _keep(self, flight: Flight, name: bytes, data: bytes, flags: int) -> None:
        data, flags = await self._values.shrink(name, data, flags)
        if flight.stale:
            return
        put = self._client.set
        await self._flights.store(
            flight, name, data, lambda: put(name, data, flags=flags, exptime=self._expires)
        )

    def result(self, outcome: Outcome[T], is_owner: bool) -> T:
        """Give this caller's share of what became of a computation, or raise it."""
        if is_owner and outcome.own_error is not None:
            raise outcome.own_error
        if outcome.store_error is not None and not self._quiet:
            raise outcome.store_error.take()
        assert not isinstance(outcome.value, Missing)
        return outcome.value
