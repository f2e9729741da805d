"""What one lookup did, for callers who ask."""

from dataclasses import dataclass

from ._counts import Reason


@dataclass(slots=True)
class CacheInfo:
    """Where the value of one call came from; pass a new object as ``info=``.

    Exactly one of ``fresh``, ``stale``, ``computed`` and ``waited`` is true when the call returns a
    value, unless ``on_lost="default"`` returned the default.
    """

    fresh: bool = False
    """The value was in the cache and within its ttl."""
    stale: bool = False
    """The value was invalidated, or older than its ttl; see ``stale_for``."""
    computed: bool = False
    """The factory of this call computed the value."""
    waited: bool = False
    """Another caller or process computed the value while this call waited."""
    refreshing: bool = False
    """This call has started a refresh in the background."""
    not_stored: Reason | None = None
    """Why the computed value is not in the cache."""
    local: bool = False
    """The value came from the local cache, and nothing was sent; ``fresh`` is true as well."""
