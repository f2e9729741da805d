"""Name resolution: one lookup of a name at a time, in threads that no exit waits for.

The system's resolver cannot be interrupted. A lookup continues after its caller has timed out, and
the next caller joins it. asyncio's own lookups would leave a thread behind for each caller, and the
end of a loop or process would wait for these threads.
"""

import asyncio
import os
import socket
import threading
from typing import NamedTuple


class _Query(NamedTuple):
    host: str
    port: int
    family: int
    flags: int


class _Lookup:
    """A lookup in progress."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[list[str]]] = []


class _Lookups:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pending: dict[_Query, _Lookup] = {}


_lookups = _Lookups()


def _reset_after_fork() -> None:
    # The child of a fork has no threads, and the lock may be held.
    global _lookups
    _lookups = _Lookups()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


async def resolve(host: str, port: int, *, family: int = 0, flags: int = 0) -> list[str]:
    """Return the IP addresses of a name, each once, in the order of the system's resolver.

    Raises:
        OSError: the name is unknown, or no thread can be started.
        UnicodeError: the name is not valid.
    """
    query, lookups = _Query(host, port, family, flags), _lookups
    answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    with lookups.lock:
        lookup = lookups.pending.get(query)
        if lookup is None:
            lookup = _Lookup()
            thread = threading.Thread(
                target=_run, args=(lookups, query), name="emcache-lookup", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                raise OSError(f"cannot look up {host}: {error}") from error
            lookups.pending[query] = lookup
        lookup.waiting.append(answer)
    return await answer


def _run(lookups: _Lookups, query: _Query) -> None:
    found: list[str] = []
    failure: Exception | None = None
    try:
        host, port, family, flags = query
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
        found = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))
    except Exception as error:
        # Without the traceback, which would refer to this frame and so to the error itself.
        failure = error.with_traceback(None)
    with lookups.lock:
        waiting = lookups.pending.pop(query).waiting
    for answer in waiting:
        try:
            answer.get_loop().call_soon_threadsafe(_deliver, answer, found, failure)
        except RuntimeError:
            # The loop is closed.
            continue


def _deliver(
    answer: asyncio.Future[list[str]], found: list[str], failure: Exception | None
) -> None:
    if answer.done():
        return
    if failure is None:
        answer.set_result(list(found))
    else:
        # Each caller gets its own exception object, because a raise extends the traceback.
        own = type(failure)(*failure.args)
        answer.set_exception(own)
