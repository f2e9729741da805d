"""Keys of libraries that make any text one."""

import hashlib
import re

_LONGEST_KEY = 250
_HASHED = re.compile(rb":[0-9a-f]{64}\Z")
_UNSAFE = re.compile(rb"[\x00-\x20\x7f]")
_READABLE = _LONGEST_KEY - 1 - 64
"""Bytes of a key that are kept before its digest."""


class _Safe(bytes):
    """One that went through :func:`safe_key`, which leaves it as it is."""


def safe_key(key: str | bytes) -> bytes:
    """Give a key as memcached takes it.

    Keys of up to 250 bytes without whitespace and control characters stay as they are, in UTF-8.
    Of others the first 185 bytes are kept, what memcached does not take in them as ``_``, with
    ``:`` and the SHA-256 of the whole key in hexadecimal behind. So are keys that end like these,
    which would be taken for others.
    """
    if isinstance(key, _Safe):
        return key
    raw = key.encode() if isinstance(key, str) else bytes(key)
    if 0 < len(raw) <= _LONGEST_KEY and not _UNSAFE.search(raw) and not _HASHED.search(raw):
        return _Safe(raw)
    digest = hashlib.sha256(raw).hexdigest().encode()
    return _Safe(_UNSAFE.sub(b"_", raw[:_READABLE]) + b":" + digest)
