"""TLS records end where commands end.

memcached before 1.6.39 reads a long value directly from OpenSSL. What follows it in the same TLS
record stays there unnoticed until more bytes come, so those requests wait until their timeout.
"""

import asyncio
import contextlib
import random

import pytest

import emcache
from support.calls import within
from support.memcached import memcached
from support.sasl import PASSWORD, USER, file_memcached, sasl_memcached
from support.tls import certificates, peer_context
from support.tls_records import RECORD, binary_ends, broken_records, recorded_tls, text_ends

SIZES = [0, 1, 100, 1000, RECORD - 40, RECORD, RECORD + 1, 32 * 1024, 65536, 100_000, 300_000]
LOGINS = {
    "no login": (memcached, {}, text_ends),
    "ascii": (file_memcached, {"username": USER, "password": PASSWORD}, text_ends),
    "sasl": (
        sasl_memcached,
        {"username": USER, "password": PASSWORD, "auth": "sasl"},
        binary_ends,
    ),
}


@pytest.fixture(scope="module")
def certs():
    with certificates() as made:
        yield made


@contextlib.asynccontextmanager
async def recording(certs, login="no login", **options):
    """A client behind the recorder; afterwards its records are looked at."""
    run, credentials, ends_of = LOGINS[login]
    with run("-I", "4m") as server:
        async with recorded_tls(server.port, peer_context(certs.good)) as relay:
            defaults = {"timeout": 60, "connection_timeout": 30, "ssl": True, "ssl_verify": False}
            async with emcache.create_client(
                [relay.address], **defaults, **credentials, **options
            ) as client:
                yield client, relay
    assert relay.records
    for records in relay.records:
        stream = b"".join(records)
        assert broken_records(records, ends_of(stream)) == []
        assert max(map(len, records)) <= RECORD


def value_of(key, size):
    return (key * (size // len(key) + 1))[:size]


@within(120)
@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("max_connections", [1, 2])
async def test_pipelined_commands_of_all_sizes(certs, login, max_connections):
    rng = random.Random(max_connections)
    sizes = {b"key:%03d" % number: rng.choice(SIZES) for number in range(120)}
    async with recording(certs, login, max_connections=max_connections) as (client, _):
        for _ in range(2):
            stored = [client.set(key, value_of(key, size)) for key, size in sizes.items()]
            counted = [client.get(key) for key in list(sizes)[::3]]
            await asyncio.gather(*stored, *counted)
            items = await asyncio.gather(*(client.get(key) for key in sizes))
            assert [item.value for item in items] == [value_of(*each) for each in sizes.items()]
        found = await client.get_many(list(sizes))
        assert {key: len(item.value) for key, item in found.items()} == sizes


@within(60)
@pytest.mark.parametrize("login", LOGINS)
async def test_many_small_commands_fill_records(certs, login):
    values = {b"key:%05d" % number: b"v" * (number % 300) for number in range(3000)}
    async with recording(certs, login, max_connections=1) as (client, relay):
        await client.set_many(values)
        found = await client.get_many(list(values))
        assert {key: item.value for key, item in found.items()} == values
        items = await asyncio.gather(*(client.get(key) for key in values))
        assert [item.value for item in items] == list(values.values())
    records = relay.records[0]
    assert max(map(len, records)) > RECORD - 400
    assert len(records) < 2 * len(b"".join(records)) / RECORD + 20


@within(120)
@pytest.mark.parametrize("login", LOGINS)
async def test_full_sockets(certs, login):
    """A server that reads slowly: what the socket does not take is written later."""
    values = {b"key:%03d" % number: bytes([number]) * (90_000 - number) for number in range(60)}
    small = [b"small:%03d" % number for number in range(300)]
    async with recording(certs, login, max_connections=1) as (client, relay):
        await client.get(b"first")
        relay.pause = 0.002
        stores = [client.set(key, value) for key, value in values.items()]
        others = [client.set(key, key) for key in small]
        mixed = [call for pair in zip(stores, others, strict=False) for call in pair]
        await asyncio.gather(*mixed, *others[len(stores) :])
        relay.pause = 0.0
        found = await client.get_many([*values, *small])
        assert {key: item.value for key, item in found.items()} == values | {k: k for k in small}


@within(60)
async def test_a_checked_out_connection(certs):
    with memcached() as server:
        async with recorded_tls(server.port, peer_context(certs.good)) as relay:
            pool = emcache.ConnectionPool(relay.address, ssl=True, ssl_verify=False)
            async with pool.create_connection_context() as connection:
                stores = [
                    connection.storage_command(b"set", b"key:%d" % size, b"v" * size)
                    for size in SIZES * 3
                ]
                assert await asyncio.gather(*stores) == [b"STORED"] * len(stores)
                keys = [b"key:%d" % size for size in SIZES]
                found = await connection.fetch_command(b"get", keys)
                assert [len(value) for value in found[1]] == SIZES
            await pool.close()
    (records,) = relay.records
    assert broken_records(records, text_ends(b"".join(records))) == []


@pytest.mark.driver_independent
def test_what_counts_as_broken():
    commands = [b"get a\r\n", b"set k 0 0 20000\r\n" + b"v" * 20000 + b"\r\n", b"get b\r\n"]
    small, large, last = commands
    ends = text_ends(b"".join(commands))
    assert ends == [len(small), len(small + large), len(small + large + last)]
    assert broken_records([small, large[:RECORD], large[RECORD:], last], ends) == []
    assert broken_records([small, large[:17], large[17:], last], ends) == []
    for bad in (
        [small + large[:100], large[100:], last],
        [small, large[:RECORD], large[RECORD:] + last],
        [small[:3], small[3:], large, last],
    ):
        assert len(broken_records(bad, ends)) > 0
