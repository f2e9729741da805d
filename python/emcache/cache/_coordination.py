"""The parts of a cache that coordinate processes: tags, locks and rate limits."""

from datetime import timedelta

from .._client import Client
from .._failures import copy_exception
from ._flights import Flights
from ._keys import Key, Keys, encode
from ._locks import Lock
from ._rate_limits import OnLimitError, RateLimit, Window
from ._tags import (
    Tags,
    TagSnapshot,
    find_generations,
    make_generations,
    new_generation,
    tag_name,
    tag_names,
)


class Coordination:
    """The methods of :class:`emcache.Cache` that coordinate processes."""

    _client: Client
    _flights: Flights
    _keys: Keys

    async def invalidate_tag(self, tag: Key) -> None:
        """Make all values with a tag misses, in all processes, by one command.

        After it has returned, no reader gets a value that was stored, or whose computation began,
        before. If it raises, call it again: the values may still be current.
        """
        # Not deleted, so that the next reader need not create a generation.
        name = tag_name(self._keys, tag)
        with self._flights.local.changing_tags((name,)):
            await self._client.set(name, new_generation())

    async def invalidate_tags(self, tags: Tags) -> None:
        """Do the same as :meth:`invalidate_tag` for several tags, on all their nodes at once."""
        new = {name: new_generation() for name in tag_names(self._keys, tags)}
        with self._flights.local.changing_tags(new):
            results = await self._client.set_many(new)
        for error in results.errors.values():
            raise copy_exception(error)

    async def read_tags(self, tags: Tags) -> TagSnapshot:
        """Return the state of tags, to be passed as ``tags`` to :meth:`set` or :meth:`set_many`.

        Call it before you read the data that a value is made from. If a tag is invalidated after
        this call, the value is a miss. :meth:`get_or_set` does this by itself.
        """
        names = tag_names(self._keys, tags)
        found = await find_generations(self._client, names)
        return TagSnapshot(await make_generations(self._client, names, found))

    def lock(
        self, name: Key, *, ttl: int | timedelta, wait: float | timedelta | None = None
    ) -> Lock:
        """Return a lock that is shared with other processes; sends nothing.

        ::

            async with cache.lock("nightly-report", ttl=60):
                await write_report()

        It is not safe for correctness: see :class:`emcache.cache.Lock`.

        Args:
            name: locks of the same name exclude each other, in all caches with the same prefix on
                the same nodes. The key is the prefix, ``#lock:`` and the name.
            ttl: the lifetime of the lock, 2 seconds to 30 days. It frees the lock of an owner that
                is killed, so it must be longer than the work, or be extended in time.
            wait: how many seconds to wait for the lock; 0 for one attempt, None without a limit.
        """
        return Lock(self._client, self._keys.wire(b"#lock:" + encode("name", name)), ttl, wait)

    def rate_limit(
        self,
        name: Key,
        limit: int,
        *,
        per: float | timedelta,
        window: Window = "fixed",
        on_error: OnLimitError = "raise",
    ) -> RateLimit:
        """Return a rate limit that is shared with other processes; sends nothing.

        ::

            if not await cache.rate_limit(f"login:{user_id}", 5, per=60).hit():
                raise TooManyAttempts

        Args:
            name: limits of the same name and ``per`` share their counters, in all caches with the
                same prefix on the same nodes. The keys are the prefix, ``#limit:``, the name,
                ``per`` and the number of the window.
            limit: the most hits that are allowed in one window.
            per: the length of a window, in seconds, at most 30 days.
            window: with ``"fixed"``, counts begin at 0 in each window, so up to twice the limit may
                pass around a boundary. With ``"sliding"``, the hits of the previous window also
                count, in proportion to the part of it that lies less than ``per`` seconds ago.
            on_error: with ``"raise"``, errors of the cache are raised. With ``"allow"``, hits are
                then allowed, and a warning is logged once a minute.
        """
        return RateLimit(self._client, self._keys, name, limit, per, window, on_error)
