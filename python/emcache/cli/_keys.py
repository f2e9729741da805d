"""keys: lists the items of servers, as they arrive or the first ones of an order."""

import asyncio
import heapq
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

import click

from .._address import Address
from .._errors import EmcacheError
from .._memcached.keys import is_valid
from ._commands import Command, runs
from ._exit_codes import text_of
from ._metadump import Listed, listed
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text, json_text
from ._settings import Settings, node_name
from ._units import duration, size
from ._values import KEY

_SORTED_LIMIT = 20
"""The number of keys with ``--sort`` but without ``--limit``."""
_FOR_EVER = 2**63

ORDERS: dict[str, Callable[[Listed], int]] = {
    "size": lambda item: -(item.size or 0),
    "age": lambda item: _FOR_EVER if item.last_access is None else item.last_access,
    "ttl": lambda item: _FOR_EVER if item.expires is None else item.expires,
}
"""What comes first: the largest, the longest not used, the next to expire."""


class Ranked(NamedTuple):
    """An item of a sorted list; the sequence number keeps equal ones in order."""

    rank: int
    number: int
    item: Listed
    node: str


class FirstItems:
    """The first items of an order, in memory that ``limit`` bounds."""

    def __init__(self, order: str, is_reversed: bool, limit: int) -> None:
        self._rank = ORDERS[order]
        self._sign = -1 if is_reversed else 1
        self._limit = limit
        # The heap's first is the item that the next better one replaces.
        self._heap: list[Ranked] = []
        self.count = 0

    def add(self, item: Listed, node: str) -> None:
        """Take an item, if it belongs to the first ones."""
        self.count += 1
        rank = -self._sign * self._rank(item)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, Ranked(rank, -self.count, item, node))
        elif rank > self._heap[0].rank:
            heapq.heapreplace(self._heap, Ranked(rank, -self.count, item, node))

    def in_order(self) -> list[Ranked]:
        """Return the items in order."""
        return sorted(self._heap, reverse=True)


class Printer:
    """Prints items one by one, also as JSON, without a list in memory.

    Args:
        output: the output of the command.
        is_long: whether to print times and sizes.
        node_width: the width of the column of nodes on a terminal; 0 for no such column.
    """

    def __init__(self, output: Output, is_long: bool, node_width: int) -> None:
        self._output = output
        self._is_long = is_long
        self._node_width = node_width
        self._now = int(time.time())
        self.count = 0
        self._stdout = sys.stdout
        self._bytes = sys.stdout.buffer

    def begin(self) -> None:
        """Print what comes before the items."""
        if self._output.as_json:
            self._stdout.write('{"keys": [')

    def item(self, item: Listed, node: str) -> None:
        """Print one item."""
        if self._output.as_json:
            self._stdout.write(",\n" if self.count else "\n")
            self._stdout.write(json_text(_fields(item, node)))
        elif self._is_long:
            if not self.count and self._output.is_terminal:
                self._output.line(self._row("expires", "unused", "size", "node", "key"), "bold")
            self._stdout.write(self._long(item, node) + "\n")
        elif self._output.is_terminal or not is_valid(item.key):
            self._stdout.write(_word(item.key) + "\n")
        else:
            self._bytes.write(item.key + b"\n")
        self.count += 1

    def end(self, nodes: list[dict[str, object]], is_limited: bool) -> None:
        """Print what comes after the items."""
        if self._output.as_json:
            rest = json_text({"limited": is_limited, "nodes": nodes})
            self._stdout.write("\n], " + rest[1:] + "\n")
        self._stdout.flush()
        self._bytes.flush()

    def _long(self, item: Listed, node: str) -> str:
        left = None if item.expires is None else max(item.expires - self._now, 0)
        unused = None if item.last_access is None else max(self._now - item.last_access, 0)
        if self._output.is_terminal:
            expires = "never" if left is None else duration(left)
            return self._row(expires, duration(unused), size(item.size), node, _word(item.key))
        numbers = ("never" if left is None else left, unused or 0, item.size or 0)
        return "\t".join((*map(str, numbers), node, _word(item.key)))

    def _row(self, expires: str, unused: str, size_text: str, node: str, key: str) -> str:
        shown = f"{node:<{self._node_width}}  " if self._node_width else ""
        return f"{expires:>7}  {unused:>6}  {size_text:>5}  {shown}{key}"


