from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import Field
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, final

from ._errors import EmcacheError
from ._options import LoginArguments, TlsArguments
from ._types import Exptime, ManyOutcome, Value

__version__: str

_T = TypeVar("_T")

# At runtime this is OpFuture, which is neither exported nor generic.
class _Future(Generic[_T]):
    def __await__(self) -> Generator[Any, None, _T]: ...

_Fetched = tuple[list[bytes], list[bytes], list[int], list[int | None], bytearray]

# Counts by result, latency counts by bucket, and the sum of the latencies in seconds.
_RawCommand = tuple[dict[str, int], tuple[int, ...], float]
# Index, health, counters of the pool, counters of each command.
_RawNode = tuple[int, bool, dict[str, int | float | None], dict[str, _RawCommand]]
# Key, index of its node, share, rate.
_RawHotKey = tuple[bytes, int | None, float, float]
# min_connections, max_connections, nodes, hot keys.
_RawSnapshot = tuple[int, int, list[_RawNode], list[_RawHotKey]]

LATENCY_BOUNDS: tuple[float, ...]

class Item:
    __match_args__: ClassVar[tuple[Literal["value"], Literal["flags"], Literal["cas"]]]
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __hash__: ClassVar[None]  # type: ignore[assignment]
    value: bytes
    flags: int | None
    cas: int | None
    def __init__(self, value: bytes, flags: int | None, cas: int | None) -> None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __lt__(self, other: object, /) -> bool: ...
    def __le__(self, other: object, /) -> bool: ...
    def __gt__(self, other: object, /) -> bool: ...
    def __ge__(self, other: object, /) -> bool: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...

@final
class Security:
    def __new__(cls, tls: TlsArguments | None, login: LoginArguments | None) -> Self: ...
    @staticmethod
    def refusal(words: bytes, password: str) -> str: ...

@final
class Routing:
    def __new__(
        cls,
        name: str,
        specs: list[tuple[tuple[str, int] | str, int | None, str | None]],
        build: Callable[..., Callable[[bytes], int]] | None,
    ) -> Self: ...
    @property
    def hashes_ips(self) -> bool: ...
    @staticmethod
    def names() -> list[str]: ...

def crc32(data: bytes, start: int, end: int, before: int) -> int: ...

@final
class PieceBuffer:
    def __new__(cls, size: int) -> PieceBuffer: ...
    def append(self, piece: bytes) -> None: ...
    def finish(self) -> tuple[bytes, int]: ...

