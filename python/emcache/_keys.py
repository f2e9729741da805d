"""Keys as memcached takes them: one rule for the cache and for other libraries."""

MAX_LENGTH = 250
UNSAFE = bytes(range(0x21)) + b"\x7f"
"""What memcached takes in no key."""
MARKER = b"#sha256:"
HASHED_LENGTH = len(MARKER) + 64


def is_safe(key: bytes) -> bool:
    """Tell whether memcached takes all bytes of a key."""
    return len(key.translate(None, UNSAFE)) == len(key)


def hashed(key: bytes) -> bytes:
    """Return the marker and the SHA-256 of a key in hex."""
    from hashlib import sha256

    return MARKER + sha256(key).hexdigest().encode()


def fitted(key: bytes, room: int = MAX_LENGTH) -> bytes:
    """Return a key as it is if memcached takes it in this many bytes, or else hashed.

    A key that looks like a hashed one is hashed as well, so that it is never taken for another.
    """
    fits = 0 < len(key) <= room and is_safe(key) and not key.startswith(MARKER)
    return key if fits else hashed(key)
