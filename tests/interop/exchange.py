"""One client of another language and emcache write to the same nodes, and read each other."""

import asyncio
import contextlib
import json
import re
import struct
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import emcache
from emcache.testing import MemcachedServer

from .neighbours import Neighbour, Refused, command

KEYS = [f"user:{n}:profile" for n in range(200)] + [f"{n:x}" for n in range(50)] + ["k" * 150]


@dataclass
class Result:
    """The outcome of an exchange."""

    version: str = ""
    keys: int = 0
    read: int = 0
    """Values of the client that emcache read, or refused as it should."""
    written: int = 0
    """Values of emcache that the client read."""
    items: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Flags and bytes of the client's values, by name."""
    faults: list[str] = field(default_factory=list)


def exchange(neighbour: Neighbour, servers: list[MemcachedServer]) -> Result:
    """Let both write and read on three servers."""
    names = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    prefix = re.sub(r"\W+", "-", neighbour.name)
    result = Result()
    with subprocess.Popen(
        [*command(neighbour), names],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", bufsize=1,
    ) as program:  # fmt: skip
        try:
            for key in KEYS:
                if (reply := ask(program, f"set {prefix}:{key} text")) != "ok":
                    result.faults.append(f"{key}: {reply}")
            for name in neighbour.theirs:
                if (reply := ask(program, f"set {prefix}:theirs:{name} {name}")) != "ok":
                    result.faults.append(f"{name} was not stored: {reply}")
            asyncio.run(read_and_write(neighbour, servers, prefix, result))
            for name, value in neighbour.ours.items():
                reply = ask(program, f"get {prefix}:ours:{name}")
                if is_described(reply, value):
                    result.written += 1
                else:
                    result.faults.append(f"our {name} was read as {reply[:80]!r}")
            program.stdin.close()
            result.version = program.stdout.readline().removeprefix("version").strip()
        finally:
            program.kill()
            with contextlib.suppress(BrokenPipeError):
                program.stdin.close()
    return result


def ask(program: "subprocess.Popen[str]", line: str) -> str:
    """Send a command to the other client and return its answer."""
    with contextlib.suppress(BrokenPipeError):
        program.stdin.write(line + "\n")
        program.stdin.flush()
    return program.stdout.readline().rstrip("\n") or "no answer"


async def read_and_write(
    neighbour: Neighbour, servers: list[MemcachedServer], prefix: str, result: Result
) -> None:
    """Read what the other client wrote, by its rule and preset, and write for it."""
    addresses = [server.address for server in servers]
    async with emcache.create_client(addresses, routing=neighbour.routing) as client:
        result.keys = len(await client.get_many([f"{prefix}:{key}".encode() for key in KEYS]))
        if result.keys < len(KEYS):
            result.faults.append(f"{len(KEYS) - result.keys} keys are on other nodes")
        cache = emcache.Cache(client, serializer=neighbour.preset(), prefix=f"{prefix}:")
        for name, expected in neighbour.theirs.items():
            item = await client.get(f"{prefix}:theirs:{name}".encode(), return_flags=True)
            if item is None:
                continue  # It was not stored, which is a fault already.
            result.items[name] = (item.flags, item.value)
            if fault := await fault_of(cache, f"theirs:{name}", expected):
                result.faults.append(f"their {name} {fault}")
            else:
                result.read += 1
        for name, value in neighbour.ours.items():
            await cache.set(f"ours:{name}", value)
            if not is_same(found := await cache.get(f"ours:{name}"), value):
                result.faults.append(f"our own {name} was read as {found!r:.80}")


async def fault_of(cache: emcache.Cache[Any], key: str, expected: object) -> str | None:
    """Return what is wrong with a value of the other client; None if nothing is."""
    try:
        found = await cache.get(key)
    except emcache.SerializationError as error:
        if isinstance(expected, Refused) and re.search(expected.text, str(error)):
            return None
        return f"was refused: {error}"
    if isinstance(expected, Refused):
        return f"was not refused, but read as {found!r:.80}"
    return None if is_same(found, expected) else f"was read as {found!r:.80}"


def is_same(found: object, expected: object) -> bool:
    return type(found) is type(expected) and found == expected


def is_described(reply: str, value: object) -> bool:
    """Return whether the other client describes the value that emcache wrote."""
    kind, _, digits = reply.partition(" ")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        return False  # the program has ended
    match kind:
        case "text" | "characters":
            return data.decode() == value
        case "bytes":
            return data == value
        case "string":
            return data == (value.encode() if isinstance(value, str) else value)
        case "int" | "long":
            return is_same(int(data), value)
        case "float":
            return is_same(struct.unpack(">d", data)[0], value)
        case "bool":
            return is_same(data == b"true", value)
        case "null":
            return value is None
        case "date":
            start = datetime(1970, 1, 1, tzinfo=UTC)
            return start + timedelta(milliseconds=int(data)) == value
        case "json":
            return is_same(json.loads(data), value)
    return False
