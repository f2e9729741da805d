"""Serializers for the formats of clients whose strings are bytes: Ruby's and Perl's."""

from typing import Any

from .._checks import check_bools
from .._errors import SerializationError
from ._compression import Zlib
from ._presets import Preset, min_size, unreadable, unstorable, writer_of
from ._presets_compression import Gzip
from ._serializers import Json


class Strings:
    """Strings of another language, which are either text or bytes here."""

    def __init__(self, preset: Preset, binary: bool) -> None:
        check_bools(binary=binary)
        self._preset = preset
        self.binary = bool(binary)

    def dumps(self, value: Any, others: str = "") -> bytes:
        """Accept only the type that :meth:`loads` returns."""
        if self.binary and isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not self.binary and type(value) is str:
            return value.encode()
        accepted = "bytes" if self.binary else "str"
        raise unstorable(self._preset, value, f"{accepted}, {others}" if others else accepted)

    def loads(self, data: bytes) -> str | bytes:
        """Return str, or bytes if the preset is binary."""
        if self.binary:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            name = type(self._preset).__name__
            raise SerializationError(
                f"it is not UTF-8; use {name}(binary=True) for bytes"
            ) from None


class Dalli(Preset):
    """Values as Ruby's dalli stores them.

    Without ``json``, only strings that dalli stores with ``raw: true`` are shared: dalli writes
    all others with Marshal, which is not read. Compressed values are always readable.

    Args:
        json: values as JSON, for a ``Dalli::Client`` with ``serializer: JSON``. Raw strings are
            read as str.
        binary: raw strings are bytes instead of str in UTF-8; not with ``json``.
        compress_from: compress values of this many bytes and more (dalli itself: from 4,096). None
            for never.
    """

    client = "dalli"

    def __init__(
        self, *, json: bool = False, binary: bool = False, compress_from: int | None = None
    ) -> None:
        check_bools(json=json)
        if json and binary:
            raise ValueError("pass either json or binary: JSON has no bytes")
        super().__init__(
            Zlib(flag=2, min_size=min_size(compress_from)), compress_from=compress_from
        )
        self._strings = Strings(self, binary)
        self._json: Json[Any] | None = Json(flags=1) if json else None

    def __repr__(self) -> str:
        return f"Dalli(json={self._json is not None}, binary={self._strings.binary})"

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """Equal for presets that read and write the same values."""
        return "Dalli", self._json is not None, self._strings.binary

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept what JSON can represent with ``json``, else str (or bytes)."""
        if self._json is None:
            return self._strings.dumps(value), 0
        return self._json.dumps(value)

    def loads(self, data: bytes, flags: int) -> Any:
        """Return decoded JSON with ``json``, and raw strings."""
        if flags == 0:
            return self._strings.loads(data)
        if flags != 1 or (writer := writer_of(data, flags)):
            ruby = flags == 1 and writer == "dalli with Marshal"
            remedy = "store strings with raw: true, or use serializer: JSON in Ruby"
            raise unreadable(self, data, flags, remedy if ruby else "")
        if self._json is None:
            raise SerializationError(
                "it was written by dalli with another serializer than Marshal; "
                "use Dalli(json=True) if that is JSON"
            )
        return self._json.loads(data, 1)


class PerlMemcached(Preset):
    """Values as Perl's Cache::Memcached and Cache::Memcached::Fast store them.

    Perl stores numbers as text, so only strings are shared; references are stored with Storable,
    which is not read. Compressed values are always readable.

    Args:
        utf8: text that is not ASCII gets the flag of Cache::Memcached::Fast with ``utf8 => 1``,
            which then returns it as characters.
        binary: strings are bytes instead of str in UTF-8; not with ``utf8``.
        compress_from: compress values of this many bytes and more, as ``compress_threshold``. None
            for never.
    """

    client = "Cache::Memcached"

    def __init__(
        self, *, utf8: bool = False, binary: bool = False, compress_from: int | None = None
    ) -> None:
        check_bools(utf8=utf8)
        if utf8 and binary:
            raise ValueError("pass either utf8 or binary")
        super().__init__(
            Gzip(flag=2, min_size=min_size(compress_from)), compress_from=compress_from
        )
        self._strings = Strings(self, binary)
        self._utf8 = bool(utf8)

    def __repr__(self) -> str:
        return f"PerlMemcached(utf8={self._utf8}, binary={self._strings.binary})"

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """Equal for presets that read and write the same values."""
        return "PerlMemcached", self._utf8, self._strings.binary

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept str (or bytes)."""
        data = self._strings.dumps(value)
        return data, 4 if self._utf8 and not data.isascii() else 0

    def loads(self, data: bytes, flags: int) -> Any:
        """Return str (or bytes)."""
        if flags not in (0, 4):
            raise unreadable(self, data, flags)
        return self._strings.loads(data)
