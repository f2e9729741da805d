"""Replies in any shape that a network, a proxy or a broken server gives them."""

import asyncio
import contextlib
import re
import socket
import time
from pathlib import Path

import pytest

import emcache
from support.calls import (
    COMMANDS,
    NOREPLY_SETTINGS,
    NOREPLY_WRITES,
    READS,
    STORAGE,
    SUBSTITUTED,
    client_of,
    connection_of,
    outcomes,
    until,
    within,
)
from support.memcached import memcached
from support.oracle import END, answer, item, reply_to, value_of
from support.scripted import hold, scripted

SECRET = b"hunter2"


def seen(result):
    """A result in a form that compares: exceptions by their type, items by their fields."""
    match result:
        case Exception():
            return type(result)
        case emcache.Item():
            return result.value, result.flags, result.cas
        case dict():
            return {key: seen(value) for key, value in result.items()}
        case _:
            return result


# -- split and coalesced -------------------------------------------------------------------------

PIPELINE = [
    (b"get a\r\n", item(b"a", b"END\r\n", flags=7) + END),
    (b"get b\r\n", END),
    (b"gets c\r\n", item(b"c", b"VALUE c 0 1\r\n", cas=2**64 - 1) + END),
    (b"set d 0 0 1\r\nv\r\n", b"STORED\r\n"),
    (b"add e 0 0 0\r\n\r\n", b"NOT_STORED\r\n"),
    (b"incr f 1\r\n", b"4294967296\r\n"),
    (b"delete g\r\n", b"NOT_FOUND\r\n"),
    (b"version\r\n", b"VERSION 1.6.18\r\n"),
    (b"stats\r\n", b"STAT pid 12\r\nSTAT libevent 2.1 stable\r\nEND\r\n"),
    (b"get a b h\r\n", item(b"a", b"") + item(b"h", b"\r\n") + END),
]
REQUEST = b"".join(request for request, _ in PIPELINE)
REPLY = b"".join(reply for _, reply in PIPELINE)
EXPECTED = [
    (b"END\r\n", 7, None),
    None,
    (b"VALUE c 0 1\r\n", None, 2**64 - 1),
    None,
    emcache.NotStoredStorageCommandError,
    4294967296,
    emcache.NotFoundCommandError,
    "1.6.18",
    {"pid": "12", "libevent": "2.1 stable"},
    {b"a": (b"", None, None), b"h": (b"\r\n", None, None)},
]


async def run_pipeline(client, node):
    results = await outcomes(
        client.get(b"a", return_flags=True),
        client.get(b"b"),
        client.gets(b"c"),
        client.set(b"d", b"v"),
        client.add(b"e", b""),
        client.increment(b"f", 1),
        client.delete(b"g"),
        client.version(node),
        client.stats(node),
        client.get_many([b"a", b"b", b"h"]),
    )
    return [seen(result) for result in results]


async def check_pipeline(rounds, pause=0.0):
    """Answer the pipeline once for each list of pieces in `rounds`."""

    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        for pieces in rounds:
            assert await connection.reader.readexactly(len(REQUEST)) == REQUEST
            await connection.send(*pieces, pause=pause)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        # From now on they share the connection of the others.
        await outcomes(client.version(server.address), client.stats(server.address))
        for at in range(len(rounds)):
            assert await run_pipeline(client, server.address) == EXPECTED, f"round {at}"
        assert server.accepted == 3


@within(30)
async def test_a_reply_split_at_every_byte():
    await check_pipeline([(REPLY[:cut], REPLY[cut:]) for cut in range(len(REPLY))], pause=0.0005)


@within(30)
async def test_a_reply_in_pieces_of_one_byte():
    await check_pipeline([[bytes([byte]) for byte in REPLY]], pause=0.0005)


@within(30)
async def test_a_reply_in_one_segment():
    await check_pipeline([[REPLY]] * 3)


@within(30)
@pytest.mark.parametrize("autobatching", [False, True], ids=["one by one", "merged"])
async def test_many_replies_in_one_segment(autobatching):
    keys = [b"key%d" % number for number in range(2000)]

    async def script(connection):
        commands, asked = [], 0
        while asked < len(keys):
            words, _ = await connection.command()
            commands.append(words)
            asked += len(words) - 1
        await connection.send(b"".join(map(reply_to, commands)))
        await hold(connection)

    async with scripted(script) as server, client_of(server, autobatching=autobatching) as client:
        items = await asyncio.gather(*map(client.get, keys))
        assert [found.value for found in items] == [value_of(key) for key in keys]


