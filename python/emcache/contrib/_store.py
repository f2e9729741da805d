"""The commands of a Django cache, on names and bytes: what is done on an event loop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from .. import _errors
from ..base import Client, Item
from ._options import check_delta
from .loops import ClientPerLoop

T = TypeVar("T")

logger = logging.getLogger("emcache.contrib.django")

Stored = tuple[bytes, int]
"""The bytes of a value, and its flags."""

_AT_ONCE = 1024
"""Commands of one call that are under way at once."""
_LOG_EVERY = 10.0
"""Seconds between two lines about servers, or values, that fail."""

_MISTAKES = (_errors.InvalidKeyError, _errors.SerializationError)
"""What the program itself did wrong, which is never forgiven.

All other errors of emcache say that a server, a proxy or the network failed or refused: they are
what ``ignore_errors`` forgives, but for the ordinary answers that a command lists itself.
"""


class Store:
    """Commands by the running loop's client.

    Args:
        clients: where it is from.
        ignore_errors: treat servers that fail or refuse as empty ones.
    """

    def __init__(self, clients: ClientPerLoop, ignore_errors: bool) -> None:
        self._clients = clients
        self._ignore_errors = ignore_errors

    async def add(self, name: bytes, stored: Stored, exptime: int, *, forgive: bool = True) -> bool:
        """Store a value if there is none; whether it was.

        Without ``forgive`` errors are raised in any case, for a caller that takes ``False`` for a
        key that exists.
        """
        value, flags = stored
        return await self._succeeds(
            lambda c: c.add(name, value, flags=flags, exptime=exptime),
            _errors.NotStoredStorageCommandError,
            forgive=forgive,
        )

    async def get(self, name: bytes) -> Item | None:
        """Get an item with its flags."""
        return await self._call(lambda c: c.get(name, return_flags=True), None)

    async def get_many(self, names: Iterable[bytes]) -> dict[bytes, Item]:
        """Get the items that there are."""
        nothing: dict[bytes, Item] = {}
        if self._ignore_errors:
            return await self._call(lambda c: self._get_what_comes(c, names), nothing)
        return await self._call(lambda c: c.get_many(names, return_flags=True), nothing)

    async def _get_what_comes(self, client: Client, names: Iterable[bytes]) -> dict[bytes, Item]:
        found = await client.get_many(names, return_flags=True, on_error="partial")
        for error in {id(error): error for error in found.errors.values()}.values():
            self._forgive(error)
        return dict(found)

    async def set(self, name: bytes, stored: Stored, exptime: int) -> None:
        """Store a value."""
        value, flags = stored
        await self._call(lambda c: c.set(name, value, flags=flags, exptime=exptime), None)

    async def set_many(self, values: Mapping[bytes, Stored], exptime: int) -> list[bytes]:
        """Store values; the names of those that could not be."""
        failed = await self._call(lambda c: _set_each(c, values, exptime), dict.fromkeys(values))
        if errors := [error for error in failed.values() if error is not None]:
            _complaints.log(type(errors[0]).__name__, errors[0])
        return list(failed)

    async def touch(self, name: bytes, exptime: int) -> bool:
        """Set a value's time anew; whether there is one."""
        return await self._succeeds(lambda c: c.touch(name, exptime), _errors.NotFoundCommandError)

    async def delete(self, name: bytes) -> bool:
        """Delete a value; whether there was one."""
        return await self._succeeds(lambda c: c.delete(name), _errors.NotFoundCommandError)

    async def delete_many(self, names: Iterable[bytes]) -> None:
        """Delete those that there are."""
        nothing: dict[bytes, Exception] = {}
        failed = await self._call(lambda c: _each(c.delete, names), nothing)
        for error in failed.values():
            if not isinstance(error, _errors.NotFoundCommandError):
                self._forgive(error)

    async def change(self, name: bytes, delta: int) -> int | None:
        """Add to an integer, or take from it; None if there is none."""
        check_delta(delta)
        answers = (_errors.NotFoundCommandError, _errors.ArithmeticCommandError)
        try:
            if delta < 0:
                return await self._call(lambda c: c.decrement(name, -delta), None, answers)
            return await self._call(lambda c: c.increment(name, delta), None, answers)
        except _errors.NotFoundCommandError:
            return None

    async def flush(self) -> None:
        """Remove all that the servers hold."""
        await self._call(flush_nodes, None)

    async def close(self) -> None:
        """Close the client; the next command has another."""
        await self._clients.close()

    async def _call(
        self,
        command: Callable[[Client], Awaitable[T]],
        otherwise: T,
        answers: tuple[type[Exception], ...] = (),
    ) -> T:
        """Run a command; raise ``answers``, and return ``otherwise`` for errors to forgive."""
        try:
            return await command(await self._clients.get())
        except answers:
            raise
        except _errors.EmcacheError as error:
            self._forgive(error)
            return otherwise

    async def _succeeds(
        self,
        command: Callable[[Client], Awaitable[None]],
        unless: type[Exception],
        *,
        forgive: bool = True,
    ) -> bool:
        async def succeeds(client: Client) -> bool:
            await command(client)
            return True

        answers = (unless,) if forgive else (_errors.EmcacheError,)
        try:
            return await self._call(succeeds, False, answers)
        except unless:
            return False

    def _forgive(self, error: Exception) -> None:
        """Log an error of a server, proxy or network; raise it where that is not wanted."""
        is_ours = isinstance(error, _errors.EmcacheError) and not isinstance(error, _MISTAKES)
        if not self._ignore_errors or not is_ours:
            raise error
        _complaints.log(type(error).__name__, error)


async def _each(
    command: Callable[[bytes], Awaitable[None]], names: Iterable[bytes]
) -> dict[bytes, Exception]:
    """Run a command for each name; the errors by name."""
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


async def flush_nodes(client: Client) -> None:
    """Remove all that the servers hold; tries all of them before it raises."""
    nodes = client.cluster_managment().nodes()
    results = await asyncio.gather(*map(client.flush_all, nodes), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


class _Complaints:
    """Lines of one kind in the log: how many calls each is about, and why the last one failed."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._next = 0.0
        self._kept = 0

    def log(self, *why: object) -> None:
        now = time.monotonic()
        self._kept += 1
        if now >= self._next:
            logger.warning(self._line, self._kept, *why)
            self._next, self._kept = now + _LOG_EVERY, 0


_complaints = _Complaints("memcached failed or refused (calls: %d): %s: %s")
_unreadable = _Complaints("values cannot be read, which are misses (%d); that of %r: %s")


def log_unreadable(key: str, error: Exception) -> None:
    """Say whose value cannot be read. The error's own text may be all of the value."""
    _unreadable.log(key, type(error).__name__)
