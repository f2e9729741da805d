"""Invalidation of a value that may be served a little longer."""

from typing import Any

from ._envelope import STALE, Envelope, decode_envelope
from ._flags import FLAG_ENVELOPE
from ._leases import store_with_cas
from ._storage import Storage
from ._values import is_stub, seal

_ROUNDS = 8


async def mark_stale(storage: Storage[Any], name: bytes, stale_for: int) -> bool:
    """Replace a value by itself, stale from now on; return whether there was one.

    This changes its token, so that no computation that has begun can be stored. A value that
    changes all the time is deleted.
    """
    for _ in range(_ROUNDS):
        item = await storage.client.gets(name, return_flags=True)
        if item is None or is_stub(item.value, item.flags):
            break
        data, flags = item.value, item.flags or 0
        tags: tuple[tuple[bytes, bytes], ...] = ()
        if flags & FLAG_ENVELOPE:
            try:
                (_, _, tags), data = decode_envelope(data)
            except ValueError:
                break
            flags &= ~FLAG_ENVELOPE
        data, flags = seal(data, flags, Envelope(STALE, STALE, tags))
        stored = await store_with_cas(storage.client, name, item.cas or 0, data, flags, stale_for)
        if stored == "stored":
            return True
    # A computation may be running, whose lease this ends.
    existed = await storage.delete(name)
    return existed and item is not None and not is_stub(item.value, item.flags)
