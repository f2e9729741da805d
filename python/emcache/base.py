"""The import path of emcache 1.3 for the client's types."""

from ._client import Client
from ._cluster import ClusterEvents, ClusterManagement, ClusterManagment
from ._item import Item

__all__ = [
    "Client",
    "ClusterEvents",
    "ClusterManagement",
    "ClusterManagment",
    "Item",
]
