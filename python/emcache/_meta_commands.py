"""The meta commands of :class:`emcache.Client`."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, overload

from ._address import ALL_NODES, Address, AllNodes, Node
from ._checks import check_range
from ._emcache import CoreMeta
from ._errors import CommandError
from ._types import Exptime, OnError, Value

if TYPE_CHECKING:
    from . import _meta as meta
    from . import _results as results
    from ._emcache import _MetaReply
else:
    from ._lazy import meta, results

_MAX_RECACHE = 30 * 24 * 60 * 60
_GIVE_BACK_SINCE = (1, 6, 13)
"""The first version that can take a win back."""
_PLUS_SINCE = (1, 6, 24)
"""The first version whose ``me`` tells an item without an exptime from one in its last second."""
_MODES = ("set", "add", "replace", "append", "prepend")


class MetaCommands:
    """The methods of a client that send meta commands; see its documentation."""

    _core_meta: CoreMeta

    if TYPE_CHECKING:

        def _node_index(self, node: Node) -> int: ...

        def _nodes_by_index(self) -> dict[int, Address]: ...

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
        store a value with the item's ``cas``, or give the win back with :meth:`meta_delete`.

        Args:
            key: any 1 to 250 bytes; see :class:`Client`.
            value: whether to send the value.
            recache: win if the item expires within this many seconds, 1 to 2,592,000. One caller
                wins.
            vivify: create a missing item with this exptime and an empty value, and win. Others find
                the empty item, with ``recache`` set. At least 1 second from now; 2 or more is
                sensible, because servers count whole seconds. Not together with ``touch``, which
                would also extend the life of the empty item.
            touch: set the exptime of the item.
            no_bump: do not count as an access.
            size: request the size; it is known anyway if the value is sent.
            last_access: request the seconds since the last access.
            hit_before: request whether the item was read before.
            known_cas: do not send the value if the item has this CAS (memcached 1.6.40): the
                caller has the value already.
            new_cas: the CAS of the item that ``vivify`` creates (memcached 1.6.27), instead of one
                that the server chooses.

        Returns:
            The item; None if there is none.

        Raises:
            UnsupportedError: the node does not know meta commands, or an option.

        Wire: ``mg <key> [C R T N] [v] f c t [s l h u E]`` Source: "Meta Get".
        """
        _check_times(recache, vivify, touch)
        _check_new_cas(vivify, new_cas)
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

    @overload
    async def meta_get_many(
        self,
        keys: Iterable[bytes],
        *,
        value: bool = ...,
        recache: int | None = ...,
        vivify: Exptime | None = ...,
        touch: Exptime | None = ...,
        no_bump: bool = ...,
        size: bool = ...,
        last_access: bool = ...,
        hit_before: bool = ...,
        new_cas: int | None = ...,
        on_error: Literal["raise"] = ...,
    ) -> "dict[bytes, meta.MetaItem]": ...
    @overload
    async def meta_get_many(
        self,
        keys: Iterable[bytes],
        *,
        value: bool = ...,
        recache: int | None = ...,
        vivify: Exptime | None = ...,
        touch: Exptime | None = ...,
        no_bump: bool = ...,
        size: bool = ...,
        last_access: bool = ...,
        hit_before: bool = ...,
        new_cas: int | None = ...,
        on_error: Literal["partial"],
    ) -> "results.PartialResult[bytes, meta.MetaItem]": ...
    async def meta_get_many(
        self,
        keys: Iterable[bytes],
        *,
        value: bool = True,
        recache: int | None = None,
        vivify: Exptime | None = None,
        touch: Exptime | None = None,
        no_bump: bool = False,
        size: bool = False,
        last_access: bool = False,
        hit_before: bool = False,
        new_cas: int | None = None,
        on_error: OnError = "raise",
    ) -> "dict[bytes, meta.MetaItem]":
        """Read many items as :meth:`meta_get` does, each with a command of its own.

        Plain reads are cheaper with :meth:`Client.get_many`: servers need 1.3 to 1.4 times as long
        for ``mg``.

        Args:
            keys: any number of keys.
            value: see :meth:`meta_get`, as for all options but the last.
            recache: see :meth:`meta_get`.
            vivify: see :meth:`meta_get`.
            touch: see :meth:`meta_get`.
            no_bump: see :meth:`meta_get`.
            size: see :meth:`meta_get`.
            last_access: see :meth:`meta_get`.
            hit_before: see :meth:`meta_get`.
            new_cas: see :meth:`meta_get`; all items that are created have this CAS.
            on_error: ``"raise"`` raises the first error; the other replies are lost, with any wins
                among them. ``"partial"`` returns a :class:`emcache.PartialResult` with what
                arrived, and errors by key.

        Returns:
            The items by key, without misses.

        Raises:
            UnsupportedError: a node does not know meta commands.

        Wire: ``mg <key> ...``, one for each key Source: "Meta Get".
        """
        _check_times(recache, vivify, touch)
        _check_new_cas(vivify, new_cas)
        if on_error not in ("raise", "partial"):
            raise ValueError("on_error must be 'raise' or 'partial'")
        found, errors = await self._core_meta.get_many(
            keys,
            value,
            recache,
            vivify,
            touch,
            no_bump,
            size,
            last_access,
            hit_before,
            new_cas,
        )
        if errors and on_error == "raise":
            raise next(iter(errors.values()))
        make = meta.MetaItem
        items = {key: make(*fields) for key, fields in found.items()}
        if on_error == "raise":
            return items
        from ._results import PartialResult

        return PartialResult(items, errors)

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
            key: any 1 to 250 bytes; see :class:`Client`.
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
                commands, a refused ``ms`` deletes the old value in every mode, even if ``cas`` is
                wrong.
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
            key: any 1 to 250 bytes; see :class:`Client`.
            cas: only if the item has this CAS (memcached 1.6.13).
            invalidate: mark the item as stale, with a new CAS. Its exptime stays.
            stale_for: as ``invalidate``, and the item expires after this time, at least 1 second
                from now.
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
            key: any 1 to 250 bytes; see :class:`Client`.
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

    async def ttl(self, key: bytes) -> int | None:
        """Return the seconds until an item expires.

        The read does not count as an access, and it takes no win from callers that use leases.

        Args:
            key: any 1 to 250 bytes; see :class:`Client`.

        Returns:
            The seconds; -1 if the item does not expire; None if there is no item.

        Raises:
            UnsupportedError: the node does not know meta commands.

        Before memcached 1.6.24 the reply for an item without an exptime is also the reply for one
        in its last second. There, a second command tells the two apart. If it takes a win, the win
        is given back.

        Wire: ``me <key>`` Source: "Meta Debug".
        """
        seen = await self.meta_debug(key)
        if seen is None or seen.ttl is None:
            return None
        version = self._core_meta.version(key)
        if seen.ttl != -1 or version is None or not _GIVE_BACK_SINCE <= version < _PLUS_SINCE:
            return seen.ttl
        item = await self.meta_get(key, value=False, no_bump=True)
        if item is None:
            return None
        if item.won:
            # Shielded: a win that is not given back would leave the item stale.
            await asyncio.shield(self.meta_delete(key, cas=item.cas, invalidate=True))
        return item.ttl

    async def meta_debug(self, key: bytes) -> "meta.MetaDebug | None":
        """Return what a server knows of an item; this is not an access, and takes no win.

        Returns:
            None if there is no item.

        Raises:
            UnsupportedError: the node does not know meta commands.

        Wire: ``me <key>`` Source: "Meta Debug".
        """
        status, ttl, last_access, cas, fetched, slab_class, size = await self._core_meta.debug(key)
        if status == "EN":
            return None
        from ._meta import MetaDebug

        return MetaDebug(ttl, last_access, cas, fetched, slab_class, size)

    def _server_epoch(self, key: bytes) -> tuple[int, int]:
        """Return the key's node, and a number that changes when all its connections have ended.

        A server that was restarted may give an item a CAS that another item had before.
        """
        return self._core_meta.server_epoch(key)

    async def meta_noop(self, memcached_host_address: Node | AllNodes) -> None:
        """Return when a node, or all nodes, have answered that they know meta commands.

        Args:
            memcached_host_address: one of the client's nodes, as an address or its text, or
                ``emcache.ALL_NODES``.

        Raises:
            ValueError: not a node of this client.
            UnsupportedError: the node does not know meta commands.
            ExceptionGroup: some of all nodes failed. The group has an exception for each of them,
                with the node in ``node``.

        Wire: ``mn`` Source: "Meta No-Op".
        """
        if memcached_host_address is ALL_NODES:
            from ._node_queries import query_all

            answers = await query_all(self._nodes_by_index, self._core_meta.noop)
            answers.raise_errors()
            return
        if not isinstance(memcached_host_address, Node):
            raise TypeError(
                "Argument 'memcached_host_address' has incorrect type (expected "
                "MemcachedHostAddress, MemcachedUnixSocketPath, str or ALL_NODES, got "
                f"{type(memcached_host_address).__name__})"
            )
        await self._core_meta.noop(self._node_index(memcached_host_address))

    async def meta_raw(
        self,
        command: Literal["mg", "ms", "md", "ma", "me"],
        key: bytes,
        flags: str = "",
        value: Value | None = None,
    ) -> "meta.MetaReply":
        """Send a meta command with flags of your own, and return the reply as it came.

        Args:
            command: ``mg``, ``ms``, ``md``, ``ma`` or ``me``.
            key: any 1 to 250 bytes; the flag ``b`` is added for keys that need it.
            flags: words, separated by single spaces, in the order in which the server executes
                them. ``q`` is refused, because every request has a reply. So are flags that the
                server is known to ignore.
            value: the value of ``ms``.

        Raises:
            CommandError: the server answered with an error line.
            UnsupportedError: the node does not know meta commands, or a flag.

        Wire: ``<command> <key> <flags>`` Source: "Meta Commands".
        """
        status, words, stored = await self._core_meta.raw(command, key, flags, value)
        from ._meta import MetaReply

        return MetaReply(status, tuple(words.decode("latin-1").split()), stored)


def _check_times(recache: int | None, vivify: Exptime | None, touch: Exptime | None) -> None:
    if recache is not None:
        check_range("recache", recache, 1, _MAX_RECACHE)
    if vivify is not None and touch is not None:
        raise ValueError("vivify and touch exclude each other; touch the item when it is there")


def _unmet(status: str) -> Literal["exists", "not_found"]:
    if status == "EX":
        return "exists"
    if status != "NF":
        raise CommandError(f"the server answered '{status}' without the requested value")
    return "not_found"


def _check_new_cas(vivify: Exptime | None, new_cas: int | None) -> None:
    if new_cas is not None and vivify is None:
        raise ValueError("new_cas applies only to an item that is created; pass vivify as well")


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
