"""The first list of nodes of a client that follows a cluster."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from ._address import Address
from ._arguments import address_text
from ._errors import AuthenticationError, DiscoveryError
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
) -> tuple[Discovery, Topology | None]:
    """Give whom to ask from now on, and the first list; None: the addresses are all there is."""
    if how is True:
        source: Discovery = _hosted(addresses, limit, options)
    else:
        source = Bounded(cast(Discovery, how), limit, refuse)
    return source, await _discovered(source, addresses)


def _hosted(addresses: list[Address], limit: float, options: dict[str, Any]) -> ConfigDiscovery:
    asked = {name: options[name] for name in ("connection_timeout", "security")}
    # Ends before the question does, and so says where it stood.
    connecting = limit * 0.9
    if asked["connection_timeout"] is not None:
        connecting = min(asked["connection_timeout"], connecting)
    asked["connection_timeout"] = connecting
    return ConfigDiscovery(addresses, lambda a: ConnectionPool._to_ask(a, limit, **asked), limit)


async def _discovered(source: Discovery, addresses: list[Address]) -> Topology | None:
    """Give what it says first; None: these addresses are all there is."""
    names = ", ".join(map(address_text, addresses))
    try:
        return await first(source, DEFAULT_STARTUP_WAIT_AUTODISCOVERY)
    except AuthenticationError:
        raise
    except NoDiscoveryError as error:
        logger.warning("no autodiscovery at %s: %s; it is used as a node", names, error)
        return None
    except Exception as error:
        what = str(error) or type(error).__name__
        if addresses and not isinstance(source, ConfigDiscovery):
            logger.warning("autodiscovery failed, to begin with there is %s: %s", names, what)
            return Topology.of(addresses)
        raise DiscoveryError(f"autodiscovery failed: {what}") from error
