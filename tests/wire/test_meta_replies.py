"""Replies to meta commands in any shape, and callers that stop waiting for one."""

import asyncio

import pytest

import emcache
from support.calls import client_of, outcomes, until, within
from support.meta import CALLS, REPLIES, MetaPeer, usual
from support.scripted import hold, scripted

SECRET = b"hunter2"


def peer_that(reply, **options):
    """A peer that answers every meta command with the same bytes."""

    async def answer(words, _):
        return reply if words[0].startswith(b"m") else REPLIES[words[0]]

    return MetaPeer(answer, **options)


# -- split and coalesced -------------------------------------------------------------------------

PIPELINE = [
    (CALLS["meta_get"], b"VA 6 f7 c18446744073709551615 t-1 W\r\nEN\r\nHD\r\n"),
    (CALLS["meta_get"], b"EN\r\n"),
    (CALLS["meta_get"], b"VA 0 f0 c1 t30 Z\r\n\r\n"),
    (CALLS["meta_set"], b"HD \r\n"),
    (CALLS["meta_set"], b"NS\r\n"),
    (CALLS["meta_delete"], b"NF  \r\n"),
    (CALLS["meta_delete"], b"EX\r\n"),
    (CALLS["meta_arithmetic"], b"VA 20 c1 t5\r\n18446744073709551615\r\n"),
    (CALLS["meta_debug"], b"ME k exp=30 la=0 cas=2 fetch=no cls=1 size=63\r\n"),
    (lambda client: client.get(b"k"), b"VALUE k 0 4\r\nEN\r\n\r\nEND\r\n"),
    (lambda client: client.meta_get(b"k"), b"CLIENT_ERROR bad command line format\r\n"),
    (lambda client: client.meta_raw("mg", b"k", "v Oq"), b"VA 1 Oq\r\nx\r\n"),
]


@within(60)
async def test_replies_split_at_every_byte():
    wire = b"".join(reply for _, reply in PIPELINE)

    async def script(connection):
        if connection.number == 1:
            return await MetaPeer()(connection)
        await connection.command()
        await connection.send(b"EN\r\n")
        for cut in range(len(wire) + 1):
            for _ in PIPELINE:
                await connection.command()
            await connection.send(wire[:cut], wire[cut : cut + 1], wire[cut + 1 :], pause=0.0005)
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        expected = None
        assert await client.meta_get(b"probed") is None
        for _ in range(len(wire) + 1):
            results = await outcomes(*(call(client) for call, _ in PIPELINE))
            shown = [repr(result) for result in results]
            expected = expected or shown
            assert shown == expected
        assert (results[0].value, results[0].won, results[0].cas) == (b"EN\r\nHD", True, 2**64 - 1)
        assert results[1] is None
        assert results[2].recache
        statuses = [result.status for result in results[3:8]]
        assert statuses == ["stored", "not_stored", "not_found", "exists", "done"]
        assert results[7].value == 2**64 - 1
        assert results[8].ttl == 30
        assert results[9].value == b"EN\r\n"
        assert isinstance(results[10], emcache.CommandError)
        assert results[11] == emcache.MetaReply("VA", ("Oq",), b"x")
        assert server.accepted == 2


