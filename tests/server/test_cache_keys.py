"""Which keys a cache takes, and what they are on the wire: written out, for other languages."""

import hashlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

import emcache
from emcache import Cache, InvalidKeyError
from emcache._memcached.keys import MAX_LENGTH
from emcache.cache import Utf8
from emcache.cache._keys import Keys

LONG = "x" * 300


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("prefix", "key", "wire"),
    [
        ("", "user:42", b"user:42"),
        ("", b"user:42", b"user:42"),
        ("app:", "user:42", b"app:user:42"),
        (b"app:", b"\xff\x80", b"app:\xff\x80"),
        ("é:", "ключ", "é:ключ".encode()),
        ("", "x" * 250, b"x" * 250),
        ("p:", "x" * 248, b"p:" + b"x" * 248),
        # No-break space and next line are no whitespace to memcached once they are UTF-8.
        ("", "a\xa0b\x85", b"a\xc2\xa0b\xc2\x85"),
    ],
)
@pytest.mark.parametrize("policy", ["refuse", "hash"])
def test_safe_keys_stay_as_they_are(prefix, key, wire, policy):
    assert Keys(prefix, policy).wire(key) == wire


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "key",
    ["a b", "a\r\nflush_all", "\0", "tab\t", "\x7f", " ", LONG, "ü" * 126, "#sha256:" + 64 * "0"],
)
def test_hashed_keys(key):
    by_hand = b"#sha256:" + hashlib.sha256(key.encode()).hexdigest().encode()
    assert Keys("", "hash").wire(key) == by_hand
    assert Keys("app:", "hash").wire(key) == b"app:" + by_hand
    assert Keys("app:", "hash").wire(key.encode()) == b"app:" + by_hand


def test_a_shell_finds_the_same_key():
    command = 'printf %s "ключ 42" | sha256sum | cut -d" " -f1'
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert Keys("app:", "hash").wire("ключ 42") == b"app:#sha256:" + done.stdout.strip()


@pytest.mark.driver_independent
@given(st.text(min_size=1), st.text(min_size=1))
def test_no_two_keys_are_one(one, other):
    keys = Keys("p:", "hash")

    def wire(key):
        try:
            return keys.wire(key)
        except InvalidKeyError:
            return key  # a lone surrogate

    assert (wire(one) == wire(other)) == (one == other)
    if isinstance(wire(one), bytes):
        assert len(wire(one)) <= MAX_LENGTH
        assert not any(byte <= 0x20 or byte == 0x7F for byte in wire(one))
    # Nor is what another key became.
    assert wire(one)[2:] == one.encode() or keys.wire(wire(one)[2:]) != wire(one)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("a b", "whitespace"),
        ("a\r\nb", "whitespace or control"),
        ("", "empty"),
        (b"", "empty"),
        (LONG, "302 bytes with its prefix"),
        ("x" * 249, "251 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_refused(key, says):
    with pytest.raises(InvalidKeyError, match=says) as raised:
        Keys("p:", "refuse").wire(key)
    assert isinstance(raised.value, ValueError)
    assert len(str(raised.value)) < 250


@pytest.mark.driver_independent
@pytest.mark.parametrize("key", ["", b"", "\ud800"])
def test_refused_even_if_others_are_hashed(key):
    with pytest.raises(InvalidKeyError):
        Keys("p:", "hash").wire(key)


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("prefix", "policy"),
    [
        ("a b", "refuse"),
        ("a\n", "hash"),
        ("x" * 250, "refuse"),
        ("x" * 179, "hash"),
        ("é" * 90, "hash"),
    ],
)
def test_refused_prefixes(prefix, policy):
    with pytest.raises(InvalidKeyError, match="prefix"):
        Keys(prefix, policy)


@pytest.mark.driver_independent
def test_the_longest_prefixes():
    assert len(Keys("x" * 249, "refuse").wire("k")) == 250
    assert len(Keys("x" * 178, "hash").wire(LONG)) == 250


@pytest.mark.driver_independent
def test_a_function_makes_keys():
    keys = Keys("p:", lambda key: hashlib.sha1(key).hexdigest().encode())
    assert keys.wire("a b") == b"p:" + hashlib.sha1(b"a b").hexdigest().encode()
    with pytest.raises(InvalidKeyError):
        Keys("p:", lambda key: key + b" ").wire("k")


@pytest.mark.driver_independent
@pytest.mark.parametrize("key", [5, None, bytearray(b"k"), ["k"]])
def test_wrong_types(key):
    with pytest.raises(TypeError, match="key must be a str or bytes"):
        Keys("", "hash").wire(key)
    with pytest.raises(TypeError, match="prefix must be"):
        Keys(key, "hash")


async def test_on_the_wire(client, key):
    cache = Cache(client, serializer=Utf8(), prefix=key + b":", keys="hash")
    for name in ("plain", "two words", LONG, "ключ", "\r\nflush_all\r\n", b"\xff"):
        await cache.set(name, repr(name))
        assert (await client.get(cache.wire_key(name))).value == repr(name).encode()
        assert await cache.get(name) == repr(name)
        assert client.node_for(cache.wire_key(name)) is not None


async def test_many_keys_come_back_as_they_were_given(client, key):
    cache = Cache(client, serializer=Utf8(), prefix=key, keys="hash")
    values = {"a": "1", "b c": "2", LONG: "3", "ключ": "4"}
    assert await cache.set_many(values) == {}
    assert await cache.get_many([*values, "missing"]) == values
    assert await cache.get_many(["a", "a", b"a"]) == {"a": "1", b"a": "1"}
    assert await cache.get_many([]) == {}


async def test_the_prefix_chooses_the_node(cluster):
    async with emcache.create_client([node.address for node in cluster]) as client:
        plain, prefixed = Cache(client), Cache(client, prefix="p:")
        moved = 0
        for number in range(50):
            name = str(number)
            assert prefixed.wire_key(name) == b"p:" + name.encode()
            assert client.node_for(prefixed.wire_key(name)) == client.node_for(f"p:{name}".encode())
            moved += client.node_for(plain.wire_key(name)) != client.node_for(b"p:%d" % number)
        assert moved > 10


async def test_refused_before_a_byte_is_sent(server, client):
    before = int(server.stats()["cmd_set"])
    cache = Cache(client)
    with pytest.raises(InvalidKeyError):
        await cache.set("a b", 1)
    with pytest.raises(InvalidKeyError):
        await cache.set_many({"ok": 1, "a b": 1})
    assert int(server.stats()["cmd_set"]) == before
