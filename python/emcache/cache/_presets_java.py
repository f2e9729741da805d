"""A serializer for the format of Java's spymemcached."""

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from .._checks import check_bools
from ._presets import Preset, min_size, unreadable, unstorable
from ._presets_compression import Gzip

_BOOL, _INT, _LONG, _DATE, _BYTE, _FLOAT, _DOUBLE, _BYTES = range(0x100, 0x900, 0x100)
_WIDTHS = {_INT: 4, _LONG: 8, _DATE: 8, _BYTE: 1, _FLOAT: 4, _DOUBLE: 8}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Spymemcached(Preset):
    """Values as Java's spymemcached and the Java client of AWS store them.

    str is a ``String``, bytes ``byte[]``, bool a ``Boolean`` and float a ``Double``. int is an
    ``Integer`` if it has 32 bits and otherwise a ``Long``. A datetime with a time zone is a
    ``Date``: it loses its microseconds, and is read back in UTC. A ``Float`` and a ``Byte`` are
    read. Objects of other classes, which Java serializes, are not. Compressed values are always
    readable.

    Args:
        longs: every int is a ``Long``. Java programs cast to the one class or the other.
        compress_from: compress values of this many bytes and more (spymemcached itself: from
            16,385). None for never.
    """

    client = "spymemcached"

    def __init__(self, *, longs: bool = False, compress_from: int | None = None) -> None:
        check_bools(longs=longs)
        super().__init__(
            Gzip(flag=2, min_size=min_size(compress_from)), compress_from=compress_from
        )
        self._longs = bool(longs)

    def __repr__(self) -> str:
        return f"Spymemcached(longs={self._longs})"

    @property
    def kind(self) -> tuple[str, bool]:
        """Equal for presets that read and write the same values."""
        return "Spymemcached", self._longs

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept str, bytes, bool, int, float and aware datetimes."""
        kind = type(value)
        if kind is str:
            return value.encode(), 0
        if kind in (bytes, bytearray, memoryview):
            return bytes(value), _BYTES
        if kind is bool:
            return b"1" if value else b"0", _BOOL
        if kind is int and -(2**63) <= value < 2**63:
            if self._longs or not -(2**31) <= value < 2**31:
                return _packed(value, 8), _LONG
            return _packed(value, 4), _INT
        if kind is float:
            return struct.pack(">d", value).lstrip(b"\0"), _DOUBLE
        if kind is datetime and value.utcoffset() is not None:
            return _packed((value - _EPOCH) // _MILLISECOND, 8), _DATE
        accepted = "str, bytes, bool, int of 64 bits, float and datetimes with a time zone"
        raise unstorable(self, value, accepted)

    def loads(self, data: bytes, flags: int) -> Any:
        """Return str, bytes, bool, int, float, and datetimes in UTC."""
        if flags == 0:
            return data.decode()
        if flags == _BYTES:
            return data
        if flags == _BOOL:
            if data not in (b"1", b"0"):
                raise ValueError("not a boolean")
            return data == b"1"
        if flags not in _WIDTHS:
            raise unreadable(self, data, flags)
        # Java leaves out leading null bytes.
        full = data.rjust(_WIDTHS[flags], b"\0")
        if len(full) != _WIDTHS[flags]:
            raise ValueError("a number is too long")
        if flags in (_FLOAT, _DOUBLE):
            return struct.unpack(">f" if flags == _FLOAT else ">d", full)[0]
        number = int.from_bytes(full, "big", signed=True)
        return _EPOCH + number * _MILLISECOND if flags == _DATE else number


def _packed(value: int, width: int) -> bytes:
    return value.to_bytes(width, "big", signed=True).lstrip(b"\0")
