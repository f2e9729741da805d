"""Leases by meta commands, where a node has them: one round trip to take a lease."""

import contextlib
import secrets

from .._errors import EmcacheError, UnsupportedError
from .._item import Item
from .._meta import MetaItem
from ._leases import ClassicLeases, Found, Lost, Taken, Won
from ._values import is_stub


def random_cas() -> int:
    """Return a token that no server issues by itself."""
    return 2**62 + secrets.randbits(62)


def _taken(item: MetaItem) -> Won | Lost | Found:
    if not is_stub(item.value or b"", item.flags):
        return Found(Item(item.value or b"", item.flags, item.cas))
    return Won(item.cas) if item.won else Lost(item.cas)


class MetaLeases(ClassicLeases):
    """The stub and its token are the same as with classic commands, so clients of both kinds mix.

    The client knows which nodes have meta commands. For the other nodes each method does what
    :class:`ClassicLeases` does, without a request in vain.

    From memcached 1.6.27 on, the token of a lease is a random number. The server's own numbers
    begin again when it is restarted, which a client behind a proxy does not notice.
    """

    async def take(self, name: bytes, seconds: int, *, again: bool = False) -> Taken:
        """See :class:`Leases`."""
        for new_cas in (random_cas(), None):
            with contextlib.suppress(UnsupportedError):
                item = await self._client.meta_get(name, vivify=seconds, new_cas=new_cas)
                break
        else:
            return await super().take(name, seconds, again=again)
        return None if item is None else _taken(item)

    async def take_many(
        self, names: list[bytes], seconds: int
    ) -> tuple[dict[bytes, Won | Lost | Found], dict[bytes, EmcacheError | None]]:
        """Take the leases of many missing keys, with one command for each.

        Returns:
            What is under the keys now, and the errors of the others; None for keys whose nodes have
            no meta commands.
        """
        taken: dict[bytes, Won | Lost | Found] = {}
        errors: dict[bytes, EmcacheError | None] = {}
        for new_cas in (random_cas(), None):
            items = await self._client.meta_get_many(
                names, vivify=seconds, new_cas=new_cas, on_error="partial"
            )
            taken.update((name, _taken(item)) for name, item in items.items())
            names = []
            for name, error in items.errors.items():
                if isinstance(error, UnsupportedError):
                    errors[name] = None
                    names.append(name)
                elif isinstance(error, EmcacheError):
                    errors[name] = error
                else:
                    raise error
            if not names:
                break
        return taken, {name: error for name, error in errors.items() if name not in taken}

    async def seize(self, name: bytes, cas: int, seconds: int) -> Taken:
        """See :class:`Leases`."""
        if not cas:
            return await super().seize(name, cas, seconds)
        for new_cas in (random_cas(), None):
            with contextlib.suppress(UnsupportedError):
                stored = await self._client.meta_set(
                    name, b"", exptime=seconds, cas=cas, new_cas=new_cas, return_cas=True
                )
                break
        else:
            return await super().seize(name, cas, seconds)
        if stored.done and stored.cas is not None:
            return Won(stored.cas)
        return await self.take(name, seconds, again=True)

    async def give_back(self, name: bytes, cas: int) -> None:
        """See :class:`Leases`."""
        if not cas:
            # `memcached -C` deletes whatever the token is.
            await super().give_back(name, cas)
            return
        try:
            await self._client.meta_delete(name, cas=cas)
        except UnsupportedError:
            await super().give_back(name, cas)
