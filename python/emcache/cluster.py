"""The import path of emcache 1.3 for what a client reports about its nodes."""

from ._cluster import ClusterEvents, ClusterManagement, ClusterManagment

__all__ = ["ClusterEvents", "ClusterManagement", "ClusterManagment"]
