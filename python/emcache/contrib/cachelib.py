"""A cache class for cachelib, as Flask-Session uses it: ``pip install 'emcache[cachelib]'``.

::

    from emcache.contrib.cachelib import EmcacheCache

    cache = EmcacheCache(["10.0.0.1:11211", "10.0.0.2:11211"], key_prefix="shop:", timeout=0.5)
    cache.set("user:42", {"name": "Ada"}, timeout=300)

For Flask-Caching, use :class:`emcache.contrib.flask_caching.EmcacheCache`.
"""

import logging
import pickle
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

try:
    from cachelib import BaseCache
except ImportError as error:
    raise ImportError(
        "emcache.contrib.cachelib needs cachelib: pip install 'emcache[cachelib]'"
    ) from error

from .. import _errors
from .._item import Item
from .._memcached.codecs import decode, encode, encode_pickle
from .._memcached.keys import safe_key
from .._memcached.rate_limits import RateLimitedLogger
from .._memcached.times import ttl_to_exptime
from ..sync import Client
from ._sync_nodes import Servers, client_of

if TYPE_CHECKING:
    from .._results import ManyResult

T = TypeVar("T")

_LOG = RateLimitedLogger(logging.getLogger("emcache.contrib.cachelib"), 10.0)
_PROGRAM_ERRORS = (_errors.ClientClosedError, _errors.InvalidKeyError)
"""Errors of the program, which ``ignore_errors`` does not ignore."""
_TRIES = 1000
"""More than other clients can ever be in the way of a change."""
_RACES = ("EXISTS", "NOT_FOUND", "NOT_STORED")
"""The replies to a write that came after a write of another client."""


