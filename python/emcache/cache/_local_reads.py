"""The quick reads of a cache: from its local cache, and of fresh values in envelopes."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from .._client import Client
from .._item import Item
from .._results import PartialResult
from ._counts import Counts
from ._flights import Flights, Missing
from ._info import CacheInfo
from ._keys import Key, Keys
from ._late_stores import LateStores
from ._local_values import ABSENT, LocalValues, Reading
from ._quick_hits import fresh_value
from ._storage import Storage
from ._tags import TagNames, Tags, tag_names

T = TypeVar("T")
K = TypeVar("K", bound=Key)


class LocalReads(Generic[T]):
    """The methods of :class:`Cache` that look into its local cache, and read quickly."""

    _client: Client
    _keys: Keys
    _storage: Storage[T]
    _flights: Flights
    _late: LateStores
    _counts: Counts
    _marks: int
    _loads: Callable[[bytes, int], T]
    _local: LocalValues[T] | None

    def _tag_names(self, tags: Tags | None) -> TagNames:
        """Return the keys of the tags of the cache and of a call."""
        if tags is None:
            return self._storage.tags
        return tag_names(self._keys, tags, self._storage.tags)

    def _find_locally(
        self, name: bytes, tags: TagNames, counts: Counts, info: CacheInfo | None = None
    ) -> T | Missing:
        """Return a value of the local cache, and count it as a hit."""
        assert self._local is not None
        found = self._local.find(name, tags)
        if not isinstance(found, Missing):
            counts.hits += 1
            counts.local += 1
            if info is not None:
                info.fresh = info.local = True
        return found

    async def _get_with_local(
        self, name: bytes, default: Any, tags: TagNames, found: Missing
    ) -> Any:
        """Do the same as :meth:`Cache.get` after the local cache had no value; keep what is read.

        Args:
            name: the key on the wire.
            default: returned on a miss.
            tags: the tags that the value must have.
            found: what was in the local cache.
        """
        assert self._local is not None
        if found is ABSENT:
            return self._counted(found, default)
        outdated = self._late.outdated((name,))
        reading = self._local.begin()
        item, generations = await self._storage.look(name, tags)
        read = await self._storage.read_fresh(name, item, outdated, tags, generations, reading)
        return self._counted(read, default)

    async def _get_many_with_local(
        self, names: Mapping[K, bytes], on_error: Literal["raise", "partial"], tags: TagNames
    ) -> dict[K, T]:
        """Do the same as :meth:`Cache.get_many`, and keep what is read."""
        assert self._local is not None
        find = self._local.find
        found = {key: find(name, tags) for key, name in names.items()}
        missing = {key: names[key] for key, value in found.items() if isinstance(value, Missing)}
        wanted = {key: name for key, name in missing.items() if found[key] is not ABSENT}
        self._counts.hits += len(found) - len(missing)
        self._counts.local += len(found) - len(missing)
        self._counts.misses += len(missing) - len(wanted)
        values: dict[K, T] = {}
        if wanted:
            values = await self._get_many(wanted, on_error, tags, self._local.begin())
        errors = values.errors if isinstance(values, PartialResult) else {}
        everything: dict[K, T] = {}
        for key, value in found.items():
            if not isinstance(value, Missing):
                everything[key] = value
            elif key in values:
                everything[key] = values[key]
        return everything if on_error == "raise" else PartialResult(everything, errors)

    def _fresh(
        self,
        item: Item | None,
        tags: TagNames,
        items: Mapping[bytes, Item],
        counts: Counts,
        info: CacheInfo | None = None,
    ) -> T | Missing:
        """Return the value of an item as :func:`fresh_value` does, and count it as a hit."""
        value = fresh_value(item, tags, items, self._marks, self._loads)
        if not isinstance(value, Missing):
            counts.hits += 1
            if info is not None:
                info.fresh = True
        return value

    def _counted(self, found: T | Missing, default: Any) -> Any:
        if isinstance(found, Missing):
            self._counts.misses += 1
            return default
        self._counts.hits += 1
        return found

    async def _get_many(
        self,
        names: Mapping[K, bytes],
        on_error: Literal["raise", "partial"],
        tags: TagNames,
        reading: Reading | None = None,
    ) -> dict[K, T]:
        raise NotImplementedError
