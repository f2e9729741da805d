"""Deletion of items by a prefix of their keys, on the nodes that hold them."""

import asyncio
import base64
import contextlib
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click

from .._address import Address
from .._errors import CommandError, EmcacheError
from .._memcached.keys import is_valid
from ._commands import interruptible
from ._exit_codes import text_of
from ._keys import items_of, nodes_that_answer, outcome_fields
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text, json_text
from ._raw import RawConnection, raw_connection
from ._settings import Settings, node_name
from ._units import size

_AT_ONCE = 500
"""The most deletes that are sent before their replies are read."""
_BATCHES_PER_SECOND = 10
_IN_MEMORY = 8 * 2**20
_LENGTH = struct.Struct("!H")


@dataclass(frozen=True)
class Plan:
    """How to delete.

    Args:
        is_confirmed: whether to delete without asking.
        is_dry_run: whether to count only.
        rate: the most deletes a second, on all nodes together; 0 for no limit.
    """

    is_confirmed: bool
    is_dry_run: bool
    rate: int


class KeyFile:
    """The keys of one node: in memory, or in a temporary file if there are many."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self.close = self._file.close
        self.count = 0
        self.bytes = 0

    def add(self, key: bytes, item_size: int | None) -> None:
        """Append a key."""
        self._file.write(_LENGTH.pack(len(key)) + key)
        self.count += 1
        self.bytes += item_size or 0

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while header := self._file.read(_LENGTH.size):
            yield self._file.read(_LENGTH.unpack(header)[0])


class Reporter:
    """Prints the result: JSON as it is made, the number for people, progress on a terminal."""

    def __init__(self, output: Output, total: int) -> None:
        self._output = output
        self._json = output.as_json
        self._total = total
        self._shows_progress = sys.stderr.isatty() and not output.console.is_dumb_terminal
        self._shown_at = time.monotonic()
        self._has_progress = False
        self.deleted = 0

    def begin(self) -> None:
        """Print what comes before the keys."""
        if self._json:
            self._output.has_document = True
            sys.stdout.write('{"keys": [')

    def add(self, keys: list[bytes], node: str) -> None:
        """Count deleted keys."""
        for key in keys:
            if self._json:
                sys.stdout.write(",\n" if self.deleted else "\n")
                fields = {**bytes_fields("key", key), "node": node, "deleted": True}
                sys.stdout.write(json_text(fields))
            self.deleted += 1
        if self._shows_progress and time.monotonic() > self._shown_at + 0.5:
            self._shown_at = time.monotonic()
            self._has_progress = True
            click.echo(f"\rdeleted {self.deleted:,} of {self._total:,}", err=True, nl=False)

    def end(self, nodes: list[dict[str, object]]) -> None:
        """Print what comes after the keys."""
        if self._has_progress:
            click.echo("\r\x1b[K", err=True, nl=False)
        if self._json:
            sys.stdout.write("\n], " + json_text({"nodes": nodes})[1:] + "\n")
        else:
            click.echo(f"deleted {self.deleted}")


async def delete_prefix(settings: Settings, output: Output, prefix: bytes, plan: Plan) -> int:
    """Delete the items whose keys begin with ``prefix``, and print their number.

    Each item is deleted on the node that lists it, because another client may route keys in a
    different way. All keys are listed before the first one is deleted: a server must not wait for
    the reader of its list.
    """
    if not plan.is_confirmed and not plan.is_dry_run and not sys.stdin.isatty():
        raise click.UsageError(
            "delete --prefix asks for confirmation, but stdin is not a terminal; use --yes, or "
            "--dry-run to count the keys"
        )
    nodes, failures = await nodes_that_answer(settings)
    with contextlib.ExitStack() as files:
        found = {node: files.enter_context(contextlib.closing(KeyFile())) for node in nodes}
        await _list_keys(settings, found, failures, prefix)
        return await _delete_listed(settings, output, prefix, plan, found, failures)


async def _delete_listed(
    settings: Settings,
    output: Output,
    prefix: bytes,
    plan: Plan,
    found: dict[Address, KeyFile],
    failures: dict[Address, EmcacheError],
) -> int:
    total = sum(keys.count for keys in found.values())
    if plan.is_dry_run:
        _print_counts(output, found, failures)
        return _report(failures)
    if total and not plan.is_confirmed:
        _confirm(prefix, found, failures)
    reporter = Reporter(output, total)
    reporter.begin()
    try:
        pace = Pace(plan.rate)
        for node, keys in found.items():
            try:
                await _delete_all(settings, node, keys, pace, reporter)
            except EmcacheError as error:
                failures[node] = error
    finally:
        # Also after Ctrl-C: people must know what was done.
        reporter.end([_outcome(node, found, failures) for node in found])
    return _report(failures)


async def _list_keys(
    settings: Settings,
    found: dict[Address, KeyFile],
    failures: dict[Address, EmcacheError],
    prefix: bytes,
) -> None:
    for node, keys in found.items():
        async with contextlib.aclosing(items_of(settings, [node], failures, prefix)) as items:
            async for item, _ in items:
                keys.add(item.key, item.size)


def _outcome(
    node: Address, found: dict[Address, KeyFile], failures: dict[Address, EmcacheError]
) -> dict[str, object]:
    return {**outcome_fields(node, failures.get(node)), "matched": found[node].count}


def _report(failures: dict[Address, EmcacheError]) -> int:
    for failure in failures.values():
        click.echo(f"emcache: {text_of(failure)}", err=True)
    return worst_code(failures.values())


def _print_counts(
    output: Output, found: dict[Address, KeyFile], failures: dict[Address, EmcacheError]
) -> None:
    if output.as_json:
        output.document({"nodes": [_outcome(node, found, failures) for node in found]})
    elif output.is_terminal:
        _print_table(found, failures, is_error=False)
    else:
        for node, keys in found.items():
            click.echo(f"{node_name(node)}\t{keys.count}\t{keys.bytes}")


def _print_table(
    found: dict[Address, KeyFile], failures: dict[Address, EmcacheError], *, is_error: bool
) -> None:
    width = max(map(len, map(node_name, found)))
    for node, keys in found.items():
        note = "" if node not in failures else "  not all: the node failed"
        text = f"{node_name(node):<{width}}  {keys.count:>11,} keys  {size(keys.bytes):>5}{note}"
        click.echo(text, err=is_error)


def _confirm(
    prefix: bytes, found: dict[Address, KeyFile], failures: dict[Address, EmcacheError]
) -> None:
    _print_table(found, failures, is_error=True)
    total = sum(keys.count for keys in found.values())
    with interruptible():
        question = f"Delete {total:,} keys that begin with {bytes_text(prefix)!r}?"
        click.confirm(question, abort=True, err=True)


class Pace:
    """Spreads deletes evenly."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._next = time.monotonic()
        self.batch = min(max(rate // _BATCHES_PER_SECOND, 1), _AT_ONCE) if rate else _AT_ONCE

    async def wait(self, count: int) -> None:
        """Wait until ``count`` more deletes are within the rate."""
        if not self._rate:
            return
        now = time.monotonic()
        self._next = max(self._next, now)
        if self._next > now:
            await asyncio.sleep(self._next - now)
        self._next += count / self._rate


async def _delete_all(
    settings: Settings, node: Address, keys: KeyFile, pace: Pace, reporter: Reporter
) -> None:
    if not keys.count:
        return
    async with raw_connection(settings, node) as connection:
        batch: list[bytes] = []
        for key in keys:
            batch.append(key)
            if len(batch) == pace.batch:
                await pace.wait(len(batch))
                await _delete(connection, batch, reporter)
                batch.clear()
        if batch:
            await pace.wait(len(batch))
            await _delete(connection, batch, reporter)


async def _delete(connection: RawConnection, keys: list[bytes], reporter: Reporter) -> None:
    """Delete keys, and report those that still existed."""
    removed = []
    connection.send(b"".join(map(_command, keys)))
    try:
        for key in keys:
            reply = await connection.line()
            if reply in (b"DELETED", b"HD"):
                removed.append(key)
            elif reply not in (b"NOT_FOUND", b"NF"):
                _raise_unexpected(connection.address, key, reply)
    finally:
        reporter.add(removed, node_name(connection.address))


def _command(key: bytes) -> bytes:
    if is_valid(key):
        return b"delete %b\r\n" % key
    # A meta or binary client stored it; `delete` cannot contain such a key.
    return b"md %b b\r\n" % base64.b64encode(key)


def _raise_unexpected(node: Address, key: bytes, reply: bytes) -> None:
    raise CommandError(
        f"{node_name(node)} answered {bytes_text(reply[:100])!r} to the delete of "
        f"{bytes_text(key)!r}"
    )
