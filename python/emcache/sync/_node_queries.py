"""Queries to all nodes: ``stats``, ``flush_all``, ``ping`` and ``wait_ready``."""

import contextlib
import random
import time
from collections.abc import Callable
from typing import TypeVar

from .._address import Address
from .._checks import check_range, check_seconds
from .._errors import ClientClosedError, EmcacheError, OperationTimeoutError
from .._memcached.addresses import format_address
from .._results import PartialResult
from ._core import SyncCore

T = TypeVar("T")

Nodes = dict[int, Address]
"""By their index in the core."""

_RETRY_PAUSE = 0.05
"""Seconds between two rounds of probes."""
_OTHER_KEYS = 8
"""Keys that are requested if the first takes long."""


def query_all(nodes: Callable[[], Nodes], query: Callable[[int], T]) -> PartialResult[Address, T]:
    """Send the same query to all nodes, one after the other; separate answers from errors.

    Nodes that failed because they left the cluster in the meantime are left out.
    """
    results = PartialResult[Address, T]({}, {})
    for node, address in nodes().items():
        try:
            results[address] = query(node)
        except EmcacheError as error:
            results.errors[address] = error
    with contextlib.suppress(ClientClosedError):
        remaining = nodes().values()
        for address in [address for address in results.errors if address not in remaining]:
            del results.errors[address]
    return results


def _probe_key() -> bytes:
    return b"emcache:probe:%08x" % random.getrandbits(32)


def _probe(core: SyncCore, nodes: list[int], limit: float) -> dict[int, float | EmcacheError]:
    """Measure the round trip to nodes at once; ``limit`` is the client's timeout.

    Behind a proxy the server of one key may hang, and block the requests after it on the same
    connection. Where the first key takes long, other keys are requested on separate connections.
    """
    start = time.perf_counter()
    first = core.probe_each([(node, _probe_key(), False) for node in nodes], limit / 4, True)
    answers: dict[int, float | EmcacheError] = {
        node: answer for node, answer in zip(nodes, first, strict=True) if answer is not None
    }
    silent = [node for node in nodes if node not in answers]
    if silent:
        passed = time.perf_counter() - start
        others = [(node, _probe_key(), True) for node in silent for _ in range(_OTHER_KEYS)]
        for (node, _, _), answer in zip(others, core.probe_each(others, None, False), strict=True):
            if isinstance(answer, float):
                known = answers.get(node)
                answer += passed
                answers[node] = min(known, answer) if isinstance(known, float) else answer
            elif answer is not None:
                answers.setdefault(node, answer)
    return answers


def ping(
    core: SyncCore, nodes: Callable[[], Nodes], limit: float
) -> dict[Address, float | Exception]:
    """Measure the round trip to each node."""
    queried = remaining = nodes()
    answers = _probe(core, list(queried), limit)
    with contextlib.suppress(ClientClosedError):
        remaining = nodes()
    return {
        address: answers[node]
        for node, address in queried.items()
        if node in remaining or isinstance(answers[node], float)
    }


def wait_ready(
    core: SyncCore,
    nodes: Callable[[], Nodes],
    timeout: float,
    min_nodes: int | None,
    limit: float,
) -> None:
    """Return when ``min_nodes`` nodes have answered; None for all nodes."""
    check_seconds("timeout", timeout)
    if min_nodes is not None:
        check_range("min_nodes", min_nodes, 1, len(nodes()))
    end = time.monotonic() + timeout
    ready: set[int] = set()
    causes: dict[int, EmcacheError] = {}
    while True:
        current = nodes()
        ready &= current.keys()
        wanted = len(current) if min_nodes is None else min(min_nodes, len(current))
        rest = end - time.monotonic()
        if len(ready) >= wanted:
            return
        if rest <= 0:
            raise OperationTimeoutError(_message(current, ready, causes, timeout))
        missing = [node for node in current if node not in ready]
        probes = [(node, _probe_key(), False) for node in missing]
        for node, answer in zip(
            missing, core.probe_each(probes, min(rest, limit), True), strict=True
        ):
            if isinstance(answer, float):
                ready.add(node)
            elif isinstance(answer, ClientClosedError):
                raise answer
            elif answer is not None:
                causes[node] = answer
        if len(ready) < wanted:
            time.sleep(max(0.0, min(_RETRY_PAUSE, end - time.monotonic())))


def _message(nodes: Nodes, ready: set[int], causes: dict[int, EmcacheError], timeout: float) -> str:
    """Return which nodes are missing, with the reasons."""
    missing = [
        str(causes.get(node, f"{format_address(address)} has not answered yet"))
        for node, address in nodes.items()
        if node not in ready
    ]
    count = len(nodes) - len(missing)
    return f"{count} of {len(nodes)} nodes are ready after {timeout} s: {'; '.join(missing)}"
