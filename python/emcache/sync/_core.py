# Written by tools/make_sync.py from emcache/_emcache.pyi.
"""The core as the synchronous client sees it: calls return their results."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from .._errors import EmcacheError
from .._item import Item
from .._types import Exptime, ManyOutcome, Value

if TYPE_CHECKING:
    from .._emcache import Routing, _MetaFields, _MetaReply, _RawSnapshot
else:
    from .._emcache import Routing

    _MetaFields = _MetaReply = _RawSnapshot = tuple


class SyncCore(Protocol):
    @property
    def closed(self) -> bool: ...
    @property
    def forked(self) -> bool: ...
    @property
    def driver(self) -> Literal["loop", "thread", "blocking", "shared"]: ...
    def set_ip(self, node: int, ip: str | None) -> None: ...
    def set_nodes(
        self,
        nodes: list[tuple[tuple[str, int] | str, str | None]],
        routing: Routing | None = None,
    ) -> None: ...
    @property
    def noreply_errors(self) -> int: ...
    @property
    def noreply_unanswered(self) -> int: ...
    def drain(self) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def get(self, key: bytes, return_flags: bool) -> Item | None: ...
    def gets(self, key: bytes, return_flags: bool) -> Item | None: ...
    def gat(self, exptime: Exptime, key: bytes, return_flags: bool) -> Item | None: ...
    def gats(self, exptime: Exptime, key: bytes, return_flags: bool) -> Item | None: ...
    def get_many(self, keys: Iterable[bytes], return_flags: bool) -> dict[bytes, Item]: ...
    def gets_many(self, keys: Iterable[bytes], return_flags: bool) -> dict[bytes, Item]: ...
    def gat_many(
        self, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
    ) -> dict[bytes, Item]: ...
    def gats_many(
        self, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
    ) -> dict[bytes, Item]: ...
    def set(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> None: ...
    def add(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> None: ...
    def replace(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> None: ...
    def append(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> None: ...
    def prepend(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> None: ...
    def cas(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        cas: int,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> None: ...
    def delete(self, key: bytes, noreply: bool) -> None: ...
    def increment(self, key: bytes, value: int, noreply: bool) -> int | None: ...
    def decrement(self, key: bytes, value: int, noreply: bool) -> int | None: ...
    def touch(self, key: bytes, exptime: Exptime, noreply: bool) -> None: ...
    def fetch_partial(
        self,
        verb: Literal["get", "gets", "gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
    ) -> tuple[dict[bytes, Item], dict[bytes, Exception]]: ...
    def store_many(
        self,
        verb: Literal["set", "add"],
        items: Mapping[bytes, Value],
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> ManyOutcome | None: ...
    def delete_many(self, keys: Iterable[bytes], noreply: bool) -> ManyOutcome | None: ...
    def touch_many(
        self, keys: Iterable[bytes], exptime: Exptime, noreply: bool
    ) -> ManyOutcome | None: ...
    def count_from(
        self,
        verb: Literal["incr", "decr"],
        key: bytes,
        value: int,
        initial: int,
        exptime: Exptime,
    ) -> int: ...
    def probe(self, node: int, key: bytes, isolated: bool) -> None: ...
    def probe_each(
        self, probes: list[tuple[int, bytes, bool]], limit: float | None, wait_for_all: bool
    ) -> list[float | EmcacheError | None]: ...
    def flush_all(self, node: int, delay: int, noreply: bool) -> None: ...
    def version(self, node: int) -> str: ...
    def verbosity(self, node: int, level: int, noreply: bool) -> None: ...
    def cache_memlimit(self, node: int, value: int, noreply: bool) -> None: ...
    def stats(self, node: int, args: str) -> dict[str, str]: ...
    def node_for(self, key: bytes) -> int: ...
    def health(self) -> tuple[list[int], list[int]]: ...
    def metrics(self, node: int) -> dict[str, int | float | None]: ...
    def snapshot(self) -> _RawSnapshot: ...
    def failover_counters(self) -> tuple[int, int, int, int, int] | None: ...


class SyncCoreMeta(Protocol):
    def get(
        self,
        key: bytes,
        value: bool,
        recache: int | None,
        vivify: Exptime | None,
        touch: Exptime | None,
        no_bump: bool,
        size: bool,
        last_access: bool,
        hit_before: bool,
        known_cas: int | None,
        new_cas: int | None,
    ) -> _MetaReply: ...
    def set(
        self,
        key: bytes,
        value: Value,
        mode: Literal["set", "add", "replace", "append", "prepend"],
        flags: int,
        exptime: Exptime,
        cas: int | None,
        invalidate: bool,
        vivify: Exptime | None,
        new_cas: int | None,
        return_cas: bool,
    ) -> _MetaReply: ...
    def delete(
        self,
        key: bytes,
        cas: int | None,
        invalidate: bool,
        stale_for: Exptime | None,
        clear: bool,
        new_cas: int | None,
    ) -> _MetaReply: ...
    def arithmetic(
        self,
        key: bytes,
        verb: Literal["incr", "decr"],
        delta: int,
        initial: int | None,
        exptime: Exptime,
        touch: Exptime | None,
        cas: int | None,
        new_cas: int | None,
    ) -> _MetaReply: ...
    def get_many(
        self,
        keys: Iterable[bytes],
        value: bool,
        recache: int | None,
        vivify: Exptime | None,
        touch: Exptime | None,
        no_bump: bool,
        size: bool,
        last_access: bool,
        hit_before: bool,
        new_cas: int | None,
    ) -> tuple[dict[bytes, _MetaFields], dict[bytes, Exception]]: ...
    def debug(
        self, key: bytes
    ) -> tuple[str, int | None, int | None, int | None, bool | None, int | None, int | None]: ...
    def noop(self, node: int) -> None: ...
    def raw(
        self, command: str, key: bytes, flags: str, value: Value | None
    ) -> tuple[str, bytes, bytes | None]: ...
    def version(self, key: bytes) -> tuple[int, int, int] | None: ...
    def server_epoch(self, key: bytes) -> tuple[int, int]: ...
