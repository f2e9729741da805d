"""Serializers for the formats of other Python clients."""

from typing import Any

from .._errors import SerializationError
from .._memcached import codecs
from ._compression import Zlib
from ._presets import Preset, min_size, unreadable, writer_of

_SWAPPED = {codecs.BYTES: codecs.TEXT, codecs.TEXT: codecs.BYTES}


class _Pickling(Preset):
    """A client that stores the types it has no format for as pickles."""

    _protocol = 5

    def __init__(self, *, pickle: bool = False, compress_from: int | None = None) -> None:
        if not isinstance(pickle, bool):
            raise TypeError(f"pickle must be a bool, not {type(pickle).__name__}")
        self._pickle = pickle
        zlib = Zlib(flag=codecs.ZLIB, min_size=min_size(compress_from))
        super().__init__(zlib, compress_from=compress_from)

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
                f"{self.client} stores a {kind.__name__} as a pickle; pass pickle=True to allow it"
            )
        return codecs.encode_pickle(value, self._protocol)

    def _integer_flag(self, kind: type) -> int | None:
        """Return the flag of an integer type; None for types that are not stored as digits."""
        return codecs.INTEGER if kind is int else None

    def loads(self, data: bytes, flags: int) -> Any:
        """Return bytes, str and int, and with ``pickle`` all other types."""
        if flags == codecs.PICKLE and _is_foreign(data):
            raise unreadable(self, data, flags)
        try:
            return codecs.decode(data, flags, pickles=self._pickle)
        except codecs.UnreadableError:
            if flags == codecs.PICKLE:
                raise SerializationError(
                    "it was written by a Python client as a pickle, which can run code; "
                    "pass pickle=True to read it"
                ) from None
        raise unreadable(self, data, flags)


def _is_foreign(data: bytes) -> bool:
    """Return whether a value with the flag of pickles was serialized by another language."""
    writer = writer_of(data, codecs.PICKLE)
    return writer is not None and not writer.endswith("pickle")


class Pymemcache(_Pickling):
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

    client = "pymemcache"


class Pylibmc(_Pickling):
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

    client = "pylibmc"

    def _integer_flag(self, kind: type) -> int | None:
        if kind is bool:
            return codecs.INTEGER
        return codecs.LONG if issubclass(kind, int) else None


class _Swapped(_Pickling):
    """A client that marks str with the flag that others use for bytes, and the reverse."""

    _protocol = 0

    def dumps(self, value: Any) -> tuple[bytes, int]:
        data, flags = super().dumps(value)
        return data, _SWAPPED.get(flags, flags)

    def loads(self, data: bytes, flags: int) -> Any:
        return super().loads(data, _SWAPPED.get(flags, flags))


class Bmemcached(_Swapped):
    """Values as python-binary-memcached 0.33 stores them.

    bytes, str and int are stored as such, and all other types (also bool, None and float) as a
    pickle. Compressed values are always readable.

    .. warning::

        ``pickle=True`` has the dangers of :class:`Pickle`.

    Args:
        pickle: read and write pickles; with False they raise :class:`emcache.SerializationError`.
        compress_from: compress values of this many bytes and more (bmemcached itself: from 129).
            None for never.
    """

    client = "bmemcached"


class MetaMemcache(_Swapped):
    """Values as meta-memcache 4 stores them.

    bytes, str and int are stored as such, and all other types (also bool, None and float) as a
    pickle. An empty str cannot be stored: meta-memcache would read it as bytes. Values that were
    compressed with zlib are always readable, but not those of ``ZstdSerializer``.

    .. warning::

        ``pickle=True`` has the dangers of :class:`Pickle`. meta-memcache itself unpickles every
        value with flags that it does not know, so share a server with it only by this preset.

    Args:
        pickle: read and write pickles; with False they raise :class:`emcache.SerializationError`.
        compress_from: compress values of this many bytes and more (meta-memcache itself: from
            129). None for never.
    """

    client = "meta-memcache"

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept bytes, str and int, and with ``pickle`` all other types."""
        if type(value) is str and not value:
            raise SerializationError("meta-memcache would read an empty str as bytes")
        return super().dumps(value)
