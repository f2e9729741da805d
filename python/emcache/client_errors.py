"""The import path of emcache 1.3 for its exceptions."""

from ._errors import (
    AuthenticationError,
    ClusterNoAvailableNodes,
    CommandError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    StorageCommandError,
)

__all__ = [
    "AuthenticationError",
    "ClusterNoAvailableNodes",
    "CommandError",
    "NotFoundCommandError",
    "NotStoredStorageCommandError",
    "StorageCommandError",
]
