"""Keys of items that the cache keeps for itself, next to the key of a value."""

from .._memcached.keys import MAX_LENGTH, fit_key

LEASE = b"#lease"
REFRESH = b"#refresh"


def mark_name(name: bytes, mark: bytes) -> bytes:
    """Return the key of a mark; it is hashed if it would be too long."""
    return name + mark if len(name) + len(mark) <= MAX_LENGTH else fit_key(name + mark)
