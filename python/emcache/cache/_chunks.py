"""Values that do not fit into one item: pieces under keys of their own, and a head under the key.

The head is an item with ``FLAGS_HEAD``, in an envelope. Its data is::

    version     1 byte, 1
    flags       4 bytes, the flags of the value
    size        8 bytes, the length of the value
    piece size  4 bytes, the length of every piece but the last
    checksum    4 bytes, the CRC-32 of the value
    id          12 bytes, new for each store

All numbers are big-endian and unsigned. The keys of the pieces contain the id, so a head never has
pieces of another store.
"""

import asyncio
import base64
import functools
import secrets
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from .. import _emcache
from .._checks import check_range
from .._client import Client
from .._errors import SerializationError
from .._failures import copy_exception
from .._item import Item
from .._memcached.times import THIRTY_DAYS
from ._flags import FLAG_ENVELOPE, FLAGS_HEAD, FLAGS_PIECE
from ._keys import shown
from ._marks import mark_name
from ._presets import Preset
from ._tasks import in_task
from ._warnings import warn

R = TypeVar("R")

MIB = 1024 * 1024
ITEM_OVERHEAD = 512
"""More than what a server adds to a value: its header, the key, and the flags."""
SMALLEST_ITEM_SIZE = 8 * 1024
SMALLEST_PIECE = 2 * 1024
"""A head must not make a reader ask for millions of pieces."""
LARGEST_SIZE = 1024 * MIB
_IN_FLIGHT = 16 * MIB
"""How many bytes of one value are requested or sent at a time, since each request has the client's
timeout."""
_GROUPS = 8
"""In how many requests these bytes are, so that others are under way while one is put together."""
OUTLIVE = 60
"""Seconds that pieces live longer than their head, which is stored after them."""

_HEAD = struct.Struct(">BIQII12s")
_VERSION = 1
_ID_SIZE = 12


@dataclass(frozen=True, slots=True)
class Chunks:
    """How values that are too large for one item are stored; for ``Cache(chunked=)``.

    Args:
        item_size: the largest item of the servers in bytes, their option ``-I``. Values that fit
            into one item are stored as one.
        max_size: the most bytes that a value may have when it is stored, after compression. Larger
            values are neither read nor stored.
    """

    item_size: int = MIB
    max_size: int = 128 * MIB

    def __post_init__(self) -> None:
        check_range("item_size", self.item_size, SMALLEST_ITEM_SIZE, LARGEST_SIZE)
        check_range("max_size", self.max_size, 1, LARGEST_SIZE)

    @property
    def largest(self) -> int:
        """The most bytes that are stored as one item."""
        return self.item_size - ITEM_OVERHEAD

    @property
    def piece_size(self) -> int:
        """The bytes of a piece.

        Servers store items in chunks of at most 512 KiB; one such chunk has the least waste.
        """
        return min(self.item_size, MIB) // 2 - ITEM_OVERHEAD


