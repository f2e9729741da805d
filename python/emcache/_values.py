"""Classes that programs can use as dataclasses, and that take less time to import.

The module ``dataclasses`` and the methods that it generates took a third of the time in which this
package is imported. The classes here have ordinary methods. ``dataclasses.fields`` and the like
read attributes that are made at that moment.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class DataclassAttribute:
    """An attribute that a dataclass would have, until it is first read."""

    def __init__(self, name: str, fields: list[tuple[str, Any, Any]], frozen: bool) -> None:
        self._name = name
        self._fields = fields
        self._frozen = frozen

    def __get__(self, instance: object, owner: type) -> Any:
        """Make the attribute, and put it in place of this object."""
        from dataclasses import field, make_dataclass

        fields = [
            (name, kind, field() if default is ... else field(default=default))
            for name, kind, default in self._fields
        ]
        made = make_dataclass(owner.__name__, fields, frozen=self._frozen)
        if self._name == "__signature__":
            from inspect import signature

            # A subclass may have an `__init__` of its own, which has a signature of its own.
            is_inherited = owner.__init__ is Record.__init__  # type: ignore[misc]
            return signature(made) if is_inherited else None
        attribute = getattr(made, self._name)
        setattr(owner, self._name, attribute)
        return attribute


def describe(cls: type, frozen: bool, **kinds: Any) -> None:
    """Let ``dataclasses`` find these fields, each with its type, in a class."""
    # Attributes of Item are no defaults.
    defaults = cls.__dict__ if issubclass(cls, Value) else {}
    fields = [(name, kind, defaults.get(name, ...)) for name, kind in kinds.items()]
    names = ["__dataclass_fields__", "__dataclass_params__"]
    if issubclass(cls, Record):
        names.append("__signature__")
    for name in names:
        setattr(cls, name, DataclassAttribute(name, fields, frozen))


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool) -> Callable[[C], C]:
        """Describe a subclass of :class:`Frozen`, which must have an ``__init__``, or `Record`."""

        def described(cls: C) -> C:
            cls.__match_args__ = tuple(cls.__annotations__)
            describe(cls, frozen, **cls.__annotations__)
            return cls

        return described


class Value:
    """An object that equals others of its class with the same fields."""

    __match_args__: ClassVar[tuple[str, ...]]

    def _fields(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])

    def __repr__(self) -> str:
        fields = (f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__qualname__}({', '.join(fields)})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Value) and type(other) is type(self):
            return self._fields() == other._fields()
        return NotImplemented

    def __replace__(self: T, /, **changes: Any) -> T:
        """Return a copy with other fields, for ``copy.replace`` of Python 3.13."""
        from dataclasses import replace

        return replace(self, **changes)  # type: ignore[type-var]


class Frozen(Value):
    """The methods of a frozen dataclass."""

    def __hash__(self) -> int:
        return hash(self._fields())

    def __setattr__(self, name: str, value: object) -> None:
        self._check_change("assign to", name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_change("delete", name)
        super().__delattr__(name)

    def _check_change(self, verb: str, name: str) -> None:
        # A subclass may have attributes besides the fields.
        if name in self.__match_args__ or "__match_args__" in type(self).__dict__:
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot {verb} field {name!r}")


class Record(Value):
    """The methods of a dataclass with fields that can be changed."""

    __hash__ = None  # type: ignore[assignment]

    if not TYPE_CHECKING:

        def __init__(self, *values: Any, **named: Any) -> None:
            names = self.__match_args__
            given = dict(zip(names, values, strict=False))
            if len(values) > len(names) or given.keys() & named.keys():
                raise TypeError(f"{type(self).__name__}() takes each of {', '.join(names)} once")
            given |= named
            if unknown := given.keys() - set(names):
                raise TypeError(f"{type(self).__name__}() has no field {', '.join(unknown)}")
            for name in names:
                if name not in given and not hasattr(type(self), name):
                    raise TypeError(f"{type(self).__name__}() needs {name}")
                setattr(self, name, given[name] if name in given else getattr(type(self), name))
