"""The token of a lease is a random number where a server takes one; no server issues it again."""

import asyncio

import pytest

import emcache
from emcache import Cache
from emcache.testing import MemcachedServer
from support.calls import client_of, until, within
from support.meta import MetaPeer
from support.scripted import scripted


async def value():
    return "value"


async def grant(words, _):
    """Grant every lease, with the token that the client asks for or with 5."""
    flags = {word[:1]: word[1:] for word in words[2:]}
    replies = {
        b"mg": b"VA 0 W f0 c%b\r\n\r\n" % flags.get(b"E", b"5"),
        b"get": b"END\r\n",
        b"cas": b"STORED\r\n",
    }
    return replies[words[0]]


@within(20)
@pytest.mark.parametrize("version", [b"1.6.26", b"1.6.27"])
async def test_tokens_are_random_where_the_server_takes_one(version):
    peer = MetaPeer(grant, version=version)
    async with scripted(peer) as server, client_of(server) as client:
        cache = Cache(client)
        for key in "abc":
            assert await cache.get_or_set(key, value) == "value"
    asked = [words[2:] for words in peer.asked if words[0] == b"mg"]
    tokens = [word[1:] for words in asked for word in words if word.startswith(b"E")]
    assert len(asked) == 3
    if version == b"1.6.26":
        assert tokens == []
        tokens = [b"5"] * 3
    else:
        assert len(set(tokens)) == 3
        assert all(2**62 <= int(token) < 2**63 for token in tokens)
    assert [words[5] for words in peer.asked if words[0] == b"cas"] == tokens


@within(30)
async def test_a_restart_that_a_proxy_hides(monkeypatch):
    """A server that was restarted issues its own numbers again."""
    # The connection to a proxy outlives the server.
    monkeypatch.setattr(emcache.Client, "_server_epoch", lambda client, key: 0)
    older, newer = asyncio.Event(), asyncio.Event()
    calls = []

    def factory(name, go):
        async def compute():
            calls.append(name)
            await go.wait()
            return name

        return compute

    with MemcachedServer() as server:
        async with emcache.create_client([server.address]) as client:
            versions = [int(part) for part in (await client.version(server.address)).split(".")]
            if versions < [1, 6, 27]:
                pytest.skip("memcached 1.6.27 is the first that takes a token from the client")
            cache = Cache(client)
            computing = asyncio.create_task(cache.get_or_set("k", factory("older", older)))
            await until(lambda: calls == ["older"])
            server.restart()
            async with emcache.create_client([server.address]) as other_client:
                other = Cache(other_client)
                await other.delete("k")
                later = asyncio.create_task(other.get_or_set("k", factory("newer", newer)))
                await until(lambda: calls == ["older", "newer"])
                older.set()
                assert await computing == "older"
                assert await other.get("k") is None
                newer.set()
                assert await later == "newer"
                assert await other.get("k") == "newer"
