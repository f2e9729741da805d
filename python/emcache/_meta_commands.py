"""The meta commands of :class:`emcache.Client`."""

from typing import TYPE_CHECKING, Literal

from ._checks import check_range
from ._emcache import CoreMeta
from ._errors import CommandError
from ._types import Exptime, Value

if TYPE_CHECKING:
    from . import _meta as meta
    from ._emcache import _MetaReply
else:
    from ._lazy import meta

_MAX_RECACHE = 30 * 24 * 60 * 60
_MODES = ("set", "add", "replace", "append", "prepend")


class MetaCommands:
    """Each method is one request.

    Keys may hold any bytes. A key with whitespace or control bytes is sent in base64, has at most
    186 bytes, and is invisible to classic commands.

    Every method raises :class:`emcache.UnsupportedError` before anything is sent if the node does
    not know the command or an option of it: servers ignore some unknown options without an error.
    The client asks each node once after it connects. Nodes that are reached by the binary protocol
    (SASL) have no meta commands, and neither do memcached before 1.6.10 and most proxies.

    Meta commands are never retried once they were sent.
    """

    _core_meta: CoreMeta

    async def meta_get(
        self,
        key: bytes,
        *,
        value: bool = True,
        recache: int | None = None,
        vivify: Exptime | None = None,
        touch: Exptime | None = None,
        no_bump: bool = False,
        size: bool = False,
        last_access: bool = False,
        hit_before: bool = False,
        known_cas: int | None = None,
        new_cas: int | None = None,
    ) -> "meta.MetaItem | None":
        """Read an item with its attributes, and take part in its recomputation.

        Any such read of a stale item wins if no other caller has won yet, so the caller must then
        store a value, or give the win back: see ``docs/meta.md``.

        Args:
            key: any 1 to 250 bytes; see :class:`MetaCommands`.
            value: whether to send the value.
            recache: win if the item expires within this many seconds, 1 to 2,592,000. One caller
                wins.
            vivify: create a missing item with this exptime and an empty value, and win. Others find
                the empty item, with ``recache`` set. Not together with ``touch``, which would also
                extend the life of the empty item.
            touch: set the exptime of the item.
            no_bump: do not count as an access.
            size: request the size; it is known anyway if the value is sent.
            last_access: request the seconds since the last access.
            hit_before: request whether the item was read before.
            known_cas: do not send the value if the item has this CAS (memcached 1.6.45).
            new_cas: the CAS of the item that ``vivify`` creates (memcached 1.6.27).

        Returns:
            The item; None if there is none.

        Raises:
            UnsupportedError: the node does not know meta commands, or an option.

        Wire: ``mg <key> [C R T N] [v] f c t [s l h u E]`` Source: "Meta Get".
        """
        if recache is not None:
            check_range("recache", recache, 1, _MAX_RECACHE)
        if vivify is not None and touch is not None:
            raise ValueError("vivify and touch exclude each other; touch the item when it is there")
        if new_cas is not None and vivify is None:
            raise ValueError("new_cas applies only to an item that is created; pass vivify as well")
        if known_cas is not None and not value:
            raise ValueError("known_cas decides whether the value is sent, so value must be True")
        reply = await self._core_meta.get(
            key,
            value,
            recache,
            vivify,
            touch,
            no_bump,
            size,
            last_access,
            hit_before,
            known_cas,
            new_cas,
        )
        if reply[0] == "HD" and value and known_cas is None:
            raise CommandError("the server answered 'HD' without the requested value")
        return _to_item(reply)

    async def meta_set(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        mode: Literal["set", "add", "replace", "append", "prepend"] = "set",
        cas: int | None = None,
        invalidate: bool = False,
        vivify: Exptime | None = None,
        new_cas: int | None = None,
        return_cas: bool = False,
    ) -> "meta.MetaStored":
        """Store a value; a condition that does not hold is a result, not an error.

        Args:
            key: any 1 to 250 bytes; see :class:`MetaCommands`.
            value: see :class:`Client`.
            flags: see :class:`Client`; not with ``append`` and ``prepend``.
            exptime: see :class:`Client`; not with ``append`` and ``prepend``.
            mode: ``add`` stores only if there is no item; the others after it only if there is.
            cas: store only if the item has this CAS.
            invalidate: with a ``cas`` below the item's, store the value as stale. Two such stores
                of one item leave it stale until it expires, so winners should not use it.
            vivify: the exptime of an item that ``append`` or ``prepend`` creates (memcached
                1.6.20).
            new_cas: the CAS of the stored item (memcached 1.6.27).
            return_cas: return the CAS of the stored item (memcached 1.6.13).

        Raises:
            StorageCommandError: the server refused, such as a value over its limit. Unlike classic
                commands, a refused ``ms`` deletes the old value in every mode.
            UnsupportedError: the node does not know meta commands, or an option.

        Wire: ``ms <key> <bytes> [C F T M N I c E]`` Source: "Meta Set".
        """
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}")
        is_added_to = mode in ("append", "prepend")
        if is_added_to and (flags != 0 or exptime != 0):
            raise ValueError(f"{mode} keeps the flags and the exptime of the item")
        if vivify is not None and not is_added_to:
            raise ValueError("vivify applies only to append and prepend")
        if invalidate and cas is None:
            raise ValueError("invalidate compares CAS numbers; pass cas as well")
        status, _, attributes, _ = await self._core_meta.set(
            key, value, mode, flags, exptime, cas, invalidate, vivify, new_cas, return_cas
        )
        from ._meta import MetaStored

        if status == "HD":
            return MetaStored("stored", attributes[1])
        return MetaStored("not_stored" if status == "NS" else _unmet(status))

    async def meta_delete(
        self,
        key: bytes,
        *,
        cas: int | None = None,
        invalidate: bool = False,
        stale_for: Exptime | None = None,
        clear: bool = False,
        new_cas: int | None = None,
    ) -> "meta.MetaDeleted":
        """Delete an item, or mark it as stale.

        The next :meth:`meta_get` of a stale item wins, and others get the old value marked as
        stale. Classic commands do not see the mark.

        Args:
            key: any 1 to 250 bytes; see :class:`MetaCommands`.
            cas: only if the item has this CAS (memcached 1.6.13).
            invalidate: mark the item as stale, with a new CAS. Its exptime stays.
            stale_for: as ``invalidate``, and the item expires after this time.
            clear: remove the value and the flags, and keep the item (memcached 1.6.27).
            new_cas: the CAS of the item that is kept (memcached 1.6.27).

        Raises:
            UnsupportedError: the node does not know meta commands, or an option.

        Wire: ``md <key> [C I T x E]`` Source: "Meta Delete".
        """
        is_kept = invalidate or stale_for is not None
        if new_cas is not None and not (is_kept or clear):
            raise ValueError("new_cas applies only to an item that is kept")
        status, *_ = await self._core_meta.delete(key, cas, invalidate, stale_for, clear, new_cas)
        from ._meta import MetaDeleted

        if status != "HD":
            return MetaDeleted(_unmet(status))
        return MetaDeleted("invalidated" if is_kept else "cleared" if clear else "deleted")

    async def meta_arithmetic(
        self,
        key: bytes,
        delta: int = 1,
        *,
        mode: Literal["increment", "decrement"] = "increment",
        initial: int | None = None,
        exptime: Exptime = 0,
        touch: Exptime | None = None,
        cas: int | None = None,
        new_cas: int | None = None,
    ) -> "meta.MetaNumber":
        """Add to a counter (it wraps at 2**64) or subtract from it (it stops at 0).

        Args:
            key: any 1 to 250 bytes; see :class:`MetaCommands`.
            delta: the number to add or subtract, 0 to 2**64 - 1.
            mode: ``increment`` or ``decrement``.
            initial: the first number of a counter that does not exist.
            exptime: of a counter that is created; only with ``initial``.
            touch: set the exptime of a counter that exists.
            cas: only if the item has this CAS. A missing counter is created all the same.
            new_cas: the CAS of the changed counter (memcached 1.6.27).

        Raises:
            ArithmeticCommandError: the value is not a decimal number (also a ``ValueError``).
            UnsupportedError: the node does not know meta commands, or an option.

        Wire: ``ma <key> [C] M<I|D> [N J] D<delta> [T] v c t [E]`` Source: "Meta Arithmetic".
        """
        if mode not in ("increment", "decrement"):
            raise ValueError("mode must be increment or decrement")
        if initial is None and exptime != 0:
            raise ValueError("exptime applies only when a counter is created; pass initial as well")
        verb: Literal["incr", "decr"] = "incr" if mode == "increment" else "decr"
        status, number, attributes, _ = await self._core_meta.arithmetic(
            key, verb, delta, initial, exptime, touch, cas, new_cas
        )
        from ._meta import MetaNumber

        if number is None:
            return MetaNumber("not_stored" if status == "NS" else _unmet(status))
        return MetaNumber("done", int(number), attributes[1], attributes[2])


def _unmet(status: str) -> Literal["exists", "not_found"]:
    if status == "EX":
        return "exists"
    if status != "NF":
        raise CommandError(f"the server answered '{status}' without the requested value")
    return "not_found"


def _to_item(reply: "_MetaReply") -> "meta.MetaItem | None":
    status, value, (flags, cas, ttl, size, last_access, hit_before), marks = reply
    if status == "EN":
        return None
    from ._meta import MetaItem

    if value is not None:
        size = len(value)
    # The server sends the first three always.
    return MetaItem(
        value,
        flags or 0,
        cas or 0,
        -1 if ttl is None else ttl,
        size,
        last_access,
        hit_before,
        *marks,
    )
