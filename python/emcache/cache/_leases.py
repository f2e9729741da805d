"""Leases: one process at a time may compute and store the value of a key.

The lease of a key is a stub: an empty item with flags 0 under the key itself. Its CAS token belongs
to the winner, who stores the value with it. Every write, delete and invalidation changes the token
or removes the item, so a value that was computed before it cannot be stored.
"""

import contextlib
from typing import Literal, NamedTuple, Protocol

from .._client import Client
from .._errors import (
    NotFoundCommandError,
    NotStoredStorageCommandError,
    StorageCommandError,
    is_missing,
)
from .._item import Item
from .._memcached.times import EXPIRED
from ._marks import LEASE, mark_name
from ._values import is_stub

_ROUNDS = 4

Stored = Literal["stored", "replaced", "invalidated"]


class Won(NamedTuple):
    """The lease is this process's."""

    cas: int
    """0 on servers without CAS (``memcached -C``)."""


class Lost(NamedTuple):
    """Another process has the lease."""

    cas: int


class Found(NamedTuple):
    """There is a value, and nothing was taken."""

    item: Item


Taken = Won | Lost | Found | None

Epoch = tuple[tuple[int, int], ...]
"""Which servers the tokens of a key come from. After a restart, a server may issue one again."""


class Leases(Protocol):
    """Leases on the keys of one cache."""

    def epoch(self, name: bytes) -> Epoch:
        """Return which servers have the value and the lease of a key now."""
        ...

    async def look(self, name: bytes) -> Item | None:
        """Return the value or stub of a key, with its token."""
        ...

    async def take(self, name: bytes, seconds: int, *, again: bool = False) -> Taken:
        """Take the lease of a missing key, for at most ``seconds``.

        Returns:
            What is under the key now; None if it was written and deleted all the time.
        """
        ...

    async def seize(self, name: bytes, cas: int, seconds: int) -> Taken:
        """Replace a value by a lease if its token is ``cas``; otherwise as :meth:`take`."""
        ...

    async def store(self, name: bytes, cas: int, data: bytes, flags: int, exptime: int) -> Stored:
        """Replace the stub or value whose token is ``cas``."""
        ...

    async def replace(self, name: bytes, cas: int, data: bytes, flags: int, exptime: int) -> Stored:
        """Replace the value whose token is ``cas``."""
        ...

    async def drop(self, name: bytes) -> None:
        """Delete the value of a key."""
        ...

    async def give_back(self, name: bytes, cas: int) -> None:
        """End a lease before its time; nothing happens if another process has it by now.

        Without CAS, any stub is removed.
        """
        ...