class Head(NamedTuple):
    """What the item under the key says about its pieces."""

    flags: int
    size: int
    piece_size: int
    checksum: int
    id: bytes

    def encode(self) -> bytes:
        """Return the data of the item, without its envelope."""
        return _HEAD.pack(_VERSION, *self)

    def keys(self, name: bytes) -> list[bytes]:
        """Return the keys of the pieces."""
        count = -(-self.size // self.piece_size)
        mark = b"#chunk:" + base64.urlsafe_b64encode(self.id) + b":"
        return [mark_name(name, mark + b"%d" % at) for at in range(count)]


def decode_head(data: bytes) -> Head:
    """Return what a head says.

    Raises:
        SerializationError: another program or a later version wrote it.
    """
    if len(data) != _HEAD.size or data[0] != _VERSION:
        raise SerializationError("its head is of another version, or damaged")
    _, *fields = _HEAD.unpack(data)
    head = Head(*fields)
    if head.piece_size < SMALLEST_PIECE or not head.size:
        raise SerializationError("its head is damaged")
    return head


def chunks_of(chunked: object, serializer: object) -> Chunks | None:
    """Check the option ``chunked`` of a cache."""
    if chunked is False:
        return None
    if chunked is True:
        chunked = Chunks()
    if not isinstance(chunked, Chunks):
        kind = type(chunked).__name__
        raise TypeError(f"chunked must be a bool or an emcache.cache.Chunks, not {kind}")
    _check_serializer(serializer)
    return chunked


def _check_serializer(serializer: object) -> None:
    if isinstance(serializer, Preset):
        name = type(serializer).__name__
        message = f"chunked does not go with {name}(): other clients cannot read pieces"
        raise ValueError(message)  # noqa: TRY004


def is_head(flags: int | None) -> bool:
    """Return whether an item is the head of a value in pieces."""
    return flags == FLAGS_HEAD | FLAG_ENVELOPE


class Pieces:
    """Stores and reads the pieces of the values of one cache."""

    def __init__(self, client: Client, chunks: Chunks) -> None:
        self._client = client
        self._chunks = chunks
        self.largest = chunks.largest
        """The most bytes that are stored as one item."""

    def exptime(self, expires: int) -> int:
        """Return the exptime of a head: pieces that are left behind must expire some day."""
        return expires or THIRTY_DAYS - OUTLIVE

    async def store(self, name: bytes, data: bytes, flags: int, expires: int) -> bytes:
        """Store a value as pieces; return the data of its head.

        Args:
            name: the key of the value.
            data: the value.
            flags: the flags of the value.
            expires: what :meth:`exptime` returned.

        Raises:
            SerializationError: the value is too large.
            EmcacheError: a piece was not stored.
        """
        size, most = len(data), self._chunks.max_size
        if size > most:
            raise SerializationError(
                f"the value of {shown(name)} has {size} bytes, more than the {most} of max_size; "
                "see emcache.cache.Chunks"
            )
        piece_size = self._chunks.piece_size
        head = Head(flags, size, piece_size, 0, secrets.token_bytes(_ID_SIZE))
        if expires < 0:
            return head.encode()
        expires = _outliving(expires)
        view, checksum = memoryview(data), 0  # parts of a view are sent without a copy

        async def put(keys: Sequence[bytes], start: int) -> None:
            nonlocal checksum
            end = min(start + piece_size * len(keys), size)
            checksum = _emcache.crc32(data, start, end, checksum)
            parts = [view[at : min(at + piece_size, end)] for at in range(start, end, piece_size)]
            stored = await self._client.set_many(
                dict(zip(keys, parts, strict=True)), flags=FLAGS_PIECE, exptime=expires
            )
            for error in stored.errors.values():
                raise copy_exception(error)

        groups = _groups(head.keys(name), piece_size)
        await _in_turn((functools.partial(put, *group) for group in groups), lambda _: True)
        return head._replace(checksum=checksum).encode()

    async def read(self, name: bytes, head: Head, touch: int | None = None) -> bytes | None:
        """Return a value; None if a piece is missing or damaged.

        Args:
            name: the key of the value.
            head: its head.
            touch: the new exptime of the head, which the pieces outlive; None for no change.

        Raises:
            SerializationError: the value is too large.
            EmcacheError: a piece could not be read.
        """
        if head.size > self._chunks.max_size:
            raise SerializationError(
                f"it has {head.size} bytes, more than the {self._chunks.max_size} of max_size; "
                "see emcache.cache.Chunks"
            )

        async def get(keys: Sequence[bytes], _: int) -> list[Item | None]:
            if touch is None:
                items = await self._client.get_many(keys, True)
            else:
                items = await self._client.gat_many(_outliving(touch), keys, True)
            return [items.get(key) for key in keys]

        buffer: _emcache.PieceBuffer | None = None
        rest = head.size

        def append(items: list[Item | None]) -> bool:
            nonlocal buffer, rest
            for item in items:
                expected = min(head.piece_size, rest)
                if item is None or item.flags != FLAGS_PIECE or len(item.value) != expected:
                    return False
                if buffer is None:
                    buffer = _emcache.PieceBuffer(head.size)
                buffer.append(item.value)
                rest -= expected
            return True

        groups = _groups(head.keys(name), head.piece_size)
        await _in_turn((functools.partial(get, *group) for group in groups), append)
        if buffer is None or rest:
            return None
        data, checksum = buffer.finish()
        if checksum != head.checksum:
            error = SerializationError(f"the pieces of {shown(name)} are damaged")
            warn("a damaged value counts as a miss", error)
            return None
        return data

    async def touch(self, name: bytes, head: Head, expires: int) -> bool:
        """Update the exptime of the pieces; return False if one is missing."""
        touched = await self._client.touch_many(head.keys(name), _outliving(expires))
        for error in touched.errors.values():
            raise copy_exception(error)
        return not touched.missed

    def discard(self, name: bytes, head: Head) -> None:
        """Delete the pieces of a head that was not stored, without waiting for it."""
        in_task(self._client.delete_many(head.keys(name)))


def _outliving(expires: int) -> int:
    """Return the exptime of the pieces of a head, which is stored after them."""
    if expires < 0:
        return expires
    expires = expires or THIRTY_DAYS
    return min(expires + OUTLIVE, THIRTY_DAYS) if expires <= THIRTY_DAYS else expires + OUTLIVE


def _groups(keys: list[bytes], piece_size: int) -> Iterator[tuple[list[bytes], int]]:
    """Split the keys of pieces into requests; also return where the value of each begins."""
    count = max(_IN_FLIGHT // _GROUPS // piece_size, 1)
    for at in range(0, len(keys), count):
        yield keys[at : at + count], at * piece_size


async def _in_turn(
    calls: Iterable[Callable[[], Coroutine[Any, Any, R]]], use: Callable[[R], bool]
) -> None:
    """Run a few calls at a time, and use their results in order, until ``use`` returns False."""
    tasks: deque[asyncio.Task[R]] = deque()
    try:
        for call in calls:
            tasks.append(asyncio.create_task(call()))
            await asyncio.sleep(0)  # it is sent now, and the server begins
            if len(tasks) == _GROUPS and not use(await tasks.popleft()):
                return
        while tasks:
            if not use(await tasks.popleft()):
                return
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
