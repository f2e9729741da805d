"""The import path of emcache 1.3 for the nodes of a client."""

from ._cluster import ClusterEvents, ClusterManagement, ClusterManagment

__all__ = ["ClusterEvents", "ClusterManagement", "ClusterManagment"]
