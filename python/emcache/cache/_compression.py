"""Compression of values, with a limit on the decompressed size."""

import importlib
import sys
import zlib
from typing import Any, Protocol

from .._checks import check_range
from ._flags import FLAG_ENVELOPE, FLAG_LZ4, FLAG_ZLIB, FLAG_ZSTD

MIN_SIZE = 1024
LARGEST = 2**63 - 1

_LZ4_PIECE = 32 * 1024 * 1024
"""The most bytes that one call of the LZ4 library returns."""


class Compression(Protocol):
    """The protocol of compressions; any object with these attributes works.

    The methods are also called from other threads.
    """

    @property
    def flag(self) -> int:
        """The bit that is set in the flags of compressed values."""
        ...

    @property
    def min_size(self) -> int:
        """Values with fewer bytes are not compressed."""
        ...

    def compress(self, data: bytes) -> bytes:
        """Return the compressed bytes; they are used only if they are smaller."""
        ...

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Return the original bytes; None if there are more than ``limit``.

        It must not allocate more memory than that, and must raise for incomplete data.
        """
        ...


def check_flag(flag: int) -> None:
    """Refuse anything but a single bit that has no other meaning."""
    check_range("flag", flag, 1, 2**31)
    if flag.bit_count() != 1:
        raise ValueError("flag must have exactly one of 32 bits set")
    if flag == FLAG_ENVELOPE:
        raise ValueError("flag must not be bit 20, which marks envelopes; use bit 19")


class _Base:
    def __init__(self, min_size: int, flag: int) -> None:
        check_range("min_size", min_size, 0, LARGEST)
        check_flag(flag)
        self.min_size = min_size
        self.flag = flag

    def __repr__(self) -> str:
        return f"{type(self).__name__}(min_size={self.min_size}, flag={self.flag:#x})"


class Zlib(_Base):
    """zlib of the standard library: always available, slow.

    Args:
        level: 0 to 9; -1 for zlib's own default, 6.
        min_size: values with fewer bytes are not compressed.
        flag: the bit that marks compressed values.
    """

    def __init__(self, *, level: int = -1, min_size: int = MIN_SIZE, flag: int = FLAG_ZLIB) -> None:
        super().__init__(min_size, flag)
        check_range("level", level, -1, 9)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Return a zlib stream."""
        return zlib.compress(data, self._level)

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Decompress a zlib stream."""
        return bounded(zlib.decompressobj(), data, limit)


class Zstd(_Base):
    """Zstandard: small and fast; before Python 3.14 it needs ``pip install 'emcache[zstd]'``.

    Args:
        level: -131072 (fast) to 22 (small and slow).
        min_size: values with fewer bytes are not compressed.
        flag: the bit that marks compressed values.

    Raises:
        ImportError: backports.zstd is not installed.
    """

    def __init__(self, *, level: int = 3, min_size: int = MIN_SIZE, flag: int = FLAG_ZSTD) -> None:
        super().__init__(min_size, flag)
        module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        self._library = _library(module, "Zstd", "zstd")
        low, high = self._library.CompressionParameter.compression_level.bounds()
        check_range("level", level, low, high)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Return one frame."""
        frame: bytes = self._library.compress(data, self._level)
        return frame

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Decompress one frame."""
        # The library itself refuses windows of more than 128 MiB.
        size = self._library.get_frame_info(data).decompressed_size
        if size is not None and size > limit:
            return None
        return bounded(self._library.ZstdDecompressor(), data, limit)


class Lz4(_Base):
    """LZ4 frames: the fastest, but larger; needs ``pip install 'emcache[lz4]'``.

    Args:
        level: 0 (fast) to 16 (small and slow).
        min_size: values with fewer bytes are not compressed.
        flag: the bit that marks compressed values.

    Raises:
        ImportError: lz4 is not installed.
    """

    def __init__(self, *, level: int = 0, min_size: int = MIN_SIZE, flag: int = FLAG_LZ4) -> None:
        super().__init__(min_size, flag)
        self._library = _library("lz4.frame", "Lz4", "lz4")
        check_range("level", level, 0, 16)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Return one frame."""
        frame: bytes = self._library.compress(data, compression_level=self._level)
        return frame

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Decompress one frame."""
        return bounded(_Lz4Stream(self._library.LZ4FrameDecompressor()), data, limit)


class _Lz4Stream:
    """A decompressor that allocates memory for the actual output, not for the limit."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes | None:
        unused: bytes | None = self._stream.unused_data
        return unused

    def decompress(self, data: bytes, max_length: int) -> bytes:
        # The library allocates `max_length` bytes at once.
        found: bytes = self._stream.decompress(data, min(max_length, _LZ4_PIECE))
        if len(found) < _LZ4_PIECE:
            return found
        pieces = [found]
        size = len(found)
        while size < max_length and not self._stream.eof and not self._stream.needs_input:
            found = self._stream.decompress(b"", min(max_length - size, _LZ4_PIECE))
            pieces.append(found)
            size += len(found)
        return b"".join(pieces)


def _library(module: str, name: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.removesuffix(".frame")
        raise ImportError(f"{name} needs {package}: pip install 'emcache[{extra}]'") from error


def bounded(stream: Any, data: bytes, limit: int) -> bytes | None:
    # One byte above the limit shows that there is too much output. The libraries accept no size
    # above sys.maxsize.
    found: bytes = stream.decompress(data, min(limit + 1, sys.maxsize))
    if len(found) > limit:
        return None
    if not stream.eof or stream.unused_data:
        raise ValueError("compressed data is truncated, or followed by other data")
    return found
