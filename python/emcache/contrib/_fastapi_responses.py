"""Responses: what may be stored, how it is stored, and what HTTP caches are told about it."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

Headers = list[tuple[bytes, bytes]]

_NOT_STORED = {b"connection", b"content-length", b"date", b"keep-alive", b"server"}
_IN_304 = {b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary"}


@dataclass(slots=True)
class CachedBody:
    """A response with the status 200, and the time at which it was made."""

    body: bytes
    headers: Headers
    made: float = field(default_factory=lambda: time.time())

    def dump(self) -> bytes:
        """Return the response as a line of JSON, followed by the body."""
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers
        ]
        return json.dumps([self.made, headers]).encode() + b"\n" + self.body

    @classmethod
    def load(cls, data: bytes) -> "CachedBody":
        """Read what :meth:`dump` has returned."""
        head, _, body = data.partition(b"\n")
        try:
            made, headers = json.loads(head)
            encoded = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers]
            return cls(body, encoded, float(made))
        except (AttributeError, TypeError, ValueError):
            # Their texts may quote the response.
            raise ValueError("not a response that was stored here") from None


@dataclass(slots=True)
class Rules:
    """How the responses of an endpoint are cached."""

    ttl: int
    max_age: int
    vary: tuple[str, ...]
    """The names of request headers."""
    is_public: bool
    is_private: bool
    max_size: int

    def __post_init__(self) -> None:
        if not self.is_public and not self.is_private:
            # Requests with credentials are answered anew, so their responses may differ.
            self.vary += ("Authorization", "Cookie")

    def cache_control(self, age: float) -> bytes:
        """Return the directives for a response of this age."""
        who = "private, " if self.is_private else "public, " if self.is_public else ""
        left = max(0, min(self.max_age, int(self.ttl - age)))
        return f"{who}max-age={left}".encode() if left else f"{who}no-cache".encode()

    def is_storable(self, status: int, headers: Headers) -> bool:
        """Return whether a response may be given to other requests."""
        found = by_name(headers)
        if status != 200 or found.keys() & {b"set-cookie", b"content-range"}:
            return False
        directives = words(found.get(b"cache-control", b""))
        if b"no-store" in directives or (b"private" in directives and not self.is_private):
            return False
        known = {name.lower().encode() for name in self.vary}
        return set(words(found.get(b"vary", b""))) <= known

    def with_cache_headers(self, cached: CachedBody) -> Headers:
        """Return the headers of a response that was or will be stored."""
        found = by_name(cached.headers)
        headers = [pair for pair in cached.headers if pair[0].lower() != b"vary"]
        if b"etag" not in found:
            # Weak, because a middleware may compress the body.
            headers.append(
                (b"etag", b'W/"' + hashlib.sha256(cached.body).hexdigest()[:32].encode() + b'"')
            )
        if b"cache-control" not in found:
            headers.append((b"cache-control", self.cache_control(time.time() - cached.made)))
        if self.vary:
            headers.append((b"vary", ", ".join(self.vary).encode("latin-1")))
        headers.append((b"content-length", b"%d" % len(cached.body)))
        return headers


def by_name(headers: Headers) -> dict[bytes, bytes]:
    """Return headers by their names in lower case; the values of one name are joined."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        found[name] = found[name] + b", " + value if name in found else value
    return found


def words(value: bytes) -> list[bytes]:
    """Return the elements of a list in a header, in lower case."""
    return [word.split(b"=")[0].strip().lower() for word in value.split(b",") if word.strip()]


def stored_headers(headers: Headers) -> Headers:
    """Return the headers that are stored with a response."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in _NOT_STORED]


def is_not_modified(request: dict[bytes, bytes], headers: Headers) -> bool:
    """Return whether the client has this response already."""
    wanted = request.get(b"if-none-match")
    if wanted is None:
        return False
    if wanted.strip() == b"*":
        return True
    etag = by_name(headers).get(b"etag", b"").removeprefix(b"W/")
    return etag in [tag.strip().removeprefix(b"W/") for tag in wanted.split(b",")]


def not_modified(headers: Headers) -> Headers:
    """Return the headers of a 304 response."""
    return [(name, value) for name, value in headers if name.lower() in _IN_304]


Message = dict[str, Any]
"""A message of ASGI."""


def start(status: int, headers: Headers) -> Message:
    """Return the message that begins a response."""
    return {"type": "http.response.start", "status": status, "headers": headers}
