"""The class of items that retrievals return; the core implements it."""

from ._emcache import Item as Item
from ._values import describe

# `dataclasses.fields`, `asdict` and `replace` accept an Item, which was a dataclass in 1.3.
describe(Item, frozen=False, value=bytes, flags=int | None, cas=int | None)
