"""The bits of the flags that name formats and compressions of ours.

All lie in bits 19 to 30, and 19 and 20 are left to the compressions of users. Other clients give
bits 0 to 18 meanings of their own (bit 0 is "pickle" to most Python clients, bit 1 "gzip" to
nginx), and spymemcached ends its connection when it reads flags with bit 31.
"""

FLAGS_RAW = 0

_FORMAT_SHIFT = 21
FLAGS_UTF8 = 0x71 << _FORMAT_SHIFT
FLAGS_JSON = 0x72 << _FORMAT_SHIFT
FLAGS_MSGPACK = 0x73 << _FORMAT_SHIFT
FLAGS_PICKLE = 0x74 << _FORMAT_SHIFT

FLAG_ZSTD = 1 << 28
FLAG_LZ4 = 1 << 29
FLAG_ZLIB = 1 << 30
