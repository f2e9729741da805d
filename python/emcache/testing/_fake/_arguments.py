"""Options of memcached's command line, for a fake server."""

import re
from typing import Any

from ._server import FakeServer

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_WITHOUT_EFFECT = ("-t", "-v", "-vv", "-vvv")


def fake_server(args: tuple[str, ...], *, unix: bool = False, **options: Any) -> FakeServer:
    """Create a fake server with options of memcached and of ``MemcachedServer``.

    Raises:
        ValueError: an option that a fake server does not have.
    """
    limits: dict[str, Any] = {}
    words = iter(args)
    for word in words:
        if word == "-m":
            limits["memory_limit"] = int(next(words)) << 20
        elif word == "-I":
            limits["item_limit"] = _size(next(words))
        elif word not in _WITHOUT_EFFECT:
            raise ValueError(f"FakeServer does not have the option {word} of memcached")
        elif word == "-t":
            next(words)
    if options:
        raise ValueError(f"FakeServer does not have the option {min(options)}")
    return FakeServer(unix=unix, **limits)


def _size(text: str) -> int:
    if match := re.fullmatch(r"(\d+)([kmg]?)", text.lower()):
        return int(match[1]) * _UNITS[match[2]]
    raise ValueError(f"-I must be a size such as 2m, not {text!r}")
