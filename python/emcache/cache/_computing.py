"""One call of a factory: its value, the bytes to store, and what is counted."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ._counts import Counts
from ._policy import Policy
from ._storage import Storage
from ._ttl import exptime, shortened, soft_end
from ._values import seal

T = TypeVar("T")


class InvalidFactoryError(Exception):
    """The factory of a caller is not an async function."""

    def __init__(self, error: TypeError) -> None:
        super().__init__(error)
        self.error = error
        """The error for this caller."""


class Computing(Generic[T]):
    """Computes the value of a key, and converts it to what is stored."""

    __slots__ = ("counts", "factory", "name", "policy", "storage")

    def __init__(
        self,
        storage: Storage[T],
        policy: Policy,
        counts: Counts,
        name: bytes,
        factory: Callable[[], Awaitable[T]],
    ) -> None:
        self.storage = storage
        self.policy = policy
        self.counts = counts
        self.name = name
        self.factory = factory

    async def call(self) -> T:
        """Call the factory.

        Raises:
            InvalidFactoryError: it returned something that cannot be awaited.
        """
        computing = self.factory()
        if not inspect.isawaitable(computing):
            kind = type(computing).__name__
            error = TypeError(f"factory must be an async function, but it returned {kind}")
            raise InvalidFactoryError(error)
        self.counts.computed += 1
        began = time.perf_counter()
        try:
            return await computing
        finally:
            self.counts.seconds += time.perf_counter() - began

    def exptime(self, value: T) -> int | None:
        """Return the exptime of a value; None if it must not be stored.

        Any exception is the caller's own: ``store_if`` and ``ttl`` are functions of the user.
        """
        policy = self.policy
        if policy.store_if is not None and not policy.store_if(value):
            return None
        ttl = policy.ttl(value) if callable(policy.ttl) else policy.ttl
        return shortened(exptime(ttl), policy.jitter)

    def dump(self, value: T) -> tuple[bytes, int]:
        """Serialize a value; one that the serializer refuses is an error of the program."""
        return self.storage.values.dump(self.name, value)

    async def seal(self, data: bytes, flags: int, expires: int) -> tuple[bytes, int, int]:
        """Return the bytes, flags and exptime to store."""
        data, flags = await self.storage.values.shrink(self.name, data, flags)
        expires, envelope = soft_end(expires, self.policy.refresh, self.policy.stale_for)
        return *seal(data, flags, envelope), expires
