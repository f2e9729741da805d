"""Keys of calls."""

import inspect
import string
from collections.abc import Callable
from enum import Enum
from typing import Any

from ._keys import hashed

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
            raise TypeError(f"key {key!r}: {function.__qualname__} has no parameter {field!r}")

    def by_template(*args: Any, **kwargs: Any) -> str:
        return template.vformat(key, (), _bound(signature, args, kwargs))

    return by_template


class _Template(string.Formatter):
    """A template in whose fields its own separators are escaped, so that no two calls are one."""

    def __init__(self, key: str) -> None:
        parts = list(self.parse(key))
        self.fields = {name for _, name, _, _ in parts if name is not None}
        signs = {sign for text, *_ in parts for sign in text if not sign.isalnum()}
        self._escapes = str.maketrans({sign: _percent(sign) for sign in signs | {"%", ":"}})

    def format_field(self, value: Any, format_spec: str) -> str:
        text: str = super().format_field(value, format_spec)
        return text if _says_itself(type(value)) else text.translate(self._escapes)


def _percent(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode())


def _says_itself(kind: type) -> bool:
    """Whether there is nobody's text in it."""
    return kind in _PLAIN - {str, bytes} or f"{kind.__module__}.{kind.__qualname__}" in _BY_NAME


def _bound(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _by_arguments(function: Callable[..., Any], signature: inspect.Signature) -> KeyOf:
    name = f"{function.__module__}.{function.__qualname__}"
    if next(iter(signature.parameters), None) in ("self", "cls"):
        raise TypeError(
            f"{name} is a method, and its instance is in no key by itself: give key=, as "
            'key="user:{self.id}"'
        )

    def by_arguments(*args: Any, **kwargs: Any) -> str:
        values = _bound(signature, args, kwargs)
        shown = ",".join(f"{field}={_text(field, value)}" for field, value in values.items())
        if len(shown) > SHOWN_LENGTH or not all("!" <= char <= "~" for char in shown):
            shown = hashed(shown.encode()).decode()
        return f"{name}:{shown}"

    return by_arguments


def _text(field: str, value: Any) -> str:
    kind = type(value)
    if kind in _PLAIN or f"{kind.__module__}.{kind.__qualname__}" in _BY_NAME:
        return repr(value)
    if isinstance(value, Enum):
        # Combinations of flags may have no name.
        name = repr(value.value) if value.name is None else value.name
        return f"{kind.__module__}.{kind.__qualname__}.{name}"
    if kind is tuple:
        return "(" + ",".join(_text(field, each) for each in value) + ")"
    # What else repr() says may differ in each process, or be the same for different values.
    if kind is dict and not value:
        return "{}"
    if kind is dict and all(isinstance(name, str) for name in value):
        return (
            "{" + ",".join(f"{name!r}:{_text(field, value[name])}" for name in sorted(value)) + "}"
        )
    raise TypeError(f"the argument {field} is a {kind.__qualname__}, which is in no key: give key=")
