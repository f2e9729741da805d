# Written by tools/make_sync.py from emcache/contrib/_django_store.py.
"""The synchronous commands of the Django backend, with keys and values as bytes."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from .. import _errors
from .._checks import check_integer_delta
from .._item import Item
from ..sync import Client
from ._django_store import Stored, _log_failure

T = TypeVar("T")

_PROGRAM_ERRORS = (_errors.InvalidKeyError, _errors.SerializationError)
"""Errors of the program, which ``ignore_errors`` does not ignore.

All other errors of emcache mean that a server, a proxy or the network failed or refused.
``ignore_errors`` ignores these, except for the negative replies that a command handles itself.
"""


class SyncStore:
    """Commands of a client that all threads share.

    Args:
        client: returns the client.
        ignore_errors: treat servers that fail or refuse as empty.
    """

    def __init__(self, client: Callable[[], Client], ignore_errors: bool) -> None:
        self._client = client
        self._ignore_errors = ignore_errors

    def add(self, name: bytes, stored: Stored, exptime: int, *, ignorable: bool = True) -> bool:
        """Store a value if the key does not exist; return whether it was stored.

        With ``ignorable=False`` errors are always raised, for a caller that understands False as
        "the key exists".
        """
        value, flags = stored
        return self._succeeds(
            lambda c: c.add(name, value, flags=flags, exptime=exptime),
            _errors.NotStoredStorageCommandError,
            ignorable=ignorable,
        )

    def get(self, name: bytes) -> Item | None:
        """Get an item with its flags."""
        return self._call(lambda c: c.get(name, return_flags=True), None)

    def get_many(self, names: Iterable[bytes]) -> dict[bytes, Item]:
        """Get many items with their flags; misses are absent."""
        nothing: dict[bytes, Item] = {}
        if self._ignore_errors:
            return self._call(lambda c: self._get_partial(c, names), nothing)
        return self._call(lambda c: c.get_many(names, return_flags=True), nothing)

    def _get_partial(self, client: Client, names: Iterable[bytes]) -> dict[bytes, Item]:
        found = client.get_many(names, return_flags=True, on_error="partial")
        for error in {id(error): error for error in found.errors.values()}.values():
            self._ignore(error)
        return dict(found)

    def set(self, name: bytes, stored: Stored, exptime: int) -> None:
        """Store a value."""
        value, flags = stored
        self._call(lambda c: c.set(name, value, flags=flags, exptime=exptime), None)

    def set_many(self, values: Mapping[bytes, Stored], exptime: int) -> list[bytes]:
        """Store many values; return the names of values that were not stored."""
        failed = self._call(lambda c: _set_each(c, values, exptime), dict.fromkeys(values))
        if errors := [error for error in failed.values() if error is not None]:
            _log_failure(errors[0])
        return list(failed)

    def touch(self, name: bytes, exptime: int) -> bool:
        """Update the exptime of a value; return whether it exists."""
        return self._succeeds(lambda c: c.touch(name, exptime), _errors.NotFoundCommandError)

    def delete(self, name: bytes) -> bool:
        """Delete a value; return whether it existed."""
        return self._succeeds(lambda c: c.delete(name), _errors.NotFoundCommandError)

    def delete_many(self, names: Iterable[bytes]) -> None:
        """Delete many values."""
        nothing: dict[bytes, Exception] = {}
        failed = self._call(lambda c: _delete_each(c, names), nothing)
        for error in failed.values():
            if not isinstance(error, _errors.NotFoundCommandError):
                self._ignore(error)

    def change(self, name: bytes, delta: int) -> int | None:
        """Add a positive or negative delta to an integer; None if the key does not exist."""
        check_integer_delta(delta)
        answers = (_errors.NotFoundCommandError, _errors.ArithmeticCommandError)
        try:
            if delta < 0:
                return self._call(lambda c: c.decrement(name, -delta), None, answers)
            return self._call(lambda c: c.increment(name, delta), None, answers)
        except _errors.NotFoundCommandError:
            return None

    def flush(self) -> None:
        """Invalidate all items of all servers."""
        self._call(_flush_nodes, None)

    def _call(
        self,
        command: Callable[[Client], T],
        otherwise: T,
        answers: tuple[type[Exception], ...] = (),
    ) -> T:
        """Run a command; raise ``answers``, and return ``otherwise`` for ignored errors."""
        try:
            return command(self._client())
        except answers:
            raise
        except _errors.EmcacheError as error:
            self._ignore(error)
            return otherwise

    def _succeeds(
        self,
        command: Callable[[Client], None],
        unless: type[Exception],
        *,
        ignorable: bool = True,
    ) -> bool:
        def succeeds(client: Client) -> bool:
            command(client)
            return True

        answers = (unless,) if ignorable else (_errors.EmcacheError,)
        try:
            return self._call(succeeds, False, answers)
        except unless:
            return False

    def _ignore(self, error: Exception) -> None:
        """Log an error that ``ignore_errors`` covers; raise any other error."""
        is_emcache = isinstance(error, _errors.EmcacheError)
        if not self._ignore_errors or not is_emcache or isinstance(error, _PROGRAM_ERRORS):
            raise error
        _log_failure(error)


def _delete_each(client: Client, names: Iterable[bytes]) -> dict[bytes, Exception]:
    return client.delete_many(names).errors


def _set_each(
    client: Client, values: Mapping[bytes, Stored], exptime: int
) -> dict[bytes, Exception | None]:
    failed: dict[bytes, Exception | None] = {}
    by_flags: dict[int, dict[bytes, bytes]] = {}
    for name, (value, flags) in values.items():
        by_flags.setdefault(flags, {})[name] = value
    for flags, items in by_flags.items():
        failed |= client.set_many(items, flags=flags, exptime=exptime).errors
    return failed


def _flush_nodes(client: Client) -> None:
    failures: list[_errors.EmcacheError] = []
    for node in client.cluster_managment().nodes():
        try:
            client.flush_all(node)
        except _errors.EmcacheError as error:
            failures.append(error)
    for failure in failures:
        raise failure
