"""A cache of typed values on top of a client, with text keys.

See ``docs/values-and-keys.md`` and ``docs/cached.md``.
"""

from ._cache import Cache
from ._cached import CachedFunction, CacheSource, cached
from ._cached_many import CachedManyFunction, cached_many
from ._chunks import Chunks
from ._compression import Compression, Lz4, Zlib, Zstd
from ._info import CacheInfo
from ._keys import KeyPolicy
from ._local_items import LocalCache
from ._locks import Lock
from ._policy import Options, SharingOptions
from ._presets_java import Spymemcached
from ._presets_php import PhpMemcache, PhpMemcached
from ._presets_python import Bmemcached, MetaMemcache, Pylibmc, Pymemcache
from ._presets_strings import Dalli, PerlMemcached
from ._rate_limits import RateLimit, RateLimitResult
from ._serializers import Json, MsgPack, Pickle, Raw, Serializer, Utf8
from ._tags import TagSnapshot
from ._ttl import Ttl
from ._typed import Typed

__all__ = [
    "Bmemcached",
    "Cache",
    "CacheInfo",
    "CacheSource",
    "CachedFunction",
    "CachedManyFunction",
    "Chunks",
    "Compression",
    "Dalli",
    "Json",
    "KeyPolicy",
    "LocalCache",
    "Lock",
    "Lz4",
    "MetaMemcache",
    "MsgPack",
    "Options",
    "PerlMemcached",
    "PhpMemcache",
    "PhpMemcached",
    "Pickle",
    "Pylibmc",
    "Pymemcache",
    "RateLimit",
    "RateLimitResult",
    "Raw",
    "Serializer",
    "SharingOptions",
    "Spymemcached",
    "TagSnapshot",
    "Ttl",
    "Typed",
    "Utf8",
    "Zlib",
    "Zstd",
    "cached",
    "cached_many",
]
