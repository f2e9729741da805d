"""Arguments that are yes or no: what only looks like it is refused before a byte is sent."""

import pytest

import emcache
from emcache.testing import CertificateAuthority, MemcachedServer
from support.scripted import scripted

RETURN_FLAGS = {
    "get": lambda c, _, flag: c.get(b"k", flag),
    "gets": lambda c, _, flag: c.gets(b"k", flag),
    "gat": lambda c, _, flag: c.gat(60, b"k", flag),
    "gats": lambda c, _, flag: c.gats(60, b"k", flag),
    "get_many": lambda c, _, flag: c.get_many([b"k"], flag),
    "gets_many": lambda c, _, flag: c.gets_many([b"k"], flag),
    "gat_many": lambda c, _, flag: c.gat_many(60, [b"k"], flag),
    "gats_many": lambda c, _, flag: c.gats_many(60, [b"k"], flag),
    "get_many of none": lambda c, _, flag: c.get_many([], flag),
    "get_many partial": lambda c, _, flag: c.get_many([b"k"], flag, on_error="partial"),
    "gats_many partial": lambda c, _, flag: c.gats_many(60, [b"k"], flag, on_error="partial"),
}
NOREPLY = {
    "set": lambda c, _, flag: c.set(b"k", b"v", noreply=flag),
    "set of a large value": lambda c, _, flag: c.set(b"k", bytes(100_000), noreply=flag),
    "add": lambda c, _, flag: c.add(b"k", b"v", noreply=flag),
    "replace": lambda c, _, flag: c.replace(b"k", b"v", noreply=flag),
    "append": lambda c, _, flag: c.append(b"k", b"v", noreply=flag),
    "prepend": lambda c, _, flag: c.prepend(b"k", b"v", noreply=flag),
    "cas": lambda c, _, flag: c.cas(b"k", b"v", 1, noreply=flag),
    "delete": lambda c, _, flag: c.delete(b"k", noreply=flag),
    "touch": lambda c, _, flag: c.touch(b"k", 60, noreply=flag),
    "increment": lambda c, _, flag: c.increment(b"k", 1, noreply=flag),
    "decrement": lambda c, _, flag: c.decrement(b"k", 1, noreply=flag),
    "increment with initial": lambda c, _, flag: c.increment(b"k", 1, initial=1, noreply=flag),
    "decrement with initial": lambda c, _, flag: c.decrement(b"k", 1, initial=1, noreply=flag),
    "set_many": lambda c, _, flag: c.set_many({b"k": b"v"}, noreply=flag),
    "add_many": lambda c, _, flag: c.add_many({b"k": b"v"}, noreply=flag),
    "delete_many": lambda c, _, flag: c.delete_many([b"k"], noreply=flag),
    "touch_many": lambda c, _, flag: c.touch_many([b"k"], 60, noreply=flag),
    "flush_all": lambda c, node, flag: c.flush_all(node, noreply=flag),
    "flush_all of all nodes": lambda c, _, flag: c.flush_all(noreply=flag),
    "verbosity": lambda c, node, flag: c.verbosity(node, 1, noreply=flag),
    "cache_memlimit": lambda c, node, flag: c.cache_memlimit(node, 64, noreply=flag),
}
CHECKED_OUT = {
    "storage_command": lambda c, flag: c.storage_command(b"set", b"k", b"v", 0, 0, flag),
    "incr_decr_command": lambda c, flag: c.incr_decr_command(b"incr", b"k", 1, flag),
    "touch_command": lambda c, flag: c.touch_command(b"k", 60, flag),
    "delete_command": lambda c, flag: c.delete_command(b"k", flag),
    "flush_all_command": lambda c, flag: c.flush_all_command(0, flag),
    "verbosity_command": lambda c, flag: c.verbosity_command(1, flag),
    "cache_memlimit_command": lambda c, flag: c.cache_memlimit_command(64, flag),
}
NO_FLAGS = [b"default", b"", "yes", "", None, 2, -1, 2**70, 1.0, 0.0, [], {}, object(), emcache]


async def nothing(connection) -> None:
    """Fails the test if anything is sent."""
    if line := await connection.line():
        raise AssertionError(f"sent: {line!r}")


@pytest.mark.parametrize("name", RETURN_FLAGS)
async def test_return_flags(name):
    async with scripted(nothing) as peer, emcache.create_client([peer.address]) as client:
        for value in NO_FLAGS:
            with pytest.raises(TypeError) as raised:
                await RETURN_FLAGS[name](client, peer.address, value)
            assert str(raised.value) == (
                f"return_flags must be a bool, not {type(value).__name__}; "
                "there is no default argument, and a miss returns None"
            )


@pytest.mark.parametrize("name", NOREPLY)
async def test_noreply(name):
    async with scripted(nothing) as peer, emcache.create_client([peer.address]) as client:
        for value in NO_FLAGS:
            with pytest.raises(TypeError, match=r"^noreply must be a bool, not "):
                await NOREPLY[name](client, peer.address, value)


@pytest.mark.parametrize("name", CHECKED_OUT)
async def test_noreply_on_a_checked_out_connection(name):
    async with scripted(nothing) as peer:
        pool = emcache.ConnectionPool(peer.address)
        async with pool.create_connection_context() as connection:
            for value in NO_FLAGS:
                with pytest.raises(TypeError, match=r"^noreply must be a bool, not "):
                    await CHECKED_OUT[name](connection, value)
        await pool.close()


async def test_what_is_one(client, key):
    await client.set(key, b"v", flags=3)
    for yes in (True, 1):
        assert (await client.get(key, yes)).flags == 3
        assert (await client.get_many([key], yes))[key].flags == 3
        assert await client.increment(key, 1, noreply=yes) is None
    for no in (False, 0):
        assert (await client.get(key, no)).flags is None
        assert (await client.get_many([key], no))[key].flags is None
        assert await client.set(key, b"v", flags=3, noreply=no) is None


@pytest.mark.driver_independent
@pytest.mark.parametrize("value", [b"no", "no", None, 2, [], object()])
def test_switches_of_servers_and_certificates(value, tmp_path):
    with pytest.raises(TypeError, match="unix must be a bool"):
        MemcachedServer(unix=value)
    pytest.importorskip("cryptography")
    authority = CertificateAuthority(tmp_path)
    with pytest.raises(TypeError, match="expired must be a bool"):
        authority.issue("other", "localhost", expired=value)
    with pytest.raises(TypeError, match="self_signed must be a bool"):
        authority.issue("other", "localhost", self_signed=value)