@final
class CoreClient:
    def __new__(
        cls,
        addresses: list[tuple[str, int] | str],
        *,
        timeout: float | None,
        min_connections: int,
        max_connections: int,
        purge_unused_connections_after: float | None,
        connection_timeout: float | None,
        purge_unhealthy_nodes: bool,
        max_merged_keys: int,
        security: Security,
        routing: Routing,
        failover: tuple[list[tuple[str, int] | str], int, int, bool] | None,
        on_change: Callable[[int, str, str | None], object],
        hot_keys: int = 0,
        blocking: bool | None = None,
        shared: bool = False,
    ) -> Self: ...
    @property
    def closed(self) -> bool: ...
    @property
    def forked(self) -> bool: ...
    @property
    def driver(self) -> Literal["loop", "thread", "blocking", "shared"]: ...
    def add_node(self, address: tuple[str, int] | str, ip: str | None) -> int: ...
    def is_connected(self, node: int) -> bool: ...
    def set_ip(self, node: int, ip: str | None) -> None: ...
    def change_nodes(
        self,
        joining: list[int],
        leaving: list[int],
        order: list[int],
        updates: list[tuple[int, str | None, int | None, str | None]],
    ) -> None: ...
    def check_out(self) -> _Future[CoreCheckout]: ...
    def set_nodes(
        self,
        nodes: list[tuple[tuple[str, int] | str, str | None]],
        routing: Routing | None = None,
    ) -> None: ...
    @property
    def noreply_errors(self) -> int: ...
    @property
    def noreply_unanswered(self) -> int: ...
    def drain(self) -> _Future[None]: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
    def get(self, key: bytes, return_flags: bool) -> _Future[Item | None]: ...
    def gets(self, key: bytes, return_flags: bool) -> _Future[Item | None]: ...
    def gat(self, exptime: Exptime, key: bytes, return_flags: bool) -> _Future[Item | None]: ...
    def gats(self, exptime: Exptime, key: bytes, return_flags: bool) -> _Future[Item | None]: ...
    def get_many(self, keys: Iterable[bytes], return_flags: bool) -> _Future[dict[bytes, Item]]: ...
    def gets_many(
        self, keys: Iterable[bytes], return_flags: bool
    ) -> _Future[dict[bytes, Item]]: ...
    def gat_many(
        self, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
    ) -> _Future[dict[bytes, Item]]: ...
    def gats_many(
        self, exptime: Exptime, keys: Iterable[bytes], return_flags: bool
    ) -> _Future[dict[bytes, Item]]: ...
    def set(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[None]: ...
    def add(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[None]: ...
    def replace(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[None]: ...
    def append(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[None]: ...
    def prepend(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[None]: ...
    def cas(
        self,
        key: bytes,
        value: bytes | bytearray | memoryview,
        cas: int,
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[None]: ...
    def delete(self, key: bytes, noreply: bool) -> _Future[None]: ...
    def increment(self, key: bytes, value: int, noreply: bool) -> _Future[int | None]: ...
    def decrement(self, key: bytes, value: int, noreply: bool) -> _Future[int | None]: ...
    def touch(self, key: bytes, exptime: Exptime, noreply: bool) -> _Future[None]: ...
    def fetch_partial(
        self,
        verb: Literal["get", "gets", "gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
    ) -> _Future[tuple[dict[bytes, Item], dict[bytes, Exception]]]: ...
    def store_many(
        self,
        verb: Literal["set", "add"],
        items: Mapping[bytes, Value],
        flags: int,
        exptime: Exptime,
        noreply: bool,
    ) -> _Future[ManyOutcome | None]: ...
    def delete_many(self, keys: Iterable[bytes], noreply: bool) -> _Future[ManyOutcome | None]: ...
    def touch_many(
        self, keys: Iterable[bytes], exptime: Exptime, noreply: bool
    ) -> _Future[ManyOutcome | None]: ...
    def count_from(
        self,
        verb: Literal["incr", "decr"],
        key: bytes,
        value: int,
        initial: int,
        exptime: Exptime,
    ) -> _Future[int]: ...
    def probe(self, node: int, key: bytes, isolated: bool) -> _Future[None]: ...
    def probe_each(
        self, probes: list[tuple[int, bytes, bool]], limit: float | None, wait_for_all: bool
    ) -> list[float | EmcacheError | None]: ...
    def flush_all(self, node: int, delay: int, noreply: bool) -> _Future[None]: ...
    def version(self, node: int) -> _Future[str]: ...
    def verbosity(self, node: int, level: int, noreply: bool) -> _Future[None]: ...
    def cache_memlimit(self, node: int, value: int, noreply: bool) -> _Future[None]: ...
    def stats(self, node: int, args: str) -> _Future[dict[str, str]]: ...
    def node_for(self, key: bytes) -> int: ...
    def health(self) -> tuple[list[int], list[int]]: ...
    def metrics(self, node: int) -> dict[str, int | float | None]: ...
    def snapshot(self) -> _RawSnapshot: ...
    def failover_counters(self) -> tuple[int, int, int, int, int] | None: ...

# Status, value, (flags, cas, ttl, size, last_access, hit_before), (won, stale, lost).
_MetaReply = tuple[
    str,
    bytes | None,
    tuple[int | None, int | None, int | None, int | None, int | None, bool | None],
    tuple[bool, bool, bool],
]

# Of a MetaItem.
_MetaFields = tuple[
    bytes | None, int, int, int, int | None, int | None, bool | None, bool, bool, bool
]

@final
class CoreMeta:
    def __new__(cls, client: CoreClient) -> Self: ...
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
    ) -> _Future[_MetaReply]: ...
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
    ) -> _Future[_MetaReply]: ...
    def delete(
        self,
        key: bytes,
        cas: int | None,
        invalidate: bool,
        stale_for: Exptime | None,
        clear: bool,
        new_cas: int | None,
    ) -> _Future[_MetaReply]: ...
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
    ) -> _Future[_MetaReply]: ...
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
    ) -> _Future[tuple[dict[bytes, _MetaFields], dict[bytes, Exception]]]: ...
    def debug(
        self, key: bytes
    ) -> _Future[
        tuple[str, int | None, int | None, int | None, bool | None, int | None, int | None]
    ]: ...
    def noop(self, node: int) -> _Future[None]: ...
    def raw(
        self, command: str, key: bytes, flags: str, value: Value | None
    ) -> _Future[tuple[str, bytes, bytes | None]]: ...
    def version(self, key: bytes) -> tuple[int, int, int] | None: ...
    def server_epoch(self, key: bytes) -> tuple[int, int]: ...

@final
class CoreMigration:
    def __new__(cls, client: CoreClient) -> Self: ...
    def migrate_from(
        self,
        addresses: list[tuple[str, int] | str],
        routing: Routing,
        phase: str,
        drain: float | None,
        unknown_ttl: int,
    ) -> list[int]: ...
    def migrate_to(
        self,
        addresses: list[tuple[str, int] | str],
        routing: Routing,
        phase: str,
        drain: float | None,
        unknown_ttl: int,
    ) -> list[int]: ...
    def set_phase(self, phase: str) -> bool: ...
    def finish(self) -> bool: ...
    def roll_back(self, drain: float | None = None) -> bool: ...
    def swaps(self) -> int: ...
    def status(self) -> dict[str, Any] | None: ...

@final
class CoreCheckout:
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def release(self) -> None: ...
    def fetch(self, command: bytes, keys: Iterable[bytes]) -> _Future[_Fetched]: ...
    def get_and_touch(
        self, command: bytes, exptime: Exptime, keys: Iterable[bytes]
    ) -> _Future[_Fetched]: ...
    def store(
        self,
        command: bytes,
        key: bytes,
        value: bytes | bytearray | memoryview,
        flags: int,
        exptime: Exptime,
        noreply: bool,
        cas: int | None,
    ) -> _Future[bytearray | None]: ...
    def count(
        self, command: bytes, key: bytes, value: int, noreply: bool
    ) -> _Future[bytearray | None]: ...
    def touch(self, key: bytes, exptime: Exptime, noreply: bool) -> _Future[bytearray | None]: ...
    def delete(self, key: bytes, noreply: bool) -> _Future[bytearray | None]: ...
    def flush_all(self, delay: int, noreply: bool) -> _Future[bytearray | None]: ...
    def version(self) -> _Future[bytearray]: ...
    def stats(self, args: str) -> _Future[bytearray]: ...
    def verbosity(self, level: int, noreply: bool) -> _Future[bytearray | None]: ...
    def cache_memlimit(self, value: int, noreply: bool) -> _Future[bytearray | None]: ...
    def config_get_cluster(self) -> _Future[bytearray]: ...
    def auth(self, username: str, password: str) -> _Future[bytearray]: ...
    @staticmethod
    def check_keys(keys: list[bytes]) -> None: ...