class EmcacheCache(BaseCache):
    """A cache on memcached, on one :class:`emcache.sync.Client` that all threads share.

    Values are stored as pylibmc and python-memcached store them: integers as digits, ``bytes``
    unchanged, ``str`` in UTF-8, other types pickled. A value that cannot be read counts as a miss,
    with a warning at most every ten seconds. Keys that memcached would refuse are hashed as with
    ``Cache(keys="hash")``.

    Args:
        servers: the nodes, as for :func:`emcache.sync.create_client`, or a client.
        default_timeout: seconds until a value expires, or a ``timedelta``; 0 never expires.
        key_prefix: the start of each key.
        ignore_errors: treat servers that are down, do not answer in time, or refuse a command as
            empty: reads are misses, and writes return False, with a warning at most every ten
            seconds. By default, errors are raised.
        ignore_delete_many_errors: do the same in :meth:`delete_many` only.
        options: those of :func:`emcache.sync.create_client`.

    Raises:
        TypeError: an unknown option.
        ValueError: a text that is not a node.
    """

    def __init__(
        self,
        servers: Servers,
        default_timeout: int | timedelta = 300,
        key_prefix: str | None = None,
        *,
        ignore_errors: bool = False,
        ignore_delete_many_errors: bool = True,
        **options: Any,
    ) -> None:
        BaseCache.__init__(self, default_timeout)
        self.ignore_delete_many_errors = ignore_delete_many_errors
        self.key_prefix: str = key_prefix or ""
        self.ignore_errors = ignore_errors
        self.client: Client = client_of(self, servers, options, of="options of EmcacheCache")

    def get(self, key: str) -> Any:
        """Return a value, or None if it is missing or cannot be read."""
        item = self._call(lambda: self.client.get(self._name(key), return_flags=True), None)
        return self._value(key, item)

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values in the order of the keys; None for each missing one."""
        names = [self._name(key) for key in keys]
        items = self._get_many(names)
        return [self._value(key, items.get(name)) for key, name in zip(keys, names, strict=True)]

    def has(self, key: str) -> bool:
        """Return whether the key exists."""
        return self._call(lambda: self.client.get(self._name(key)), None) is not None

    def set(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value; return True, or False for an error that is ignored."""
        name, (raw, flags), exptime = self._name(key), _dump(value), self._exptime(timeout)
        return self._succeeds(lambda: self.client.set(name, raw, flags=flags, exptime=exptime))

    def add(self, key: str, value: Any, timeout: int | timedelta | None = None) -> bool:
        """Store a value if the key does not exist; return whether it was stored."""
        name, (raw, flags), exptime = self._name(key), _dump(value), self._exptime(timeout)
        return self._succeeds(
            lambda: self.client.add(name, raw, flags=flags, exptime=exptime),
            _errors.NotStoredStorageCommandError,
        )

    def set_many(
        self, mapping: dict[str, Any], timeout: int | timedelta | None = None
    ) -> list[Any]:
        """Store many values; return the keys whose values were stored."""
        exptime = self._exptime(timeout)
        by_flags: dict[int, dict[bytes, bytes]] = {}
        for key, value in mapping.items():
            raw, flags = _dump(value)
            by_flags.setdefault(flags, {})[self._name(key)] = raw
        failed: dict[bytes, Exception] = {}
        for flags, pairs in by_flags.items():
            store = partial(self.client.set_many, pairs, flags=flags, exptime=exptime)
            failed |= self._errors_of(pairs, store)
        return [key for key in mapping if self._name(key) not in failed]

    def delete(self, key: str) -> bool:
        """Delete a value; return whether it existed."""
        return self._succeeds(
            lambda: self.client.delete(self._name(key)), _errors.NotFoundCommandError
        )

    def delete_many(self, *keys: str) -> list[Any]:
        """Delete many values; return the keys that do not exist any more."""
        names = [self._name(key) for key in keys]
        delete = partial(self.client.delete_many, names)
        failed = self._errors_of(names, delete, ignored=self.ignore_delete_many_errors)
        return [key for key in keys if self._name(key) not in failed]

    def inc(self, key: str, delta: Any = 1) -> Any:
        """Add to a number, or store ``delta`` if the key is missing, as one atomic step.

        Returns the new number, or None for an error that is ignored. The value gets the default
        timeout. As with cachelib's own caches, the numbers may be floats, for example.

        Raises:
            TypeError: the value or ``delta`` is not a number.
        """
        return self._call(lambda: self._change(self._name(key), delta), None)

    def dec(self, key: str, delta: Any = 1) -> Any:
        """Subtract from a number; see :meth:`inc`."""
        return self.inc(key, -delta)

    def clear(self) -> bool:
        """Invalidate all items of the servers, including those of other programs."""
        return self._call(self._flush, False)

    def close(self) -> None:
        """Close the client."""
        self.client.close()

    def _change(self, name: bytes, delta: Any) -> Any:
        exptime = self._exptime(None)
        for tries in range(_TRIES):
            item = self.client.gets(name, return_flags=True)
            number = (self._value(name, item) or 0) + delta
            raw, flags = _dump(number)
            try:
                if item is None:
                    self.client.add(name, raw, flags=flags, exptime=exptime)
                else:
                    self.client.cas(name, raw, item.cas or 0, flags=flags, exptime=exptime)
            except _errors.StorageCommandError as error:
                if error.status not in _RACES or tries == _TRIES - 1:
                    raise
            else:
                break
        return number

    def _flush(self) -> bool:
        failures: list[_errors.EmcacheError] = []
        for node in self.client.cluster_managment().nodes():
            try:
                self.client.flush_all(node)
            except _errors.EmcacheError as error:
                failures.append(error)
        for failure in failures:
            raise failure
        return True

    def _get_many(self, names: Iterable[bytes]) -> dict[bytes, Item]:
        if not self.ignore_errors:
            return self.client.get_many(names, return_flags=True)
        nothing: dict[bytes, Item] = {}
        found = self._call(
            lambda: self.client.get_many(names, return_flags=True, on_error="partial"), nothing
        )
        for error in _distinct(getattr(found, "errors", {})):
            self._ignore(error, True)
        return found

    def _name(self, key: str) -> bytes:
        return safe_key(f"{self.key_prefix}{key}")

    def _exptime(self, timeout: int | timedelta | None) -> int:
        # In cachelib, 0 means no expiration.
        return ttl_to_exptime(self._normalize_timeout(timeout) or None)

    def _value(self, key: str | bytes, item: Item | None) -> Any:
        try:
            return None if item is None else decode(item.value, item.flags or 0, pickles=True)
        except Exception as error:
            # For example after a deploy; the next write of the key repairs it.
            kind = type(error).__name__
            _LOG.warning("unreadable", "the value of %.100r cannot be read: %s", key, kind)
            return None

    def _errors_of(
        self,
        names: Iterable[bytes],
        command: Callable[[], "ManyResult"],
        *,
        ignored: bool = False,
    ) -> Mapping[bytes, Exception]:
        """Run a command for many keys; return the errors that are ignored."""
        failed: Mapping[bytes, Exception]
        try:
            failed = command().errors
        except _errors.EmcacheError as error:
            failed = dict.fromkeys(names, error)
        for failure in _distinct(failed):
            self._ignore(failure, ignored or self.ignore_errors)
        return failed

    def _succeeds(self, command: Callable[[], None], *unless: type[Exception]) -> bool:
        def succeeds() -> bool:
            try:
                command()
            except unless:
                return False
            return True

        return self._call(succeeds, False)

    def _call(self, command: Callable[[], T], otherwise: T) -> T:
        try:
            return command()
        except _errors.EmcacheError as error:
            self._ignore(error, self.ignore_errors)
            return otherwise

    def _ignore(self, error: Exception, ignored: bool) -> None:
        if not ignored or isinstance(error, _PROGRAM_ERRORS):
            raise error
        _LOG.warning("failure", "memcached failed or refused: %s: %s", type(error).__name__, error)


def _dump(value: Any) -> tuple[bytes, int]:
    return encode(value) or encode_pickle(value, pickle.HIGHEST_PROTOCOL)


def _distinct(errors: Mapping[bytes, Exception]) -> Iterable[Exception]:
    return {id(error): error for error in errors.values()}.values()
