"""The short way of hits in envelopes decides as ``Storage.read`` does, for all items."""

import itertools
import json
import time

import pytest

from emcache import Cache, Item
from emcache.cache._envelope import NEVER, Envelope, encode_envelope, now_ms
from emcache.cache._flags import FLAG_ENVELOPE, FLAG_ZLIB, FLAGS_EMPTY, FLAGS_HEAD, FLAGS_JSON
from emcache.cache._flights import Missing
from emcache.cache._quick_hits import fresh_value

pytestmark = pytest.mark.driver_independent

A, B, C = (b"t:#tag:a", b"12345678"), (b"t:#tag:b", b"abcdefgh"), (b"t:#tag:c", b"ABCDEFGH")
VALUE = json.dumps({"a": [1, "ä"]}).encode()


def items():
    """Everything that may be under a key: bytes and flags."""
    now = now_ms()
    times = [(NEVER, NEVER), (now + 60_000, now + 90_000), (now - 1, now + 90_000)]
    times += [(now - 2, now - 1), (0, 0), (NEVER, 0), (now + 60_000, NEVER)]
    tags = [(), (A,), (A, B), (B, A), (A, B, C), ((A[0], b"outdated"),), (A, (B[0], A[1]))]
    for (refresh, fresh), of_value in itertools.product(times, tags):
        for data in (VALUE, b"", b"{"):
            stored = encode_envelope(Envelope(refresh, fresh, of_value), data)
            for flags in (FLAGS_JSON, FLAGS_EMPTY if not data else FLAGS_HEAD, 1):
                yield stored, flags | FLAG_ENVELOPE
    stored = encode_envelope(Envelope(NEVER, NEVER, (A, B)), VALUE)
    for end in range(len(stored)):
        yield stored[:end], FLAGS_JSON | FLAG_ENVELOPE
    yield stored, FLAGS_JSON | FLAG_ENVELOPE | FLAG_ZLIB
    yield b"\2" + stored[1:], FLAGS_JSON | FLAG_ENVELOPE
    yield stored, FLAGS_JSON
    yield VALUE, FLAGS_JSON


FOUND = [
    dict([A, B, C]),
    dict([A]),
    {},
    # Something else under the key of a tag, which would reach into the value.
    {A[0]: A[1], B[0]: B[1] + VALUE[:1]},
    {A[0]: A[1][:7], B[0]: B[1]},
    {A[0]: b"", B[0]: b""},
]

REQUIRED = [(), (A[0],), (A[0], B[0]), (B[0], A[0])]
NEARLY_AN_HOUR = 3_599 * 10**9


async def test_the_same_values(client):
    cache = Cache(client, on_unreadable="miss")
    hits = 0
    read = [(found, {n: Item(v, 0, None) for n, v in found.items()}) for found in FOUND]
    for stored, flags in items():
        item = Item(stored, flags, None)
        for (generations, read_with), names in itertools.product(read, REQUIRED):
            quick = fresh_value(item, names, read_with, cache._marks, cache._loads)
            if isinstance(quick, Missing):
                continue
            hits += 1
            # The client is not needed: all generations that count were read.
            assert generations.keys() >= set(names)
            slow = await cache._storage.read(b"k", item, {}, names, generations)
            assert slow is not None
            assert slow.freshness == "fresh"
            assert quick == slow.value
    assert hits > 20


async def test_ordinary_hits_take_the_short_way(client, key, monkeypatch):
    """With tags, with a refresh, and with both; a refresh that is due does not."""
    cache = Cache(client, prefix=key)
    slow = []
    original = type(cache._storage).read

    async def counted(self, name, *args, **kwargs):
        slow.append(name)
        return await original(self, name, *args, **kwargs)

    async def compute():
        return {"a": 1}

    for number, options in enumerate(
        [{"tags": ["x", "y"]}, {"refresh": 5}, {"refresh": 5, "tags": ["x"]}]
    ):
        name = f"k{number}"
        await cache.get_or_set(name, compute, **options)
        with monkeypatch.context() as patch:
            patch.setattr(type(cache._storage), "read", counted)
            assert await cache.get_or_set(name, compute, **options) == {"a": 1}
            assert await cache.get(name, tags=options.get("tags")) == {"a": 1}
            assert slow == []
            later = time.time_ns() + NEARLY_AN_HOUR
            patch.setattr(time, "time_ns", lambda later=later: later)
            if "refresh" in options:
                await cache.get_or_set(name, compute, **options)
                assert slow != []
                slow.clear()
