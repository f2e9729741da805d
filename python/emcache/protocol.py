"""The import path of emcache 1.3 for connections and the replies that they return."""

from .connection_pool import Connection as MemcacheAsciiProtocol

EXISTS = b"EXISTS"
STORED = b"STORED"
TOUCHED = b"TOUCHED"
OK = b"OK"
ERROR = b"ERROR"
DELETED = b"DELETED"
NOT_STORED = b"NOT_STORED"
NOT_FOUND = b"NOT_FOUND"
END = b"END"
VERSION = b"VERSION"

__all__ = [
    "DELETED",
    "END",
    "ERROR",
    "EXISTS",
    "NOT_FOUND",
    "NOT_STORED",
    "OK",
    "STORED",
    "TOUCHED",
    "VERSION",
    "MemcacheAsciiProtocol",
]
