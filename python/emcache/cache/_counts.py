"""Counts of the lookups and computations of a cache or a cached function."""

import weakref
from typing import Literal

from .._client import Client

Reason = Literal["invalidated", "replaced", "expired", "refused", "lost", "failed", "unreachable"]
"""Why a computed value was not stored.

- ``"invalidated"``: the key was deleted, invalidated or evicted during the computation;
- ``"replaced"``: the key was written during the computation;
- ``"refused"``: ``store_if`` returned False;
- ``"expired"``: the computation took longer than its lease;
- ``"lost"``: the computation had no lease, because another process held it for too long;
- ``"failed"``: the server or the serializer refused the value, or the store failed;
- ``"unreachable"``: reading the cache had failed, so nothing was sent.
"""


class Counts:
    """Counts of one cache name or function, for one client. They only grow."""

    __slots__ = (
        "computed",
        "hits",
        "local",
        "misses",
        "not_stored",
        "refreshed",
        "seconds",
        "stale",
        "waited",
    )

    def __init__(self) -> None:
        self.hits = 0
        """Lookups that found a fresh or a stale value."""
        self.local = 0
        """Hits of the local cache."""
        self.misses = 0
        """Lookups that found none."""
        self.computed = 0
        """Calls of a factory, successful or not, refreshes included."""
        self.refreshed = 0
        """Calls of a factory while the old value was served to others."""
        self.waited = 0
        """Callers that got the value that another caller or process computed."""
        self.stale = 0
        """Hits that served a stale value."""
        self.not_stored: dict[Reason, int] = {}
        """Computed values that were not stored, by reason."""
        self.seconds = 0.0
        """The total duration of the factory calls."""

    def count_not_stored(self, reason: Reason) -> None:
        """Count a computed value that was not stored."""
        self.not_stored[reason] = self.not_stored.get(reason, 0) + 1


_BY_CLIENT: weakref.WeakKeyDictionary[Client, dict[str, Counts]] = weakref.WeakKeyDictionary()


def all_counts(client: Client) -> dict[str, Counts]:
    """Return the counts of a client, by the name of the cache or function."""
    counts = _BY_CLIENT.get(client)
    if counts is None:
        counts = _BY_CLIENT[client] = {}
    return counts


def counts_of(client: Client, name: str) -> Counts:
    """Return the counts of one name; all caches of the client with this name share them."""
    return all_counts(client).setdefault(name, Counts())
