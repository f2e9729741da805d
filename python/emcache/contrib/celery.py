"""A result backend for Celery: ``pip install 'emcache[celery]'``.

::

    app = Celery("shop", broker=..., backend="emcache://10.0.0.1:11211;10.0.0.2:11211")
    app.conf.cache_backend_options = {"timeout": 2}  # options of emcache.sync.create_client
"""

import contextlib
from collections.abc import Iterable
from typing import Any

try:
    from celery.backends.base import KeyValueStoreBackend  # type: ignore[import-untyped]
    from celery.exceptions import ImproperlyConfigured  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        "emcache.contrib.celery needs Celery: pip install 'emcache[celery]'"
    ) from error

from .. import _errors
from .._memcached.keys import safe_key
from .._memcached.times import ttl_to_exptime
from ..sync import Client
from ._sync_nodes import client_of

_SAFE_TO_RETRY = (
    _errors.ClusterNoAvailableNodes,
    _errors.ConnectionFailedError,
    _errors.NodeUnavailableError,
    _errors.OperationTimeoutError,
    _errors.OverloadedError,
)

_clients: list[tuple[str, dict[str, Any], Client]] = []
"""The clients of all backends: Celery may create a backend for each thread."""


class EmcacheBackend(KeyValueStoreBackend):  # type: ignore[misc]
    """Results of tasks on memcached, on one :class:`emcache.sync.Client` per process.

    The URL lists the nodes: ``emcache://host:port;host:port`` or ``emcache:///run/memcached.sock``.
    ``cache_backend_options`` has options of :func:`emcache.sync.create_client`, including a login
    and TLS. Groups and chords work. Results expire after ``result_expires``, and earlier if the
    server needs the memory.

    With ``result_backend_always_retry``, a result is stored again after a lost connection, a
    timeout, and while a node is down.
    """

    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(
        self,
        app: Any,
        expires: Any = None,
        url: str | None = None,
        options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self.url = url or "emcache://127.0.0.1:11211"
        self.options = {**app.conf.cache_backend_options, **(options or {})}
        self.expires = self.prepare_expires(expires, type=int)
        self._nodes = _nodes(self.url)
        try:
            # Wrong settings are reported at the start, not by the first task.
            self._client_of = _client_of(self._nodes, self.options)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{self.as_uri()}: {error}") from error

    @property
    def client(self) -> Client:
        """The client, for commands that Celery does not have."""
        if self._client_of.closed:
            self._client_of = _client_of(self._nodes, self.options)
        return self._client_of

    def get(self, key: bytes) -> bytes | None:
        """Return the bytes of a result, or None."""
        item = self.client.get(safe_key(key))
        return None if item is None else item.value

    def mget(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the bytes of the results that exist."""
        names = {safe_key(key): key for key in keys}
        return {names[name]: item.value for name, item in self.client.get_many(names).items()}

    def set(self, key: bytes, value: str | bytes) -> None:
        """Store the bytes of a result."""
        self._set(key, value, self.expires)

    def delete(self, key: bytes) -> None:
        """Delete a result, if it exists."""
        with contextlib.suppress(_errors.NotFoundCommandError):
            self.client.delete(safe_key(key))

    def incr(self, key: bytes) -> int:
        """Count one more task of a chord."""
        return int(self.client.increment(safe_key(key), 1) or 0)

    def expire(self, key: bytes, value: float | None) -> None:
        """Change when a result expires, if it exists."""
        with contextlib.suppress(_errors.NotFoundCommandError):
            self.client.touch(safe_key(key), _exptime(value))

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Return whether Celery may store a result again after this error."""
        return isinstance(exc, _SAFE_TO_RETRY)

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002 - the URL has none
        """Return the URL."""
        return str(self.url)

    def _set(self, key: bytes, value: str | bytes, expires: float | None) -> None:
        raw = value.encode() if isinstance(value, str) else value
        self.client.set(safe_key(key), raw, exptime=_exptime(expires))

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **kwargs: Any) -> Any:
        # Older versions of Celery have no lifetime of its own for a chord.
        expires = getattr(self, "chord_expires", self.expires)
        self._set(self.get_key_for_chord(header_result_args[0]), b"0", expires)
        return super()._apply_chord_incr(header_result_args, body, **kwargs)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        own = {"url": self.url, "expires": self.expires, "options": self.options}
        return super().__reduce__(args, {**(kwargs or {}), **own})


def _exptime(expires: float | None) -> int:
    # In Celery, 0 and None mean no expiration.
    return ttl_to_exptime(expires or None)


def _nodes(url: str) -> str:
    _, _, rest = url.partition("://")
    if "@" in rest:
        # Without the URL in the text, because Celery logs it.
        raise ImproperlyConfigured(
            "pass username and password in cache_backend_options, not in the URL of the backend"
        )
    if rest.startswith("/"):
        return f"unix:{rest}"
    return rest.rstrip("/").replace(";", ",")


def _client_of(nodes: str, options: dict[str, Any]) -> Client:
    # Without a lock, which a fork could leave locked. At worst some clients are created twice.
    for known_nodes, known_options, client in _clients:
        if known_nodes == nodes and known_options == options and not client.closed:
            return client
    client = client_of(EmcacheBackend, nodes, options, of="cache_backend_options")
    _clients.append((nodes, options, client))
    return client
