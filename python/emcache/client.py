"""The import path of emcache 1.3 for :func:`emcache.create_client`."""

from ._client import Client
from ._create import create_client

_Client = Client

__all__ = ["Client", "create_client"]
