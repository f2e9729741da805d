"""Keys of ordinary calls without formatting: positional arguments that are short text or numbers.

Each function returns None for all other calls, whose keys ``_call_keys.py`` makes. The keys are the
same, because a value must be found whichever way its key was made.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

QuickKey = Callable[[tuple[Any, ...]], str | None]


class Positions:
    """Assigns positional arguments to parameters, with defaults for those that are missing."""

    def __init__(self, signature: inspect.Signature) -> None:
        parameters = list(signature.parameters.values())
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        self.are_simple = all(each.kind in positional for each in parameters)
        self.names = [each.name for each in parameters]
        defaults = [each.default for each in parameters]
        self.most = len(parameters)
        self.least = sum(default is inspect.Parameter.empty for default in defaults)
        self._defaults = tuple(defaults)

    def all_of(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the arguments of all parameters; None if the call is not valid."""
        if len(args) == self.most:
            return args
        if not self.least <= len(args) < self.most:
            return None
        return args + self._defaults[len(args) :]


def by_template(
    parts: Sequence[tuple[str, str | None]], signature: inspect.Signature, signs: dict[int, str]
) -> QuickKey | None:
    """Return a function for a template of plain fields.

    Args:
        parts: each text of the template, and the field that follows it, or None.
        signature: the signature of the function.
        signs: the characters that are escaped in fields, for ``str.translate``.
    """
    positions = Positions(signature)
    fields = [field for _, field in parts if field is not None]
    if not positions.are_simple or not fields or set(fields) - set(positions.names):
        return None
    show = _shown_with_escapes(signs)
    pairs, end = [], ""
    for text, field in parts:
        end += text
        if field is not None:
            pairs.append((end, positions.names.index(field)))
            end = ""
    if len(pairs) == 1:
        return _one_field(*pairs[0], end, positions, show)

    def quick(args: tuple[Any, ...]) -> str | None:
        if (values := positions.all_of(args)) is None:
            return None
        key = ""
        for text, index in pairs:
            if (shown := show(values[index])) is None:
                return None
            key += text + shown
        return key + end

    return quick


def _one_field(
    text: str, index: int, end: str, positions: Positions, show: Callable[[Any], str | None]
) -> QuickKey:
    is_only = positions.most == 1

    def quick(args: tuple[Any, ...]) -> str | None:
        values = args if is_only and len(args) == 1 else positions.all_of(args)
        if values is None:
            return None
        shown = show(values[index])
        return None if shown is None else f"{text}{shown}{end}"

    return quick


def _shown_with_escapes(signs: dict[int, str]) -> Callable[[Any], str | None]:
    escapes_letters = any(chr(sign).isalnum() for sign in signs)

    def show(value: Any) -> str | None:
        kind = type(value)
        if kind is int and value >= 0:
            # Digits are never escaped.
            return str(value)
        if kind is str:
            is_plain = not escapes_letters and value.isalnum()
            return str(value) if is_plain else str(value.translate(signs))
        return None

    return show


def by_arguments(name: str, signature: inspect.Signature, longest: int) -> QuickKey | None:
    """Return a function for a key of all arguments, which are shown with their names.

    Args:
        name: the name of the function in keys.
        signature: its signature.
        longest: the most characters that are shown; longer arguments are hashed.
    """
    positions = Positions(signature)
    if not positions.are_simple or not positions.names:
        return None
    heads = [f"{field}=" for field in positions.names]

    def quick(args: tuple[Any, ...]) -> str | None:
        if (values := positions.all_of(args)) is None:
            return None
        shown = ""
        for head, value in zip(heads, values, strict=True):
            if type(value) not in _PLAIN:
                return None
            shown += f",{head}{value!r}" if shown else f"{head}{value!r}"
        if len(shown) > longest or not shown.isascii() or not shown.isprintable() or " " in shown:
            return None
        return f"{name}:{shown}"

    return quick


_PLAIN = {type(None), bool, int, float, str, bytes}