@within(30)
@pytest.mark.parametrize("size", [50_000, 300_000])
async def test_a_large_value_arrives_in_pieces(size):
    value = bytes(range(256)) * (size // 256)
    reply = b"VA %d f1 c2 t-1 X W\r\n%b\r\n" % (len(value), value)

    async def answer(words, connection):
        if words[0] != b"mg":
            return REPLIES[words[0]]
        await connection.send(reply[:30], reply[30:40_000], reply[40_000:-1], pause=0.002)
        return reply[-1:] + (b"EN\r\n" if words[1] == b"last" else b"")

    async with scripted(MetaPeer(answer)) as server, client_of(server) as client:
        for _ in range(3):
            item = await client.meta_get(b"k")
            assert (item.value, item.flags, item.cas) == (value, 1, 2)
            assert (item.won, item.stale) == (True, True)
            assert (await client.get(b"k")).value == b"x"


# -- what is no reply ----------------------------------------------------------------------------

GARBAGE = {
    "bytes": SECRET + b" is no reply\r\n",
    "a classic reply": b"STORED\r\n",
    "END": b"END\r\n",
    "another command's": b"MN\r\n",
    "the old word": b"OK\r\n",
    "a bare line feed": b"HD\n",
    "a bad flag": b"VA 7 f-1\r\n" + SECRET + b"\r\n",
    "a cas of 65 bits": b"VA 7 c18446744073709551616\r\n" + SECRET + b"\r\n",
    "a length too short": b"VA 3 f0\r\n" + SECRET + b"\r\n",
    "a length of 1 GiB": b"VA 1073741824\r\n",
    "no length": b"VA f0\r\n" + SECRET + b"\r\n",
    "a number that is none": b"VA 7\r\nhunter2 \r\n",
}


@within(30)
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("command", ["meta_get", "meta_set", "meta_delete", "meta_arithmetic"])
async def test_an_unexpected_reply_is_never_assigned_to_another_request(command, garbage):
    async def script(connection):
        if connection.number != 0:
            return await MetaPeer()(connection)
        for _ in range(3):
            await connection.command()
        await connection.send(garbage, b"HD\r\nEN\r\n")
        return await hold(connection)

    async with scripted(script) as server, client_of(server) as client:
        errors = await outcomes(
            CALLS[command](client), client.meta_get(b"a"), client.meta_delete(b"b")
        )
        for error in errors:
            assert isinstance(error, emcache.ProtocolError), error
            assert SECRET.decode() not in f"{error} {error!r}"
        assert (await client.meta_get(b"next")).value == b"x"


@within(20)
async def test_a_reply_without_the_value():
    async with scripted(peer_that(b"HD\r\n")) as server, client_of(server) as client:
        for call in (CALLS["meta_get"], CALLS["meta_arithmetic"]):
            with pytest.raises(emcache.CommandError, match="HD"):
                await call(client)
        assert (await client.meta_get(b"k", value=False)).value is None


@within(20)
@pytest.mark.parametrize("command", CALLS)
@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CLIENT_ERROR bad data", "CLIENT_ERROR"),
        (b"SERVER_ERROR out of memory", "SERVER_ERROR"),
        (b"ERROR", "ERROR"),
    ],
)
async def test_an_error_line_belongs_to_its_request(command, line, status):
    async with scripted(peer_that(line + b"\r\n")) as server, client_of(server) as client:
        other = asyncio.create_task(client.get(b"k"))
        with pytest.raises(emcache.CommandError) as caught:
            await CALLS[command](client)
        assert (await other).value == b"x"
        assert caught.value.status == status
        assert caught.value.command in ("mg", "ms", "md", "ma", "me")
        assert caught.value.node == f"127.0.0.1:{server.port}"
        assert line.decode() in str(caught.value)


@within(20)
async def test_a_refused_header_of_ms_closes_the_connection():
    """A server may run the value as commands."""
    peer = peer_that(b"CLIENT_ERROR bad command line format\r\n")
    async with scripted(peer) as server, client_of(server) as client:
        for accepted in (2, 3):
            with pytest.raises(emcache.CommandError):
                await client.meta_get(b"k")
            assert (server.accepted, peer.probes) == (accepted, 1)
            with pytest.raises(emcache.StorageCommandError):
                await client.meta_set(b"k", b"flush_all")


# -- callers that stop waiting -------------------------------------------------------------------


class Gate(MetaPeer):
    """A peer that answers meta commands when it is opened."""

    def __init__(self, **options):
        super().__init__(self.wait, **options)
        self.opened = asyncio.Event()

    async def wait(self, words, connection):
        if words[0] != b"get":
            await self.opened.wait()
        if words[1] in (b"second", b"third"):
            return b"VA %d f0 c1 t-1\r\n%b\r\n" % (len(words[1]), words[1])
        return await usual(words, connection)


