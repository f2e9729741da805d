"""The tags of a cached function's calls, from templates or a function."""

import inspect
import string
from collections.abc import Callable, Iterable
from typing import Any

from ._call_keys import ADDRESS, bound_arguments
from ._function_names import describe
from ._keys import Key

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
    if tags is None:
        return None
    if callable(tags):
        given: Callable[..., Iterable[Key]] = tags
        return lambda args, kwargs: given(*args, **kwargs)
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise TypeError(f"tags must be a list of tags, not one {type(tags).__name__}")
    templates = tuple(tags)
    signature = inspect.signature(function)
    has_fields = False
    for template in templates:
        if not isinstance(template, str | bytes):
            raise TypeError(f"a tag must be a str or bytes, not {type(template).__name__}")
        for field in () if isinstance(template, bytes) else _fields(template):
            has_fields = True
            if field.partition(".")[0].partition("[")[0] not in signature.parameters:
                raise TypeError(
                    f"tag {template!r}: {describe(function)} has no parameter {field!r}"
                )
    if not has_fields:
        constant = tuple(each.format() if isinstance(each, str) else each for each in templates)
        return lambda _args, _kwargs: constant

    def by_templates(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Key]:
        values = bound_arguments(signature, args, kwargs)
        return [each if isinstance(each, bytes) else _filled(each, values) for each in templates]

    return by_templates


def _fields(template: str) -> list[str]:
    parts = list(_FORMATTER.parse(template))
    nested = [_FORMATTER.parse(spec) for _, _, spec, _ in parts if spec]
    inner = [name for spec in nested for _, name, _, _ in spec if name is not None]
    return [*(name for _, name, _, _ in parts if name is not None), *inner]


def _filled(template: str, values: dict[str, Any]) -> str:
    tag = _FORMATTER.vformat(template, (), values)
    if ADDRESS.search(tag):
        raise TypeError(
            f"tag {template!r}: the text of an argument is its memory address; use one of its "
            "attributes, such as {user.id}"
        )
    return tag
