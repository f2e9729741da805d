"""What values become as bytes, and the flags that say so."""

import functools
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, overload

from .._arguments import check_between
from .._errors import SerializationError
from ._marks import FLAGS_JSON, FLAGS_MSGPACK, FLAGS_PICKLE, FLAGS_RAW, FLAGS_UTF8

T = TypeVar("T")


class Serializer(Protocol[T]):
    """Turns values into bytes and back; any object with these two methods will do.

    Both are called in the event loop's thread. Whatever they raise reaches the caller as the cause
    of a :class:`emcache.SerializationError`.
    """

    def dumps(self, value: T) -> tuple[bytes, int]:
        """Return a value's bytes and its flags: 32 bits, of which 28 to 30 mark compression."""
        ...

    def loads(self, data: bytes, flags: int) -> T:
        """Give the value back; raise ``ValueError`` for flags that :meth:`dumps` never gives."""
        ...


class OneFormat:
    """A serializer whose values all carry the same flags."""

    takes: str = "other values"
    """What it can store, for messages."""
    names_types_only: bool = True
    """Whether the first part of what it raises never shows a value."""

    def __init__(self, flags: int) -> None:
        check_between("flags", flags, 0, 2**32 - 1)
        self.flags = flags

    def __repr__(self) -> str:
        return f"{type(self).__name__}(flags={self.flags:#x})"

    def _check(self, flags: int) -> None:
        if flags != self.flags:
            raise SerializationError(
                f"flags {flags:#x} are not those of {type(self).__name__} ({self.flags:#x}): "
                "another program, or another serializer, wrote the value"
            )


class Raw(OneFormat):
    """Bytes as they are.

    Args:
        flags: what its values carry, and must carry to be read.
    """

    takes: str = "bytes"

    def __init__(self, *, flags: int = FLAGS_RAW) -> None:
        super().__init__(flags)

    def dumps(self, value: bytes) -> tuple[bytes, int]:
        """Take bytes-like values."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{type(value).__name__} is not bytes")
        return bytes(value), self.flags

    def loads(self, data: bytes, flags: int) -> bytes:
        """Give bytes."""
        self._check(flags)
        return data


class Utf8(OneFormat):
    """Text as UTF-8.

    Args:
        flags: what its values carry, and must carry to be read; 0 for text of other programs.
    """

    takes: str = "str"

    def __init__(self, *, flags: int = FLAGS_UTF8) -> None:
        super().__init__(flags)

    def dumps(self, value: str) -> tuple[bytes, int]:
        """Take a str."""
        if not isinstance(value, str):
            raise TypeError(f"{type(value).__name__} is not str")
        return value.encode(), self.flags

    def loads(self, data: bytes, flags: int) -> str:
        """Give a str."""
        self._check(flags)
        return data.decode()


class Json(OneFormat, Generic[T]):
    """JSON in UTF-8.

    By default the standard library's, without spaces: tuples come back as lists, keys of objects
    as strings; NaN and infinity are refused, as JSON has none.

    Args:
        dumps: makes JSON of a value, as str or bytes; with ``loads``, for another library or for
            values of one class: ``Json(dumps=orjson.dumps, loads=orjson.loads)``,
            ``Json(dumps=adapter.dump_json, loads=adapter.validate_json)`` of Pydantic.
        loads: makes a value of JSON, given as bytes.
        flags: what its values carry, and must carry to be read; 0 for JSON of other programs.
    """

    takes: str = "dict, list, str, int, float, bool and None"

    @overload
    def __init__(self: "Json[Any]", *, flags: int = ...) -> None: ...
    @overload
    def __init__(
        self, *, dumps: Callable[[T], str | bytes], loads: Callable[[bytes], T], flags: int = ...
    ) -> None: ...
    def __init__(
        self,
        *,
        dumps: Callable[[Any], str | bytes] | None = None,
        loads: Callable[[bytes], Any] | None = None,
        flags: int = FLAGS_JSON,
    ) -> None:
        if (dumps is None) != (loads is None):
            raise TypeError("dumps and loads must be given together")
        for name, function in (("dumps", dumps), ("loads", loads)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {type(function).__name__}")
        super().__init__(flags)
        self._dumps = dumps or _standard_encoder()
        self._loads = loads or _standard_decoder()
        if dumps is not None:
            self.takes = "what its dumps takes"
            self.names_types_only = False

    def dumps(self, value: T) -> tuple[bytes, int]:
        """Take what JSON can express."""
        text = self._dumps(value)
        if isinstance(text, str):
            return text.encode(), self.flags
        # What bytes() makes of an int is no error, and no JSON either.
        if not isinstance(text, bytes | bytearray | memoryview):
            raise SerializationError(f"dumps must give str or bytes, not {type(text).__name__}")
        return bytes(text), self.flags

    def loads(self, data: bytes, flags: int) -> T:
        """Give what the JSON says."""
        self._check(flags)
        value: T = self._loads(data)
        return value


@functools.cache
def _standard_encoder() -> Callable[[Any], str]:
    import json

    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return encoder.encode


@functools.cache
def _standard_decoder() -> Callable[[bytes], Any]:
    import json

    decode = json.JSONDecoder().decode
    return lambda data: decode(data.decode())


class MsgPack(OneFormat):
    """MessagePack; needs ``pip install 'emcache[msgpack]'``.

    Tuples come back as lists. Aware datetimes are kept as timestamps, in UTC; naive ones are
    refused.

    Args:
        flags: what its values carry, and must carry to be read.

    Raises:
        ImportError: msgpack is not installed.
    """

    takes: str = "dict, list, str, bytes, int, float, bool, None and aware datetimes"

    def __init__(self, *, flags: int = FLAGS_MSGPACK) -> None:
        super().__init__(flags)
        try:
            import msgpack  # type: ignore[import-untyped,unused-ignore]
        except ImportError as error:
            raise ImportError("MsgPack needs msgpack: pip install 'emcache[msgpack]'") from error
        self._library: Any = msgpack

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Take what MessagePack can express."""
        data: bytes = self._library.packb(value, datetime=True)
        return data, self.flags

    def loads(self, data: bytes, flags: int) -> Any:
        """Give what the MessagePack says."""
        self._check(flags)
        return self._library.unpackb(data, timestamp=3, strict_map_key=False)


class Pickle(OneFormat):
    """Pickle: nearly any Python object, and only for a cache that nobody else can write to.

    .. warning::

        Reading a pickle **runs what it says**. Whoever can write to the cache - any program or
        person that reaches its port, unless there are a login and a network that keep them away -
        runs code of their choice in your process. Prefer :class:`Json` or :class:`MsgPack`.

    Classes are stored by name: a value written before a class was moved or changed cannot be read,
    or is read as something else.

    Args:
        protocol: pickle's own; 5 is read by Python 3.8 and later.
        flags: what its values carry, and must carry to be read.
    """

    takes: str = "objects whose class can be imported"

    def __init__(self, *, protocol: int = 5, flags: int = FLAGS_PICKLE) -> None:
        super().__init__(flags)
        import pickle

        check_between("protocol", protocol, -1, pickle.HIGHEST_PROTOCOL)
        self._protocol = protocol

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Take what pickle can express."""
        import pickle

        return pickle.dumps(value, self._protocol), self.flags

    def loads(self, data: bytes, flags: int) -> Any:
        """Give the object; runs what the pickle says."""
        self._check(flags)
        import pickle

        return pickle.loads(data)