TRICKY = {
    "nothing": b"",
    "END": b"END\r\n",
    "END in the middle": b"a\r\nEND\r\nb",
    "a header": b"VALUE k 0 1\r\n",
    "a whole reply": b"VALUE k 0 1\r\nx\r\nEND\r\n",
    "CRLF": b"\r\n",
    "half a CRLF": b"\r",
    "an error": b"SERVER_ERROR out of memory\r\n",
    "meta replies": b"EN\r\nHD\r\nVA 1\r\nx\r\n",
    "NUL and high bytes": b"\0\xff\x80\0",
}


@within(30)
@pytest.mark.parametrize("value", TRICKY.values(), ids=TRICKY)
async def test_values_that_look_like_replies(value):
    reply = item(b"k", value) + END

    async def script(connection):
        for cut in range(len(reply)):
            assert await connection.line() == b"get k"
            await connection.send(reply[:cut], reply[cut:], pause=0.0005)
        await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        for cut in range(len(reply)):
            assert (await client.get(b"k")).value == value, f"cut at {cut}"


@within(30)
@pytest.mark.parametrize("value", TRICKY.values(), ids=TRICKY)
async def test_values_that_look_like_replies_from_a_real_server(client, key, value):
    for size in (0, 1, 4095, 65536, 1_000_000):
        whole = (value * (size // max(len(value), 1) + 1))[:size]
        await client.set(key, whole)
        one, many = await asyncio.gather(client.get(key), client.get_many([key, b"miss", key]))
        assert one.value == whole
        assert many[key].value == whole


# -- what is no reply ----------------------------------------------------------------------------

GARBAGE = {
    "a line of bytes": SECRET + b" is no reply\r\n",
    "an empty line": b"\r\n",
    "a bare line feed": b"END\n",
    "binary": b"\x81\x0b\0\0\0\0\0\0\0\0\0\7\0\0\0\0" + SECRET + b"\r\n",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nX: " + SECRET + b"\r\n\r\n",
    "the reply to another command": b"STORED\r\n",
    "words behind END": b"END " + SECRET + b"\r\n",
    "a negative length": b"VALUE k 0 -1\r\n" + SECRET + b"\r\nEND\r\n",
    "a length of 1 GiB": b"VALUE k 0 1073741824\r\n" + SECRET,
    "a length of 2**63": b"VALUE k 0 9223372036854775808\r\n" + SECRET,
    "a length of 2**64": b"VALUE k 0 18446744073709551616\r\n" + SECRET,
    "a length of 2**64 + 7": b"VALUE k 0 18446744073709551623\r\n" + SECRET + b"\r\nEND\r\n",
    "a length in hexadecimal": b"VALUE k 0 0x7\r\n" + SECRET + b"\r\nEND\r\n",
    "a length with a sign": b"VALUE k 0 +7\r\n" + SECRET + b"\r\nEND\r\n",
    "no length": b"VALUE k 0\r\n" + SECRET + b"\r\nEND\r\n",
    "a length too short": b"VALUE k 0 3\r\n" + SECRET + b"\r\nEND\r\n",
    "a length too long": b"VALUE k 0 9\r\n" + SECRET + b"\r\nEND\r\n",
    "a length of 0": b"VALUE k 0 0\r\n" + SECRET + b"\r\nEND\r\n",
    "flags of 33 bits": b"VALUE k 4294967296 7\r\n" + SECRET + b"\r\nEND\r\n",
    "a cas nobody asked for": b"VALUE k 0 7 1\r\n" + SECRET + b"\r\nEND\r\n",
    "another key": b"VALUE other 0 7\r\n" + SECRET + b"\r\nEND\r\n",
    "a longer key": b"VALUE kk 0 7\r\n" + SECRET + b"\r\nEND\r\n",
    "no key": b"VALUE  0 7\r\n" + SECRET + b"\r\nEND\r\n",
    "the same key twice": item(b"k", SECRET) * 2 + END,
    "a line without an end": b"A" * 1024 * 1024,
    "a header without an end": b"VALUE " + b"k" * 1024 * 1024,
}


async def check_garbage(garbage, *calls, number=0):
    """All calls under way end at once with the one cause, and the next one works."""

    async def script(connection):
        if connection.number != number:
            return await answer(connection)
        for _ in calls:
            await connection.command()
        await connection.send(garbage)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        started = time.monotonic()
        errors = await outcomes(*(call(client, server.address) for call in calls))
        assert time.monotonic() - started < 10
        for error in errors:
            assert isinstance(error, emcache.ProtocolError), error
            assert isinstance(error, emcache.ConnectionFailedError)
            assert isinstance(error, ConnectionError)
            assert isinstance(error, TimeoutError)
            assert isinstance(error, emcache.EmcacheError)
            assert error.node == f"127.0.0.1:{server.port}"
            assert error.node in str(error)
            assert SECRET.decode() not in f"{error} {error!r}"
        assert (await client.get(b"next")).value == value_of(b"next")
        assert server.accepted == 2
        metrics = client.cluster_managment().connection_pool_metrics()[server.address]
        assert metrics.protocol_errors == 1


@within(20)
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_ends_all_calls_of_the_connection(garbage):
    behind = [COMMANDS[name] for name in ("get_many", "set", "increment", "touch")]
    await check_garbage(garbage, READS["get"], *behind)


@within(20)
@pytest.mark.parametrize("command", COMMANDS)
async def test_garbage_is_no_reply_to_any_command(command):
    number = connection_of(command)
    await check_garbage(SECRET + b" 17\r\n", COMMANDS[command], number=number)


NUMBERS = {
    "letters behind": b"12a\r\n",
    "a sign": b"-1\r\n",
    "2**64": b"18446744073709551616\r\n",
    "a fraction": b"1.5\r\n",
}


@within(20)
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
async def test_what_is_no_number(number):
    await check_garbage(number, COMMANDS["increment"])


@within(20)
async def test_gets_without_a_token():
    await check_garbage(item(b"k", SECRET) + END, COMMANDS["gets"])


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


LENGTHS = {"most": 2**30 - 1, "1 GiB": 2**30, "2**32": 2**32, "2**63": 2**63, "2**64": 2**64}


@within(20)
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
async def test_an_announced_length_is_not_allocated(length):
    announced = asyncio.Event()

    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        await connection.command()
        await connection.send(b"VALUE k 0 %d\r\n" % length, b"x" * 100_000)
        announced.set()
        await asyncio.sleep(0.1)
        return None

    async with scripted(script) as server, client_of(server) as client:
        before = resident()
        call = asyncio.create_task(client.get(b"k"))
        await announced.wait()
        await asyncio.sleep(0.05)
        assert resident() - before < 64 * 1024 * 1024
        if length < 2**30:
            assert (await call).value == value_of(b"k")
        else:
            with pytest.raises(
                emcache.ProtocolError, match=f"a value of {length} bytes|unexpected"
            ):
                await call


@within(20)
async def test_a_reply_that_drips_has_one_deadline():
    async def script(connection):
        await connection.command()
        await connection.send(*[b"A"] * 1000, pause=0.02)

    async with scripted(script) as server, client_of(server, timeout=0.15) as client:
        started = time.monotonic()
        with pytest.raises(emcache.OperationTimeoutError):
            await client.get(b"k")
        assert time.monotonic() - started < 5


# -- more than was asked for ---------------------------------------------------------------------

SURPLUS = {
    "END": END,
    "an item": item(b"next", SECRET) + END,
    "STORED": b"STORED\r\n",
    "an error": b"ERROR\r\n",
    "one byte": b"E",
    "an empty line": b"\r\n",
}


@within(20)
@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["at once", "later"])
@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
async def test_surplus_on_an_idle_connection_reaches_nobody(surplus, pause):
    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        await connection.command()
        whole = item(b"k") + END
        await connection.send(*([whole, surplus] if pause else [whole + surplus]), pause=pause)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        assert (await client.get(b"k")).value == value_of(b"k")
        if pause:
            # It is noticed when it comes, not only by the next call.
            await until(lambda: server.accepted == 2)
        assert (await client.get(b"next")).value == value_of(b"next")
        assert await client.increment(b"n", 1) == 42
        assert server.accepted == 2


@within(20)
async def test_surplus_on_a_busy_connection_reaches_nobody():
    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        for _ in range(3):
            await connection.command()
        await connection.send((item(b"a") + END) * 2)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        a, b, c = await outcomes(client.get(b"a"), client.get(b"b"), client.increment(b"c", 1))
        assert a.value == value_of(b"a")
        assert isinstance(b, emcache.ProtocolError)
        assert isinstance(c, emcache.ProtocolError)
        assert (await client.get(b"b")).value == value_of(b"b")


@within(20)
async def test_a_server_that_speaks_first():
    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        await connection.send(b"220 mail.example ESMTP\r\n")
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        await until(lambda: server.accepted == 2)
        assert (await client.get(b"k")).value == value_of(b"k")


# -- errors of the server ------------------------------------------------------------------------

ERRORS = {
    "ERROR": b"ERROR",
    "CLIENT_ERROR": b"CLIENT_ERROR bad thing 17",
    "SERVER_ERROR": b"SERVER_ERROR out of thing 17",
}


def expected_error(command, error):
    if command in STORAGE:
        return emcache.StorageCommandError
    if command in ("increment", "decrement") and error == "CLIENT_ERROR":
        return emcache.ArithmeticCommandError
    return emcache.CommandError


@within(20)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("command", COMMANDS)
async def test_errors_of_the_server(command, error):
    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            is_last = words == [b"get", b"next"]
            is_substitute = command in SUBSTITUTED and words[0] in (b"get", b"gets", b"touch")
            is_answered = is_last or is_substitute
            await connection.send(reply_to(words) if is_answered else ERRORS[error] + b"\r\n")

    async with scripted(script) as server, client_of(server) as client:
        if command in SUBSTITUTED and error != "SERVER_ERROR":
            # The server may not know the command, and its substitute is answered.
            assert await COMMANDS[command](client, server.address)
            return
        with pytest.raises(emcache.CommandError, match=re.escape(ERRORS[error].decode())) as caught:
            await COMMANDS[command](client, server.address)
        assert caught.type is expected_error(command, error)
        assert isinstance(caught.value, ValueError) == (
            caught.type is emcache.ArithmeticCommandError
        )
        assert (await client.get(b"next")).value == value_of(b"next")
        # The server may have taken the value for commands, and an answer to several keys may go
        # on: what comes next must reach nobody.
        closed = (command in STORAGE and error != "SERVER_ERROR") or command.endswith("_many")
        assert server.accepted == (2 if closed else 1 + connection_of(command))


NO_REPLY = NOREPLY_WRITES | NOREPLY_SETTINGS


@within(20)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("command", NO_REPLY)
async def test_an_error_that_nobody_waits_for_reaches_nobody(command, error):
    async def script(connection):
        if connection.number == connection_of(command):
            words, _ = await connection.command()
            assert b"noreply" not in words
            await connection.send(ERRORS[error] + b"\r\n")
        await answer(connection)

    async with scripted(script) as server, client_of(server) as client:
        assert await NO_REPLY[command](client, server.address) is None
        assert (await client.get(b"next")).value == value_of(b"next")
        assert await client.increment(b"n", 1) == 42


@within(20)
@pytest.mark.parametrize("error", [b"ERROR", b"CLIENT_ERROR bad command line format"])
async def test_answers_of_a_value_that_was_run_reach_nobody(error):
    async def script(connection):
        if connection.number > 0:
            return await answer(connection)
        for _ in range(4):
            await connection.command()
        # As if the value had been `touch k 60` and `get k`.
        await connection.send(error + b"\r\nTOUCHED\r\n" + item(b"k", SECRET) + END)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        stored, touched, got, many = await outcomes(
            client.set(b"k", b"touch k 60\r\nget k"),
            client.touch(b"k", 60),
            client.get(b"k"),
            client.get_many([b"k"]),
        )
        assert type(stored) is emcache.StorageCommandError
        assert type(touched) is emcache.ConnectionFailedError
        assert got.value == value_of(b"k")
        assert many[b"k"].value == value_of(b"k")
        assert server.accepted == 2


@within(20)
async def test_a_value_over_the_limit_leaves_the_connection_usable(client, key, server):
    created = client.cluster_managment().connection_pool_metrics
    await client.set(key, b"old")
    with pytest.raises(emcache.StorageCommandError, match="too large") as caught:
        await client.set(key, b"x" * 2_000_000)
    assert caught.type is emcache.StorageCommandError
    assert await client.get(key) is None
    await client.set(key, b"new")
    assert (await client.get(key)).value == b"new"
    assert created()[server.address].connections_created <= 2


@within(20)
async def test_an_error_behind_an_item():
    """The item is kept, and the other key is asked for again."""
    lines = []

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            lines.append(words)
            if words == [b"get", b"a", b"b"]:
                await connection.send(item(b"a") + b"SERVER_ERROR out of memory\r\n")
            else:
                await connection.send(reply_to(words))

    async with scripted(script) as server, client_of(server) as client:
        found = await client.get_many([b"a", b"b"])
        assert {key: item.value for key, item in found.items()} == {
            key: value_of(key) for key in (b"a", b"b")
        }
        assert lines == [[b"get", b"a", b"b"], [b"get", b"b"]]
        assert server.accepted == 2


# -- proxies -------------------------------------------------------------------------------------


async def check_merged(reply_of, keys):
    """Gets that share a line, and a get_many, behind a proxy with habits of its own."""
    lines = []

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            lines.append(words[1:])
            await connection.send(reply_of(words[1:]))

    async with scripted(script) as server, client_of(server, autobatching=True) as client:
        for _ in range(2):
            items = await asyncio.gather(*map(client.get, keys))
            assert [found.value for found in items] == [value_of(key) for key in keys]
            many = await client.get_many(keys)
            assert {key: found.value for key, found in many.items()} == {
                key: value_of(key) for key in keys
            }
        assert max(map(len, lines)) > 1
        assert server.accepted == 1


@within(20)
async def test_a_proxy_that_answers_in_another_order():
    keys = [b"a", b"b", b"c", b"d", b"e"]
    await check_merged(lambda asked: b"".join(map(item, reversed(asked))) + END, keys)
    await check_merged(
        lambda asked: b"".join(map(item, sorted(asked)[::2] + sorted(asked)[1::2])) + END, keys
    )


@within(20)
async def test_a_proxy_that_answers_a_repeated_key_once():
    keys = [b"a", b"b", b"a", b"a", b"c", b"b"]
    await check_merged(lambda asked: b"".join(map(item, dict.fromkeys(asked))) + END, keys)


@within(20)
async def test_a_proxy_that_does_both():
    keys = [b"a", b"b", b"a", b"a", b"c", b"b"]
    await check_merged(lambda asked: b"".join(map(item, sorted(set(asked))[::-1])) + END, keys)


# -- a server that is full -----------------------------------------------------------------------

FULL = b"ERROR Too many open connections\r\n"


async def call_until_it_works(call):
    """The errors that come before it does."""
    errors = []
    while True:
        try:
            result = await call()
        except emcache.EmcacheError as error:
            errors.append(error)
        else:
            return result, errors


@within(20)
@pytest.mark.parametrize("min_connections", [0, 1])
async def test_a_full_server(min_connections):
    async def script(connection):
        # One more, and the node would be unhealthy.
        if connection.number > 1:
            return await answer(connection)
        return await connection.send(FULL)

    options = {"min_connections": min_connections}
    async with scripted(script) as server, client_of(server, **options) as client:
        found, errors = await call_until_it_works(lambda: client.get(b"k"))
        assert found.value == value_of(b"k")
        assert len(errors) <= 3
        for error in errors:
            assert "Too many open connections" in str(error) or "lost" in str(error)


def fill(server):
    """Take all connections that a server has to give."""
    held, refused = [], 0
    while refused < 5:
        other = server.connect()
        other.settimeout(5)
        taken = False
        with contextlib.suppress(ConnectionError):
            other.sendall(b"version\r\n")
            taken = other.recv(100).startswith(b"VERSION")
        if taken:
            held.append(other)
            refused = 0
        else:
            # Connections that ended a moment ago may still be counted.
            other.close()
            refused += 1
            time.sleep(0.02)
    return held


@within(30)
async def test_a_full_memcached():
    with memcached("-c", "24", "-t", "1") as server:
        others = fill(server)
        try:
            async with client_of(server, timeout=5) as client:
                with pytest.raises((emcache.CommandError, emcache.ConnectionFailedError)):
                    await client.get(b"k")
                for other in others:
                    other.shutdown(socket.SHUT_RDWR)
                result, _ = await call_until_it_works(lambda: client.set(b"k", b"v"))
                assert result is None
                assert (await client.get(b"k")).value == b"v"
        finally:
            for other in others:
                other.close()
