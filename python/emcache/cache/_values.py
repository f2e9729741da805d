"""Conversion of values to stored bytes and flags: serialization, compression and envelopes."""

import asyncio
import contextlib
from collections.abc import Hashable, Iterable
from typing import Any, Generic, NoReturn, TypeVar

from .._checks import check_range
from .._errors import SerializationError
from ._compression import LARGEST, Compression, Lz4, Zlib, Zstd, check_flag
from ._decompression import in_few_threads
from ._envelope import NEVER, Envelope, decode_envelope, encode_envelope
from ._flags import FLAG_ENVELOPE, FLAG_LZ4, FLAG_ZLIB, FLAG_ZSTD, FLAGS_EMPTY, FLAGS_HEAD
from ._keys import shown
from ._presets import Preset
from ._serializers import Json, MsgPack, OneFormat, Pickle, Raw, Serializer, Utf8
from ._typed import Typed

K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")

COMPRESS_IN_LOOP = 64 * 1024
"""Size in bytes from which a thread compresses; zlib takes about 1 ms for it."""
DECOMPRESS_IN_LOOP = 256 * 1024
"""Output in bytes up to which the loop decompresses; zlib takes about 0.5 ms for it."""

_OURS: dict[int, type[Zstd | Lz4 | Zlib]] = {FLAG_ZSTD: Zstd, FLAG_LZ4: Lz4, FLAG_ZLIB: Zlib}


def is_stub(data: bytes, flags: int | None) -> bool:
    """Return whether an item is the stub of a lease, which every read counts as a miss."""
    return not data and not flags


class Values(Generic[T]):
    """A serializer and its compressions."""

    def __init__(
        self, serializer: Serializer[T], compression: Compression | None, max_size: int
    ) -> None:
        _check_object("serializer", serializer, "dumps", "loads")
        if compression is not None:
            _check_object("compression", compression, "compress", "decompress", "flag", "min_size")
            check_flag(compression.flag)
            check_range("min_size", compression.min_size, 0, LARGEST)
        self._serializer = serializer
        self.kind = _kind(serializer)
        """Equal for caches that read and write values in the same way."""
        self._max_size = max_size
        self._writes = compression
        self._reads: dict[int, Compression] = {}
        # Values that were written before `compression` was changed must stay readable.
        self._bits = FLAG_ZSTD | FLAG_LZ4 | FLAG_ZLIB
        if isinstance(serializer, Preset):
            if compression is not None:
                raise ValueError(f"{serializer!r} has its own compression; use compress_from")
            self._writes, self._bits = serializer.writes, serializer.bits
            self._reads.update(serializer.reads)
        elif compression is not None:
            self._bits |= compression.flag
            self._reads[compression.flag] = compression
        self.marks = self._bits | FLAG_ENVELOPE
        """The bits of values that are more than what the serializer wrote."""
        if isinstance(serializer, OneFormat) and serializer.flags & self.marks:
            raise ValueError(
                f"flags {serializer.flags:#x} of the serializer have bits that mark compressed "
                f"values or envelopes ({self.marks:#x}); choose other flags"
            )
        self.loads = serializer.loads
        """Reads a value whose flags have none of these bits."""

    def with_serializer(self, serializer: Serializer[S]) -> "Values[S]":
        """Return the same compressions with another serializer."""
        return Values(serializer, self._writes, self._max_size)

    def dump(self, key: bytes, value: T) -> tuple[bytes, int]:
        """Serialize a value.

        Raises:
            SerializationError: the serializer does not accept it.
        """
        summary = f"the value of {shown(key)}, of type {type(value).__name__}, cannot be stored"
        try:
            return self._checked(self._serializer.dumps(value))
        except SerializationError as error:
            _fail(summary, error)
        except Exception as error:
            reason, remedy = _reason(self._serializer, error), _remedy(self._serializer)
            raise SerializationError(f"{summary}: {reason}; {remedy}") from error

    async def shrink(self, key: bytes, data: bytes, flags: int) -> tuple[bytes, int]:
        """Compress serialized bytes if that makes them smaller; return bytes and flags to store."""
        if self._writes is None or len(data) < max(self._writes.min_size, 1):
            return data, flags
        try:
            packed = await self._compress(self._writes, data)
        except Exception as error:
            _fail(f"the value of {shown(key)}, of {len(data)} bytes, cannot be stored", error)
        if len(packed) >= len(data):
            return data, flags
        return packed, flags | self._writes.flag

    async def pack(self, key: bytes, value: T) -> tuple[bytes, int]:
        """Serialize and compress a value; return the bytes and flags to store."""
        return await self.shrink(key, *self.dump(key, value))

    async def pack_many(
        self, named: Iterable[tuple[K, bytes, T]]
    ) -> tuple[dict[int, dict[bytes, bytes]], dict[K, Exception]]:
        """Return the bytes to store by flags and name, and the errors of other values by key."""
        packed: dict[int, dict[bytes, bytes]] = {}
        errors: dict[K, Exception] = {}
        for key, name, value in named:
            try:
                data, flags = await self.pack(name, value)
            except SerializationError as error:
                errors[key] = error
            else:
                packed.setdefault(flags, {})[name] = data
        return packed, errors

    def _checked(self, dumped: Any) -> tuple[bytes, int]:
        """Check the result of a user's serializer."""
        if not isinstance(dumped, tuple) or len(dumped) != 2:
            raise SerializationError("the serializer must return a tuple of bytes and flags")
        data, flags = dumped
        if not isinstance(flags, int) or isinstance(flags, bool) or not 0 <= flags < 2**32:
            raise SerializationError(
                f"the serializer must return flags from 0 to 2**32 - 1, not {flags!r:.40}"
            )
        if flags & self.marks:
            raise SerializationError(
                f"flags {flags:#x} of the serializer have bits that mark compressed values or "
                f"envelopes ({self.marks:#x})"
            )
        data = _as_bytes("serializer", data)
        return data, FLAGS_EMPTY if is_stub(data, flags) else flags

    async def _compress(self, compression: Compression, data: bytes) -> bytes:
        if len(data) > self._max_size:
            raise SerializationError(
                f"{len(data)} bytes could not be read back after compression, because max_size is "
                f"{self._max_size}"
            )
        if len(data) < COMPRESS_IN_LOOP:
            return _as_bytes("compression", compression.compress(data))
        return _as_bytes("compression", await asyncio.to_thread(compression.compress, data))

    async def unpack(
        self, key: bytes, data: bytes, flags: int
    ) -> tuple[T, Envelope | None, bytes, int]:
        """Return the value of stored bytes, its envelope, and what the serializer wrote.

        Raises:
            SerializationError: it cannot be read.
        """
        envelope = None
        try:
            own_flags = flags
            if flags & FLAG_ENVELOPE:
                envelope, data = open_envelope(data)
                own_flags &= ~FLAG_ENVELOPE
                _check_is_whole(own_flags)
            if bit := own_flags & self._bits:
                data = await self._decompress(self._reader(bit), data)
                own_flags &= ~bit
            if own_flags == FLAGS_EMPTY and not data:
                own_flags = 0
            return self._serializer.loads(data, own_flags), envelope, data, own_flags
        except Exception as error:
            _fail(f"the value of {shown(key)}, with flags {flags:#x}, cannot be read", error)

    def _reader(self, bit: int) -> Compression:
        if bit not in self._reads:
            if isinstance(self._serializer, Preset):
                raise SerializationError(
                    f"its flags mark a compression of {self._serializer.client} that is not read"
                )
            if bit not in _OURS:
                raise SerializationError("its flags mark more than one compression")
            self._reads[bit] = _OURS[bit]()
        return self._reads[bit]

    async def _decompress(self, compression: Compression, data: bytes) -> bytes:
        found = None
        small = min(getattr(compression, "in_loop", DECOMPRESS_IN_LOOP), self._max_size)
        if len(data) <= small:
            found = compression.decompress(data, small)
        if found is None and small < self._max_size:
            found = await in_few_threads(lambda: compression.decompress(data, self._max_size))
        if found is None:
            raise SerializationError(
                f"it decompresses to more than max_size, {self._max_size} bytes"
            )
        return found


