"""A memcached client for threads and scripts: the commands of :mod:`emcache` without ``await``."""

from ._client import Client
from ._create import create_client
from ._events import ClusterEvents

__all__ = ["Client", "ClusterEvents", "create_client"]
