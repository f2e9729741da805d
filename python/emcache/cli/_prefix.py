"""Deletion of items by a prefix of their keys, on the nodes that hold them."""

import base64
from contextlib import aclosing

import click

from .._address import Address
from .._errors import CommandError, EmcacheError
from .._memcached.keys import is_valid
from ._exit_codes import text_of
from ._keys import listed, nodes_that_answer, outcome_fields
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text
from ._raw import RawConnection, raw_connection
from ._settings import Settings, node_name

_AT_ONCE = 500
"""The most deletes that are sent before their replies are read."""


async def delete_prefix(settings: Settings, output: Output, prefix: bytes) -> int:
    """Delete all items whose keys begin with ``prefix``, and print their number.

    Each item is deleted on the node that lists it, because another client may route keys in a
    different way.
    """
    nodes, failures = await nodes_that_answer(settings)
    deleted: list[tuple[bytes, str]] = []
    count = 0
    for node in nodes:
        if node in failures:
            continue
        try:
            async with (
                raw_connection(settings, node) as connection,
                aclosing(listed(settings, node)) as parts,
            ):
                async for items in parts:
                    keys = [item.key for item in items if item.key.startswith(prefix)]
                    removed = await _delete(connection, keys)
                    count += len(removed)
                    if output.as_json:
                        deleted += [(key, node_name(node)) for key in removed]
        except EmcacheError as error:
            failures[node] = error
    if output.as_json:
        keys_done = [
            {**bytes_fields("key", key), "node": node, "deleted": True} for key, node in deleted
        ]
        outcomes = [outcome_fields(node, failures.get(node)) for node in nodes]
        output.document({"keys": keys_done, "nodes": outcomes})
    else:
        output.line(f"deleted {count}")
    for failure in failures.values():
        click.echo(f"emcache: {text_of(failure)}", err=True)
    return worst_code(failures.values())


async def _delete(connection: RawConnection, keys: list[bytes]) -> list[bytes]:
    """Delete keys on one node; return the keys that still existed."""
    removed = []
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        connection.send(b"".join(map(_command, part)))
        for key in part:
            reply = await connection.line()
            if reply in (b"DELETED", b"HD"):
                removed.append(key)
            elif reply not in (b"NOT_FOUND", b"NF"):
                _raise_unexpected(connection.address, key, reply)
    return removed


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
