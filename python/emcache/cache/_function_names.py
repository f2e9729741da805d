"""Names of functions in keys: unique, or refused."""

import functools
import inspect
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

_SCRIPTS = ("__main__", "__mp_main__")
"""Names of the main module, in this process and in processes that it spawns."""


class _Definition:
    """The function that uses a name."""

    def __init__(self, chain: list[types.FunctionType]) -> None:
        innermost = chain[-1]
        self._codes = [function.__code__ for function in chain]
        self._defaults = [(each.__defaults__, each.__kwdefaults__) for each in chain]
        self._function = weakref.ref(innermost)
        self._is_nested = "<locals>" in innermost.__qualname__
        self._file = innermost.__code__.co_filename
        module = sys.modules.get(innermost.__module__)
        self._module = None if module is None else weakref.ref(module)
        self._spec = getattr(module, "__spec__", None)

    def excludes(self, other: "_Definition") -> bool:
        """Return whether two functions of this name would exist side by side.

        A module that is reloaded, or a notebook cell that runs again, replaces its functions.
        """
        is_one_run = self._module == other._module and self._spec is other._spec
        if not is_one_run or self._file != other._file or self._file.startswith("<"):
            return False
        if self._codes != other._codes:
            return True
        # Functions that a loop in a module defines read its variables at different times.
        is_same = self._is_nested or self._function() is other._function()
        return not is_same and self._defaults == other._defaults


_definitions: dict[str, _Definition] = {}


def describe(function: Callable[..., Any]) -> str:
    """Return the name of a decorated object for a message."""
    if isinstance(function, functools.partial):
        return f"a partial of {describe(function.func)}"
    if isinstance(function, types.MethodType):
        return f"the bound method {describe(function.__func__)}"
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return f"a {type(function).__qualname__}"
    return f"{function.__module__}.{name}"


def name_of(function: Callable[..., Any], signature: inspect.Signature) -> str:
    """Return the name of a function in keys.

    Raises:
        TypeError: module and name do not identify it.
    """
    if next(iter(signature.parameters), None) in ("self", "cls"):
        raise TypeError(
            f"{describe(function)} is a method, whose instance is not part of the key; pass key=, "
            'such as key="user:{self.id}"'
        )
    chain = list(_chain(function))
    for each in chain:
        _check(function, each)
    name = f"{_module_of(function, chain[-1])}.{chain[0].__qualname__}"
    definition = _Definition(chain)
    if (known := _definitions.get(name)) is not None and definition.excludes(known):
        _refuse(function, "has the same name as another cached function")
    _definitions[name] = definition
    return name


def _chain(function: Callable[..., Any]) -> Iterator[types.FunctionType]:
    """Yield a function, and the functions that it wraps with ``functools.wraps``."""
    wrapped: Any = function
    while wrapped is not None:
        if not isinstance(wrapped, types.FunctionType):
            reason = (
                "is not a plain function" if wrapped is function else f"wraps {describe(wrapped)}"
            )
            _refuse(function, reason)
        yield wrapped
        wrapped = getattr(wrapped, "__wrapped__", None)


def _check(function: Callable[..., Any], part: types.FunctionType) -> None:
    if "<lambda>" in part.__qualname__:
        _refuse(function, "is defined by a lambda")
    inner = getattr(part, "__wrapped__", None)
    cells = zip(part.__code__.co_freevars, part.__closure__ or (), strict=True)
    if names := [name for name, cell in cells if not _holds(cell, inner)]:
        _refuse(function, f"uses {', '.join(names)} from the enclosing function")


def _holds(cell: types.CellType, inner: object) -> bool:
    """Return whether a variable contains the wrapped function."""
    try:
        return inner is not None and cell.cell_contents is inner
    except ValueError:  # the cell is still empty
        return False


def _module_of(function: Callable[..., Any], innermost: types.FunctionType) -> str:
    name = innermost.__module__
    if name not in _SCRIPTS:
        return name
    spec = innermost.__globals__.get("__spec__")
    if spec is not None and spec.name not in _SCRIPTS:
        return str(spec.name)
    # Every program has a module with this name.
    if (file := innermost.__globals__.get("__file__")) is None:
        _refuse(function, "is defined in an interactive session")
    path = os.fsencode(Path(os.fsdecode(file)).absolute())
    return f"__main__.{sha256(path).hexdigest()[:16]}"


def _refuse(function: Callable[..., Any], reason: str) -> NoReturn:
    raise TypeError(
        f"{describe(function)} {reason}, so its module and name do not identify it; "
        'pass key=, such as key="user:{user_id}"'
    )
