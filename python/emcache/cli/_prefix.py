"""Deletes what begins with a prefix, on the nodes that hold it."""

import base64
from contextlib import aclosing

import click

from .._address import Address
from .._errors import CommandError, EmcacheError
from ._exits import text_of
from ._keys import listed, nodes_that_answer, outcome_fields
from ._nodes import worst_code
from ._output import Output, bytes_fields, bytes_text
from ._raw import RawConnection, raw_connection
from ._settings import Settings, node_name

_AT_ONCE = 500
"""Deletes that are sent before their replies are read."""


async def delete_prefix(settings: Settings, output: Output, prefix: bytes) -> int:
    """Delete all items whose keys begin with ``prefix``, and print how many there were.

    Each is deleted on the node that lists it: another client may have put it where this one would
    not look.
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
                    gone = await _delete(connection, keys)
                    count += len(gone)
                    if output.as_json:
                        deleted += [(key, node_name(node)) for key in gone]
        except EmcacheError as error:
            failures[node] = error
    if output.as_json:
        keys_done = [
            {**bytes_fields("key", key), "node": node, "deleted": True} for key, node in deleted
        ]
        told = [outcome_fields(node, failures.get(node)) for node in nodes]
        output.document({"keys": keys_done, "nodes": told})
    else:
        output.line(f"deleted {count}")
    for failure in failures.values():
        click.echo(f"emcache: {text_of(failure)}", err=True)
    return worst_code(failures.values())


async def _delete(connection: RawConnection, keys: list[bytes]) -> list[bytes]:
    """Delete them on one node; those that were still there."""
    gone = []
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        connection.send(b"".join(map(_command, part)))
        for key in part:
            reply = await connection.line()
            if reply in (b"DELETED", b"HD"):
                gone.append(key)
            elif reply not in (b"NOT_FOUND", b"NF"):
                _refuse(connection.address, key, reply)
    return gone


def _command(key: bytes) -> bytes:
    if all(0x20 < byte != 0x7F for byte in key):
        return b"delete %b\r\n" % key
    # Stored by a meta or a binary client: `delete` cannot name it.
    return b"md %b b\r\n" % base64.b64encode(key)


def _refuse(node: Address, key: bytes, reply: bytes) -> None:
    raise CommandError(
        f"{node_name(node)} answered {bytes_text(reply[:100])!r} to the delete of "
        f"{bytes_text(key)!r}"
    )
