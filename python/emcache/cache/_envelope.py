"""The envelope of a stored value: when it stops being fresh, and the generations of its tags.

``FLAG_ENVELOPE`` in the flags of an item marks it. The header precedes the serialized and
compressed bytes::

    version       1 byte, 1
    refresh from  8 bytes, a Unix time in milliseconds
    fresh until   8 bytes, a Unix time in milliseconds
    tags          1 byte, their number
    each tag      1 byte length, the key of the tag, 8 bytes generation

All numbers are big-endian and unsigned.
"""

import struct
import time
from typing import NamedTuple

VERSION = 1
NEVER = 2**64 - 1
"""A time that is never reached: the value stays fresh until the server drops it."""
STALE = 0
"""A time that is past for every clock: an invalidated value is stale at once."""
GENERATION_SIZE = 8
MOST_TAGS = 255

HEADER = struct.Struct(">BQQB")


def now_ms() -> int:
    """Return the current Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Envelope(NamedTuple):
    """What a stored value says about itself."""

    refresh_from: int
    """The Unix time in milliseconds from which one caller refreshes the value."""
    fresh_until: int
    """The Unix time in milliseconds from which the value is stale."""
    tags: tuple[tuple[bytes, bytes], ...] = ()
    """The key of each tag on the wire, and the generation that the value belongs to."""


def encode_envelope(envelope: Envelope, data: bytes) -> bytes:
    """Return the bytes to store.

    Raises:
        ValueError: there are more than 255 tags.
    """
    refresh_from, fresh_until, tags = envelope
    if len(tags) > MOST_TAGS:
        raise ValueError(f"a value can have at most {MOST_TAGS} tags, not {len(tags)}")
    parts = [HEADER.pack(VERSION, refresh_from, fresh_until, len(tags))]
    for key, generation in tags:
        if len(generation) != GENERATION_SIZE:
            raise ValueError(f"a generation has {GENERATION_SIZE} bytes, not {len(generation)}")
        parts += (len(key).to_bytes(1), key, generation)
    parts.append(data)
    return b"".join(parts)


def decode_envelope(stored: bytes) -> tuple[Envelope, bytes]:
    """Return the envelope and the bytes that follow it.

    Raises:
        ValueError: another program or a later version wrote it.
    """
    if len(stored) < HEADER.size:
        raise ValueError(f"an envelope has at least {HEADER.size} bytes, not {len(stored)}")
    version, refresh_from, fresh_until, count = HEADER.unpack_from(stored)
    if version != VERSION:
        raise ValueError(f"the envelope has version {version}, not {VERSION}")
    position = HEADER.size
    tags = []
    for _ in range(count):
        length = stored[position] if position < len(stored) else 0
        start, position = position + 1, position + 1 + length + GENERATION_SIZE
        if position > len(stored):
            raise ValueError("the envelope is cut off in its tags")
        tags.append((stored[start : start + length], stored[start + length : position]))
    return Envelope(refresh_from, fresh_until, tuple(tags)), stored[position:]
