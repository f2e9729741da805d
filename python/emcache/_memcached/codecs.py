"""The format in which python-memcached, pylibmc, pymemcache and Django store values."""

from typing import Any

BYTES, PICKLE, INTEGER, LONG, ZLIB, TEXT = 0, 1, 2, 4, 8, 16
"""Flags of an item."""


class UnreadableError(ValueError):
    """A stored value that this format does not define, or a pickle where pickles are refused."""

    def __init__(self, flags: int) -> None:
        super().__init__(f"unknown flags {flags:#x}")
        self.flags = flags


def encode(value: Any, *, integer_flag: int = INTEGER) -> tuple[bytes, int] | None:
    """Return the stored bytes of bytes, str and int, and their flags; None for other types.

    Integers are stored as digits, so that the server can count. Subclasses count as other types.
    """
    kind = type(value)
    if kind is bytes:
        return value, BYTES
    if kind is str:
        return value.encode(), TEXT
    if kind is int:
        return b"%d" % value, integer_flag
    return None


def encode_pickle(value: Any, protocol: int) -> tuple[bytes, int]:
    """Return the stored bytes of any value, and their flags."""
    import pickle

    return pickle.dumps(value, protocol), PICKLE


def decode(data: bytes, flags: int, *, pickles: bool) -> Any:
    """Return the value of stored bytes.

    Raises:
        UnreadableError: flags of another format; or a pickle, and ``pickles`` is False.
        Exception: the data is damaged, or it is a pickle of a class that does not exist here.
    """
    match flags:
        case 0:
            return data
        case 16:
            return data.decode()
        case 2 | 4:
            return int(data)
        case 1 if pickles:
            import pickle

            return pickle.loads(data)
    raise UnreadableError(flags)
