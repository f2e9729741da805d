"""One call of a factory: its value, the bytes to store, and what is counted."""

import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from .._errors import EmcacheError
from ._counts import Counts
from ._policy import Policy
from ._storage import NOTHING, Storage
from ._tags import (
    UNREADABLE,
    Found,
    Generations,
    TagNames,
    find_generations,
    make_generations,
    seal_with_tags,
)
from ._ttl import exptime, shortened, soft_end

T = TypeVar("T")


class UnusableError(Exception):
    """The factory of one caller has no value; other callers must use their own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error
        """The error for this caller."""


class Batch(Protocol):
    """Calls of factories that are made together; it counts them itself."""

    def decide(self, name: bytes) -> None:
        """Do not wait until the factory for this key is called."""
        ...


class Computing(Generic[T]):
    """Computes the value of a key, and converts it to what is stored."""

    __slots__ = (
        "_began",
        "_tag_error",
        "batch",
        "counts",
        "factory",
        "found",
        "generations",
        "name",
        "policy",
        "storage",
        "tags",
    )

    def __init__(
        self,
        storage: Storage[T],
        policy: Policy,
        counts: Counts,
        name: bytes,
        factory: Callable[[], Awaitable[T]],
        tags: TagNames,
        batch: Batch | None,
    ) -> None:
        self.storage = storage
        self.tags = tags
        self.found: Found = NOTHING
        """Generations that were just read, so that they need not be read again."""
        self.generations: Generations = ()
        """The generations that the value is stored with."""
        self._began = storage.flights.local.clock
        self._tag_error: EmcacheError | None = None
        self.policy = policy
        self.counts = counts
        self.name = name
        self.factory = factory
        self.batch = batch

    async def read_tags(self) -> None:
        """Fix the generations, before the factory reads what it computes the value from."""
        if not self.tags:
            return
        client, found = self.storage.client, self.found
        self.found = NOTHING
        if not self.storage.flights.local.are_unchanged(self.tags, self._began):
            # This process has invalidated a tag since: the value would be a miss.
            found = NOTHING
        try:
            self.generations = await make_generations(client, self.tags, found)
        except EmcacheError as error:
            self._tag_error = error
            # Callers that see the same outage share the computation all the same.
            with contextlib.suppress(EmcacheError):
                found = await find_generations(client, self.tags)
            self.generations = tuple((name, found.get(name, UNREADABLE)) for name in self.tags)

    async def call(self) -> T:
        """Call the factory.

        Raises:
            UnusableError: it has no value for this key, or is not an async function.
        """
        computing = self.factory()
        if not inspect.isawaitable(computing):
            kind = type(computing).__name__
            error = TypeError(f"factory must be an async function, but it returned {kind}")
            raise UnusableError(error)
        if self.batch is not None:
            return await computing
        self.counts.computed += 1
        began = time.perf_counter()
        try:
            return await computing
        finally:
            self.counts.seconds += time.perf_counter() - began

    def wait_for_others(self) -> None:
        """Note that another caller or process computes the value for now."""
        if self.batch is not None:
            self.batch.decide(self.name)

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
        """Return the bytes, flags and exptime to store.

        Raises:
            EmcacheError: the tags of the value could not be read.
        """
        if self._tag_error is not None:
            raise self._tag_error
        data, flags = await self.storage.values.shrink(self.name, data, flags)
        expires, envelope = soft_end(expires, self.policy.refresh, self.policy.stale_for)
        if self.storage.pieces is not None:
            split = self.storage.split
            data, flags, expires = await split(self.name, data, flags, expires, self.generations)
        return *seal_with_tags(data, flags, envelope, self.generations), expires
