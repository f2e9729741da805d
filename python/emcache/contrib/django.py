"""A cache backend for Django: ``pip install 'emcache[django]'``.

::

    CACHES = {
        "default": {
            "BACKEND": "emcache.contrib.django.EmcacheCache",
            "LOCATION": ["10.0.0.1:11211", "10.0.0.2:11211"],
            "OPTIONS": {"timeout": 0.5},  # options of emcache.create_client
        }
    }
"""

# Django documents these methods and their arguments.
# ruff: noqa: ASYNC109, D102

import atexit
import contextlib
import inspect
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

try:
    from asgiref.sync import sync_to_async
    from django.core.cache.backends.base import (  # type: ignore[import-untyped]
        DEFAULT_TIMEOUT,
        BaseCache,
        InvalidCacheKey,
        memcache_key_warnings,
    )
    from django.core.exceptions import (  # type: ignore[import-untyped]
        ImproperlyConfigured,
        SynchronousOnlyOperation,
    )
except ImportError as error:
    raise ImportError(
        "emcache.contrib.django needs Django: pip install 'emcache[django]'"
    ) from error

from .._address import Address
from .._client_options import CLIENT_OPTIONS
from .._create import create_client
from .._item import Item
from .._memcached.addresses import parse_nodes
from .._memcached.codecs import decode, encode, encode_pickle
from .._memcached.keys import MAX_LENGTH
from .._memcached.times import ttl_to_exptime
from ..sync import Client as SyncClient
from ..sync import create_client as create_sync_client
from ._django_store import Store, Stored, log_unreadable
from ._django_sync_store import SyncStore
from .loops import ClientPerLoop

_is_plain = re.compile(r"[!-~]{1,250}").fullmatch
"""A key that is certainly valid."""

_SESSIONS = "django.contrib.sessions.cache"
"""The prefix of the keys of Django's cache sessions."""

_clients: list[tuple[list[Address], dict[str, Any], ClientPerLoop]] = []
"""The clients of all backends; Django creates a backend for each thread and each request."""
_sync_clients: list[tuple[list[Address], dict[str, Any], SyncClient]] = []
"""The clients of their sync methods, which all threads share."""


