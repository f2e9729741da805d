"""Compressions of other clients."""

import zlib

from . import _fastlz
from ._compression import Zlib, bounded


class Gzip(Zlib):
    """A gzip file with one member."""

    def compress(self, data: bytes) -> bytes:
        """Return a gzip file without a time."""
        stream = zlib.compressobj(wbits=31)
        return stream.compress(data) + stream.flush()

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Decompress a gzip file."""
        return bounded(zlib.decompressobj(31), data, limit)


class PhpZlib:
    """zlib after the size of the original, in 4 bytes, little-endian."""

    flag = 0x30

    def __init__(self, min_size: int = 0) -> None:
        self.min_size = min_size

    def compress(self, data: bytes) -> bytes:
        """Return the size and a zlib stream."""
        return len(data).to_bytes(4, "little") + zlib.compress(data)

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Decompress a zlib stream after its size."""
        size, packed = _split(data)
        if size > limit:
            return None
        found = bounded(zlib.decompressobj(), packed, size)
        if found is None or len(found) != size:
            raise ValueError("a compressed value has another size than it says")
        return found


class PhpFastLz:
    """FastLZ after the size of the original, in 4 bytes, little-endian; only to be read."""

    flag = 0x50
    min_size = 0
    in_loop = 16 * 1024
    """Larger values are decompressed in a thread: pure Python takes up to 40 ns a byte."""

    def compress(self, data: bytes) -> bytes:
        """Not needed, because php-memcached reads both compressions."""
        raise NotImplementedError

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Decompress FastLZ after its size."""
        size, packed = _split(data)
        return None if size > limit else _fastlz.decompress(packed, size)


def _split(data: bytes) -> tuple[int, bytes]:
    if len(data) < 5:
        raise ValueError("a compressed value is truncated")
    return int.from_bytes(data[:4], "little"), data[4:]
