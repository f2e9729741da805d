"""What ``get_or_set`` does with the cache, which may fail."""

import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Generic, Literal, TypeVar

from .._errors import (
    EmcacheError,
    InvalidKeyError,
    NotFoundCommandError,
    SerializationError,
)
from ..base import Client, Item
from ._complaints import complain
from ._flights import MISSING, Flight, Missing
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
        read: Callable[[bytes, Item | None], Awaitable[T | Missing]],
        values: Values[T],
        expires: int,
        store_if: Callable[[T], bool] | None,
        on_error: OnError,
    ) -> None:
        check_on_error(on_error)
        if store_if is not None:
            check_function("store_if", store_if)
        self._client = client
        self._read = read
        self._values = values
        self._expires = expires
        self._store_if = store_if
        self._quiet = on_error == "miss"
        self._reachable = True

    async def look(self, name: bytes) -> T | Missing:
        """Give what is in the cache."""
        try:
            return await self._read(name, await self._client.get(name, return_flags=True))
        except EmcacheError as error:
            if not self._quiet or isinstance(error, InvalidKeyError):
                raise
            complain("the cache cannot be read, which counts as a miss", error)
            # Nobody shall wait for a dead cache twice. An unreadable value is to be replaced.
            self._reachable = isinstance(error, SerializationError)
            return MISSING

    async def compute(self, flight: Flight, name: bytes, factory: Callable[[], Awaitable[T]]) -> T:
        """Compute the value, store it if that is wanted, and give it."""
        computing = factory()
        if not inspect.isawaitable(computing):
            kind = type(computing).__name__
            raise TypeError(f"factory must be an async function: it returned {kind}")
        value = await computing
        wanted = self._reachable and not flight.stale
        if not wanted or (self._store_if is not None and not self._store_if(value)):
            return value
        try:
            await self._keep(flight, name, value)
        except EmcacheError as error:
            if not self._quiet:
                raise
            complain("a computed value cannot be stored", error)
        return value

    async def _keep(self, flight: Flight, name: bytes, value: T) -> None:
        data, flags = await self._values.pack(name, value)
        if flight.stale:
            return
        await self._client.set(name, data, flags=flags, exptime=self._expires)
        if flight.stale:
            # Whoever wrote or deleted it meanwhile may have come first.
            with contextlib.suppress(NotFoundCommandError):
                await self._client.delete(name)
