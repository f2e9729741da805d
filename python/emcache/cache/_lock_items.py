"""The items of locks: a random token under one key, which only its owner replaces or removes.

With meta commands the owner knows the CAS of its item, so each step is one command. Elsewhere, and
if the server may have been restarted since, it reads its token before it replaces the item.
"""

import contextlib
import secrets
from typing import NamedTuple

from .._client import Client
from .._errors import (
    NotFoundCommandError,
    NotStoredStorageCommandError,
    StorageCommandError,
    UnsupportedError,
    is_missing,
)
from .._memcached.times import EXPIRED


class Held(NamedTuple):
    """The proof that an item is ours."""

    token: bytes
    cas: int | None
    """None if the server did not return it."""
    epoch: tuple[int, int] | None = None
    """The server that gave the CAS; None if the CAS is a random number of ours."""

    def has_cas(self, client: Client, key: bytes) -> bool:
        """Return whether the CAS is still proof.

        A server that was restarted gives it again, and an item that is moved gets another one.
        """
        if self.cas is None or client.migration is not None:
            return False
        return self.epoch in (None, client._server_epoch(key))


def new_token() -> bytes:
    """Return a token that no other owner has."""
    return secrets.token_hex(16).encode()


async def add_item(client: Client, key: bytes, token: bytes, seconds: int) -> Held | None:
    """Store a token if there is none; return None if there is one."""
    # The server's own numbers begin again when it is restarted; random ones do not meet again.
    epoch = client._server_epoch(key)
    for new_cas in (1 + secrets.randbits(62), None):
        with contextlib.suppress(UnsupportedError):
            stored = await client.meta_set(
                key, token, mode="add", exptime=seconds, new_cas=new_cas, return_cas=True
            )
            # 0: `memcached -C` has no CAS.
            proof = Held(token, stored.cas or None, None if new_cas else epoch)
            return proof if stored.done else None
    try:
        await client.add(key, token, exptime=seconds)
    except NotStoredStorageCommandError:
        return None
    return Held(token, None)


async def extend_item(client: Client, key: bytes, held: Held, seconds: int) -> Held | None:
    """Let an item of ours end later; return None if it is not there any more."""
    if held.has_cas(client, key):
        epoch = client._server_epoch(key)
        for new_cas in (1 + secrets.randbits(62), None):
            with contextlib.suppress(UnsupportedError):
                stored = await client.meta_set(
                    key,
                    held.token,
                    exptime=seconds,
                    cas=held.cas,
                    new_cas=new_cas,
                    return_cas=True,
                )
                proof = Held(held.token, stored.cas, None if new_cas else epoch)
                return proof if stored.done else None
    return Held(held.token, None) if await _replace(client, key, held, seconds) else None


async def remove_item(client: Client, key: bytes, held: Held) -> bool:
    """Remove an item of ours; return whether it was still there."""
    if held.has_cas(client, key):
        with contextlib.suppress(UnsupportedError):
            return (await client.meta_delete(key, cas=held.cas)).done
    # No classic command deletes only an item that has not changed.
    return await _replace(client, key, held, EXPIRED)


async def _replace(client: Client, key: bytes, held: Held, exptime: int) -> bool:
    item = await client.gets(key)
    if item is None or item.value != held.token:
        return False
    try:
        if item.cas:
            await client.cas(key, held.token, item.cas, exptime=exptime)
        else:
            # `memcached -C`: nothing can guard the time since the item was read.
            await client.touch(key, exptime)
    except (NotStoredStorageCommandError, NotFoundCommandError):
        return False
    except StorageCommandError as error:
        if is_missing(error):
            return False
        raise
    return True
