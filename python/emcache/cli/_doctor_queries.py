"""What `doctor` asks a node, with the client itself."""

import asyncio
import time
from dataclasses import dataclass, field

from .._address import Address
from .._client import Client
from ._capabilities import answers, if_supported, supports_gat
from ._load_checks import Samples, Stats

_PINGS = 20


@dataclass
class NodeAnswers:
    """The answers of one node; empty where it does not support a command."""

    version: str | None
    stats: Stats
    asked_at: float
    """The local time of ``stats``."""
    settings: Stats
    has_gat: bool
    pings: list[float] = field(default_factory=list)
    """In ms."""
    samples: Samples | None = None
    items: Stats = field(default_factory=dict)


async def ask(client: Client, address: Address, seconds: float) -> NodeAnswers:
    """Ask for everything, and measure for some seconds.

    Raises:
        EmcacheError: the node cannot be reached, or refused the login.
    """
    await answers(client, address)
    found = NodeAnswers(
        version=await if_supported(client.version(address), patient=True),
        stats=await if_supported(client.stats(address)) or {},
        asked_at=time.time(),
        settings=await if_supported(client.stats(address, "settings")) or {},
        has_gat=await supports_gat(client),
    )
    if found.stats:
        begin = time.perf_counter()
        found.pings = await _pings(client, address, seconds, has_version=found.version is not None)
        after = await if_supported(client.stats(address)) or found.stats
        took = time.perf_counter() - begin
        found.samples = Samples(found.stats, after, took if seconds else 0.0)
        found.items = await if_supported(client.stats(address, "items")) or {}
    return found


async def _pings(
    client: Client, address: Address, seconds: float, *, has_version: bool
) -> list[float]:
    pings = []
    for _ in range(_PINGS):
        sent = time.perf_counter()
        if has_version:
            # A get would count as a miss.
            await client.version(address)
        else:
            await answers(client, address)
        pings.append((time.perf_counter() - sent) * 1000)
        await asyncio.sleep(seconds / _PINGS)
    return pings
