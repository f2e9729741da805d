"""Nodes without meta commands, and older ones with fewer: refused before a byte is sent."""

import asyncio

import pytest

import emcache
from support.calls import client_of, outcomes, within
from support.memcached_proxy import WHY_NOT, has_proxy, memcached_proxy
from support.meta import CALLS, MetaPeer
from support.nutcracker import nutcracker
from support.scripted import scripted

WITHOUT = {
    "1.4 and 1.5.16": {"noop": b"ERROR\r\n", "version": b"1.5.16"},
    "1.5.19 to 1.5.22": {"noop": b"EN\r\n", "version": b"1.5.22"},
    "a client error": {"noop": b"CLIENT_ERROR malformed request\r\n"},
    "a proxy that closes": {"noop": None},
    "a proxy that is silent": {"noop": b""},
    "another version text": {"version": b"mcrouter 0.41.0"},
    "1.6.8": {"version": b"1.6.8"},
    "1.6.9": {"version": b"1.6.9"},
}


@within(30)
@pytest.mark.parametrize("kind", WITHOUT)
async def test_a_node_without_meta_commands(kind):
    """Every call raises, nothing of it is sent, and the node stays healthy."""
    if kind == "a proxy that is silent":

        class Silent(MetaPeer):
            async def __call__(self, connection):
                if connection.number == 1:
                    await connection.reader.read()
                else:
                    await super().__call__(connection)

        peer = Silent()
    else:
        peer = MetaPeer(**WITHOUT[kind])
    async with scripted(peer) as server, client_of(server, timeout=2) as client:
        calls = [call(client) for call in CALLS.values()]
        calls.append(client.meta_noop(server.address))
        others = [client.set(b"k", b"v"), client.get(b"k")]
        errors = await outcomes(*calls, *others)
        for error in errors[:-2]:
            assert isinstance(error, emcache.UnsupportedError), error
            assert error.node == f"127.0.0.1:{server.port}"
            assert error.command in ("mg", "ms", "md", "ma", "me", "mn")
            assert error.status is None
            assert "1.6.10" in str(error)
        assert errors[-2] is None
        assert errors[-1].value == b"x"
        assert sorted(set(peer.words)) == [b"get", b"set"]
        # It is not asked again for a while.
        with pytest.raises(emcache.UnsupportedError):
            await client.meta_get(b"k")
        assert server.accepted == 2
        assert client.cluster_managment().healthy_nodes() == [server.address]


@within(20)
async def test_1_6_9_has_counters():
    async def answer(words, connection):
        return b"VA 1 \r\n5\r\n"

    peer = MetaPeer(answer, version=b"1.6.9")
    async with scripted(peer) as server, client_of(server) as client:
        assert await client.increment(b"k", 1, initial=5) == 5
        with pytest.raises(emcache.UnsupportedError, match=r"memcached 1\.6\.9"):
            await client.meta_arithmetic(b"k")
        assert peer.words == [b"ma"]


# The options that come with each version, and one call for each.
LATER = {
    "1.6.13": {
        "flag C of md (cas)": lambda client: client.meta_delete(b"k", cas=5),
        "flag c of ms (return_cas)": lambda client: client.meta_set(b"k", b"", return_cas=True),
    },
    "1.6.18": {"mg without flags": lambda client: client.meta_raw("mg", b"k")},
    "1.6.20": {
        "flag N of ms (vivify)": lambda client: client.meta_set(
            b"k", b"", mode="append", vivify=30
        ),
        "flag s of ms": lambda client: client.meta_raw("ms", b"k", "s", b""),
    },
    "1.6.27": {
        "flag E of mg (new_cas)": lambda client: client.meta_get(b"k", vivify=30, new_cas=5),
        "flag E of ms (new_cas)": lambda client: client.meta_set(b"k", b"", new_cas=5),
        "flag E of md (new_cas)": lambda client: client.meta_delete(
            b"k", invalidate=True, new_cas=5
        ),
        "flag E of ma (new_cas)": lambda client: client.meta_arithmetic(b"k", new_cas=5),
        "flag x of md (clear)": lambda client: client.meta_delete(b"k", clear=True),
    },
    "1.6.40": {"flag C of mg (known_cas)": lambda client: client.meta_get(b"k", known_cas=5)},
}


