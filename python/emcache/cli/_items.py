"""get, set, delete, touch, ttl, incr, decr."""

import sys
from typing import Any

import click

from .._client import Client
from .._errors import NotFoundCommandError, UnsupportedError
from ._capabilities import answers
from ._commands import Command, interruptible, runs
from ._exit_codes import NEGATIVE
from ._failover_notes import item_client
from ._output import Output, bytes_fields, bytes_text
from ._prefix import Plan, delete_prefix
from ._settings import Settings
from ._values import EXPTIME, KEY

_MAX_UINT64 = 2**64 - 1


@click.command("get", cls=Command)
@click.argument("key", type=KEY)
@runs
async def get(settings: Settings, output: Output, key: bytes) -> int:
    """Print the value of KEY: its raw bytes if piped.

    On a terminal, a binary value is only described.
    """
    async with item_client(settings) as client:
        item = await client.gets(key, return_flags=True)
    if output.as_json:
        output.document(
            {
                **bytes_fields("key", key),
                "found": item is not None,
                "flags": item.flags if item else None,
                "cas": item.cas if item else None,
                "size": len(item.value) if item else None,
                **bytes_fields("value", item.value if item else None),
            }
        )
    elif item is None:
        click.echo(f"{bytes_text(key)}: not found", err=True)
    elif output.is_terminal:
        output.line(_for_people(item.value))
    else:
        output.raw(item.value)
    return 0 if item is not None else NEGATIVE


