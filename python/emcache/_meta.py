"""Results of meta commands."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class MetaItem:
    """An item, as :meth:`emcache.Client.meta_get` returns it."""

    value: bytes | None
    """None if it was not requested, or if the item still has ``known_cas``."""
    flags: int
    cas: int
    ttl: int
    """The seconds until the item expires; -1 if it does not."""
    size: int | None = None
    """The length of the value; None if neither the value nor the size was requested."""
    last_access: int | None = None
    """The seconds since the last access; None if not requested."""
    hit_before: bool | None = None
    """Whether the item was read since it was stored; None if not requested."""
    won: bool = False
    """The caller is the one to compute the value, and to store it with ``cas``."""
    stale: bool = False
    """The item was invalidated, and its old value is still there."""
    recache: bool = False
    """Another caller has won, and computes the value."""


@dataclass(frozen=True, slots=True)
class MetaStored:
    """The outcome of :meth:`emcache.Client.meta_set`; true if it was done."""

    status: Literal["stored", "exists", "not_found", "not_stored"]
    """``exists``: the item does not have this ``cas``. ``not_found``: there is no item to
    compare with ``cas``. ``not_stored``: the condition of ``mode`` does not hold."""
    cas: int | None = None
    """The CAS of the stored item, with ``return_cas``."""

    @property
    def done(self) -> bool:
        """Whether the value was stored."""
        return self.status == "stored"

    def __bool__(self) -> bool:
        """Return :attr:`done`."""
        return self.done


@dataclass(frozen=True, slots=True)
class MetaDeleted:
    """The outcome of :meth:`emcache.Client.meta_delete`; true if it was done."""

    status: Literal["deleted", "invalidated", "cleared", "exists", "not_found"]
    """``exists``: the item does not have this ``cas``. ``not_found``: there is no item."""

    @property
    def done(self) -> bool:
        """Whether the item was deleted, invalidated or cleared."""
        return self.status not in ("exists", "not_found")

    def __bool__(self) -> bool:
        """Return :attr:`done`."""
        return self.done


@dataclass(frozen=True, slots=True)
class MetaNumber:
    """The outcome of :meth:`emcache.Client.meta_arithmetic`; true if it was done."""

    status: Literal["done", "exists", "not_found", "not_stored"]
    """``exists``: the item does not have this ``cas``. ``not_found``: there is no item."""
    value: int | None = None
    """The new number."""
    cas: int | None = None
    ttl: int | None = None
    """The seconds until the counter expires; -1 if it does not."""

    @property
    def done(self) -> bool:
        """Whether the counter was changed or created."""
        return self.status == "done"

    def __bool__(self) -> bool:
        """Return :attr:`done`."""
        return self.done


@dataclass(frozen=True, slots=True)
class MetaDebug:
    """A server's view of an item, from :meth:`emcache.Client.meta_debug`.

    A field is None if the server does not report it.
    """

    ttl: int | None
    """The seconds until the item expires; -1 if it does not. Before memcached 1.6.24, -1 is also
    the last second."""
    last_access: int | None
    """The seconds since the last access."""
    cas: int | None
    fetched: bool | None
    """Whether the item was read since it was stored."""
    slab_class: int | None
    size: int | None
    """The bytes that the item takes in the server's memory, with its key and header."""


@dataclass(frozen=True, slots=True)
class MetaReply:
    """A reply as the server sent it, from :meth:`emcache.Client.meta_raw`."""

    status: str
    """``HD``, ``VA``, ``EN``, ``NF``, ``NS``, ``EX`` or ``ME``."""
    flags: tuple[str, ...]
    """The words after the status, and after the length of a value."""
    value: bytes | None
