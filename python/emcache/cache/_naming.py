"""Keys of calls."""

import inspect
import re
import string
import sys
from collections.abc import Callable
from datetime import datetime, time, timezone
from enum import Enum
from typing import Any

from .._keys import UNSAFE, hashed, is_safe
from ._functions import describe, name_of

KeyOf = Callable[..., str]

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
"""Characters up to which the arguments can be read in a key."""
NAME_LENGTH = 100
"""Bytes up to which the name of a function can be read in a key."""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
_ESCAPES = "%0123456789ABCDEF"
"""What escapes are made of, and so nothing that an escape can hide."""


def key_of(function: Callable[..., Any], key: str | Callable[..., str] | None) -> KeyOf:
    """Give what makes a key of a function's arguments."""
    if callable(key):
        return key
    signature = inspect.signature(function)
    if key is None:
        return _by_arguments(function, signature)
    template = _Template(key)
    for field in template.fields:
        if field.partition(".")[0].partition("[")[0] not in signature.parameters:
            raise TypeError(f"key {key!r}: {describe(function)} has no parameter {field!r}")

    def by_template(*args: Any, **kwargs: Any) -> str:
        return template.vformat(key, (), _bound(signature, args, kwargs))

    return by_template


class _Text(str):
    """What a conversion made of an argument that was no text: ``{day!s}``."""


class _Template(string.Formatter):
    """A template in whose fields its own separators are escaped, so that no two calls are one."""

    def __init__(self, key: str) -> None:
        self._key = key
        parts = list(self.parse(key))
        nested = [self.parse(spec) for _, _, spec, _ in parts if spec]
        fields = [name for _, name, _, _ in parts if name is not None]
        self.fields = {*fields, *(name for spec in nested for _, name, _, _ in spec if name)}
        self._is_one = len(fields) < 2
        signs = {sign for text, *_ in parts for sign in text if not sign.isalnum()}
        signs |= _letters_between(key, parts) | {"%", ":"}
        self._signs = str.maketrans({sign: _percent(sign) for sign in signs})
        self._unsafe = str.maketrans({chr(byte): _percent(chr(byte)) for byte in UNSAFE})

    def convert_field(self, value: Any, conversion: Any) -> Any:
        converted = super().convert_field(value, conversion)
        if conversion is None or isinstance(value, str | bytes):
            return converted
        self._check_address(value, converted)
        return _Text(converted)

    def format_field(self, value: Any, format_spec: str) -> str:
        text: str = super().format_field(value, format_spec)
        # A lone field needs no escapes where nothing else could have made the same text.
        if not (self._is_one and _says_itself(type(value))):
            text = text.translate(self._signs)
        if isinstance(value, str | bytes) and not isinstance(value, _Text):
            return text
        self._check_address(value, text)
        # Of a date, not what users type: that is left to the policy of the cache.
        return text.translate(self._unsafe)

    def _check_address(self, value: object, text: str) -> None:
        """Refuse what prints its address: when it is gone, another object may have that."""
        if not isinstance(value, str | bytes) and _ADDRESS.search(text):
            raise TypeError(
                f"key {self._key!r}: a {type(value).__qualname__} has no text of its own, but that "
                "of its address; name one of its attributes, as {user.id}"
            )


def _letters_between(
    key: str, parts: list[tuple[str, str | None, str | None, str | None]]
) -> set[str]:
    """Give the letters that separate two fields, where no sign does.

    Raises:
        TypeError: nothing does that can be escaped.
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
                    f"key {key!r}: different arguments could give the same key; put a sign such "
                    f"as ':' between {{{before}}} and {{{field}}}"
                )
            letters |= usable
        before, between = field, ""
    return letters


def _percent(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _says_itself(kind: type) -> bool:
    """Whether its text cannot be what a user typed."""
    return kind in _PLAIN - {str, bytes} or _full_name(kind) in _BY_NAME


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _by_arguments(function: Callable[..., Any], signature: inspect.Signature) -> KeyOf:
    name = name_of(function, signature)
    if len(name.encode()) > NAME_LENGTH or not is_safe(name.encode()):
        name = hashed(name.encode()).decode()

    def by_arguments(*args: Any, **kwargs: Any) -> str:
        values = _bound(signature, args, kwargs)
        shown = ",".join(f"{field}={_text(field, value)}" for field, value in values.items())
        if len(shown) > SHOWN_LENGTH or not all("!" <= char <= "~" for char in shown):
            shown = hashed(shown.encode()).decode()
        return f"{name}:{shown}"

    return by_arguments


def _text(field: str, value: Any) -> str:
    kind = type(value)
    if kind in _PLAIN or _full_name(kind) in _BY_NAME:
        if isinstance(value, datetime | time) and not _is_known_zone(value.tzinfo):
            zone = type(value.tzinfo).__qualname__
            raise TypeError(
                f"the argument {field} has a time zone of type {zone}, which need not print the "
                "same for the same zone: use zoneinfo.ZoneInfo, or give key="
            )
        return repr(value)
    if isinstance(value, Enum) and _has_a_name(kind):
        # Combinations of flags may have no name.
        name = repr(value.value) if value.name is None else value.name
        return f"{_full_name(kind)}.{name}"
    if kind is tuple:
        return "(" + ",".join(_text(field, each) for each in value) + ")"
    # What else repr() says may differ in each process, or be the same for different values.
    if kind is dict and not value:
        return "{}"
    if kind is dict and all(type(name) is str for name in value):
        return (
            "{" + ",".join(f"{name!r}:{_text(field, value[name])}" for name in sorted(value)) + "}"
        )
    raise TypeError(f"the argument {field} is a {kind.__qualname__}, which is in no key: give key=")


def _has_a_name(kind: type) -> bool:
    """Whether no other class can have the same module and name."""
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
