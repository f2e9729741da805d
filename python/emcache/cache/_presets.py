"""Values as other Python clients store them.

Their flags, as seen on the wire: 1 pickle, 2 integer, 4 "long" integer, 8 zlib, 16 text, none of
them: bytes.
"""

from typing import Any

from .._arguments import check_between
from .._errors import SerializationError
from ._compression import LARGEST, Compression, Zlib

PICKLE = 1
INTEGER = 2
LONG = 4
ZLIB = 8
TEXT = 16


class Preset:
    """A serializer that brings its own compression."""

    _client: str

    def __init__(self, *, pickle: bool = False, compress_from: int | None = None) -> None:
        if not isinstance(pickle, bool):
            raise TypeError(f"pickle must be a bool, not {type(pickle).__name__}")
        if compress_from is not None:
            check_between("compress_from", compress_from, 1, LARGEST)
        self._pickle = pickle
        self.reads: Compression = Zlib(flag=ZLIB, min_size=compress_from or 0)
        self.writes: Compression | None = None if compress_from is None else self.reads

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pickle={self._pickle})"

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Take bytes, str and int; with ``pickle``, all else as well."""
        kind = type(value)
        if kind is bytes:
            return value, 0
        if kind is str:
            return value.encode(), TEXT
        if (flag := self._integer(kind)) is not None:
            return b"%d" % value, flag
        if not self._pickle:
            raise SerializationError(
                f"{self._client} stores a {kind.__name__} as a pickle: pickle=True allows that"
            )
        import pickle

        return pickle.dumps(value, 5), PICKLE

    def _integer(self, kind: type) -> int | None:
        raise NotImplementedError

    def loads(self, data: bytes, flags: int) -> Any:
        """Give bytes, str and int; with ``pickle``, all else as well."""
        match flags:
            case 0:
                return data
            case 16:
                return data.decode()
            case 2 | 4:
                return int(data)
            case 1 if self._pickle:
                import pickle

                return pickle.loads(data)
            case 1:
                raise SerializationError(
                    "the value is a pickle, which runs what it says: pickle=True reads it"
                )
        raise SerializationError(f"flags {flags:#x} are none of {self._client}'s")


class Pymemcache(Preset):
    """Values as pymemcache's ``PickleSerde`` and ``CompressedSerde`` store them.

    bytes, str and int are stored as such, all else - bool, None and float too - as a pickle.
    Compressed ones are read in any case. For values without any serde use :class:`Raw`.

    .. warning::

        ``pickle=True`` has the dangers of :class:`Pickle`.

    Args:
        pickle: read and write pickles; False: :class:`emcache.SerializationError` instead.
        compress_from: compress values of this many bytes and more; pymemcache itself does from
            401. Only clients with ``CompressedSerde`` can read them. None: never.
    """

    _client = "pymemcache"

    def _integer(self, kind: type) -> int | None:
        return INTEGER if kind is int else None


class Pylibmc(Preset):
    """Values as pylibmc 1.6 stores them.

    bytes, str, int and bool are stored as such - and a bool comes back as an int, as with pylibmc -
    all else, None and float too, as a pickle. Compressed ones are read in any case.

    .. warning::

        ``pickle=True`` has the dangers of :class:`Pickle`.

    Args:
        pickle: read and write pickles; False: :class:`emcache.SerializationError` instead.
        compress_from: compress values of this many bytes and more, as with pylibmc's
            ``min_compress_len``. None: never.
    """

    _client = "pylibmc"

    def _integer(self, kind: type) -> int | None:
        if kind is bool:
            return INTEGER
        return LONG if issubclass(kind, int) else None
