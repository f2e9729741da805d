"""Bits of the flags that mark our serializers, compressions and envelopes.

All of them are among bits 20 to 30; bit 19 is left for the compressions of users. Other clients
use bits 0 to 18 (bit 0 is "pickle" for most Python clients, bit 1 is "gzip" for nginx), and
spymemcached closes its connection when it reads flags with bit 31.
"""

FLAGS_RAW = 0

_FORMAT_SHIFT = 21
FLAGS_UTF8 = 0x71 << _FORMAT_SHIFT
FLAGS_JSON = 0x72 << _FORMAT_SHIFT
FLAGS_MSGPACK = 0x73 << _FORMAT_SHIFT
FLAGS_PICKLE = 0x74 << _FORMAT_SHIFT
FLAGS_EMPTY = 0x75 << _FORMAT_SHIFT
"""An empty value whose serializer uses flags 0; with flags 0 it would be the stub of a lease."""
FLAGS_HEAD = 0x76 << _FORMAT_SHIFT
"""The head of a value in pieces, always in an envelope; see ``_chunks.py``."""
FLAGS_PIECE = 0x77 << _FORMAT_SHIFT

FLAG_ZSTD = 1 << 28
FLAG_LZ4 = 1 << 29
FLAG_ZLIB = 1 << 30

FLAG_ENVELOPE = 1 << 20
"""Marks a value that begins with an envelope; see ``_envelope.py``."""

FORMATS = {
    FLAGS_UTF8: "Utf8",
    FLAGS_JSON: "Json",
    FLAGS_MSGPACK: "MsgPack",
    FLAGS_PICKLE: "Pickle",
}
"""Names of the serializers by their flags, for messages about values that others cannot read."""
