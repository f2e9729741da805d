"""A memcached client for threads and scripts: the commands of :mod:`emcache` without ``await``."""

from typing import TYPE_CHECKING, Any

from ._client import Client
from ._create import create_client
from ._events import ClusterEvents

if TYPE_CHECKING:
    from ._cache import Cache
    from ._cached import cached

__all__ = ["Cache", "Client", "ClusterEvents", "cached", "create_client"]

_LAZY = {"Cache": "_cache", "cached": "_cached"}


def __getattr__(name: str) -> Any:
    """Import the cache when it is first used."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"emcache.sync.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
