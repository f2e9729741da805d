"""The envelope of stored values, and the counts of a cache, without a server."""

import pytest

from emcache.cache import Zlib
from emcache.cache._counts import Counts
from emcache.cache._envelope import (
    MOST_TAGS,
    NEVER,
    STALE,
    Envelope,
    decode_envelope,
    encode_envelope,
)

pytestmark = pytest.mark.driver_independent

TAGS = ((b"app:#tag:user:1", b"\0\x01\x02\x03\x04\x05\x06\xff"), (b"t" * 250, b"8" * 8))


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 100_000])
@pytest.mark.parametrize(
    "envelope",
    [
        Envelope(NEVER, NEVER),
        Envelope(STALE, STALE),
        Envelope(1_800_000_000_000, 1_800_000_030_000),
        Envelope(5, 6, TAGS),
        Envelope(NEVER, NEVER, (TAGS[0],) * MOST_TAGS),
    ],
)
def test_an_envelope_is_read_back(envelope, data):
    assert decode_envelope(encode_envelope(envelope, data)) == (envelope, data)


def test_the_bytes_of_an_envelope():
    """Caches of other versions read them."""
    stored = encode_envelope(Envelope(0x0102, 0x0304, ((b"key", b"12345678"),)), b"value")
    assert stored == (
        b"\x01" + b"\0\0\0\0\0\0\x01\x02" + b"\0\0\0\0\0\0\x03\x04" + b"\x01\x03key12345678value"
    )


def test_a_header_that_is_cut_off_is_refused_at_every_byte():
    header = encode_envelope(Envelope(5, 6, TAGS), b"")
    for length in range(len(header)):
        with pytest.raises(ValueError, match="envelope"):
            decode_envelope(header[:length])


def test_an_envelope_of_another_version_is_refused():
    stored = encode_envelope(Envelope(NEVER, NEVER), b"value")
    with pytest.raises(ValueError, match="version 2"):
        decode_envelope(b"\x02" + stored[1:])


def test_what_cannot_be_encoded():
    with pytest.raises(ValueError, match="at most 255 tags, not 256"):
        encode_envelope(Envelope(NEVER, NEVER, (TAGS[0],) * 256), b"")
    with pytest.raises(ValueError, match="8 bytes, not 3"):
        encode_envelope(Envelope(NEVER, NEVER, ((b"key", b"123"),)), b"")


def test_a_compression_cannot_use_the_bit_of_envelopes():
    with pytest.raises(ValueError, match="bit 20"):
        Zlib(flag=1 << 20)
    assert Zlib(flag=1 << 19).flag == 1 << 19


def test_counts_of_values_that_were_not_stored():
    counts = Counts()
    counts.count_not_stored("invalidated")
    counts.count_not_stored("invalidated")
    counts.count_not_stored("refused")
    assert counts.not_stored == {"invalidated": 2, "refused": 1}
