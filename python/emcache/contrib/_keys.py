"""Keys of libraries that make any text one."""

from .._keys import fitted


class _Safe(bytes):
    """One that went through :func:`safe_key`, which leaves it as it is."""


def safe_key(key: str | bytes) -> bytes:
    """Return a key as memcached takes it, in UTF-8; by the rule of ``Cache(keys="hash")``."""
    if isinstance(key, _Safe):
        return key
    return _Safe(fitted(key.encode() if isinstance(key, str) else bytes(key)))
