"""Results of cached functions that are stored as the type of the return annotation."""

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._serializers import MsgPack, Raw, Utf8, is_standard_json
from ._typed import Typed, has_model, type_name

if TYPE_CHECKING:
    from ._cache import Cache


class ReturnType:
    """The return annotation of a function, applied to the caches that it uses."""

    def __init__(self, function: Callable[..., Any], *, of_many: bool = False) -> None:
        self._function = function
        self._of_many = of_many
        """Whether the function returns a mapping, whose values are stored one by one."""
        self._annotation: Any = None
        self._is_resolved = False
        self._resolve()
        self._typed_by_flags: dict[int, Typed[Any]] = {}

    def _resolve(self) -> None:
        try:
            annotation = _return_annotation(self._function)
            if self._of_many:
                annotation = typing.get_args(annotation)[1]
        except (NameError, AttributeError):
            return
        except Exception:
            annotation = None  # not a type, such as a text
        self._is_resolved = True
        if has_model(annotation):
            self._annotation = annotation

    def check(self, cache: "Cache[Any]") -> None:
        """Raise TypeError if it is certain already that the cache cannot store the results."""
        if self._is_resolved:
            self.cache_for(cache)

    def cache_for(self, cache: "Cache[Any]") -> "Cache[Any]":
        """Return the cache, or one that reads and writes the results as the annotated type.

        Raises:
            TypeError: the serializer of the cache cannot store this type.
        """
        if not self._is_resolved:
            # The name may have been defined since; if not, it is one for type checkers only.
            self._resolve()
            self._is_resolved = True
        serializer = cache._values._serializer
        if self._annotation is None:
            return cache
        if is_standard_json(serializer):
            return cache._with_serializer(self._typed(serializer.flags))
        if type(serializer) in (MsgPack, Raw, Utf8):
            name, kind = type_name(self._annotation), type(serializer).__name__
            raise TypeError(
                f"{self._name} returns {name}, which {kind} cannot store; use a cache with "
                f"serializer=None, Typed({name}) or Pickle()"
            )
        return cache

    def _typed(self, flags: int) -> Typed[Any]:
        if flags not in self._typed_by_flags:
            try:
                self._typed_by_flags[flags] = Typed(self._annotation, flags=flags)
            except (ImportError, TypeError) as error:
                raise TypeError(f"the results of {self._name} cannot be cached: {error}") from error
        return self._typed_by_flags[flags]

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))


def _return_annotation(function: Any) -> Any:
    """Return the evaluated annotation, or None without one."""
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__annotations__"):
        function = type(function).__call__
    annotation = _annotations(function).get("return")
    if annotation is None:
        return None
    # Annotations of parameters may name what exists for type checkers only.
    only_return = types.SimpleNamespace(__annotations__={"return": annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return typing.get_type_hints(only_return, names, include_extras=True)["return"]


def _annotations(function: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    found: dict[str, Any] = function.__annotations__
    return found
