"""Keys that memcached accepts, and the hashing of keys that it does not accept."""

MAX_LENGTH = 250
FORBIDDEN = bytes(range(0x21)) + b"\x7f"
"""Control bytes and space, which no key may contain."""
HASH_MARKER = b"#sha256:"
HASHED_LENGTH = len(HASH_MARKER) + 64


def is_valid(key: bytes) -> bool:
    """Return whether memcached accepts every byte of a key; the length is not checked."""
    return len(key.translate(None, FORBIDDEN)) == len(key)


def hash_key(key: bytes) -> bytes:
    """Return the marker followed by the SHA-256 of a key in hex."""
    from hashlib import sha256

    return HASH_MARKER + sha256(key).hexdigest().encode()


def fit_key(key: bytes, room: int = MAX_LENGTH) -> bytes:
    """Return a key unchanged if memcached accepts it in ``room`` bytes, or else hashed.

    A key that looks like a hashed key is hashed too, so that it cannot collide with one.
    """
    fits = 0 < len(key) <= room and is_valid(key) and not key.startswith(HASH_MARKER)
    return key if fits else hash_key(key)


class _FittedKey(bytes):
    """A key that :func:`safe_key` returned; passing it again returns it unchanged."""


def safe_key(key: str | bytes) -> bytes:
    """Return any text or bytes as a valid key: UTF-8, hashed where memcached would refuse it."""
    if isinstance(key, _FittedKey):
        return key
    return _FittedKey(fit_key(key.encode() if isinstance(key, str) else bytes(key)))
