"""A cache backend for Django on emcache: ``pip install 'emcache[django]'``.

::

    CACHES = {
        "default": {
            "BACKEND": "emcache.contrib.django.EmcacheCache",
            "LOCATION": ["10.0.0.1:11211", "10.0.0.2:11211"],
            "OPTIONS": {"timeout": 0.5},  # what emcache.create_client takes
        }
    }
"""

# The names and arguments are Django's, and documented there.
# ruff: noqa: ASYNC109, D102

import inspect
from collections.abc import Iterable, Mapping
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
from .._keys import MAX_LENGTH
from ..base import Item
from ..client import create_client
from ._addresses import parse_nodes
from ._exptime import exptime_of
from ._options import CLIENT_OPTIONS
from ._serde import dump, load
from ._store import Store, Stored, log_unreadable
from .loops import BackgroundLoop, ClientPerLoop

_SESSIONS = "django.contrib.sessions.cache"
"""What the keys of Django's cache sessions begin with."""

_wait = BackgroundLoop().run
_clients: list[tuple[list[Address], dict[str, Any], ClientPerLoop]] = []
"""Those of all backends: Django makes a backend for each thread, and for each request."""


class EmcacheCache(BaseCache):  # type: ignore[misc]
    """A cache backend on memcached.

    The async methods (``aget``, ...) use a client of the running loop: one for each loop and each
    distinct ``LOCATION`` and ``OPTIONS``, created when first used and closed when the loop ends.
    The sync ones use one loop on a background thread, begun when first used; a process that forks
    after that begins another.

    Values are stored as Django's ``PyMemcacheCache`` and ``PyLibMCCache`` store them: integers as
    digits, ``bytes``, ``str`` in UTF-8, all else pickled. One that cannot be read is a miss, with a
    warning every ten seconds at most.

    Timeouts, ``TIMEOUT`` too, are seconds or a ``timedelta``.

    ``OPTIONS`` are those of :func:`emcache.create_client`, and ``ignore_errors`` (default False).
    With True, a server or proxy that cannot be reached, does not answer in time, or refuses a
    command is treated as an empty one: reads are misses and writes do nothing, with a warning in
    the log every ten seconds at most. Only ``add`` of a new session of
    ``django.contrib.sessions.backends.cache`` raises, because that tries 10,000 keys otherwise.

    ``close()``, which Django calls after each request, closes nothing; :meth:`aclose` does.
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
                "TIMEOUT of EmcacheCache must be finite: None never expires"
            ) from error
        timeout = params.get("timeout", params.get("TIMEOUT"))
        if isinstance(timeout, timedelta):
            # Django takes what is no number for 300.
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
                f"OPTIONS of EmcacheCache: {names} unknown. They are those of "
                "emcache.create_client, and ignore_errors"
            )
        self._servers = _servers(location)
        if not self._servers and not options.get("autodiscovery"):
            raise ImproperlyConfigured("EmcacheCache needs a LOCATION, as '127.0.0.1:11211'")
        self._store = Store(_clients_of(self._servers, options), bool(ignore_errors))

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> int:
        """Return what memcached takes for a timeout: seconds or a ``timedelta``.

        None never expires, 0 expires at once.
        """
        return exptime_of(self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout)

    def validate_key(self, key: str) -> None:
        """Refuse keys that memcached does not take."""
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
        forgive = not _is_session(key)
        return _wait(self._store.add(name, dump(value), exptime, forgive=forgive))

    async def aadd(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        forgive = not _is_session(key)
        return await self._store.add(name, await _adump(value), exptime, forgive=forgive)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._value(key, _wait(self._store.get(self._name(key, version))), default)

    async def aget(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._value(key, await self._store.get(self._name(key, version)), default)

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        _wait(self._store.set(name, dump(value), exptime))

    async def aset(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        await self._store.set(name, await _adump(value), exptime)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        return _wait(self._store.touch(name, exptime))

    async def atouch(
        self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> bool:
        name, exptime = self._name(key, version), self.get_backend_timeout(timeout)
        return await self._store.touch(name, exptime)

    def delete(self, key: str, version: int | None = None) -> bool:
        return _wait(self._store.delete(self._name(key, version)))

    async def adelete(self, key: str, version: int | None = None) -> bool:
        return await self._store.delete(self._name(key, version))

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = self._names(keys, version)
        return self._values(names, _wait(self._store.get_many(names)))

    async def aget_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = self._names(keys, version)
        return self._values(names, await self._store.get_many(names))

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """Set many values; returns the keys that could not be stored, for whatever reason."""
        names, exptime = self._names(data, version), self.get_backend_timeout(timeout)
        values = {name: dump(data[key]) for name, key in names.items()}
        return [names[name] for name in _wait(self._store.set_many(values, exptime))]

    async def aset_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """See :meth:`set_many`."""
        names, exptime = self._names(data, version), self.get_backend_timeout(timeout)
        values = {name: await _adump(data[key]) for name, key in names.items()}
        return [names[name] for name in await self._store.set_many(values, exptime)]

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        _wait(self._store.delete_many(self._names(keys, version)))

    async def adelete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        await self._store.delete_many(self._names(keys, version))

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Add to an integer; below zero memcached stops at zero.

        Raises:
            ValueError: there is no such key; :class:`emcache.ArithmeticCommandError`, which is
                one too: its value is no integer.
        """
        return _counted(key, _wait(self._store.change(self._name(key, version), delta)))

    async def aincr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """See :meth:`incr`."""
        return _counted(key, await self._store.change(self._name(key, version), delta))

    async def aget_or_set(
        self, key: str, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        """Get a value, or add ``default``: a value, or what returns one, ``async`` or not."""
        value = await self.aget(key, self._missing_key, version=version)
        if value is not self._missing_key:
            return value
        value = default() if callable(default) else default
        if inspect.isawaitable(value):
            value = await value
        await self.aadd(key, value, timeout=timeout, version=version)
        # Somebody else may have added another meanwhile.
        return await self.aget(key, value, version=version)

    def clear(self) -> None:
        """Remove all that the servers hold, other programs' too."""
        _wait(self._store.flush())

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
            return default if item is None else load(item.value, item.flags or 0)
        except Exception as error:
            # After a deploy, say: what is set next mends it.
            log_unreadable(key, error)
            return default

    def _values(self, names: dict[bytes, str], items: dict[bytes, Item]) -> dict[str, Any]:
        missing = self._missing_key
        found = {names[name]: self._value(names[name], items[name], missing) for name in items}
        return {key: value for key, value in found.items() if value is not missing}


async def _adump(value: Any) -> Stored:
    try:
        return dump(value)
    except SynchronousOnlyOperation:
        # A queryset that was not evaluated yet asks the database when it is pickled.
        return await sync_to_async(dump, thread_sensitive=True)(value)


def _is_session(key: object) -> bool:
    """Whether a new session is to be stored: its store takes False for a key that exists."""
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


def _clients_of(servers: list[Address], options: dict[str, Any]) -> ClientPerLoop:
    # Without a lock, which a fork could leave locked: at worst some are made twice.
    for known_servers, known_options, clients in _clients:
        if known_servers == servers and known_options == options:
            return clients
    clients = ClientPerLoop(lambda: create_client(servers, **options))
    _clients.append((servers, options, clients))
    return clients