@within(20)
@pytest.mark.parametrize("command", sorted(CALLS.keys() - {"meta_get_many"}))
async def test_cancelled_after_it_was_sent(command):
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        task = asyncio.ensure_future(CALLS[command](client))
        await until(lambda: len(gate.asked) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        following = [asyncio.create_task(client.meta_get(key)) for key in (b"second", b"third")]
        await asyncio.sleep(0.01)
        gate.opened.set()
        items = await asyncio.gather(*following)
        assert [item.value for item in items] == [b"second", b"third"]
        assert server.accepted == 2


@within(20)
async def test_many_cancelled_after_they_were_sent():
    gate = Gate()
    async with scripted(gate) as server, client_of(server) as client:
        task = asyncio.create_task(client.meta_get_many([b"k", b"l", b"third"]))
        await until(lambda: len(gate.asked) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        following = asyncio.create_task(client.meta_get_many([b"third", b"second"]))
        await asyncio.sleep(0.01)
        gate.opened.set()
        items = await following
        assert {name: item.value for name, item in items.items()} == {
            b"third": b"third",
            b"second": b"second",
        }
        assert list(items) == [b"third", b"second"]
        assert server.accepted == 2


@within(20)
async def test_each_reply_belongs_to_its_key():
    """An error, a refused option and a reply without its value fail their own keys only."""
    replies = {
        b"value": b"VA 1 f0 c1 t-1\r\nv\r\n",
        b"error": b"SERVER_ERROR out of memory\r\n",
        b"miss": b"EN\r\n",
        b"hd": b"HD f0 c1 t-1\r\n",
        b"last": b"VA 0 f7 c2 t9 W X\r\n\r\n",
    }

    async def answer(words, _):
        return replies.get(words[1]) if words[0] == b"mg" else REPLIES[words[0]]

    async with scripted(MetaPeer(answer)) as server, client_of(server) as client:
        found = await client.meta_get_many(replies, on_error="partial")
        assert list(found) == [b"value", b"last"]
        assert (found[b"value"].value, found[b"value"].size) == (b"v", 1)
        last = found[b"last"]
        assert (last.flags, last.ttl, last.won, last.stale, last.recache) == (
            7,
            9,
            True,
            True,
            False,
        )
        assert {name: type(error) for name, error in found.errors.items()} == {
            b"error": emcache.CommandError,
            b"hd": emcache.CommandError,
        }
        assert "'HD'" in str(found.errors[b"hd"])
        with pytest.raises(emcache.CommandError, match="out of memory"):
            await client.meta_get_many(replies)
        without = await client.meta_get_many([b"hd"], value=False)
        assert without[b"hd"].value is None


@within(20)
async def test_timed_out_after_it_was_sent():
    gate = Gate()
    async with scripted(gate) as server, client_of(server, timeout=0.3) as client:
        with pytest.raises(emcache.OperationTimeoutError) as caught:
            await client.meta_get(b"k")
        assert caught.value.command == "mg"
        gate.opened.set()
        assert (await client.meta_get(b"second")).value == b"second"


@within(20)
async def test_cancelled_during_the_probe():
    """It is not sent, and the next caller has the result of the probe."""
    opened = asyncio.Event()

    class SlowProbe(MetaPeer):
        async def __call__(self, connection):
            if connection.number == 1:
                await opened.wait()
            await super().__call__(connection)

    peer = SlowProbe()
    async with scripted(peer) as server, client_of(server) as client:
        task = asyncio.ensure_future(client.meta_set(b"k", b"v"))
        await until(lambda: server.accepted == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        opened.set()
        assert (await client.meta_get(b"k")).value == b"x"
        assert (peer.words, peer.probes) == ([b"mg"], 1)


# -- retries -------------------------------------------------------------------------------------


@within(20)
@pytest.mark.parametrize("command", ["meta_get", "meta_set", "meta_delete", "meta_arithmetic"])
async def test_not_repeated_once_it_was_sent(command):
    """A lost reply to `mg` may have said that its caller has won."""
    is_dying = False

    async def answer(words, connection):
        return None if is_dying and words[0] != b"get" else await usual(words, connection)

    peer = MetaPeer(answer)
    async with scripted(peer) as server, client_of(server) as client:
        await client.meta_get(b"first")
        is_dying = True
        with pytest.raises(emcache.ConnectionFailedError) as caught:
            await CALLS[command](client)
        assert caught.value.command in ("mg", "ms", "md", "ma")
        is_dying = False
        assert len(peer.asked) == 2
        # The server was asked again, and it is the one that it was.
        assert (await client.meta_get(b"k")).value == b"x"
        assert peer.probes == 2


@within(20)
async def test_another_server_after_the_connection_is_lost():
    """What the last server knew says nothing about the next."""
    peer = MetaPeer(version=b"1.6.45")
    async with scripted(peer) as server, client_of(server) as client:
        await client.meta_delete(b"k", cas=5)
        peer.version = b"1.6.12"

        async def close(words, connection):
            return None

        peer.reply = close
        with pytest.raises(emcache.ConnectionFailedError):
            await client.meta_get(b"k")
        peer.reply = usual
        with pytest.raises(emcache.UnsupportedError, match=r"1\.6\.12"):
            await client.meta_delete(b"k", cas=5)
        assert (await client.meta_delete(b"k")).done
        assert peer.words == [b"md", b"mg", b"md"]


# -- noreply -------------------------------------------------------------------------------------


@within(20)
async def test_nothing_overtakes_a_noreply_write():
    """The write is held up on its connection; the meta command follows it there."""
    opened = asyncio.Event()
    order = []

    async def answer(words, connection):
        order.append((connection.number, words[0]))
        if words[:2] == [b"set", b"k"]:
            await opened.wait()
        return await usual(words, connection)

    options = {"min_connections": 2, "max_connections": 2}
    async with scripted(MetaPeer(answer)) as server, client_of(server, **options) as client:
        await client.meta_get(b"warm")
        order.clear()
        await client.set(b"k", b"v", noreply=True)
        reading = asyncio.create_task(client.meta_get(b"k"))
        await until(lambda: len(order) == 1)
        await asyncio.sleep(0.05)
        assert not reading.done()
        opened.set()
        assert (await reading).value == b"x"
        assert [word for _, word in order] == [b"set", b"mg"]
        assert order[0][0] == order[1][0]


@within(30)
async def test_another_server_while_a_command_waits_for_a_connection():
    """What waits behind unwritten values is not sent to a server that was not asked."""
    closing = asyncio.Event()

    async def answer(words, connection):
        if words[0] == b"set" and connection.number == 0:
            await closing.wait()
            return None
        return await usual(words, connection)

    peer = MetaPeer(answer, version=b"1.6.45")
    async with scripted(peer) as server, client_of(server) as client:
        await client.meta_delete(b"k", cas=5)
        values = [asyncio.ensure_future(client.set(b"large", bytes(900_000))) for _ in range(20)]
        await until(lambda: b"set" in peer.words)
        waiting = asyncio.ensure_future(client.meta_delete(b"k", cas=5))
        plain = asyncio.ensure_future(client.meta_delete(b"k"))
        await asyncio.sleep(0.05)
        peer.version = b"1.6.12"
        closing.set()
        with pytest.raises(emcache.UnsupportedError, match=r"1\.6\.12"):
            await waiting
        assert (await plain).done
        await asyncio.gather(*values, return_exceptions=True)
        sent = [words for words in peer.asked if words[0] == b"md"]
        assert sent == [[b"md", b"k", b"C5"], [b"md", b"k"]]
        assert peer.probes == 2
