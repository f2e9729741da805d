"""The commands of the Django backend, with keys and values as bytes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from .. import _errors
from .._checks import check_integer_delta
from .._client import Client
from .._item import Item
from .._memcached.rate_limits import RateLimitedLogger
from ._flush import flush_nodes
from .loops import ClientPerLoop

T = TypeVar("T")

LOG = RateLimitedLogger(logging.getLogger("emcache.contrib.django"), 10.0)
"""Warnings about servers that fail and values that cannot be read, each once in 10 s."""

Stored = tuple[bytes, int]
"""The bytes of a value, and its flags."""

_AT_ONCE = 1024
"""The most commands of one call that are pending at once."""

_PROGRAM_ERRORS = (_errors.InvalidKeyError, _errors.SerializationError)
"""Errors of the program, which ``ignore_errors`` does not ignore.

All other errors of emcache mean that a server, a proxy or the network failed or refused.
``ignore_errors`` ignores these, except for the negative replies that a command handles itself.
"""


class Store:
    """Commands of the running loop's client.

    Args:
        clients: the clients of all loops.
        ignore_errors: treat servers that fail or refuse as empty.
    """

    def __init__(self, clients: ClientPerLoop, ignore_errors: bool) -> None:
        self._clients = clients
        self._ignore_errors = ignore_errors

    async def add(
        self, name: bytes, stored: Stored, exptime: int, *, ignorable: bool = True
    ) -> bool:
        """Store a value if the key does not exist; return whether it was stored.

        With ``ignorable=False`` errors are always raised, for a caller that understands False as
        "the key exists".
        """
        value, flags = stored
        return await self._succeeds(
            lambda c: c.add(name, value, flags=flags, exptime=exptime),
            _errors.NotStoredStorageCommandError,
            ignorable=ignorable,
        )

    async def get(self, name: bytes) -> Item | None:
        """Get an item with its flags."""
        return await self._call(lambda c: c.get(name, return_flags=True), None)

    async def get_many(self, names: Iterable[bytes]) -> dict[bytes, Item]:
        """Get many items with their flags; misses are absent."""
        nothing: dict[bytes, Item] = {}
        if self._ignore_errors:
            return await self._call(lambda c: self._get_partial(c, names), nothing)
        return await self._call(lambda c: c.get_many(names, return_flags=True), nothing)

    async def _get_partial(self, client: Client, names: Iterable[bytes]) -> dict[bytes, Item]:
        found = await client.get_many(names, return_flags=True, on_error="partial")
        for error in {id(error): error for error in found.errors.values()}.values():
            self._ignore(error)
        return dict(found)

    async def set(self, name: bytes, stored: Stored, exptime: int) -> None:
        """Store a value."""
        value, flags = stored
        await self._call(lambda c: c.set(name, value, flags=flags, exptime=exptime), None)

    async def set_many(self, values: Mapping[bytes, Stored], exptime: int) -> list[bytes]:
        """Store many values; return the names of values that were not stored."""
        failed = await self._call(lambda c: _set_each(c, values, exptime), dict.fromkeys(values))
        if errors := [error for error in failed.values() if error is not None]:
            _log_failure(errors[0])
        return list(failed)

    async def touch(self, name: bytes, exptime: int) -> bool:
        """Update the exptime of a value; return whether it exists."""
        return await self._succeeds(lambda c: c.touch(name, exptime), _errors.NotFoundCommandError)

    async def delete(self, name: bytes) -> bool:
        """Delete a value; return whether it existed."""
        return await self._succeeds(lambda c: c.delete(name), _errors.NotFoundCommandError)

    async def delete_many(self, names: Iterable[bytes]) -> None:
        """Delete many values."""
        nothing: dict[bytes, Exception] = {}
        failed = await self._call(lambda c: _each(c.delete, names), nothing)
        for error in failed.values():
            if not isinstance(error, _errors.NotFoundCommandError):
                self._ignore(error)

    async def change(self, name: bytes, delta: int) -> int | None:
        """Add a positive or negative delta to an integer; None if the key does not exist."""
        check_integer_delta(delta)
        answers = (_errors.NotFoundCommandError, _errors.ArithmeticCommandError)
        try:
            if delta < 0:
                return await self._call(lambda c: c.decrement(name, -delta), None, answers)
            return await self._call(lambda c: c.increment(name, delta), None, answers)
        except _errors.NotFoundCommandError:
            return None

    async def flush(self) -> None:
        """Invalidate all items of all servers."""
        await self._call(flush_nodes, None)

    async def close(self) -> None:
        """Close the running loop's client; the next command creates another."""
        await self._clients.close()

    async def _call(
        self,
        command: Callable[[Client], Awaitable[T]],
        otherwise: T,
        answers: tuple[type[Exception], ...] = (),
    ) -> T:
        """Run a command; raise ``answers``, and return ``otherwise`` for ignored errors."""
        try:
            return await command(await self._clients.get())
        except answers:
            raise
        except _errors.EmcacheError as error:
            self._ignore(error)
            return otherwise

    async def _succeeds(
        self,
        command: Callable[[Client], Awaitable[None]],
        unless: type[Exception],
        *,
        ignorable: bool = True,
    ) -> bool:
        async def succeeds(client: Client) -> bool:
            await command(client)
            return True

        answers = (unless,) if ignorable else (_errors.EmcacheError,)
        try:
            return await self._call(succeeds, False, answers)
        except unless:
            return False

    def _ignore(self, error: Exception) -> None:
        """Log an error that ``ignore_errors`` covers; raise any other error."""
        is_emcache = isinstance(error, _errors.EmcacheError)
        if not self._ignore_errors or not is_emcache or isinstance(error, _PROGRAM_ERRORS):
            raise error
        _log_failure(error)


async def _each(
    command: Callable[[bytes], Awaitable[None]], names: Iterable[bytes]
) -> dict[bytes, Exception]:
    """Run a command for each name; return the errors by name."""
    failed: dict[bytes, Exception] = {}
    each = list(names)
    for start in range(0, len(each), _AT_ONCE):
        part = each[start : start + _AT_ONCE]
        results = await asyncio.gather(*map(command, part), return_exceptions=True)
        for name, result in zip(part, results, strict=True):
            if isinstance(result, _errors.EmcacheError):
                failed[name] = result
            elif isinstance(result, BaseException):
                raise result
    return failed


async def _set_each(
    client: Client, values: Mapping[bytes, Stored], exptime: int
) -> dict[bytes, Exception | None]:
    async def store(name: bytes) -> None:
        value, flags = values[name]
        await client.set(name, value, flags=flags, exptime=exptime)

    return {**await _each(store, values)}


def log_unreadable(key: str, error: Exception) -> None:
    """Log that a value cannot be read. The text of ``error`` is not logged; it may be the value."""
    LOG.warning(
        "unreadable",
        "the value of %r cannot be read and counts as a miss: %s",
        key,
        type(error).__name__,
    )


def _log_failure(error: Exception) -> None:
    LOG.warning("failure", "memcached failed or refused: %s: %s", type(error).__name__, error)
