"""A backend for dogpile.cache: ``pip install 'emcache[dogpile]'``.

::

    from dogpile.cache import make_region

    region = make_region().configure(
        "emcache",
        expiration_time=60,
        arguments={"url": ["10.0.0.1:11211", "10.0.0.2:11211"], "distributed_lock": True},
    )

    @region.cache_on_arguments()
    def price(article): ...
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

try:
    from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex
except ImportError as error:
    raise ImportError(
        "emcache.contrib.dogpile needs dogpile.cache: pip install 'emcache[dogpile]'"
    ) from error

from .. import _errors
from .._memcached.keys import safe_key
from .._memcached.times import ttl_to_exptime
from ..sync import Client
from ._sync_nodes import client_of

_LOCK_TIMEOUT = 60
_LONGEST_SLEEP = 0.25


class EmcacheBackend(BytesBackend):
    """A region's backend on one :class:`emcache.sync.Client` that all threads share.

    Keys that memcached would refuse are hashed as with ``Cache(keys="hash")``, so the region needs
    no ``key_mangler``.

    Args:
        arguments: ``url`` has the nodes, as for :func:`emcache.sync.create_client`, or a client.
            ``memcached_expire_time`` is how long the server keeps values, in seconds (or a
            ``timedelta``, by default for ever); it must be longer than the region's
            ``expiration_time``. With ``distributed_lock``, one process at a time creates a value;
            the lock of a process that died ends after ``lock_timeout`` seconds (60; 0: never).
            Others are options of :func:`emcache.sync.create_client`.

    Raises:
        TypeError: an unknown option.
        ValueError: a text that is not a node.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = dict(arguments)
        servers = options.pop("url", "127.0.0.1:11211")
        self._exptime = ttl_to_exptime(options.pop("memcached_expire_time", None) or None)
        self._has_locks = bool(options.pop("distributed_lock", False))
        self._lock_timeout = options.pop("lock_timeout", _LOCK_TIMEOUT)
        self.client: Client = client_of(self, servers, options, of="arguments of EmcacheBackend")

    def has_lock_timeout(self) -> bool:
        """Return whether a lock ends although its owner has not released it."""
        return self._has_locks and bool(self._lock_timeout)

    def get_mutex(self, key: str) -> "EmcacheMutex | None":
        """Return the lock of a key, or None for a lock of the process."""
        if not self._has_locks:
            return None
        return EmcacheMutex(self, safe_key(f"_lock{key}"), self._lock_timeout)

    def get_serialized(self, key: str) -> Any:
        """Return the bytes of a value, or ``NO_VALUE``."""
        item = self.client.get(safe_key(key))
        return NO_VALUE if item is None else item.value

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        """Return the bytes of many values, in the order of the keys."""
        names = [safe_key(key) for key in keys]
        items = self.client.get_many(names)
        return [items[name].value if name in items else NO_VALUE for name in names]

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store bytes."""
        self.client.set(safe_key(key), value, exptime=self._exptime)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """Store many values."""
        pairs = {safe_key(key): value for key, value in mapping.items()}
        _raise_first(self.client.set_many(pairs, exptime=self._exptime).errors)

    def delete(self, key: str) -> None:
        """Delete a value, if it exists."""
        with contextlib.suppress(_errors.NotFoundCommandError):
            self.client.delete(safe_key(key))

    def delete_multi(self, keys: Iterable[str]) -> None:
        """Delete the values that exist."""
        _raise_first(self.client.delete_many([safe_key(key) for key in keys]).errors)


class EmcacheMutex(CacheMutex):
    """A lock on memcached. Only its owner releases it, in one atomic step."""

    def __init__(self, backend: EmcacheBackend, name: bytes, timeout: float) -> None:
        self._backend = backend
        self._name = name
        self._exptime = ttl_to_exptime(timeout or None)
        self._owned: list[tuple[int, bytes]] = []
        """The threads and tokens of what was acquired and not yet released, the oldest first. There
        are several if the time of a lock ran out before."""

    def acquire(self, wait: bool = True) -> bool:
        """Acquire the lock; with ``wait=False`` return False if it is taken."""
        sleep = 0.01
        while not self._acquire():
            if not wait:
                return False
            time.sleep(sleep * random.uniform(0.5, 1))
            sleep = min(2 * sleep, _LONGEST_SLEEP)
        return True

    def _acquire(self) -> bool:
        owned = threading.get_ident(), os.urandom(16).hex().encode()
        try:
            self._backend.client.add(self._name, owned[1], exptime=self._exptime)
            self._owned.append(owned)
        except _errors.NotStoredStorageCommandError:
            return False
        except BaseException:
            # The caller releases nothing, but the server may have stored the token.
            with contextlib.suppress(ValueError):
                self._owned.remove(owned)
            with contextlib.suppress(_errors.EmcacheError):
                self._remove(owned[1])
            raise
        return True

    def release(self) -> None:
        """Release the lock if it has not passed to another owner in the meantime.

        An ``async_creation_runner`` may do it in another thread than that which acquired it.
        """
        owned = self._newest(threading.get_ident())
        if owned is None:
            return
        try:
            with contextlib.suppress(ValueError):
                self._owned.remove(owned)
            self._remove(owned[1])
        except Exception:
            raise
        except BaseException:
            # A signal handler has raised, and nothing else will release it.
            with contextlib.suppress(_errors.EmcacheError):
                self._remove(owned[1])
            raise

    def _newest(self, thread: int) -> tuple[int, bytes] | None:
        """Return what this thread has acquired last, or else what any thread has acquired first."""
        everything = list(self._owned)
        mine = [owned for owned in everything if owned[0] == thread]
        return mine[-1] if mine else everything[0] if everything else None

    def _remove(self, token: bytes) -> None:
        item = self._backend.client.gets(self._name)
        if item is None or item.cas is None or item.value != token:
            return
        try:
            self._backend.client.cas(self._name, b"", item.cas, exptime=-1)
        except _errors.StorageCommandError as error:
            if error.status not in ("EXISTS", "NOT_FOUND"):
                raise

    def locked(self) -> bool:
        """Return whether anyone has the lock."""
        return self._backend.client.get(self._name) is not None


def _raise_first(errors: Mapping[bytes, Exception]) -> None:
    for error in errors.values():
        raise error
