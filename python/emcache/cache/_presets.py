"""The base class of presets, and errors that name the writer of a value."""

import functools
import operator
import re
from collections.abc import Hashable, Mapping
from typing import Any

from .._checks import check_range
from .._errors import SerializationError
from ._compression import LARGEST, Compression
from ._flags import FLAG_LZ4, FLAG_ZLIB, FLAG_ZSTD, FORMATS

_COMPRESSED = FLAG_ZSTD | FLAG_LZ4 | FLAG_ZLIB

_SIGNS = (
    (rb"\x04\x08", "dalli with Marshal"),
    (rb"\xac\xed\x00\x05", "spymemcached with Java serialization"),
    (rb"[\x04\x05]\x0b", "a Perl client with Storable"),
    (rb"N;|[abdisCEO]:\d+[:;.]|d:-?[\d.INn]|i:-", "a PHP client with serialize()"),
    (rb"\x00\x00\x00\x02", "a PHP client with igbinary"),
    (rb"\x80[\x02-\x05]", "a Python client with pickle"),
)
"""How serialized values of other languages begin; none of these but the last is a pickle."""


class Preset:
    """A serializer for the format of another client, with that client's compression."""

    client: str
    """Its name, for messages."""
    bits: int
    """All bits that mark a compression, also those of one that is not read."""

    def __init__(self, *reads: Compression, compress_from: int | None = None) -> None:
        self.reads: Mapping[int, Compression] = {each.flag: each for each in reads}
        """The compressions by their flags."""
        self.bits = functools.reduce(operator.or_, self.reads)
        self.writes: Compression | None = None if compress_from is None else reads[0]
        """The first one, if values are compressed at all."""

    @property
    def kind(self) -> Hashable:
        """Equal for presets that read and write the same values."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Return the bytes and flags that the other client would store."""
        raise NotImplementedError

    def loads(self, data: bytes, flags: int) -> Any:
        """Return the value that the other client would return."""
        raise NotImplementedError


def min_size(compress_from: int | None) -> int:
    """Check ``compress_from`` and return it as the ``min_size`` of a compression."""
    if compress_from is None:
        return 0
    check_range("compress_from", compress_from, 1, LARGEST)
    return compress_from


def writer_of(data: bytes, flags: int) -> str | None:
    """Return the writer of a value of another format; None if the value does not show it."""
    if not flags & 0xFFFF and (name := FORMATS.get(flags & ~_COMPRESSED)):
        return f"emcache with {name}()"
    if flags:
        for pattern, writer in _SIGNS:
            if re.match(pattern, data):
                return writer
    return None


def unreadable(preset: Preset, data: bytes, flags: int, remedy: str = "") -> SerializationError:
    """Return an error that names the writer of a value, or at least its flags."""
    name = type(preset).__name__
    if writer := writer_of(data, flags):
        reason = f"it was written by {writer}, which {name} does not read"
    else:
        reason = f"{preset.client} does not use flags {flags:#x} for such a value"
    return SerializationError(f"{reason}; {remedy}" if remedy else reason)


def unstorable(preset: Preset, value: object, accepted: str) -> SerializationError:
    """Return an error that says which types the preset stores."""
    return SerializationError(f"{preset!r} stores {accepted}, not {type(value).__name__}")
