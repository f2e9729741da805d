"""The tags of a cached function's calls, from templates or a function."""

import inspect
import string
from collections.abc import Callable, Iterable
from typing import Any

from .._errors import InvalidKeyError
from ._call_keys import ADDRESS, bound_arguments
from ._function_names import describe
from ._keys import Key
from ._quick_keys import Positions

TagsOf = Callable[[tuple[Any, ...], dict[str, Any]], Iterable[Key]]
"""Makes the tags from the arguments of a call."""

TagsOption = Iterable[Key] | Callable[..., Iterable[Key]] | None
"""Templates, or a function that takes the arguments of a call."""

_FORMATTER = string.Formatter()


def tags_of(function: Callable[..., Any], tags: TagsOption) -> TagsOf | None:
    """Return a function that makes the tags from the arguments of a call; None without tags.

    Arguments are not escaped as they are in keys, so that ``invalidate_tag(f"user:{user_id}")``
    finds the tag of ``"user:{user_id}"``. Equal tags of different arguments are only invalidated
    together.

    Raises:
        TypeError: a template has a field that is not a parameter.
    """
    if tags is None or callable(tags):
        return _by_function(tags)
    templates, fields = _parsed(tags)
    signature = inspect.signature(function)
    for field in fields:
        if _parameter(field) not in signature.parameters:
            raise TypeError(f"tags {templates!r}: {describe(function)} has no parameter {field!r}")
    return _by_templates(templates, signature if fields else None)


def tags_of_one(tags: TagsOption) -> TagsOf | None:
    """Return a function that makes the tags of one element, from templates with one parameter."""
    if tags is None or callable(tags):
        return _by_function(tags)
    templates, fields = _parsed(tags)
    names = {_parameter(field) for field in fields}
    if len(names) > 1 or not all(name.isidentifier() for name in names):
        raise TypeError(f"tags {templates!r} must have one field, which stands for an element")
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in names]
    return _by_templates(templates, inspect.Signature(parameters) if names else None)


def _by_function(tags: Callable[..., Iterable[Key]] | None) -> TagsOf | None:
    if tags is None:
        return None
    return lambda args, kwargs: tags(*args, **kwargs)


def _by_templates(templates: list[Key], signature: inspect.Signature | None) -> TagsOf:
    if signature is None:
        constant = [_filled(template, {}) for template in templates]
        return lambda _args, _kwargs: constant

    quick = _quick(templates, signature)

    def by_templates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Key]:
        if quick is not None and not kwargs and (made := quick(args)) is not None:
            return made
        values = bound_arguments(signature, args, kwargs)
        return [_filled(template, values) for template in templates]

    return by_templates


def _quick(
    templates: list[Key], signature: inspect.Signature
) -> Callable[[tuple[Any, ...]], list[Key] | None] | None:
    """Return a function for positional arguments that are text or integers, without formatting."""
    positions = Positions(signature)
    made: list[list[tuple[str, int | None]]] = []
    for template in templates:
        if isinstance(template, bytes):
            return None
        pieces: list[tuple[str, int | None]] = []
        for text, field, spec, conversion in _FORMATTER.parse(template):
            if spec or conversion or (field is not None and field not in positions.names):
                return None
            pieces.append((text, None if field is None else positions.names.index(field)))
        made.append(pieces)
    if not positions.are_simple:
        return None

    def quick(args: tuple[Any, ...]) -> list[Key] | None:
        values = positions.all_of(args)
        if values is None:
            return None
        tags: list[Key] = []
        for pieces in made:
            tag = ""
            for text, index in pieces:
                tag += text
                if index is not None:
                    value = values[index]
                    if type(value) is not str and type(value) is not int:
                        return None
                    tag += str(value)
            tags.append(tag)
        return tags

    return quick


def _parsed(tags: Iterable[Key]) -> tuple[list[Key], list[str]]:
    """Return templates and their fields."""
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise TypeError(f"tags must be a list of tags, not one {type(tags).__name__}")
    templates, fields = list(tags), []
    for template in templates:
        if isinstance(template, str):
            fields += _fields(template)
        elif not isinstance(template, bytes):
            raise TypeError(f"a tag must be a str or bytes, not {type(template).__name__}")
        if not template:
            raise InvalidKeyError("a tag must not be empty")
    return templates, fields


def _parameter(field: str) -> str:
    return field.partition(".")[0].partition("[")[0]


def _fields(template: str) -> list[str]:
    parts = list(_FORMATTER.parse(template))
    nested = [_FORMATTER.parse(spec) for _, _, spec, _ in parts if spec]
    inner = [name for spec in nested for _, name, _, _ in spec if name is not None]
    return [*(name for _, name, _, _ in parts if name is not None), *inner]


def _filled(template: Key, values: dict[str, Any]) -> Key:
    if isinstance(template, bytes):
        return template
    tag = _FORMATTER.vformat(template, (), values)
    if ADDRESS.search(tag):
        raise TypeError(
            f"tag {template!r}: the text of an argument is its memory address; use one of its "
            "attributes, such as {user.id}"
        )
    return tag
