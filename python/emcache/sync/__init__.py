"""A memcached client for threads and scripts: the commands of :mod:`emcache` without ``await``."""

from typing import TYPE_CHECKING, Any

from ._client import Client
from ._create import create_client
from ._events import ClusterEvents

if TYPE_CHECKING:
    from ._cache import Cache
    from ._cached import cached
    from ._migration import Migration
    from ._url import from_url

__all__ = ["Cache", "Client", "ClusterEvents", "Migration", "cached", "create_client", "from_url"]

_LAZY = {"Cache": "_cache", "Migration": "_migration", "cached": "_cached", "from_url": "_url"}


def __getattr__(name: str) -> Any:
    """Import a lazy name when it is first used."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"emcache.sync.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
