"""Any bytes and texts for what parses them in Python: a value or the documented error."""

import asyncio
import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import emcache
from emcache import SerializationError
from emcache._memcached.addresses import parse_address, to_endpoint
from emcache._memcached.cluster_config import parse_cluster_config
from emcache.cache import (
    Dalli,
    Json,
    Lz4,
    MsgPack,
    PerlMemcached,
    PhpMemcache,
    PhpMemcached,
    Raw,
    Spymemcached,
    Utf8,
    Zlib,
    Zstd,
)
from emcache.cache._envelope import decode_envelope, encode_envelope
from emcache.cache._values import Values

pytestmark = pytest.mark.driver_independent

HOSTS = st.text(alphabet="abc-.:_|[]%é \n\0", max_size=12)
NODES = st.builds("{}|{}|{}".format, HOSTS, HOSTS, st.text("0123456789- ", max_size=7))
LISTS = st.builds(
    "{}\n{}\n".format, st.text("0123456789-", max_size=20), st.lists(NODES).map(" ".join)
)


@given(st.one_of(st.binary(max_size=200), LISTS.map(str.encode)))
@example(b"12\ncache-1|10.0.0.1|11211 cache-2||11212\n")
@example(b"1\r\n|::1|11211\r\n")
def test_lists_of_hosted_clusters(payload):
    try:
        version, nodes = parse_cluster_config(payload)
    except ValueError:
        return
    assert 0 <= version < 10**18
    for host, _, port in nodes:
        assert to_endpoint(emcache.MemcachedHostAddress(host, port)) == (host, port)


ADDRESSES = st.one_of(
    st.text(max_size=60),
    st.builds("{}:{}".format, HOSTS, st.text("0123456789", max_size=12)),
    st.builds("[{}]:{}".format, HOSTS, st.integers(-1, 70000)),
    st.builds("unix:{}".format, st.text(max_size=120)),
)


@given(ADDRESSES)
@example("[::1]:11211")
@example("unix:///run/m.sock")
def test_texts_of_nodes(text):
    """What is accepted can be used, and its text is accepted as the same address."""
    try:
        address = parse_address(text)
    except ValueError:
        return
    to_endpoint(address)
    assert parse_address(str(address)) == address


@given(st.text(max_size=30), st.text(max_size=30), ADDRESSES, st.text(max_size=30))
def test_urls_never_show_the_password(scheme, user, node, query):
    secret = "correct-horse"
    url = f"{scheme}://{user}:{secret}@{node}/?{query}"
    for tried in (url, url.replace(f"{scheme}:", "memcached:", 1)):
        told = ""
        try:
            emcache.from_url(tried).close()
        except (ValueError, TypeError) as error:
            told = str(error)
        assert secret not in told


@given(st.one_of(st.binary(max_size=120), st.binary(max_size=100).map(b"\x01".__add__)))
def test_envelopes(stored):
    try:
        envelope, data = decode_envelope(stored)
    except ValueError:
        return
    assert encode_envelope(envelope, data) == stored


LIMIT = 3000
COMPRESSIONS = [Zlib(), Zstd(), Lz4()]
PRESETS = [Dalli, PerlMemcached, PhpMemcache, PhpMemcached, Spymemcached]
SERIALIZERS = [
    *(
        Values(kind(), compression, LIMIT)
        for kind in (Raw, Utf8, Json, MsgPack)
        for compression in (None, *COMPRESSIONS)
    ),
    *(Values(preset(), None, LIMIT) for preset in PRESETS),
]
BITS = [0, 1, 2, 3, 4, 6, 8, 16, 32, 48, 64, 256, 512, 768, 1024, 2048, 2304]


@given(
    st.sampled_from(SERIALIZERS),
    st.binary(max_size=200),
    st.one_of(st.sampled_from(BITS), st.integers(0, 2**32 - 1)),
    st.data(),
)
def test_values_that_others_stored(values, stored, flags, data):
    """No exception but SerializationError, which a cache turns into a miss."""
    marks = [each.flag for each in COMPRESSIONS]
    for each in (flags, flags | data.draw(st.sampled_from([*marks, values.marks]))):
        with contextlib.suppress(SerializationError):
            asyncio.run(values.unpack(b"key", stored, each))


@given(
    st.sampled_from(COMPRESSIONS),
    st.binary(max_size=2000),
    st.integers(0, 2000),
    st.integers(1, 255),
)
def test_damaged_compressed_values(compression, value, at, change):
    """A damaged byte is found, or did not matter; nothing longer than the limit is made."""
    values = Values(Raw(), compression, LIMIT)
    packed = bytearray(compression.compress(value * 5 + b"x"))
    packed[at % len(packed)] ^= change
    with contextlib.suppress(SerializationError):
        found, *_ = asyncio.run(values.unpack(b"key", bytes(packed), compression.flag))
        assert len(found) <= LIMIT