@within(30)
@pytest.mark.parametrize("patch", [10, 12, 13, 17, 18, 19, 20, 26, 27, 39, 40, 45])
async def test_each_version_gets_what_it_knows(patch):
    peer = MetaPeer(version=b"1.6.%d" % patch)
    async with scripted(peer) as server, client_of(server) as client:
        sent = 0
        for since, calls in LATER.items():
            for feature, call in calls.items():
                if patch >= int(since.split(".")[2]):
                    await call(client)
                    sent += 1
                    continue
                with pytest.raises(emcache.UnsupportedError) as caught:
                    await call(client)
                text = f"(memcached 1.6.{patch}) does not support {feature}; "
                assert text in str(caught.value)
                assert f"memcached {since} and later do" in str(caught.value)
        assert len(peer.asked) == sent
        for call in CALLS.values():
            await call(client)


IGNORED = {
    "mg": ["v I", "J5", "E5", "F1"],
    "ms": ["v", "N30", "MS N30", "t"],
    "md": ["c", "T30", "v"],
    "ma": ["f", "I", "R30"],
    "me": ["v"],
}


@within(20)
@pytest.mark.parametrize("command", IGNORED)
async def test_flags_that_no_server_would_notice(client, key, command):
    await client.set(key, b"5")
    for flags in IGNORED[command]:
        value = b"x" if command == "ms" else None
        with pytest.raises(emcache.UnsupportedError, match="no version"):
            await client.meta_raw(command, key, flags, value)
    assert (await client.get(key)).value == b"5"


@within(20)
async def test_the_first_calls_share_one_probe(server, key):
    """They wait for its result, and are sent in order."""
    async with client_of(server) as client:
        results = await asyncio.gather(
            client.meta_set(key, b"1", mode="add"),
            *(client.meta_arithmetic(key) for _ in range(20)),
            client.meta_delete(key, clear=True),
            client.meta_get(key),
            return_exceptions=True,
        )
        assert [result.value for result in results[1:21]] == list(range(2, 22))
        # From 1.6.27 on it leaves an empty value.
        is_cleared = isinstance(results[-2], emcache.MetaDeleted)
        assert is_cleared or isinstance(results[-2], emcache.UnsupportedError)
        assert results[-1].value == (b"" if is_cleared else b"21")
        (metrics,) = client.cluster_managment().connection_pool_metrics().values()
        assert metrics.connections_created <= 2


@within(60)
async def test_twemproxy():
    """It closes connections for what it does not know; nobody else notices."""
    with nutcracker() as proxy:
        async with emcache.create_client([proxy.address], max_connections=1, timeout=20) as client:
            await client.set(b"k", b"v")
            for call in CALLS.values():
                results = await outcomes(call(client), client.get(b"k"))
                assert isinstance(results[0], emcache.UnsupportedError)
                assert results[1].value == b"v"
            assert client.cluster_managment().healthy_nodes() == [proxy.address]


@within(60)
@pytest.mark.skipif(not has_proxy(), reason=WHY_NOT)
async def test_memcacheds_own_proxy():
    with memcached_proxy() as proxy:
        async with emcache.create_client([proxy.address], timeout=20) as client:
            for number in range(20):
                key = b"key%d" % number
                won = await client.meta_get(key, vivify=30)
                assert won.won
                assert (await client.meta_set(key, key, cas=won.cas)).done
            found = await client.meta_get_many([b"key%d" % number for number in range(21)])
            assert {key: item.value for key, item in found.items()} == {
                b"key%d" % number: b"key%d" % number for number in range(20)
            }
            await client.meta_noop(proxy.address)
