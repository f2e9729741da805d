"""The first list of nodes of a client that follows a cluster."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from ._address import Address
from ._arguments import address_text
from ._errors import AuthenticationError, DiscoveryError, attributed
from ._topology import Topology
from ._watcher import Bounded, first
from .connection_pool import ConnectionPool
from .default_values import DEFAULT_STARTUP_WAIT_AUTODISCOVERY
from .discovery import ConfigDiscovery, Discovery, NoDiscoveryError

logger = logging.getLogger("emcache")


async def begin(
    how: bool | Discovery | None,
    addresses: list[Address],
    limit: float,
    options: dict[str, Any],
    refuse: Callable[[Iterable[Address]], None] | None,
) -> tuple[Discovery, Topology, bool]:
    """Give whom to ask from now on, the first nodes, and whether they are those of a list."""
    if how is True:
        source: Discovery = _hosted(addresses, limit, options)
    else:
        source = Bounded(cast(Discovery, how), limit, refuse)
    return source, *await _discovered(source, addresses)


def _hosted(addresses: list[Address], limit: float, options: dict[str, Any]) -> ConfigDiscovery:
    asked = {name: options[name] for name in ("connection_timeout", "security")}
    # Ends before the question does, and so says where it stood.
    connecting = limit * 0.9
    if asked["connection_timeout"] is not None:
        connecting = min(asked["connection_timeout"], connecting)
    asked["connection_timeout"] = connecting
    return ConfigDiscovery(addresses, lambda a: ConnectionPool._to_ask(a, limit, **asked), limit)


async def _discovered(source: Discovery, addresses: list[Address]) -> tuple[Topology, bool]:
    names = ", ".join(map(address_text, addresses))
    try:
        return await first(source, DEFAULT_STARTUP_WAIT_AUTODISCOVERY), True
    except AuthenticationError:
        raise
    except Exception as error:
        what = str(error) or type(error).__name__
        if addresses and isinstance(error, NoDiscoveryError):
            # It may be starting: it is asked again at each poll.
            logger.warning("no autodiscovery at %s: %s; it is used as a node", names, what)
        elif addresses and not isinstance(source, ConfigDiscovery):
            logger.warning("autodiscovery failed, to begin with there is %s: %s", names, what)
        else:
            node = getattr(error, "node", None) or (names if len(addresses) == 1 else None)
            failed = DiscoveryError(f"autodiscovery failed: {what}")
            raise attributed(failed, node, getattr(error, "command", None)) from error
        return Topology.of(addresses), False
