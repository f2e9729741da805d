"""Every command as a call, and what the tests of faults need around one."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import emcache

from .memcached import Memcached
from .scripted import Scripted

Call = Callable[[emcache.Client, emcache.MemcachedHostAddress], Awaitable[Any]]

READS: dict[str, Call] = {
    "get": lambda client, _: client.get(b"k"),
    "gets": lambda client, _: client.gets(b"k"),
    "gat": lambda client, _: client.gat(60, b"k"),
    "gats": lambda client, _: client.gats(60, b"k"),
    "get_many": lambda client, _: client.get_many([b"k", b"l"]),
    "gets_many": lambda client, _: client.gets_many([b"k", b"l"]),
    "gat_many": lambda client, _: client.gat_many(60, [b"k", b"l"]),
    "gats_many": lambda client, _: client.gats_many(60, [b"k", b"l"]),
}
STORAGE: dict[str, Call] = {
    "set": lambda client, _: client.set(b"k", b"flush_all"),
    "add": lambda client, _: client.add(b"k", b"flush_all"),
    "replace": lambda client, _: client.replace(b"k", b"flush_all"),
    "append": lambda client, _: client.append(b"k", b"flush_all"),
    "prepend": lambda client, _: client.prepend(b"k", b"flush_all"),
    "cas": lambda client, _: client.cas(b"k", b"flush_all", 7),
}
OTHERS: dict[str, Call] = {
    "delete": lambda client, _: client.delete(b"k"),
    "increment": lambda client, _: client.increment(b"k", 1),
    "decrement": lambda client, _: client.decrement(b"k", 1),
    "touch": lambda client, _: client.touch(b"k", 60),
    "flush_all": lambda client, node: client.flush_all(node),
    "version": lambda client, node: client.version(node),
    "stats": lambda client, node: client.stats(node),
    "verbosity": lambda client, node: client.verbosity(node, 1),
    "cache_memlimit": lambda client, node: client.cache_memlimit(node, 64),
}
COMMANDS = READS | STORAGE | OTHERS
NOREPLY_WRITES: dict[str, Call] = {
    "set": lambda client, _: client.set(b"k", b"v", noreply=True),
    "add": lambda client, _: client.add(b"k", b"v", noreply=True),
    "replace": lambda client, _: client.replace(b"k", b"v", noreply=True),
    "append": lambda client, _: client.append(b"k", b"v", noreply=True),
    "prepend": lambda client, _: client.prepend(b"k", b"v", noreply=True),
    "cas": lambda client, _: client.cas(b"k", b"v", 7, noreply=True),
    "delete": lambda client, _: client.delete(b"k", noreply=True),
    "increment": lambda client, _: client.increment(b"k", 1, noreply=True),
    "decrement": lambda client, _: client.decrement(b"k", 1, noreply=True),
    "touch": lambda client, _: client.touch(b"k", 60, noreply=True),
    "flush_all": lambda client, node: client.flush_all(node, noreply=True),
}
NOREPLY_SETTINGS: dict[str, Call] = {
    "verbosity": lambda client, node: client.verbosity(node, 1, noreply=True),
    "cache_memlimit": lambda client, node: client.cache_memlimit(node, 64, noreply=True),
}
ISOLATED = {
    *("gat", "gats", "gat_many", "gats_many", "flush_all", "version", "stats"),
    *("verbosity", "cache_memlimit"),
}
"""Those that go on a connection of their own until the node has answered them once."""
SUBSTITUTED = {"gat", "gats", "gat_many", "gats_many"}
"""Those that are done by other commands where the node does not answer them."""


async def learn(client: emcache.Client, node: emcache.MemcachedHostAddress) -> None:
    """Let the node answer each of these once, so that they share the connections of the others."""
    for command in ("gat", "flush_all", "version", "stats", "verbosity", "cache_memlimit"):
        await COMMANDS[command](client, node)


def connection_of(command: str) -> int:
    """Give the number of the connection that a command comes on: 0 is the first shared one."""
    return int(command in ISOLATED)


def client_of(*servers: Scripted | Memcached, **options: Any) -> Any:
    """One connection to each server, one command for each call, and a timeout that never comes."""
    defaults = {"timeout": 30, "max_connections": 1, "autobatching": False}
    return emcache.create_client([server.address for server in servers], **(defaults | options))


def within(seconds: float) -> Callable[..., Callable[..., Coroutine[Any, Any, None]]]:
    """A test that hangs fails by its own name, not by that of the whole run."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., Coroutine[Any, Any, None]]:
        @functools.wraps(test)
        async def bounded(*args: Any, **kwargs: Any) -> None:
            async with asyncio.timeout(seconds):
                await test(*args, **kwargs)

        return bounded

    return decorate


@contextlib.contextmanager
def full_backlog() -> Iterator[emcache.MemcachedHostAddress]:
    """Where connects are neither taken nor refused, because too many wait to be accepted."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield emcache.MemcachedHostAddress(*listener.getsockname())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks, or other processes, bring about."""
    while not condition():
        await asyncio.sleep(0.005)


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """Results and exceptions of calls that are made at the same time."""
    return await asyncio.gather(*calls, return_exceptions=True)


@contextlib.contextmanager
def frozen(server: Memcached) -> Iterator[None]:
    """Stop a server: from here on it does not read a byte."""
    server.pause()
    try:
        yield
    finally:
        server.resume()
