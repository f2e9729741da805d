"""Serializers: conversion of values to bytes and flags."""

import functools
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeGuard, TypeVar, overload

from .._checks import check_range
from .._errors import SerializationError
from ._flags import FLAGS_JSON, FLAGS_MSGPACK, FLAGS_PICKLE, FLAGS_RAW, FLAGS_UTF8

T = TypeVar("T")


class Serializer(Protocol[T]):
    """The protocol of serializers; any object with these two methods works.

    Both are called in the event loop's thread. Their exceptions reach the caller as the cause of a
    :class:`emcache.SerializationError`.
    """

    def dumps(self, value: T) -> tuple[bytes, int]:
        """Return a value's bytes and its flags: 32 bits, of which 28 to 30 mark compression."""
        ...

    def loads(self, data: bytes, flags: int) -> T:
        """Return the value; raise ``ValueError`` for flags that :meth:`dumps` never returns."""
        ...


class OneFormat:
    """A serializer whose values all carry the same flags."""

    takes: str = "other values"
    """The types that it can store, for messages."""
    names_types_only: bool = True
    """Whether the text of its exceptions, up to the first colon, never shows a value."""

    def __init__(self, flags: int) -> None:
        check_range("flags", flags, 0, 2**32 - 1)
        self.flags = flags

    def __repr__(self) -> str:
        return f"{type(self).__name__}(flags={self.flags:#x})"

    def _check(self, flags: int) -> None:
        if flags != self.flags:
            raise SerializationError(
                f"flags {flags:#x} are not those of {type(self).__name__} ({self.flags:#x}); "
                "another program or serializer wrote the value"
            )


class Raw(OneFormat):
    """Bytes, stored unchanged.

    Args:
        flags: the flags of stored values; values with other flags are not read.
    """

    takes: str = "bytes"

    def __init__(self, *, flags: int = FLAGS_RAW) -> None:
        super().__init__(flags)

    def dumps(self, value: bytes) -> tuple[bytes, int]:
        """Accept bytes-like values."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{type(value).__name__} is not bytes")
        return bytes(value), self.flags

    def loads(self, data: bytes, flags: int) -> bytes:
        """Return bytes."""
        self._check(flags)
        return data


class Utf8(OneFormat):
    """Text as UTF-8.

    Args:
        flags: the flags of stored values; values with other flags are not read. 0 for text of other
            programs.
    """

    takes: str = "str"

    def __init__(self, *, flags: int = FLAGS_UTF8) -> None:
        super().__init__(flags)

    def dumps(self, value: str) -> tuple[bytes, int]:
        """Accept a str."""
        if not isinstance(value, str):
            raise TypeError(f"{type(value).__name__} is not str")
        return value.encode(), self.flags

    def loads(self, data: bytes, flags: int) -> str:
        """Return a str."""
        self._check(flags)
        return data.decode()


class Json(OneFormat, Generic[T]):
    """JSON in UTF-8.

    By default it uses the standard library, without spaces. Tuples are read back as lists and keys
    of objects as strings; NaN and infinity are refused, because JSON has no such numbers.

    Args:
        dumps: converts a value to JSON, as str or bytes; together with ``loads``. Use them for
            another library, or for values of one class:
            ``Json(dumps=orjson.dumps, loads=orjson.loads)``,
            ``Json(dumps=adapter.dump_json, loads=adapter.validate_json)`` of Pydantic.
        loads: converts JSON, as bytes, to a value.
        flags: the flags of stored values; values with other flags are not read. 0 for JSON of other
            programs.
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
            self.takes = "the values that its dumps function accepts"
            self.names_types_only = False

    def dumps(self, value: T) -> tuple[bytes, int]:
        """Accept values that JSON can represent."""
        text = self._dumps(value)
        if isinstance(text, str):
            return text.encode(), self.flags
        # bytes() would accept an int, and return that number of null bytes.
        if not isinstance(text, bytes | bytearray | memoryview):
            raise SerializationError(f"dumps must return str or bytes, not {type(text).__name__}")
        return bytes(text), self.flags

    def loads(self, data: bytes, flags: int) -> T:
        """Return the decoded JSON."""
        self._check(flags)
        value: T = self._loads(data)
        return value


def is_standard_json(serializer: object) -> TypeGuard[Json[Any]]:
    """Whether a serializer is :class:`Json` with the standard library, of any flags."""
    return type(serializer) is Json and serializer._dumps is _standard_encoder()


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

    Tuples are read back as lists. Aware datetimes are stored as timestamps in UTC; naive datetimes
    are refused.

    Args:
        flags: the flags of stored values; values with other flags are not read.

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
        """Accept values that MessagePack can represent."""
        data: bytes = self._library.packb(value, datetime=True)
        return data, self.flags

    def loads(self, data: bytes, flags: int) -> Any:
        """Return the decoded MessagePack."""
        self._check(flags)
        return self._library.unpackb(data, timestamp=3, strict_map_key=False)


class Pickle(OneFormat):
    """Pickle: nearly any Python object; only for a cache that no one else can write to.

    .. warning::

        Reading a pickle **can run any code**. Anyone who can write to the cache can run code of
        their choice in your process: any program or person that reaches its port, unless a login
        or the network stops them. Prefer :class:`Json` or :class:`MsgPack`.

    Classes are stored by name. After a class was moved or changed, older values cannot be read, or
    are read as something else.

    Args:
        protocol: the version of the format; Python 3.8 and later read 5.
        flags: the flags of stored values; values with other flags are not read.
    """

    takes: str = "objects whose class can be imported"

    def __init__(self, *, protocol: int = 5, flags: int = FLAGS_PICKLE) -> None:
        super().__init__(flags)
        import pickle

        check_range("protocol", protocol, -1, pickle.HIGHEST_PROTOCOL)
        self._protocol = protocol

    def dumps(self, value: Any) -> tuple[bytes, int]:
        """Accept values that pickle supports."""
        import pickle

        return pickle.dumps(value, self._protocol), self.flags

    def loads(self, data: bytes, flags: int) -> Any:
        """Return the object; this can run any code that the pickle contains."""
        self._check(flags)
        import pickle

        return pickle.loads(data)
