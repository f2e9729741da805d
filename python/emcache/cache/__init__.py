"""A cache of typed values on top of a client, with text keys.

See ``docs/values-and-keys.md`` and ``docs/cached.md``.
"""

from ._cache import Cache
from ._cached import CachedFunction, CacheSource, cached
from ._cached_many import CachedManyFunction, cached_many
from ._compression import Compression, Lz4, Zlib, Zstd
from ._info import CacheInfo
from ._keys import KeyPolicy
from ._policy import Options, SharingOptions
from ._presets import Pylibmc, Pymemcache
from ._serializers import Json, MsgPack, Pickle, Raw, Serializer, Utf8
from ._ttl import Ttl

__all__ = [
    "Cache",
    "CacheInfo",
    "CacheSource",
    "CachedFunction",
    "CachedManyFunction",
    "Compression",
    "Json",
    "KeyPolicy",
    "Lz4",
    "MsgPack",
    "Options",
    "Pickle",
    "Pylibmc",
    "Pymemcache",
    "Raw",
    "Serializer",
    "SharingOptions",
    "Ttl",
    "Utf8",
    "Zlib",
    "Zstd",
    "cached",
    "cached_many",
]
