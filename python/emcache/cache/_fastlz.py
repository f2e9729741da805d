"""Decompression of FastLZ, the default compression of php-memcached."""

_NEAR = 8192
"""The greatest distance of a match in level 1; level 2 has a longer form beyond it."""


def decompress(data: bytes, size: int) -> bytes:
    """Return the ``size`` original bytes.

    # Format
    The first byte has the level (1 or 2) less 1 in its top three bits, and belongs to the first
    instruction all the same, which is always a literal. The instructions are:

    - ``000nnnnn``: n + 1 literal bytes follow.
    - ``nnnddddd d``: a match of n + 2 bytes at distance d + 1. If n is 7, further bytes of length
      stand before the second byte of d: one in level 1; in level 2 as many as are 255, and one
      more. In level 2 the greatest d is followed by two bytes of a distance beyond it.

    Raises:
        ValueError: the data is damaged, or has another size.
    """
    try:
        return _decompress(data, size)
    except IndexError:
        raise ValueError("FastLZ data is truncated") from None


def _decompress(data: bytes, size: int) -> bytes:
    level = data[0] >> 5
    if level > 1:
        raise ValueError("FastLZ data has an unknown level")
    out = bytearray()
    end = len(data)
    code, at = data[0] & 31, 1
    while True:
        if code < 32:
            length = code + 1
            if at + length > end:
                raise ValueError("FastLZ data is truncated")
            out += data[at : at + length]
            at += length
        else:
            length = (code >> 5) + 2
            distance = ((code & 31) << 8) + 1
            if length == 9:
                more = data[at]
                at += 1
                length += more
                while level and more == 255:
                    more = data[at]
                    at += 1
                    length += more
            distance += data[at]
            at += 1
            if level and distance == _NEAR:
                distance += (data[at] << 8) + data[at + 1]
                at += 2
            start = len(out) - distance
            if start < 0 or len(out) + length > size:
                raise ValueError("FastLZ data has a match outside of the value")
            if distance >= length:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // distance + 1))[:length]
        if at >= end:
            break
        code = data[at]
        at += 1
    if len(out) != size:
        raise ValueError("FastLZ data has another size than it says")
    return bytes(out)