class EmcacheCache(BaseCache):  # type: ignore[misc]
    """A cache backend on memcached.

    The async methods (``aget``, ...) use a client of the running loop. There is one client for each
    loop and each distinct ``LOCATION`` and ``OPTIONS``; it is created at its first use and closed
    at the end of the loop. The sync methods of all threads share one :class:`emcache.sync.Client`,
    which also works in the children of a fork.

    Values are stored as Django's ``PyMemcacheCache`` and ``PyLibMCCache`` store them: integers as
    digits, ``bytes`` unchanged, ``str`` in UTF-8, other types pickled. A value that cannot be read
    counts as a miss, with a warning at most every ten seconds.

    Timeouts, including ``TIMEOUT``, are seconds or a ``timedelta``.

    ``OPTIONS`` are those of :func:`emcache.create_client`, and ``ignore_errors`` (default False).
    With True, a server or proxy that is unreachable, does not answer in time, or refuses a command
    is treated as empty: reads are misses and writes do nothing, with a warning at most every ten
    seconds. The only exception is ``add`` of a new session of
    ``django.contrib.sessions.backends.cache``, which raises: Django would try 10,000 other keys.

    Django calls ``close()`` after each request, so it closes nothing; :meth:`aclose` does.
    """

    def __init__(self, location: str | Iterable[str | Address], params: Mapping[str, Any]) -> None:
        given = params.get("OPTIONS", {})
        if not isinstance(given, Mapping):
            kind = type(given).__name__
            raise ImproperlyConfigured(f"OPTIONS of EmcacheCache must be a dict, not {kind}")
        try:
            super().__init__(params)
        except OverflowError as error:
            raise ImproperlyConfigured(
                "TIMEOUT of EmcacheCache must be finite; None never expires"
            ) from error
        timeout = params.get("timeout", params.get("TIMEOUT"))
        if isinstance(timeout, timedelta):
            # Django replaces a timeout that is not a number by 300.
            self.default_timeout = timeout.total_seconds()
        options = dict(given)
        ignore_errors = options.pop("ignore_errors", False)
        if not isinstance(ignore_errors, int):
            kind = type(ignore_errors).__name__
            raise ImproperlyConfigured(
                f"OPTIONS of EmcacheCache: ignore_errors must be a bool, not {kind}"
            )
        if unknown := options.keys() - CLIENT_OPTIONS.keys():
            names = ", ".join(sorted(map(str, unknown)))
            raise ImproperlyConfigured(
                f"unknown OPTIONS of EmcacheCache: {names}; use those of emcache.create_client, "
                "and ignore_errors"
            )
        self._servers = _servers(location)
        if not self._servers and not options.get("autodiscovery"):
            raise ImproperlyConfigured("EmcacheCache needs a LOCATION, such as '127.0.0.1:11211'")
        if not options.get("autodiscovery"):
            # It does not connect, and its options are checked.
            with contextlib.suppress(RuntimeError):  # gevent: its async methods may be used
                _sync_client_of(self._servers, options)
        self._store = Store(_clients_of(self._servers, options), bool(ignore_errors))
        self._sync = SyncStore(lambda: self._sync_client(options), bool(ignore_errors))

    def _sync_client(self, options: dict[str, Any]) -> SyncClient:
        client = _sync_client_of(self._servers, options)
        # From now on without the search.
        self._sync._client = lambda: client
        return client

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> int:
        """Convert a timeout, in seconds or as a ``timedelta``, to memcached's exptime.

        None never expires; 0 expires at once.
        """
        return ttl_to_exptime(self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout)

    def validate_key(self, key: str) -> None:
        """Refuse keys that memcached does not accept."""
        if _is_plain(key):
            # Django looks at each character in Python.
            return
        for warning in memcache_key_warnings(key):
            raise InvalidCacheKey(warning)
        if (length := len(key.encode())) > MAX_LENGTH:
            raise InvalidCacheKey(
                f"Cache key will cause errors if used with memcached: {key!r} "
                f"({length} bytes, longer than {MAX_LENGTH})"
            )

    def add(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        ignorable = not _is_session(key)
        return self._sync.add(name, _dump(value), exptime, ignorable=ignorable)

    async def aadd(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        ignorable = not _is_session(key)
        return await self._store.add(name, await _adump(value), exptime, ignorable=ignorable)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._value(key, self._sync.get(self._name(key, version)), default)

    async def aget(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._value(key, await self._store.get(self._name(key, version)), default)

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        self._sync.set(name, _dump(value), exptime)

    async def aset(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        await self._store.set(name, await _adump(value), exptime)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        return self._sync.touch(name, exptime)

    async def atouch(
        self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        return await self._store.touch(name, exptime)

    def delete(self, key: str, version: int | None = None) -> bool:
        return self._sync.delete(self._name(key, version))

    async def adelete(self, key: str, version: int | None = None) -> bool:
        return await self._store.delete(self._name(key, version))

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = self._names(keys, version)
        return self._values(names, self._sync.get_many(names))

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = self._names(keys, version)
        return self._values(names, await self._store.get_many(names))

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Store many values; return the keys that were not stored, for any reason."""
        names, exptime = self._names(data, version), self.get_backend_timeout(timeout)
        values = {name: _dump(data[key]) for name, key in names.items()}
        return [names[name] for name in self._sync.set_many(values, exptime)]

    async def aset_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """See :meth:`set_many`."""
        names, exptime = self._names(data, version), self.get_backend_timeout(timeout)
        values = {name: await _adump(data[key]) for name, key in names.items()}
        return [names[name] for name in await self._store.set_many(values, exptime)]

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        self._sync.delete_many(self._names(keys, version))

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        await self._store.delete_many(self._names(keys, version))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer; memcached stops at zero.

        Raises:
            ValueError: the key does not exist.
            ArithmeticCommandError: the value is not an integer; it is a ``ValueError`` as well.
        """
        return _counted(key, self._sync.change(self._name(key, version), delta))

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """See :meth:`incr`."""
        return _counted(key, await self._store.change(self._name(key, version), delta))

    async def aget_or_set(
        self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Get a value, or add ``default``: a value, or a function that returns one or awaits it."""
        value = await self.aget(key, self._missing_key, version=version)
        if value is not self._missing_key:
            return value
        value = default() if callable(default) else default
        if inspect.isawaitable(value):
            value = await value
        await self.aadd(key, value, timeout=timeout, version=version)
        # Another client may have added a different value in the meantime.
        return await self.aget(key, value, version=version)

    def clear(self) -> None:
        """Invalidate all items of the servers, including those of other programs."""
        self._sync.flush()

    async def aclear(self) -> None:
        """See :meth:`clear`."""
        await self._store.flush()

    async def aclose(self, **kwargs: Any) -> None:  # noqa: ARG002 - what Django passes
        """Close the running loop's client; the next call creates another."""
        await self._store.close()

    def _name(self, key: str, version: int | None) -> bytes:
        name: str = self.make_and_validate_key(key, version=version)
        return name.encode()

    def _names(self, keys: Iterable[str], version: int | None) -> dict[bytes, str]:
        return {self._name(key, version): key for key in keys}

    def _value(self, key: str, item: Item | None, default: Any) -> Any:
        try:
            return default if item is None else decode(item.value, item.flags or 0, pickles=True)
        except Exception as error:
            # For example after a deploy; the next write of the key repairs it.
            log_unreadable(key, error)
            return default

    def _values(self, names: dict[bytes, str], items: dict[bytes, Item]) -> dict[str, Any]:
        missing = self._missing_key
        found = {names[name]: self._value(names[name], items[name], missing) for name in items}
        return {key: value for key, value in found.items() if value is not missing}


def _dump(value: Any) -> Stored:
    return encode(value) or encode_pickle(value, pickle.HIGHEST_PROTOCOL)


async def _adump(value: Any) -> Stored:
    try:
        return _dump(value)
    except SynchronousOnlyOperation:
        # A lazy queryset queries the database when it is pickled.
        return await sync_to_async(_dump, thread_sensitive=True)(value)


def _is_session(key: object) -> bool:
    """Return whether a key is that of a session, whose store retries if ``add`` returns False."""
    return str(key).startswith(_SESSIONS)


def _counted(key: str, result: int | None) -> int:
    if result is None:
        raise ValueError(f"Key '{key}' not found")
    return result


def _servers(location: str | Iterable[str | Address]) -> list[Address]:
    try:
        return parse_nodes(location)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"LOCATION of EmcacheCache: {error}") from error


@contextlib.contextmanager
def _checked_options() -> Iterator[None]:
    """Report a wrong option, or a file that cannot be read, as Django does."""
    try:
        yield
    except ConnectionError:
        raise
    except (TypeError, ValueError, OSError) as error:
        raise ImproperlyConfigured(f"OPTIONS of EmcacheCache: {error}") from error


def _clients_of(servers: list[Address], options: dict[str, Any]) -> ClientPerLoop:
    # Without a lock, which a fork could leave locked. At worst some clients are created twice.
    for known_servers, known_options, clients in _clients:
        if known_servers == servers and known_options == options:
            return clients
    clients = ClientPerLoop(lambda: create_client(servers, **options))
    _clients.append((servers, options, clients))
    return clients


def _sync_client_of(servers: list[Address], options: dict[str, Any]) -> SyncClient:
    # Without a lock, as above.
    for known_servers, known_options, client in _sync_clients:
        if known_servers == servers and known_options == options and not client.closed:
            return client
    # Django's sync methods may be called where a loop runs, and block it.
    with _checked_options():
        client = create_sync_client(servers, **options, allow_in_event_loop=True)
    _sync_clients.append((servers, options, client))
    atexit.register(client.close)
    return client
