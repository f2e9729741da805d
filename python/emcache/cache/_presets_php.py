"""Serializers for the formats of PHP's two extensions."""

from typing import Any

from .._errors import SerializationError
from ._compression import Zlib
from ._presets import Preset, min_size, unreadable, unstorable, writer_of
from ._presets_compression import PhpFastLz, PhpZlib
from ._presets_strings import Strings
from ._serializers import Json

_STRING, _LONG, _DOUBLE, _BOOL, _PHP, _IGBINARY, _JSON, _MSGPACK = range(8)
_INTEGERS = range(-(2**63), 2**63)
_SERIALIZERS = {_PHP: "serialize()", _IGBINARY: "igbinary", _MSGPACK: "msgpack"}


class PhpMemcached(Preset):
    """Values as the PHP extension memcached stores them.

    str, int, float and bool are stored as such. None, lists, tuples and dicts are stored as JSON,
    as PHP does it with ``Memcached::OPT_SERIALIZER`` set to ``Memcached::SERIALIZER_JSON``;
    without it PHP reads them all the same. Arrays that PHP stored in one of its own formats
    (serialize, igbinary, msgpack) are not read. Values that PHP compressed with FastLZ or zlib are
    always readable.

    Args:
        binary: strings are bytes, as in PHP, instead of str in UTF-8.
        compress_from: compress values of this many bytes and more, with zlib (PHP itself: from
            2,001, with FastLZ). None for never.
    """

    client = "php-memcached"

    def __init__(self, *, binary: bool = False, compress_from: int | None = None) -> None:
        super().__init__(PhpZlib(min_size(compress_from)), PhpFastLz(), compress_from=compress_from)
        self.bits: int = self.bits | 0x80  # zstd, since 3.3
        self._strings = Strings(self, binary)
        self._json: Json[Any] = Json(flags=_JSON)

    def __repr__(self) -> str:
        return f"PhpMemcached(binary={self._strings.binary})"

    @property
    def kind(self) -> tuple[str, bool]:
        """Equal for presets that read and write the same values."""
        return "PhpMemcached", self._strings.binary

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept str (or bytes), int, float and bool, and None, lists and dicts as JSON."""
        kind = type(value)
        if kind is bool:
            return b"1" if value else b"", _BOOL
        if kind is int:
            return _integer(self, value), _LONG
        if kind is float:
            return _INFINITE.get(text := repr(value), text).encode(), _DOUBLE
        if value is None or kind in (list, tuple, dict):
            return self._json.dumps(value)
        return self._strings.dumps(value, "int, float, bool, None, lists and dicts"), _STRING

    def loads(self, data: bytes, flags: int) -> Any:
        """Return the value; user flags, which are bits 16 to 31, are ignored."""
        kind = flags & 0xFFFF
        if kind in _SERIALIZERS:
            raise SerializationError(
                f"it was written by php-memcached with {_SERIALIZERS[kind]}, which PhpMemcached "
                "does not read; set Memcached::OPT_SERIALIZER to Memcached::SERIALIZER_JSON in PHP"
            )
        if kind > _MSGPACK or (flags != kind and writer_of(data, flags)):
            raise unreadable(self, data, flags)
        if kind == _STRING:
            return self._strings.loads(data)
        if kind == _LONG:
            return int(data)
        if kind == _DOUBLE:
            return float(data)
        if kind == _BOOL:
            return _boolean(data, b"")
        return self._json.loads(data, _JSON)


class PhpMemcache(Preset):
    """Values as the older PHP extension memcache 8 stores them.

    str, int, float and bool are stored as such; None, arrays and objects are not shared, because
    PHP serializes them. PHP stores a float with 14 digits unless ``precision`` is set to 17.
    Values that were stored with ``MEMCACHE_COMPRESSED`` are always readable.

    Args:
        binary: strings are bytes, as in PHP, instead of str in UTF-8.
        compress_from: compress values of this many bytes and more. None for never.
    """

    client = "PHP's memcache"

    def __init__(self, *, binary: bool = False, compress_from: int | None = None) -> None:
        super().__init__(
            Zlib(flag=2, min_size=min_size(compress_from)), compress_from=compress_from
        )
        self._strings = Strings(self, binary)

    def __repr__(self) -> str:
        return f"PhpMemcache(binary={self._strings.binary})"

    @property
    def kind(self) -> tuple[str, bool]:
        """Equal for presets that read and write the same values."""
        return "PhpMemcache", self._strings.binary

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept str (or bytes), int, float and bool."""
        kind = type(value)
        if kind is bool:
            return b"1" if value else b"0", 0x100
        if kind is int:
            return _integer(self, value), 0x300
        if kind is float:
            if value - value != 0:
                raise unstorable(self, value, "finite floats")
            return repr(value).encode(), 0x700
        return self._strings.dumps(value, "int, float and bool"), 0

    def loads(self, data: bytes, flags: int) -> Any:
        """Return str (or bytes), int, float and bool."""
        if flags == 0:
            return self._strings.loads(data)
        if flags == 0x100:
            return _boolean(data, b"0")
        if flags == 0x300:
            return int(data)
        if flags == 0x700:
            return float(data)
        raise unreadable(self, data, flags)


_INFINITE = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


def _integer(preset: Preset, value: int) -> bytes:
    if value not in _INTEGERS:
        raise unstorable(preset, value, "integers of 64 bits")
    return b"%d" % value


def _boolean(data: bytes, false: bytes) -> bool:
    if data not in (b"1", false):
        raise ValueError("not a boolean")
    return data == b"1"
