"""Cache keys of function calls, from a template or from the arguments."""

import inspect
import re
import string
import sys
from collections.abc import Callable
from datetime import datetime, time, timezone
from enum import Enum
from typing import Any

from .._memcached.keys import FORBIDDEN, hash_key, is_valid
from ._function_names import describe, name_of
from ._quick_keys import by_arguments, by_template

KeyOf = Callable[[tuple[Any, ...], dict[str, Any]], str]
"""Makes the key of a call from its positional and keyword arguments."""

_PLAIN = {type(None), bool, int, float, str, bytes}
_BY_NAME = {
    "uuid.UUID",
    "decimal.Decimal",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
}
SHOWN_LENGTH = 64
"""The most characters of arguments that appear in a key; longer arguments are hashed."""
NAME_LENGTH = 100
"""The most bytes of a function's name that appear in a key; longer names are hashed."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
_ESCAPES = "%0123456789ABCDEF"
"""The characters of percent escapes, which escaping cannot hide."""


def key_of(function: Callable[..., Any], key: str | Callable[..., str] | None) -> KeyOf:
    """Return a function that makes the key from the arguments of a call."""
    if callable(key):
        return _by_function(key)
    signature = inspect.signature(function)
    if key is None:
        return _by_arguments(function, signature)
    template = _Template(key)
    for field in template.fields:
        if _parameter(field) not in signature.parameters:
            raise TypeError(f"key {key!r}: {describe(function)} has no parameter {field!r}")
    if signature.parameters and not template.fields:
        parameters = ", ".join(signature.parameters)
        raise TypeError(
            f"key {key!r} gives all calls of {describe(function)} the same value, because it names "
            f"no parameter; add fields for {parameters}, or pass a function such as "
            f"lambda *args, **kwargs: {key!r} if they do not change the result"
        )
    return _by_template(key, template, signature)


def key_of_one(key: str | Callable[[Any], str]) -> KeyOf:
    """Return a function that makes the key of one element, from a template with one parameter."""
    if callable(key):
        return _by_function(key)
    template = _Template(key)
    names = {_parameter(field) for field in template.fields}
    if len(names) != 1:
        raise TypeError(f"key {key!r} must have one field, which stands for an element")
    [name] = names
    if not name.isidentifier():
        raise TypeError(f"key {key!r}: the field must have a name, such as {{id}}")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return _by_template(key, template, inspect.Signature([inspect.Parameter(name, kind)]))


def _parameter(field: str) -> str:
    return field.partition(".")[0].partition("[")[0]


def _by_template(key: str, template: "_Template", signature: inspect.Signature) -> KeyOf:
    quick = by_template(template.plain_parts, signature, template.signs)

    def from_template(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if quick is not None and not kwargs and (made := quick(args)) is not None:
            return made
        return template.vformat(key, (), bound_arguments(signature, args, kwargs))

    return from_template


def _by_function(key: Callable[..., str]) -> KeyOf:
    def from_function(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        return key(*args, **kwargs)

    return from_function


class _Text(str):
    """The text of an argument after a conversion, such as ``{day!s}``."""


class _Template(string.Formatter):
    """A template that escapes its separators in fields, so that keys of calls are distinct."""

    def __init__(self, key: str) -> None:
        self._key = key
        parts = list(self.parse(key))
        nested = [self.parse(spec) for _, _, spec, _ in parts if spec]
        fields = [name for _, name, _, _ in parts if name is not None]
        self.fields = {*fields, *(name for spec in nested for _, name, _, _ in spec if name)}
        self._is_one = len(fields) < 2
        signs = {sign for text, *_ in parts for sign in text if not sign.isalnum()}
        signs |= _letters_between(key, parts) | {"%", ":"}
        self.signs = str.maketrans({sign: _percent(sign) for sign in signs})
        is_plain = all(
            name is None or (name.isidentifier() and not spec and conversion is None)
            for _, name, spec, conversion in parts
        )
        self.plain_parts = [(text, name) for text, name, *_ in parts] if is_plain else []
        """The texts and fields, if all fields are names of parameters."""
        self._unsafe = str.maketrans({chr(byte): _percent(chr(byte)) for byte in FORBIDDEN})

    def convert_field(self, value: Any, conversion: Any) -> Any:
        converted = super().convert_field(value, conversion)
        if conversion is None or isinstance(value, str | bytes):
            return converted
        self._check_address(value, converted)
        return _Text(converted)

    def format_field(self, value: Any, format_spec: str) -> str:
        text: str = super().format_field(value, format_spec)
        # A single field needs no escapes if no other value has the same text.
        if not (self._is_one and _has_distinct_text(type(value))):
            text = text.translate(self.signs)
        if isinstance(value, str | bytes) and not isinstance(value, _Text):
            return text
        self._check_address(value, text)
        # Text of users is left to the key policy of the cache; the text of a date is not.
        return text.translate(self._unsafe)

    def _check_address(self, value: object, text: str) -> None:
        """Refuse objects whose text is their address, which a later object may have as well."""
        if not isinstance(value, str | bytes) and ADDRESS.search(text):
            raise TypeError(
                f"key {self._key!r}: the text of a {type(value).__qualname__} is its memory "
                "address; use one of its attributes, such as {user.id}"
            )


def _letters_between(
    key: str, parts: list[tuple[str, str | None, str | None, str | None]]
) -> set[str]:
    """Return letters that separate two fields, where no punctuation does.

    Raises:
        TypeError: two fields have no separator that can be escaped.
    """
    letters: set[str] = set()
    before, between = None, ""
    for text, field, *_ in parts:
        between += text
        if field is None:
            continue
        if before is not None and all(sign.isalnum() or sign == "%" for sign in between):
            usable = set(between) - set(_ESCAPES)
            if not usable:
                raise TypeError(
                    f"key {key!r}: different arguments could give the same key; put a separator "
                    f"such as ':' between {{{before}}} and {{{field}}}"
                )
            letters |= usable
        before, between = field, ""
    return letters


def _percent(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _has_distinct_text(kind: type) -> bool:
    """Return whether the text of a type never equals text of a user."""
    return kind in _PLAIN - {str, bytes} or _full_name(kind) in _BY_NAME


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def bound_arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name, with defaults."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _by_arguments(function: Callable[..., Any], signature: inspect.Signature) -> KeyOf:
    name = name_of(function, signature)
    if len(name.encode()) > NAME_LENGTH or not is_valid(name.encode()):
        name = hash_key(name.encode()).decode()

    quick = by_arguments(name, signature, SHOWN_LENGTH)

    def from_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if quick is not None and not kwargs and (made := quick(args)) is not None:
            return made
        values = bound_arguments(signature, args, kwargs)
        shown = ",".join(f"{field}={_text(field, value)}" for field, value in values.items())
        if len(shown) > SHOWN_LENGTH or not all("!" <= char <= "~" for char in shown):
            shown = hash_key(shown.encode()).decode()
        return f"{name}:{shown}"

    return from_arguments


def _text(field: str, value: Any) -> str:
    kind = type(value)
    if kind in _PLAIN or _full_name(kind) in _BY_NAME:
        if isinstance(value, datetime | time) and not _is_known_zone(value.tzinfo):
            zone = type(value.tzinfo).__qualname__
            raise TypeError(
                f"the argument {field} has a time zone of type {zone}, whose text may differ for "
                "equal zones; use zoneinfo.ZoneInfo, or pass key="
            )
        return repr(value)
    if isinstance(value, Enum) and _is_importable(kind):
        # Combinations of Flag members may have no name.
        name = repr(value.value) if value.name is None else value.name
        return f"{_full_name(kind)}.{name}"
    if kind is tuple:
        return "(" + ",".join(_text(field, each) for each in value) + ")"
    # The repr() of other types may differ between processes, or be equal for different values.
    if kind is dict and not value:
        return "{}"
    if kind is dict and all(type(name) is str for name in value):
        return (
            "{" + ",".join(f"{name!r}:{_text(field, value[name])}" for name in sorted(value)) + "}"
        )
    raise TypeError(
        f"the argument {field} is a {kind.__qualname__}, which cannot be part of a key; pass key="
    )


def _is_importable(kind: type) -> bool:
    """Return whether module and name identify a class."""
    if "<locals>" in kind.__qualname__:
        return False
    if (module := sys.modules.get(kind.__module__)) is None:
        return True
    found: Any = module
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _is_known_zone(zone: object) -> bool:
    if zone is None or type(zone) is timezone:
        return True
    is_zoneinfo = _full_name(type(zone)) == "zoneinfo.ZoneInfo"
    return is_zoneinfo and getattr(zone, "key", None) is not None
