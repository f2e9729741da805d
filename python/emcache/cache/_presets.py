"""Serializers for the formats of other Python clients."""

from typing import Any

from .._checks import check_range
from .._errors import SerializationError
from .._memcached import codecs
from ._compression import LARGEST, Compression, Zlib


class Preset:
    """A serializer that has its own compression."""

    _client: str

    def __init__(self, *, pickle: bool = False, compress_from: int | None = None) -> None:
        if not isinstance(pickle, bool):
            raise TypeError(f"pickle must be a bool, not {type(pickle).__name__}")
        if compress_from is not None:
            check_range("compress_from", compress_from, 1, LARGEST)
        self._pickle = pickle
        self.reads: Compression = Zlib(flag=codecs.ZLIB, min_size=compress_from or 0)
        self.writes: Compression | None = None if compress_from is None else self.reads

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pickle={self._pickle})"

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept bytes, str and int, and with ``pickle`` all other types."""
        kind = type(value)
        if (flag := self._integer_flag(kind)) is not None:
            return b"%d" % value, flag
        if (encoded := codecs.encode(value)) is not None:
            return encoded
        if not self._pickle:
            raise SerializationError(
                f"{self._client} stores a {kind.__name__} as a pickle; pass pickle=True to allow it"
            )
        return codecs.encode_pickle(value, 5)

    def _integer_flag(self, kind: type) -> int | None:
        """Return the flag of an integer type; None for types that are not stored as digits."""
        raise NotImplementedError

    def loads(self, data: bytes, flags: int) -> Any:
        """Return bytes, str and int, and with ``pickle`` all other types."""
        try:
            return codecs.decode(data, flags, pickles=self._pickle)
        except codecs.UnreadableError:
            if flags == codecs.PICKLE:
                raise SerializationError(
                    "the value is a pickle, which can run code; pass pickle=True to read it"
                ) from None
            raise SerializationError(f"{self._client} does not use flags {flags:#x}") from None


class Pymemcache(Preset):
    """Values as pymemcache's ``PickleSerde`` and ``CompressedSerde`` store them.

    bytes, str and int are stored as such, and all other types (also bool, None and float) as a
    pickle. Compressed values are always readable. For values without a serde use :class:`Raw`.

    .. warning::

        ``pickle=True`` has the dangers of :class:`Pickle`.

    Args:
        pickle: read and write pickles; with False they raise :class:`emcache.SerializationError`.
        compress_from: compress values of this many bytes and more (pymemcache itself: from 401).
            Only clients with ``CompressedSerde`` can read them. None for never.
    """

    _client = "pymemcache"

    def _integer_flag(self, kind: type) -> int | None:
        return codecs.INTEGER if kind is int else None


class Pylibmc(Preset):
    """Values as pylibmc 1.6 stores them.

    bytes, str, int and bool are stored as such, and all other types (also None and float) as a
    pickle. As with pylibmc, a bool is read back as an int. Compressed values are always readable.

    .. warning::

        ``pickle=True`` has the dangers of :class:`Pickle`.

    Args:
        pickle: read and write pickles; with False they raise :class:`emcache.SerializationError`.
        compress_from: compress values of this many bytes and more, as pylibmc's
            ``min_compress_len``. None for never.
    """

    _client = "pylibmc"

    def _integer_flag(self, kind: type) -> int | None:
        if kind is bool:
            return codecs.INTEGER
        return codecs.LONG if issubclass(kind, int) else None