def _fields(item: Listed, node: str) -> dict[str, object]:
    return {
        **bytes_fields("key", item.key),
        "node": node,
        "size": item.size,
        "expires": item.expires,
        "last_access": item.last_access,
    }


def _word(key: bytes) -> str:
    """Return a key as one word, with other characters escaped."""
    return bytes_text(key).replace(" ", "\\x20")


@click.command("keys", cls=Command)
@click.option("--prefix", type=KEY, default=b"", help="Only keys that begin so.")
@click.option(
    "--sort",
    "order",
    type=click.Choice(list(ORDERS)),
    help="The largest, the longest unused, or the next to expire; implies --long.",
)
@click.option("--reverse", "is_reversed", is_flag=True, help="The other end of --sort.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"The most keys. [default: all; {_SORTED_LIMIT} with --sort]",
)
@click.option("--long", "-l", "is_long", is_flag=True, help="Print times, size and node as well.")
@runs
async def keys(
    settings: Settings,
    output: Output,
    prefix: bytes,
    order: str | None,
    is_reversed: bool,
    limit: int | None,
    is_long: bool,
) -> int:
    """List the keys of all nodes, as they arrive or sorted.

    The servers scan all their items, so do not run this every second. Piped, the output has the raw
    bytes of one key on each line; with --long, the seconds until it expires, the seconds since its
    last use, its size and node come first, separated by tabs. Keys with spaces or control
    characters are escaped; use --json for them.
    """
    if is_reversed and order is None:
        raise click.UsageError("--reverse needs --sort")
    nodes, failures = await nodes_that_answer(settings)
    width = max(map(len, map(node_name, nodes))) if len(nodes) > 1 else 0
    printer = Printer(output, is_long or order is not None, width)
    first = order and FirstItems(order, is_reversed, limit or _SORTED_LIMIT)
    if first:
        async with aclosing(items_of(settings, nodes, failures, prefix)) as items:
            async for item, node in items:
                first.add(item, node)
        printer.begin()
        for ranked in first.in_order():
            printer.item(ranked.item, ranked.node)
        is_limited = printer.count < first.count
    else:
        printer.begin()
        is_limited = await _print_all(printer, settings, nodes, failures, prefix, limit)
    printer.end([outcome_fields(node, failures.get(node)) for node in nodes], is_limited)
    if first and is_limited and output.is_terminal:
        click.echo(f"{printer.count:,} of {first.count:,} keys; see --limit", err=True)
    for failure in failures.values():
        click.echo(f"emcache: {text_of(failure)}", err=True)
    return worst_code(failures.values())


async def _print_all(
    printer: Printer,
    settings: Settings,
    nodes: list[Address],
    failures: dict[Address, EmcacheError],
    prefix: bytes,
    limit: int | None,
) -> bool:
    """Print items as they arrive; return whether the limit ended that."""
    async with aclosing(items_of(settings, nodes, failures, prefix)) as items:
        async for item, node in items:
            printer.item(item, node)
            if printer.count == limit:
                return True
    return False


async def items_of(
    settings: Settings,
    nodes: list[Address],
    failures: dict[Address, EmcacheError],
    prefix: bytes,
) -> AsyncGenerator[tuple[Listed, str], None]:
    """Yield the items of the nodes that have not failed, and add those that fail."""
    for node in nodes:
        if node in failures:
            continue
        name = node_name(node)
        try:
            async with aclosing(listed(settings, node)) as parts:
                async for items in parts:
                    for item in items:
                        if item.key.startswith(prefix):
                            yield item, name
        except EmcacheError as error:
            failures[node] = error


async def nodes_that_answer(
    settings: Settings,
) -> tuple[list[Address], dict[Address, EmcacheError]]:
    """Return all nodes, and the errors of nodes that do not answer."""
    async with await settings.client() as client:
        nodes = client.cluster_managment().nodes()
        # This also finds out whether a node accepts the login.
        replies = await asyncio.gather(*map(client.version, nodes), return_exceptions=True)
    failures: dict[Address, EmcacheError] = {}
    for node, reply in zip(nodes, replies, strict=True):
        if isinstance(reply, EmcacheError):
            failures[node] = reply
        elif isinstance(reply, BaseException):
            raise reply
    return nodes, failures


def outcome_fields(node: Address, error: EmcacheError | None) -> dict[str, object]:
    """Return the JSON of a node's outcome."""
    return {
        "node": node_name(node),
        "ok": error is None,
        "error": None if error is None else text_of(error),
    }


COMMANDS = [keys]
