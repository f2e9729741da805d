"""Error lines in answers to several keys: what proxies with a dead backend send.

twemproxy, memcached's own proxy and mcrouter are scripted here.
"""

import asyncio
import collections

import pytest

import emcache
from support.calls import client_of, outcomes, within
from support.faults import Recorder
from support.oracle import value_of
from support.scripted import scripted

ERROR = b"SERVER_ERROR backend failure\r\n"
GOOD = [b"good:%d" % number for number in range(30)]
DEAD = [b"dead:%d" % number for number in range(6)]
ABSENT = [b"absent:%d" % number for number in range(6)]
#: Good, dead and absent keys in turn, a good one last.
MIXED = [key for some in zip(GOOD, DEAD, ABSENT, strict=False) for key in some] + GOOD[6:]


def in_the_middle(answers):
    """memcached's own proxy: the line stands for its key, and the answer goes on to END."""
    if answers == [ERROR]:
        return ERROR, False
    return b"".join(answers) + b"END\r\n", False


def instead_of_the_end(answers):
    """memcached and mcrouter."""
    if ERROR in answers:
        return b"".join(answers[: answers.index(ERROR) + 1]), False
    return b"".join(answers) + b"END\r\n", False


def and_the_end_of_the_connection(answers):
    """twemproxy: where the keys are on several backends, it closes behind its error."""
    if ERROR in answers:
        return ERROR, len(answers) > 1
    return b"".join(answers) + b"END\r\n", False


PROXIES = [in_the_middle, instead_of_the_end, and_the_end_of_the_connection]
of_proxies = pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.__name__)


def item(key, words):
    if not key.startswith(b"good"):
        return ERROR if key.startswith(b"dead") else b""
    value = value_of(key)
    cas = b" 7" if words[0] in (b"gets", b"gats") else b""
    return b"VALUE %b 0 %d%b\r\n%b\r\n" % (key, len(value), cas, value)


class Proxy:
    """What it was asked, and the counters behind it."""

    def __init__(self, answer):
        self.answer = answer
        self.lines = []
        self.counters = collections.Counter()

    async def __call__(self, connection):
        while (words := (await connection.command())[0]) != [b""]:
            if words[0] == b"incr":
                self.counters[words[1]] += 1
                await connection.send(b"%d\r\n" % self.counters[words[1]])
                continue
            if words[0] in (b"set", b"delete"):
                await connection.send(b"STORED\r\n" if words[0] == b"set" else b"DELETED\r\n")
                continue
            keys = words[2:] if words[0] in (b"gat", b"gats") else words[1:]
            self.lines.append(keys)
            answer, is_last = self.answer([item(key, words) for key in keys])
            await connection.send(answer)
            if is_last:
                return


def check(key, found):
    if key.startswith(b"dead"):
        assert isinstance(found, emcache.CommandError), (key, found)
        assert "SERVER_ERROR backend failure" in str(found)
    elif key.startswith(b"good"):
        assert isinstance(found, emcache.Item), (key, found)
        assert found.value == value_of(key)
    else:
        assert found is None, (key, found)


def check_many(keys, found, errors):
    """What came, and the errors of those keys that failed."""
    assert set(found) == {key for key in keys if key.startswith(b"good")}
    assert set(errors) == {key for key in keys if key.startswith(b"dead")}
    for key in keys:
        check(key, found.get(key, errors.get(key)))


SINGLE = {
    "get": lambda client, key: client.get(key),
    "gets": lambda client, key: client.gets(key),
    "gat": lambda client, key: client.gat(60, key),
    "gats": lambda client, key: client.gats(60, key),
}
MANY = {
    "get_many": lambda client, keys, **how: client.get_many(keys, **how),
    "gets_many": lambda client, keys, **how: client.gets_many(keys, **how),
    "gat_many": lambda client, keys, **how: client.gat_many(60, keys, **how),
    "gats_many": lambda client, keys, **how: client.gats_many(60, keys, **how),
}


def client_of_proxy(server, **options):
    return client_of(server, **({"autobatching": True} | options))


async def warm(client, command="get"):
    """So that what comes next finds a connection, and leaves together.

    Gives how many connections that took: `gat` has one of its own until it is answered.
    """
    assert (await client.get(b"good:warm")).value == value_of(b"good:warm")
    if "gat" not in command:
        return 1
    assert (await client.gat(60, b"good:warm")).value == value_of(b"good:warm")
    return 2


@within(30)
@of_proxies
@pytest.mark.parametrize("command", SINGLE)
async def test_single_keys_that_share_a_line(proxy, command):
    recorder, behind = Recorder(), Proxy(proxy)
    async with (
        scripted(behind) as server,
        client_of_proxy(server, cluster_events=recorder) as client,
    ):
        warmed = await warm(client, command)
        for _ in range(5):
            calls = [SINGLE[command](client, key) for key in MIXED]
            for key, found in zip(MIXED, await outcomes(*calls), strict=True):
                check(key, found)
        # One connection ended for it, and no other.
        assert server.accepted == warmed + 1
        assert recorder.events == []
        assert client.cluster_managment().unhealthy_nodes() == []


