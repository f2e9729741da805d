"""Questions to all nodes at once."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from ._address import Address
from ._arguments import address_text, check_between, check_seconds
from ._emcache import CoreClient
from ._errors import ClientClosedError, EmcacheError, OperationTimeoutError
from ._many import PartialResult

T = TypeVar("T")

Nodes = dict[int, Address]
"""By their index in the core."""

_AGAIN_AFTER = 0.05
"""Seconds from an error of a node to the next question."""
_OTHER_KEYS = 8
"""Keys that are asked for if the first is not answered soon."""
_LOOK_EVERY = 0.25
"""Seconds between two looks at which nodes there are."""


async def ask_all(
    nodes: Callable[[], Nodes], ask: Callable[[int], Awaitable[T]]
) -> PartialResult[Address, T]:
    """Ask all nodes the same question, and separate the answers from the errors."""
    told = PartialResult[Address, T]({}, {})
    for address, result in (await _answers(nodes, ask)).items():
        if isinstance(result, EmcacheError):
            told.errors[address] = result
        else:
            told[address] = result
    return told


async def _answers(
    nodes: Callable[[], Nodes], ask: Callable[[int], Awaitable[T]]
) -> dict[Address, T | EmcacheError]:
    """Ask all nodes; one that fails does not keep the others from being asked.

    A node that fails because it left the cluster meanwhile is left out.
    """

    async def answer(node: int) -> T | EmcacheError:
        try:
            return await ask(node)
        except EmcacheError as error:
            return error

    asked = there = nodes()
    answers = await asyncio.gather(*(answer(node) for node in asked))
    # All nodes of a client that was closed meanwhile say so.
    with contextlib.suppress(ClientClosedError):
        there = nodes()
    return {
        address: result
        for (node, address), result in zip(asked.items(), answers, strict=True)
        if node in there or not isinstance(result, EmcacheError)
    }


async def answered(core: CoreClient, node: int, limit: float) -> None:
    """Wait until a node has answered for some key; ``limit`` is the client's timeout.

    Behind a proxy the server of one key may hang, and hold up what is asked after it on the same
    connection. So if the first key takes long, others are asked for on connections of their own.
    """
    try:
        async with asyncio.timeout(limit / 4):
            await core.probe(node, _some_key(), False)
            return
    except TimeoutError as error:
        if isinstance(error, EmcacheError):
            raise
    others = [asyncio.create_task(_isolated(core, node)) for _ in range(_OTHER_KEYS)]
    try:
        await _first_of(others)
    finally:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _first_of(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for the first that succeeds; raise the last error if none does."""
    failure: EmcacheError | None = None
    for task in asyncio.as_completed(tasks):
        try:
            await task
        except EmcacheError as error:
            failure = error
        else:
            return
    if failure is not None:
        raise failure


async def _isolated(core: CoreClient, node: int) -> None:
    await core.probe(node, _some_key(), True)


def _some_key() -> bytes:
    return b"emcache:probe:%08x" % random.getrandbits(32)


async def ping(
    core: CoreClient, nodes: Callable[[], Nodes], limit: float
) -> dict[Address, float | Exception]:
    """Measure the round trip to each node."""

    async def measured(node: int) -> float:
        start = time.perf_counter()
        await answered(core, node, limit)
        return time.perf_counter() - start

    return {**await _answers(nodes, measured)}


async def wait_ready(
    core: CoreClient,
    nodes: Callable[[], Nodes],
    timeout: float,  # noqa: ASYNC109 - it says why
    min_nodes: int | None,
    limit: float,
) -> None:
    """Return when so many nodes have answered, all of them if ``min_nodes`` is None."""
    check_seconds("timeout", timeout)
    if min_nodes is not None:
        check_between("min_nodes", min_nodes, 1, len(nodes()))
    waiting = _Waiting(core, limit)
    try:
        async with asyncio.timeout(timeout):
            while not waiting.is_over(nodes(), min_nodes):
                await waiting.step()
    except TimeoutError:
        raise OperationTimeoutError(waiting.text(nodes(), timeout)) from None
    finally:
        await waiting.end()


class _Waiting:
    def __init__(self, core: CoreClient, limit: float) -> None:
        self._core = core
        self._limit = limit
        self._ready: set[int] = set()
        self._causes: dict[int, EmcacheError] = {}
        self._probes: dict[int, asyncio.Task[None]] = {}

    def is_over(self, nodes: Nodes, min_nodes: int | None) -> bool:
        """Look at the nodes that there are now, and ask those that are new."""
        self._ready &= nodes.keys()
        for node in self._probes.keys() - nodes.keys():
            self._probes.pop(node).cancel()
        # Nodes that have left cannot be waited for.
        wanted = len(nodes) if min_nodes is None else min(min_nodes, len(nodes))
        if len(self._ready) >= wanted:
            return True
        for node in nodes.keys() - self._ready - self._probes.keys():
            self._probes[node] = asyncio.create_task(self._probe(node))
        return False

    async def step(self) -> None:
        """Wait for an answer, or for a while."""
        await asyncio.wait(
            self._probes.values(), timeout=_LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
        )
        for node in [node for node, probe in self._probes.items() if probe.done()]:
            self._probes.pop(node).result()
            self._ready.add(node)

    async def _probe(self, node: int) -> None:
        while True:
            try:
                await answered(self._core, node, self._limit)
            except ClientClosedError:
                raise
            except EmcacheError as error:
                self._causes[node] = error
                await asyncio.sleep(_AGAIN_AFTER)
            else:
                return

    def text(self, nodes: Nodes, timeout: float) -> str:
        """Say which nodes are missing, and why."""
        missing = [
            str(self._causes.get(node, f"{address_text(address)} has not answered yet"))
            for node, address in nodes.items()
            if node not in self._ready
        ]
        ready = len(nodes) - len(missing)
        return f"{ready} of {len(nodes)} nodes are ready after {timeout} s: {'; '.join(missing)}"

    async def end(self) -> None:
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)
