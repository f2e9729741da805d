"""The class of items that retrievals return; the core implements it."""

from dataclasses import dataclass

from ._emcache import Item as Item


# Without methods: generating them would take a tenth of the import time of this package.
@dataclass(init=False, repr=False, eq=False)
class _ItemFields:
    """The fields of an item; without a docstring `dataclass` would generate one, slowly."""

    value: bytes
    flags: int | None
    cas: int | None


# `dataclasses.fields`, `asdict` and `replace` accept an Item, which was a dataclass in 1.3.
Item.__dataclass_fields__ = _ItemFields.__dataclass_fields__
Item.__dataclass_params__ = _ItemFields.__dataclass_params__  # type: ignore[attr-defined]