def _for_people(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"({len(value)} bytes of binary data; pipe them, or use --json)"
    if all(char.isprintable() or char in "\n\t" for char in text):
        return text.removesuffix("\n")
    return f"({len(value)} bytes with control characters; pipe them, or use --json)"


@click.command("set", cls=Command)
@click.argument("key", type=KEY)
@click.argument("value", required=False)
@click.option("--file", type=click.File("rb"), help="Take the value from a file.")
@click.option("--exptime", "-e", type=EXPTIME, default=0, help="0 (never), 90, 10m, 2h, 7d.")
@click.option("--flags", type=click.IntRange(0, 2**32 - 1), default=0)
@click.option("--add", "verb", flag_value="add", help="Only if the key does not exist.")
@click.option("--replace", "verb", flag_value="replace", help="Only if the key exists.")
@runs
async def set_(
    settings: Settings,
    output: Output,
    key: bytes,
    value: str | None,
    file: Any,
    exptime: int,
    flags: int,
    verb: str | None,
) -> None:
    """Store VALUE under KEY; - reads it from stdin."""
    with interruptible():
        data = _value(value, file)
    async with item_client(settings) as client:
        store = getattr(client, verb or "set")
        await store(key, data, flags=flags, exptime=exptime)
    _done(output, key, {"stored": True, "size": len(data)})


def _value(value: str | None, file: Any) -> bytes:
    if (value is None) == (file is None):
        raise click.UsageError("pass a VALUE, - for stdin, or --file")
    data: bytes
    if file is not None:
        data = file.read()
    elif value == "-":
        try:
            data = sys.stdin.buffer.read()
        except OSError as error:
            raise click.UsageError(f"stdin cannot be read: {error.strerror}") from error
    else:
        data = (value or "").encode(sys.getfilesystemencoding(), "surrogateescape")
    return data


def _done(output: Output, key: bytes, what: dict[str, Any]) -> None:
    if output.as_json:
        output.document({**bytes_fields("key", key), **what})


@click.command("delete", cls=Command)
@click.argument("keys", metavar="[KEY...]", type=KEY, nargs=-1)
@click.option("--prefix", type=KEY, help="All items whose keys begin so.")
@click.option("--yes", "-y", is_flag=True, help="With --prefix: do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="With --prefix: only count the keys.")
@click.option(
    "--rate",
    type=click.IntRange(0, 10_000_000),
    default=10_000,
    show_default=True,
    help="With --prefix: the most deletes a second; 0 for no limit.",
)
@runs
async def delete(
    settings: Settings,
    output: Output,
    keys: tuple[bytes, ...],
    prefix: bytes | None,
    yes: bool,
    dry_run: bool,
    rate: int,
) -> int:
    """Delete items by KEY, or by a prefix of their keys.

    The exit code is 1 if a KEY does not exist. With --prefix, the servers list all their keys, as
    for the command keys; the keys are counted, and you are asked before they are deleted.
    """
    if bool(keys) == (prefix is not None):
        raise click.UsageError("pass one KEY or more, or --prefix")
    if prefix is None and (yes or dry_run):
        raise click.UsageError("--yes and --dry-run need --prefix")
    if prefix is not None:
        if not prefix:
            raise click.UsageError(
                "--prefix must not be empty; use 'emcache flush' to delete all items"
            )
        return await delete_prefix(settings, output, prefix, Plan(yes, dry_run, rate))
    async with item_client(settings) as client:
        deleted = [await _delete(client, key) for key in keys]
    if output.as_json:
        results = zip(keys, deleted, strict=True)
        keys_done = [{**bytes_fields("key", key), "deleted": done} for key, done in results]
        output.document({"keys": keys_done})
    else:
        for key, done in zip(keys, deleted, strict=True):
            if not done:
                click.echo(f"{bytes_text(key)}: not found", err=True)
    return 0 if all(deleted) else NEGATIVE


async def _delete(client: Client, key: bytes) -> bool:
    try:
        await client.delete(key)
    except NotFoundCommandError:
        return False
    return True


@click.command("touch", cls=Command)
@click.argument("key", type=KEY)
@click.argument("exptime", type=EXPTIME)
@runs
async def touch(settings: Settings, output: Output, key: bytes, exptime: int) -> None:
    """Set when KEY expires: 90, 10m, 2h, 7d; 0 never, -1 at once."""
    async with item_client(settings) as client:
        await client.touch(key, exptime)
    _done(output, key, {"touched": True})


@click.command("ttl", cls=Command)
@click.argument("key", type=KEY)
@runs
async def ttl(settings: Settings, output: Output, key: bytes) -> int:
    """Print the seconds until KEY expires, or "never".

    It needs memcached 1.6 or later. The exit code is 1 if KEY does not exist.
    """
    async with item_client(settings) as client:
        seconds = await _ttl(client, key)
    if output.as_json:
        expires = seconds is not None and seconds >= 0
        output.document(
            {
                **bytes_fields("key", key),
                "found": seconds is not None,
                "ttl": seconds if expires else None,
            }
        )
    elif seconds is None:
        click.echo(f"{bytes_text(key)}: not found", err=True)
    else:
        output.line("never" if seconds < 0 else str(seconds))
    return 0 if seconds is not None else NEGATIVE


async def _ttl(client: Client, key: bytes) -> int | None:
    try:
        return await client.ttl(key)
    except UnsupportedError:
        # A node that is silent supports nothing either; then this raises what is wrong with it.
        await answers(client, client.node_for(key))
        raise


def _counting(verb: str, method: str, help_text: str) -> click.Command:
    async def count(settings: Settings, output: Output, key: bytes, delta: int) -> None:
        async with item_client(settings) as client:
            number = await getattr(client, method)(key, delta)
        if output.as_json:
            output.document({**bytes_fields("key", key), "number": number})
        else:
            output.line(str(number))

    count.__doc__ = help_text
    arguments = [
        click.Argument(["key"], type=KEY),
        click.Argument(["delta"], type=click.IntRange(0, _MAX_UINT64), required=False, default=1),
    ]
    return Command(verb, callback=runs(count), params=arguments, help=help_text)


COMMANDS = [
    get,
    set_,
    delete,
    touch,
    ttl,
    _counting("incr", "increment", "Add DELTA (1) to the number under KEY, and print it."),
    _counting("decr", "decrement", "Subtract DELTA (1) from the number under KEY; it stops at 0."),
]
