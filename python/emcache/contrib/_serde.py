"""Values as Django's own memcached backends store them."""

import pickle
from typing import Any

BYTES, PICKLE, INTEGER, LONG, TEXT = 0, 1, 2, 4, 16
"""Flags of an item: those of python-memcached, pylibmc and pymemcache."""


def dump(value: Any) -> tuple[bytes, int]:
    """Give what is stored of a value, and its flags.

    Integers are digits, so that the server can count; ``bytes`` are as they are, ``str`` is UTF-8,
    all else is pickled.
    """
    kind = type(value)
    if kind is bytes:
        return value, BYTES
    if kind is str:
        return value.encode(), TEXT
    if kind is int:
        return b"%d" % value, INTEGER
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL), PICKLE


def load(stored: bytes, flags: int) -> Any:
    """Give the value of what was stored.

    Raises:
        Exception: it cannot be read: of a class that is no more, or of another program.
    """
    match flags:
        case 0:
            return stored
        case 16:
            return stored.decode()
        case 2 | 4:
            return int(stored)
        case 1:
            return pickle.loads(stored)
        case _:
            raise ValueError(f"flags {flags} are not of Django")
