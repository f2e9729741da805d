"""Conversion of a user's keys to keys on the wire."""

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from .._errors import InvalidKeyError
from .._memcached.keys import HASHED_LENGTH, MAX_LENGTH, fit_key, is_valid

Key = str | bytes
K = TypeVar("K", bound=Key)
KeyPolicy = Literal["refuse", "hash"] | Callable[[bytes], bytes]
"""How keys are converted; see :class:`emcache.Cache`."""


def shown(key: bytes) -> str:
    """Return a key for a message, at most 60 bytes of it."""
    return repr(key) if len(key) <= 60 else f"{key[:60]!r}..."


class Keys:
    """Applies a prefix and a policy to keys."""

    def __init__(self, prefix: Key, policy: KeyPolicy) -> None:
        if policy not in ("refuse", "hash") and not callable(policy):
            raise ValueError("keys must be 'refuse', 'hash' or a function")
        self.prefix: bytes = encode("prefix", prefix)
        self._policy = policy
        self._is_plain_policy = policy == "refuse"
        self._room = MAX_LENGTH - len(self.prefix)
        room = MAX_LENGTH - (HASHED_LENGTH if policy == "hash" else 1)
        if not is_valid(self.prefix) or len(self.prefix) > room:
            raise InvalidKeyError(
                f"prefix {shown(self.prefix)} must be at most {room} bytes with this key policy, "
                "without whitespace and control characters"
            )

    def wire(self, key: Key) -> bytes:
        """Return the key on the wire."""
        # Nearly every key takes this short way; the rest of the method accepts the same ones.
        if (
            self._is_plain_policy
            and type(key) is str
            and 0 < len(key) <= self._room
            and key.isascii()
            and key.isprintable()
            and " " not in key
        ):
            return self.prefix + key.encode()
        name = encode("key", key)
        if not name:
            raise InvalidKeyError("the key must not be empty")
        if self._policy == "hash":
            return self.prefix + fit_key(name, MAX_LENGTH - len(self.prefix))
        if callable(self._policy):
            name = self._policy(name)
            if not isinstance(name, bytes):
                kind = type(name).__name__
                raise TypeError(f"the function given as keys must return bytes, not {kind}")
        return self._checked(self.prefix + name)

    def wires(self, keys: Iterable[K]) -> dict[K, bytes]:
        """Return the keys on the wire by the user's keys."""
        is_one = isinstance(keys, str | bytes | bytearray | memoryview)
        if is_one or not isinstance(keys, Iterable):
            raise TypeError(f"keys must be an iterable of keys, not one {type(keys).__name__}")
        return {key: self.wire(key) for key in keys}

    def _checked(self, key: bytes) -> bytes:
        if len(key) > MAX_LENGTH:
            raise InvalidKeyError(
                f"the key {shown(key)} has {len(key)} bytes with its prefix, more than "
                f"{MAX_LENGTH}; keys='hash' accepts any key"
            )
        if not is_valid(key):
            raise InvalidKeyError(
                f"the key {shown(key)} has whitespace or control characters; keys='hash' accepts "
                "any key"
            )
        return key


def encode(what: str, key: Key) -> bytes:
    """Return a key of text or bytes as bytes."""
    if isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise TypeError(f"a {what} must be a str or bytes, not {type(key).__name__}")
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise InvalidKeyError(f"the {what} {key[:60]!r} cannot be encoded as UTF-8") from None
