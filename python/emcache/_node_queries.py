"""Queries to all nodes at once: ``stats``, ``flush_all``, ``ping`` and ``wait_ready``."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from ._address import Address
from ._checks import check_range, check_seconds
from ._emcache import CoreClient
from ._errors import ClientClosedError, EmcacheError, OperationTimeoutError
from ._memcached.addresses import format_address
from ._results import PartialResult

T = TypeVar("T")

Nodes = dict[int, Address]
"""By their index in the core."""

_RETRY_PAUSE = 0.05
"""Seconds from an error of a node to the next probe."""
_OTHER_KEYS = 8
"""Keys that are requested if the first takes long."""
_NODES_POLL = 0.25
"""Seconds between two checks which nodes the client has."""


async def query_all(
    nodes: Callable[[], Nodes], query: Callable[[int], Awaitable[T]]
) -> PartialResult[Address, T]:
    """Send the same query to all nodes, and separate the answers from the errors."""
    results = PartialResult[Address, T]({}, {})
    for address, result in (await _outcomes(nodes, query)).items():
        if isinstance(result, EmcacheError):
            results.errors[address] = result
        else:
            results[address] = result
    return results


async def _outcomes(
    nodes: Callable[[], Nodes], query: Callable[[int], Awaitable[T]]
) -> dict[Address, T | EmcacheError]:
    """Return the answer or the error of each node.

    Nodes that failed because they left the cluster in the meantime are left out.
    """

    async def answer(node: int) -> T | EmcacheError:
        try:
            return await query(node)
        except EmcacheError as error:
            return error

    queried = remaining = nodes()
    answers = await asyncio.gather(*(answer(node) for node in queried))
    # If the client was closed in the meantime, the answers are errors that say so.
    with contextlib.suppress(ClientClosedError):
        remaining = nodes()
    return {
        address: result
        for (node, address), result in zip(queried.items(), answers, strict=True)
        if node in remaining or not isinstance(result, EmcacheError)
    }


async def wait_for_answer(core: CoreClient, node: int, limit: float) -> None:
    """Wait until a node has answered for any key; ``limit`` is the client's timeout.

    Behind a proxy the server of one key may hang, and block the requests after it on the same
    connection. If the first key takes long, other keys are requested on separate connections.
    """
    try:
        async with asyncio.timeout(limit / 4):
            await core.probe(node, _probe_key(), False)
            return
    except TimeoutError as error:
        if isinstance(error, EmcacheError):
            raise
    others = [asyncio.create_task(_probe_isolated(core, node)) for _ in range(_OTHER_KEYS)]
    try:
        await _first_of(others)
    finally:
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _first_of(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait for the first success; raise the last error if every task fails."""
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


async def _probe_isolated(core: CoreClient, node: int) -> None:
    await core.probe(node, _probe_key(), True)


def _probe_key() -> bytes:
    return b"emcache:probe:%08x" % random.getrandbits(32)


async def ping(
    core: CoreClient, nodes: Callable[[], Nodes], limit: float
) -> dict[Address, float | Exception]:
    """Measure the round trip to each node."""

    async def measured(node: int) -> float:
        start = time.perf_counter()
        await wait_for_answer(core, node, limit)
        return time.perf_counter() - start

    return {**await _outcomes(nodes, measured)}


async def wait_ready(
    core: CoreClient,
    nodes: Callable[[], Nodes],
    timeout: float,  # noqa: ASYNC109 - the error says which nodes are missing
    min_nodes: int | None,
    limit: float,
) -> None:
    """Return when ``min_nodes`` nodes have answered; None for all nodes."""
    check_seconds("timeout", timeout)
    if min_nodes is not None:
        check_range("min_nodes", min_nodes, 1, len(nodes()))
    probes = _Probes(core, limit)
    try:
        async with asyncio.timeout(timeout):
            while not probes.are_done(nodes(), min_nodes):
                await probes.step()
    except TimeoutError:
        raise OperationTimeoutError(probes.message(nodes(), timeout)) from None
    finally:
        await probes.cancel()


class _Probes:
    """One task for each node, which ends when the node has answered."""

    def __init__(self, core: CoreClient, limit: float) -> None:
        self._core = core
        self._limit = limit
        self._ready: set[int] = set()
        self._causes: dict[int, EmcacheError] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def are_done(self, nodes: Nodes, min_nodes: int | None) -> bool:
        """Start tasks for new nodes; return whether enough nodes have answered."""
        self._ready &= nodes.keys()
        for node in self._tasks.keys() - nodes.keys():
            self._tasks.pop(node).cancel()
        # Nodes that have left the cluster are not waited for.
        wanted = len(nodes) if min_nodes is None else min(min_nodes, len(nodes))
        if len(self._ready) >= wanted:
            return True
        for node in nodes.keys() - self._ready - self._tasks.keys():
            self._tasks[node] = asyncio.create_task(self._probe(node))
        return False

    async def step(self) -> None:
        """Wait for the next answer, or for ``_NODES_POLL`` seconds."""
        await asyncio.wait(
            self._tasks.values(), timeout=_NODES_POLL, return_when=asyncio.FIRST_COMPLETED
        )
        for node in [node for node, probe in self._tasks.items() if probe.done()]:
            self._tasks.pop(node).result()
            self._ready.add(node)

    async def _probe(self, node: int) -> None:
        while True:
            try:
                await wait_for_answer(self._core, node, self._limit)
            except ClientClosedError:
                raise
            except EmcacheError as error:
                self._causes[node] = error
                await asyncio.sleep(_RETRY_PAUSE)
            else:
                return

    def message(self, nodes: Nodes, timeout: float) -> str:
        """Return which nodes are missing, with the reasons."""
        missing = [
            str(self._causes.get(node, f"{format_address(address)} has not answered yet"))
            for node, address in nodes.items()
            if node not in self._ready
        ]
        ready = len(nodes) - len(missing)
        return f"{ready} of {len(nodes)} nodes are ready after {timeout} s: {'; '.join(missing)}"

    async def cancel(self) -> None:
        """Cancel the remaining tasks, and wait for their end."""
        for probe in self._tasks.values():
            probe.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