@within(30)
@of_proxies
@pytest.mark.parametrize("command", MANY)
async def test_many_keys(proxy, command):
    behind = Proxy(proxy)
    async with scripted(behind) as server, client_of_proxy(server) as client:
        warmed = await warm(client, command)
        for _ in range(5):
            calls = [
                MANY[command](client, keys, on_error="partial") for keys in (MIXED, GOOD, DEAD)
            ]
            results = await asyncio.gather(*calls)
            for keys, found in zip((MIXED, GOOD, DEAD), results, strict=True):
                check_many(keys, found, found.errors)
        assert server.accepted == warmed + 1


@within(30)
@of_proxies
@pytest.mark.parametrize("command", MANY)
async def test_many_keys_that_are_wanted_as_a_whole(proxy, command):
    async with scripted(Proxy(proxy)) as server, client_of_proxy(server) as client:
        warmed = await warm(client, command)
        for _ in range(3):
            calls = [MANY[command](client, keys) for keys in (MIXED, GOOD, GOOD + ABSENT)]
            broken, whole, some = await outcomes(*calls)
            assert isinstance(broken, emcache.CommandError), broken
            for found in (whole, some):
                check_many(GOOD, found, {})
        assert server.accepted == warmed + 1


@within(30)
@of_proxies
async def test_calls_behind_it_get_their_own_answers(proxy):
    """Reads are retried. A write that was sent fails or has its own answer, and is not retried."""
    behind = Proxy(proxy)
    async with scripted(behind) as server, client_of_proxy(server) as client:
        await warm(client)
        calls = [client.get_many([b"good:1", b"dead:1", b"good:2"], on_error="partial")]
        for number in range(10):
            calls += [client.increment(b"n%d" % number, 1), client.get(b"good:%d" % number)]
            calls += [client.get_many([b"good:3", b"absent:1"]), client.get(b"absent:2")]
        results = await outcomes(*calls)
        check_many([b"good:1", b"dead:1", b"good:2"], results[0], results[0].errors)
        for number in range(10):
            incremented, found, many, absent = results[1 + 4 * number : 5 + 4 * number]
            if isinstance(incremented, Exception):
                assert type(incremented) is emcache.ConnectionFailedError, incremented
            else:
                assert incremented == 1
            assert behind.counters[b"n%d" % number] <= 1
            check(b"good:%d" % number, found)
            check_many([b"good:3", b"absent:1"], many, {})
            assert absent is None


@within(30)
async def test_the_same_key_asked_twice():
    async with scripted(Proxy(in_the_middle)) as server, client_of_proxy(server) as client:
        await warm(client)
        keys = [b"dead:1", b"good:1", b"dead:1", b"absent:1", b"good:1", b"absent:1"] * 2
        for key, found in zip(keys, await outcomes(*map(client.get, keys)), strict=True):
            check(key, found)


@within(30)
async def test_keys_are_asked_for_alone_for_a_while():
    behind = Proxy(in_the_middle)
    async with scripted(behind) as server, client_of_proxy(server, max_connections=4) as client:
        await warm(client)
        await client.get_many([b"good:1", b"dead:1"], on_error="partial")
        del behind.lines[:]
        await asyncio.gather(*map(client.get, GOOD), client.get_many(GOOD))
        assert sorted(behind.lines) == sorted([key] for key in GOOD * 2)
        assert server.accepted <= 4


@within(30)
async def test_an_error_behind_a_value_of_one_key():
    """Also there nobody knows whether END follows, which would be the next caller's miss."""

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            answer = item(words[1], words)
            is_odd = words[1] == b"good:odd"
            await connection.send(answer + (ERROR if is_odd else b"") + b"END\r\n")

    async with scripted(script) as server, client_of_proxy(server, autobatching=False) as client:
        await warm(client)
        keys = [b"good:odd", b"good:1", b"good:2"]
        for key, found in zip(keys, await outcomes(*map(client.get, keys)), strict=True):
            check(key, found)


@within(30)
async def test_it_is_answered_within_its_own_deadline():
    """The time of a key that is asked for again goes on."""

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if len(words) > 2:
                await connection.send(ERROR)
            elif words[1] != b"good:silent":
                await connection.send(item(words[1], words) + b"END\r\n")

    async with scripted(script) as server, client_of_proxy(server, timeout=1) as client:
        await warm(client)
        calls = [client.get(b"good:1"), client.get(b"good:2"), client.get(b"good:silent")]
        first, second, silent = await outcomes(*calls)
        check(b"good:1", first)
        check(b"good:2", second)
        assert isinstance(silent, emcache.OperationTimeoutError), silent


@within(30)
async def test_a_connection_of_its_own_is_closed_and_its_holder_told():
    async with scripted(Proxy(in_the_middle)) as server:
        pool = emcache.ConnectionPool(server.address, max_connections=2)
        try:
            async with pool.create_connection_context() as connection:
                keys, values, *_, error = await connection.fetch_command(
                    b"get", [b"good:1", b"dead:1", b"good:2"]
                )
                assert (keys, values) == ([b"good:1"], [value_of(b"good:1")])
                assert bytes(error) == ERROR.removesuffix(b"\r\n")
                with pytest.raises(emcache.ConnectionFailedError):
                    await connection.fetch_command(b"get", [b"good:3"])
            async with pool.create_connection_context() as connection:
                assert (await connection.fetch_command(b"get", [b"good:3"]))[0] == [b"good:3"]
        finally:
            await pool.close()
