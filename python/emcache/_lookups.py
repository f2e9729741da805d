"""Lookups of names: at most one of each at a time, in threads that nothing waits for at exit.

The system's resolver cannot be interrupted. A lookup whose caller has given up goes on, and the
next caller joins it. asyncio's own lookups would leave a thread behind for each caller, and a loop
or a process that ends waits for those.
"""

import asyncio
import os
import socket
import threading
from typing import NamedTuple


class _Question(NamedTuple):
    host: str
    port: int
    family: int
    flags: int


class _Lookup:
    """One that is under way."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[list[str]]] = []


class _Lookups:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.under_way: dict[_Question, _Lookup] = {}


_lookups = _Lookups()


def _forget() -> None:
    # The child of a fork has neither the threads nor, maybe, the lock.
    global _lookups
    _lookups = _Lookups()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def addresses(host: str, port: int, *, family: int = 0, flags: int = 0) -> list[str]:
    """Give the IP addresses of a name, each once, in the order of the system's resolver.

    Raises:
        OSError: the name is not known, or no thread can be started.
        UnicodeError: it cannot be a name.
    """
    question, lookups = _Question(host, port, family, flags), _lookups
    answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    with lookups.lock:
        lookup = lookups.under_way.get(question)
        if lookup is None:
            lookup = _Lookup()
            thread = threading.Thread(
                target=_run, args=(lookups, question), name="emcache-lookup", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                raise OSError(f"cannot look up {host}: {error}") from error
            lookups.under_way[question] = lookup
        lookup.waiting.append(answer)
    return await answer


def _run(lookups: _Lookups, question: _Question) -> None:
    found: list[str] = []
    failure: Exception | None = None
    try:
        host, port, family, flags = question
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=flags)
        found = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))
    except Exception as error:
        # Without the traceback, which would hold this frame and with it itself.
        failure = error.with_traceback(None)
    with lookups.lock:
        waiting = lookups.under_way.pop(question).waiting
    for answer in waiting:
        try:
            answer.get_loop().call_soon_threadsafe(_give, answer, found, failure)
        except RuntimeError:
            # The loop is closed.
            continue


def _give(answer: asyncio.Future[list[str]], found: list[str], failure: Exception | None) -> None:
    if answer.done():
        return
    if failure is None:
        answer.set_result(list(found))
    else:
        # Each caller gets an exception of its own: tracebacks grow with each raise.
        own = type(failure)(*failure.args)
        answer.set_exception(own)
