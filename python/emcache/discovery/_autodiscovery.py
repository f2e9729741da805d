"""The first list of nodes of a client with autodiscovery."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from .._address import Address
from .._errors import AuthenticationError, DiscoveryError, with_origin
from .._memcached.addresses import format_address
from ..connection_pool import ConnectionPool
from ..default_values import DEFAULT_STARTUP_WAIT_AUTODISCOVERY
from ._config_endpoint import ConfigDiscovery, NoDiscoveryError
from ._sources import Discovery
from ._time_limit import time_limit
from ._topology import Topology, check_topology

logger = logging.getLogger("emcache")

_PAUSES = (0.5, 0.5, 0.0)
"""Seconds after each attempt to get the first list."""


async def first_topology(
    autodiscovery: Any,
    addresses: list[Address],
    timeout: float,  # noqa: ASYNC109 - of each query
    options: dict[str, Any],
    check_nodes: Callable[[Topology], None],
) -> tuple[Discovery, Topology, bool]:
    """Return the source to poll, the first nodes, and whether they are from the source."""
    if autodiscovery is True:
        source: Discovery = _config_discovery(addresses, timeout, options)
    else:
        source = BoundedDiscovery(autodiscovery, timeout, check_nodes)
    return source, *await _discover_or_fall_back(source, addresses)


def _config_discovery(
    addresses: list[Address], timeout: float, options: dict[str, Any]
) -> ConfigDiscovery:
    # Shorter than the query, so that the error says how far the connection got.
    connection_timeout = timeout * 0.9
    if options["connection_timeout"] is not None:
        connection_timeout = min(options["connection_timeout"], connection_timeout)

    def open_pool(address: Address) -> ConnectionPool:
        return ConnectionPool._for_discovery(
            address,
            timeout,
            connection_timeout=connection_timeout,
            security=options["security"],
        )

    return ConfigDiscovery(addresses, open_pool, timeout)


async def _discover_or_fall_back(
    source: Discovery, addresses: list[Address]
) -> tuple[Topology, bool]:
    names = ", ".join(map(format_address, addresses))
    try:
        return await _first(source, DEFAULT_STARTUP_WAIT_AUTODISCOVERY), True
    except AuthenticationError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        if addresses and isinstance(error, NoDiscoveryError):
            # The endpoint may still be starting; each poll asks it again.
            logger.warning("no autodiscovery at %s: %s; using it as a node", names, reason)
        elif addresses and not isinstance(source, ConfigDiscovery):
            logger.warning("autodiscovery failed, starting with %s: %s", names, reason)
        else:
            node = getattr(error, "node", None) or (names if len(addresses) == 1 else None)
            failed = DiscoveryError(f"autodiscovery failed: {reason}")
            raise with_origin(failed, node, getattr(error, "command", None)) from error
        return Topology.of(addresses), False


async def _first(source: Discovery, limit: float) -> Topology:
    """Return the first list in at most three attempts; raise the error of the last attempt."""
    failure: Exception = TimeoutError(f"no answer within {limit} s")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            for pause in _PAUSES:
                try:
                    return await source.discover()
                except (AuthenticationError, NoDiscoveryError):
                    raise
                except Exception as error:
                    failure = error
                    await asyncio.sleep(pause)
    raise failure


class BoundedDiscovery:
    """A user's Discovery with a time limit and checks of its result."""

    def __init__(
        self,
        source: Discovery,
        timeout: float,
        check_nodes: Callable[[Topology], None],
    ) -> None:
        self._source = source
        self._timeout = timeout
        self._check_nodes = check_nodes

    async def discover(self) -> Topology:
        """Call the user's ``discover()``.

        Raises:
            DiscoveryError: it cancelled itself; the task that polls it must go on.
        """
        try:
            async with time_limit(self._timeout, "discover()"):
                topology = check_topology(await self._source.discover())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise DiscoveryError("discover() was cancelled") from None
        self._check_nodes(topology)
        return topology
