"""A serializer for values of one type: models, dataclasses, attrs classes, msgspec structs."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, get_args, get_origin, overload

from ._flags import FLAGS_JSON
from ._serializers import OneFormat

T = TypeVar("T")

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


class Typed(OneFormat, Generic[T]):
    """JSON that is read back as the type that you pass.

    ``Typed(User)`` and ``Typed(list[User])`` accept Pydantic models (with
    ``pip install 'emcache[pydantic]'``), and dataclasses, attrs classes and msgspec structs (with
    ``pip install 'emcache[msgspec]'``), also in lists, dicts, tuples and unions.

    A value is stored only if it can be read back as an equal value of the same class. So a
    subclass, a private or excluded field, or a ``SecretStr`` raises
    :class:`emcache.SerializationError` and is not lost without notice. Values of classes that
    compare by identity are only compared by their class. :class:`Json` reads the values as plain
    dicts and lists.

    Args:
        type: the type of the values.
        flags: the flags of stored values; values with other flags are not read.

    Raises:
        TypeError: values of the type cannot be stored in this way.
        ImportError: msgspec is not installed, and the type is not Pydantic's.
    """

    @overload
    def __init__(self: "Typed[T]", type: type[T], *, flags: int = ...) -> None: ...
    @overload
    def __init__(self: "Typed[Any]", type: Any, *, flags: int = ...) -> None: ...
    def __init__(self, type: Any, *, flags: int = FLAGS_JSON) -> None:  # noqa: A002
        super().__init__(flags)
        self.type = type
        self.takes: str = f"values of {type_name(type)} that JSON can represent"
        models = set(_models(type))
        self._encode, self._decode = _codec(type, models)
        self._has_equality = not any(_is_compared_by_identity(each) for each in models)

    def __repr__(self) -> str:
        return f"Typed({type_name(self.type)}, flags={self.flags:#x})"

    def dumps(self, value: T) -> tuple[bytes, int]:
        """Accept values of the type."""
        try:
            data = self._encode(value)
            back = self._decode(data)
        except Exception as error:
            # The text of the error may show the value.
            kind = type(error).__name__
            text = f"it cannot be read back as {type_name(self.type)} ({kind})"
            raise TypeError(text) from error
        if type(back) is not type(value):
            raise TypeError(f"it would be read back as {type_name(type(back))}")
        if self._has_equality and back != value:
            raise TypeError(
                "it would be read back as a different value, because JSON or the class leaves out "
                "a part of it"
            )
        return data, self.flags

    def loads(self, data: bytes, flags: int) -> T:
        """Return a value of the type."""
        self._check(flags)
        value: T = self._decode(data)
        return value


def type_name(kind: Any) -> str:
    """Return the name of a type for a message."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def has_model(annotation: Any) -> bool:
    """Whether an annotation names a class that plain JSON does not read back."""
    return next(_models(annotation), None) is not None


def _models(annotation: Any) -> Iterator[type]:
    """Yield the models, dataclasses, attrs classes and structs in an annotation."""
    if (value := getattr(annotation, "__value__", None)) is not None:
        # An alias, by the statement `type`.
        yield from _models(value)
    if (value := getattr(annotation, "__supertype__", None)) is not None:
        yield from _models(value)
    for argument in get_args(annotation):
        yield from _models(argument)
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type) and (_is_pydantic(origin) or _is_plain_model(origin)):
        yield origin


def _is_compared_by_identity(kind: Any) -> bool:
    return kind.__eq__ is object.__eq__


def _is_pydantic(kind: type) -> bool:
    return hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__pydantic_fields__")


def _is_plain_model(kind: type) -> bool:
    marks = "__attrs_attrs__", "__struct_fields__"
    return dataclasses.is_dataclass(kind) or any(hasattr(kind, mark) for mark in marks)


def _codec(annotation: Any, models: set[type]) -> Codec:
    if any(map(_is_pydantic, models)):
        return _pydantic_codec(annotation)
    return _msgspec_codec(annotation)


def _pydantic_codec(annotation: Any) -> Codec:
    import pydantic

    try:
        adapter = pydantic.TypeAdapter(annotation)
    except Exception as error:
        raise _not_supported(annotation, "Pydantic", error) from error

    def encode(value: Any) -> bytes:
        # By the names of fields: aliases for reading and for writing may differ.
        return adapter.dump_json(value, by_alias=False, round_trip=True, warnings="error")

    def decode(data: bytes) -> Any:
        return adapter.validate_json(data, by_alias=False, by_name=True)

    return encode, decode


def _msgspec_codec(annotation: Any) -> Codec:
    try:
        import msgspec
    except ImportError as error:
        raise ImportError(
            f"Typed({type_name(annotation)}) needs msgspec: pip install 'emcache[msgspec]'"
        ) from error
    try:
        info = msgspec.inspect.type_info(annotation)
        decoder = msgspec.json.Decoder(annotation)
    except Exception as error:
        raise _not_supported(annotation, "msgspec", error) from error
    for custom in _custom_types(info, msgspec.inspect, set()):
        raise _not_supported(annotation, "msgspec", f"{type_name(custom)} has no fields")
    return msgspec.json.Encoder().encode, decoder.decode


def _custom_types(info: Any, inspect: Any, seen: set[int]) -> Iterator[type]:
    """Yield the classes that msgspec would only store with hooks of the user."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, inspect.CustomType):
        yield info.cls
    elif isinstance(info, inspect.Type | inspect.Field):
        for name in info.__struct_fields__:
            yield from _custom_types(getattr(info, name), inspect, seen)
    elif isinstance(info, tuple):
        for part in info:
            yield from _custom_types(part, inspect, seen)


def _not_supported(annotation: Any, library: str, reason: object) -> TypeError:
    text = str(reason).partition("\n")[0].partition(". ")[0]
    return TypeError(
        f"Typed cannot store {type_name(annotation)}: {library} does not support it ({text}); "
        "use Json(dumps=..., loads=...) or Pickle()"
    )