class ClassicLeases:
    """Leases by ``add``, ``gets`` and ``cas``, which every server and proxy has."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def epoch(self, name: bytes) -> Epoch:
        """See :class:`Leases`."""
        return (self._client._server_epoch(name),)

    async def look(self, name: bytes) -> Item | None:
        """See :class:`Leases`."""
        return await self._client.gets(name, return_flags=True)

    async def take(self, name: bytes, seconds: int, *, again: bool = False) -> Taken:
        """See :class:`Leases`. Whoever looks again finds the stub of another process."""
        must_look, added = again, False
        for _ in range(_ROUNDS):
            if must_look and (item := await self.look(name)) is not None:
                cas = item.cas or 0
                if not is_stub(item.value, item.flags):
                    return Found(item)
                return Won(cas) if added else Lost(cas)
            added = await _succeeds_to_add(self._client, name, b"", seconds)
            must_look = True
        return None

    async def seize(self, name: bytes, cas: int, seconds: int) -> Taken:
        """See :class:`Leases`."""
        if not cas:
            return await self._replace_unguarded(name, seconds)
        if await self.store(name, cas, b"", 0, seconds) != "stored":
            return await self.take(name, seconds, again=True)
        item = await self.look(name)
        if item is None or not is_stub(item.value, item.flags):
            return await self.take(name, seconds, again=True)
        return Won(item.cas or 0)

    async def _replace_unguarded(self, name: bytes, seconds: int) -> Taken:
        """Do the same without CAS: a value that another process has just stored may be lost."""
        item = await self.look(name)
        if item is not None and not is_stub(item.value, item.flags):
            await _delete(self._client, name)
        return await self.take(name, seconds)

    async def store(self, name: bytes, cas: int, data: bytes, flags: int, exptime: int) -> Stored:
        """See :class:`Leases`."""
        return await store_with_cas(self._client, name, cas, data, flags, exptime)

    async def replace(self, name: bytes, cas: int, data: bytes, flags: int, exptime: int) -> Stored:
        """See :class:`Leases`."""
        return await store_with_cas(self._client, name, cas, data, flags, exptime)

    async def drop(self, name: bytes) -> None:
        """See :class:`Leases`."""
        await self._client.delete(name)

    async def give_back(self, name: bytes, cas: int) -> None:
        """See :class:`Leases`. A store that expires at once deletes, but compares the token."""
        if cas:
            await self.store(name, cas, b"", 0, EXPIRED)
            return
        item = await self.look(name)
        if item is not None and is_stub(item.value, item.flags):
            await _delete(self._client, name)


class SeparateLeases:
    """Leases under ``<key>#lease``, for keys that programs in other languages read as well.

    The token of the lease cannot guard the key itself. So the lease is checked before and after
    the store, and deletes remove the lease first.
    """

    def __init__(self, client: Client, leases: Leases) -> None:
        self._client = client
        self._leases = leases

    def epoch(self, name: bytes) -> Epoch:
        """See :class:`Leases`."""
        return self._leases.epoch(name) + self._leases.epoch(mark_name(name, LEASE))

    async def look(self, name: bytes) -> Item | None:
        """See :class:`Leases`."""
        lease = mark_name(name, LEASE)
        items = await self._client.gets_many([name, lease], return_flags=True)
        return items.get(name) or items.get(lease)

    async def take(self, name: bytes, seconds: int, *, again: bool = False) -> Taken:
        """See :class:`Leases`."""
        taken = await self._leases.take(mark_name(name, LEASE), seconds, again=again)
        item = await self._client.gets(name, return_flags=True)
        if item is None:
            return taken
        if isinstance(taken, Won):
            await self.give_back(name, taken.cas)
        return Found(item)

    async def seize(self, name: bytes, cas: int, seconds: int) -> Taken:
        """See :class:`Leases`."""
        if cas:
            await self._leases.give_back(name, cas)
        else:
            await _delete(self._client, name)
        return await self.take(name, seconds)

    async def store(self, name: bytes, cas: int, data: bytes, flags: int, exptime: int) -> Stored:
        """See :class:`Leases`."""
        if not await self._holds(name, cas):
            return "invalidated"
        try:
            await self._client.add(name, data, flags=flags, exptime=exptime)
        except NotStoredStorageCommandError:
            return "replaced"
        finally:
            is_held = await self._holds(name, cas)
        if not is_held:
            await _delete(self._client, name)
            return "invalidated"
        await self.give_back(name, cas)
        return "stored"

    async def replace(self, name: bytes, cas: int, data: bytes, flags: int, exptime: int) -> Stored:
        """See :class:`Leases`."""
        return await store_with_cas(self._client, name, cas, data, flags, exptime)

    async def _holds(self, name: bytes, cas: int) -> bool:
        item = await self._client.gets(mark_name(name, LEASE))
        return item is not None and item.cas == cas

    async def drop(self, name: bytes) -> None:
        """See :class:`Leases`."""
        await self._client.delete(name)

    async def give_back(self, name: bytes, cas: int) -> None:
        """See :class:`Leases`."""
        await self._leases.give_back(mark_name(name, LEASE), cas)


class Guard:
    """What a value is stored with, so that it cannot be stored after a later write."""

    def __init__(self, leases: Leases, name: bytes, cas: int, epoch: Epoch) -> None:
        self._leases = leases
        self._name = name
        self.cas = cas
        """The token of what is under the key."""
        self._epoch = epoch
        """The servers before the token was read."""

    @property
    def is_current(self) -> bool:
        """Whether the token still names the item that it was read from."""
        return self._leases.epoch(self._name) == self._epoch

    def holds(self, item: Item | None) -> bool:
        """Return whether an item is the one that the token was read from."""
        return item is not None and item.cas == self.cas and self.is_current

    async def store(self, data: bytes, flags: int, exptime: int) -> Stored:
        """Store the value, if nothing has changed."""
        if not self.is_current:
            return "invalidated"
        stored = await self._store(data, flags, exptime)
        if stored == "stored" and not self.is_current:
            # The token may have been compared by another server.
            with contextlib.suppress(NotFoundCommandError):
                await self._leases.drop(self._name)
            return "invalidated"
        return stored

    async def _store(self, data: bytes, flags: int, exptime: int) -> Stored:
        raise NotImplementedError

    async def give_back(self) -> None:
        """Let other processes compute the value."""


class LeaseGuard(Guard):
    """The lease that this process has won."""

    async def _store(self, data: bytes, flags: int, exptime: int) -> Stored:
        return await self._leases.store(self._name, self.cas, data, flags, exptime)

    async def give_back(self) -> None:
        """See :class:`Guard`."""
        if self.is_current:
            await self._leases.give_back(self._name, self.cas)


class ValueGuard(Guard):
    """A value that is replaced; it stays if it is not."""

    async def _store(self, data: bytes, flags: int, exptime: int) -> Stored:
        return await self._leases.replace(self._name, self.cas, data, flags, exptime)


async def _succeeds_to_add(client: Client, name: bytes, data: bytes, seconds: int) -> bool:
    try:
        await client.add(name, data, exptime=seconds)
    except NotStoredStorageCommandError:
        return False
    return True


async def _delete(client: Client, name: bytes) -> None:
    with contextlib.suppress(NotFoundCommandError):
        await client.delete(name)


async def store_with_cas(
    client: Client, name: bytes, cas: int, data: bytes, flags: int, exptime: int
) -> Stored:
    """Replace an item whose token is ``cas``."""
    try:
        await client.cas(name, data, cas, flags=flags, exptime=exptime)
    except NotStoredStorageCommandError:
        return "replaced"
    except StorageCommandError as error:
        if is_missing(error):
            return "invalidated"
        raise
    return "stored"