def seal(data: bytes, flags: int, envelope: Envelope | None) -> tuple[bytes, int]:
    """Put packed bytes into an envelope; return the bytes and flags to store."""
    if envelope is None and flags == FLAGS_HEAD:
        # Caches that cannot read it must not take it for a value.
        envelope = Envelope(NEVER, NEVER)
    if envelope is None:
        return data, flags
    return encode_envelope(envelope, data), flags | FLAG_ENVELOPE


def open_envelope(data: bytes) -> tuple[Envelope, bytes]:
    """Return the envelope of stored bytes, and what is in it."""
    try:
        return decode_envelope(data)
    except ValueError as error:
        raise SerializationError(str(error)) from None


def _check_is_whole(flags: int) -> None:
    if flags == FLAGS_HEAD:
        raise SerializationError("it is stored in pieces; read it with Cache(chunked=True)")


def _check_object(argument: str, given: object, *names: str) -> None:
    """Refuse an object without the needed attributes, before the first value is stored."""
    if isinstance(given, type):
        name = given.__name__
        raise TypeError(f"{argument} must be an object, not the class {name}; write {name}()")
    if missing := [name for name in names if not hasattr(given, name)]:
        raise TypeError(
            f"{argument} must have {', '.join(names)}: {type(given).__name__} {given!r:.40} has no "
            f"{missing[0]}"
        )


def _kind(serializer: object) -> Hashable:
    # Other serializers are known to be equal only if they are the same object.
    if isinstance(serializer, Preset):
        return serializer.kind
    if type(serializer) in (Raw, Utf8, Json, MsgPack, Pickle, Typed):
        options = vars(serializer).items()
        # Functions of Typed belong to its type, and differ between equal serializers.
        kind = (
            type(serializer).__name__,
            *(value for name, value in options if name not in ("_encode", "_decode")),
        )
        with contextlib.suppress(TypeError):  # functions that cannot be hashed
            hash(kind)
            return kind
    return id(serializer)


def _reason(serializer: object, error: Exception) -> str:
    """Return why a value was refused, without text that may show the value."""
    kind = type(error).__name__
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, UnicodeError) or not getattr(serializer, "names_types_only", False):
        return kind
    # Some libraries repeat the value after a colon.
    text = str(error).partition(":")[0]
    return f"{kind}: {text}" if text else kind


def _remedy(serializer: object) -> str:
    name = type(serializer).__name__
    if not isinstance(serializer, OneFormat):
        return f"pass a value that {name} accepts, or use another serializer"
    other = "Json(dumps=..., loads=...)" if isinstance(serializer, Json | Typed) else "Json()"
    return (
        f"{name} accepts {serializer.takes}; pass such a value, or use another serializer, such "
        f"as {other} or Pickle()"
    )


def _as_bytes(origin: str, data: object) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise SerializationError(f"the {origin} must return bytes, not {type(data).__name__}")
    return bytes(data)


def _fail(summary: str, error: Exception) -> NoReturn:
    if isinstance(error, SerializationError):
        raise SerializationError(f"{summary}: {error}") from error.__cause__
    # The text of other errors may show the value. It is available as the cause.
    text = str(error) if isinstance(error, ImportError) else type(error).__name__
    raise SerializationError(f"{summary}: {text}") from error
