"""Compression of values: which, from what size, and never more than a limit back."""

import importlib
import sys
import zlib
from typing import Any, Protocol

from .._arguments import check_between
from ._marks import FLAG_LZ4, FLAG_ZLIB, FLAG_ZSTD

MIN_SIZE = 1024
LARGEST = 2**63 - 1

_LZ4_PIECE = 32 * 1024 * 1024
"""Bytes of LZ4 that are decompressed at once."""


class Compression(Protocol):
    """Makes bytes smaller; any object with these will do. Called from other threads too."""

    @property
    def flag(self) -> int:
        """The one bit that is set in the flags of values that it made smaller."""
        ...

    @property
    def min_size(self) -> int:
        """Values of fewer bytes stay as they are."""
        ...

    def compress(self, data: bytes) -> bytes:
        """Give what to store; it is only kept when it is smaller."""
        ...

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Give what was compressed; None if that is more than ``limit`` bytes.

        It must not take more memory than that to find out. Raise for what is not whole.
        """
        ...


def check_flag(flag: int) -> None:
    """Refuse what marks no value."""
    check_between("flag", flag, 1, 2**31)
    if flag.bit_count() != 1:
        raise ValueError("flag must be one bit of 32")


class _Base:
    def __init__(self, min_size: int, flag: int) -> None:
        check_between("min_size", min_size, 0, LARGEST)
        check_flag(flag)
        self.min_size = min_size
        self.flag = flag

    def __repr__(self) -> str:
        return f"{type(self).__name__}(min_size={self.min_size}, flag={self.flag:#x})"


class Zlib(_Base):
    """The standard library's: everywhere, slow.

    Args:
        level: 0 to 9; -1: zlib's own default, 6.
        min_size: values of fewer bytes stay as they are.
        flag: the bit that marks compressed values.
    """

    def __init__(self, *, level: int = -1, min_size: int = MIN_SIZE, flag: int = FLAG_ZLIB) -> None:
        super().__init__(min_size, flag)
        check_between("level", level, -1, 9)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Give a zlib stream."""
        return zlib.compress(data, self._level)

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Give what a zlib stream holds."""
        return _bounded(zlib.decompressobj(), data, limit)


class Zstd(_Base):
    """Zstandard: small and fast; below Python 3.14 it needs ``pip install 'emcache[zstd]'``.

    Args:
        level: -131072 (fast) to 22 (small and slow).
        min_size: values of fewer bytes stay as they are.
        flag: the bit that marks compressed values.

    Raises:
        ImportError: backports.zstd is not installed.
    """

    def __init__(self, *, level: int = 3, min_size: int = MIN_SIZE, flag: int = FLAG_ZSTD) -> None:
        super().__init__(min_size, flag)
        module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        self._library = _library(module, "Zstd", "zstd")
        low, high = self._library.CompressionParameter.compression_level.bounds()
        check_between("level", level, low, high)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Give one frame."""
        frame: bytes = self._library.compress(data, self._level)
        return frame

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Give what one frame holds."""
        # The library itself refuses windows of more than 128 MiB.
        size = self._library.get_frame_info(data).decompressed_size
        if size is not None and size > limit:
            return None
        return _bounded(self._library.ZstdDecompressor(), data, limit)


class Lz4(_Base):
    """LZ4 frames: the fastest, less small; needs ``pip install 'emcache[lz4]'``.

    Args:
        level: 0 (fast) to 16 (small and slow).
        min_size: values of fewer bytes stay as they are.
        flag: the bit that marks compressed values.

    Raises:
        ImportError: lz4 is not installed.
    """

    def __init__(self, *, level: int = 0, min_size: int = MIN_SIZE, flag: int = FLAG_LZ4) -> None:
        super().__init__(min_size, flag)
        self._library = _library("lz4.frame", "Lz4", "lz4")
        check_between("level", level, 0, 16)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Give one frame."""
        frame: bytes = self._library.compress(data, compression_level=self._level)
        return frame

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Give what one frame holds."""
        return _bounded(_Lz4Stream(self._library.LZ4FrameDecompressor()), data, limit)


class _Lz4Stream:
    """A decompressor that takes memory for what there is, not for what there may be."""

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
        # The library takes memory for all of `max_length` at once.
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


def _bounded(stream: Any, data: bytes, limit: int) -> bytes | None:
    # One byte more than may be: that it is there says that there is too much. The libraries take
    # the largest size that an object may have, and none beyond it.
    found: bytes = stream.decompress(data, min(limit + 1, sys.maxsize))
    if len(found) > limit:
        return None
    if not stream.eof or stream.unused_data:
        raise ValueError("compressed data is cut short, or something follows it")
    return found
