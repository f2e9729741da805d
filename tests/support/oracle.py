"""Values that are a function of their key, so that a foreign or a short one shows."""

import zlib

from .scripted import Connection

END = b"END\r\n"


def value_of(key: bytes) -> bytes:
    """What every healthy server of the tests holds for `key`; looks like replies on purpose."""
    return (key + b"\r\nEND\r\n") * (1 + zlib.crc32(key) % 3)


def item(
    key: bytes, value: bytes | None = None, *, flags: int = 0, cas: int | None = None
) -> bytes:
    """One item of a retrieval's reply."""
    value = value_of(key) if value is None else value
    token = b"" if cas is None else b" %d" % cas
    return b"VALUE %b %d %d%b\r\n%b\r\n" % (key, flags, len(value), token, value)


def reply_to(words: list[bytes]) -> bytes:
    """What a healthy server answers to a command; every key exists, every number is 42."""
    match words:
        case [b"get", *keys] | [b"gat", _, *keys]:
            return b"".join(item(key) for key in keys) + END
        case [b"gets", *keys] | [b"gats", _, *keys]:
            return b"".join(item(key, cas=7) for key in keys) + END
        case [b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas", *_]:
            return b"STORED\r\n"
        case [b"incr" | b"decr", *_]:
            return b"42\r\n"
        case [b"delete", *_]:
            return b"DELETED\r\n"
        case [b"touch", *_]:
            return b"TOUCHED\r\n"
        case [b"version"]:
            return b"VERSION 1.6.18\r\n"
        case [b"stats", *_]:
            return b"STAT pid 1\r\n" + END
        case [b"flush_all" | b"verbosity" | b"cache_memlimit", *_]:
            return b"OK\r\n"
    raise AssertionError(f"no such command: {words}")


async def answer(connection: Connection) -> None:
    """A script: a small healthy server."""
    while True:
        words, _ = await connection.command()
        if words == [b""]:
            return
        await connection.send(reply_to(words))
