"""Counters that begin by themselves: in one command where the server has it, in steps elsewhere."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

import emcache
from support.calls import client_of, within
from support.memcached import memcached
from support.sasl import sasl_memcached
from support.scripted import scripted


class Stand:
    """What stands before a real server and says that it is of another version."""

    def __init__(self, port: int, version: bytes, *, knows_ma: bool) -> None:
        self.port = port
        self.version = version
        self.knows_ma = knows_ma
        self.asked: list[bytes] = []

    async def __call__(self, connection) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while line := await connection.line():
                await self.answer(line, connection, reader, writer)
        finally:
            writer.close()

    async def answer(self, line, connection, reader, writer) -> None:
        word = line.split()[0]
        self.asked.append(word)
        if word == b"version":
            await connection.send(b"VERSION %s\r\n" % self.version)
            return
        if word == b"ma" and not self.knows_ma:
            await connection.send(b"ERROR\r\n")
            return
        writer.write(line + b"\r\n")
        if word in (b"add", b"set"):
            writer.write(await connection.line() + b"\r\n")
        answer = await reader.readline()
        if answer.startswith(b"VA "):
            answer += await reader.readline()
        if answer.startswith(b"VALUE "):
            answer += await reader.readuntil(b"END\r\n")
        await connection.send(answer)


OLD = {"version": b"1.4.39", "knows_ma": False}
NEW = {"version": b"1.6.45", "knows_ma": True}
# A proxy that repeats the version of what is behind it, and passes on what it knows.
LIAR = {"version": b"1.6.45", "knows_ma": False}
PROXY = {"version": b"mcrouter 0.41.0", "knows_ma": False}


@contextlib.asynccontextmanager
async def standing_before(server, kind, **options):
    stand = Stand(server.port, **kind)
    async with scripted(stand) as peer, client_of(peer, **options) as client:
        yield stand, client


@pytest.fixture(scope="module")
def sasl():
    with sasl_memcached() as running:
        yield running


@pytest.fixture(params=["meta", "old", "liar", "proxy", "sasl"])
async def counting(request, server):
    """A client of each kind of server."""
    if request.param == "meta":
        async with client_of(server) as client:
            yield client
    elif request.param == "sasl":
        guarded = request.getfixturevalue("sasl")
        async with client_of(guarded, **guarded.login) as client:
            yield client
    else:
        kind = {"old": OLD, "liar": LIAR, "proxy": PROXY}[request.param]
        async with standing_before(server, kind) as (_, client):
            yield client


class TestMeaning:
    @within(20)
    async def test_the_first_call_returns_what_it_begins_with(self, counting, key):
        assert await counting.increment(key, 5, initial=100) == 100
        assert await counting.increment(key, 5, initial=100) == 105
        assert await counting.increment(key, 5) == 110
        assert await counting.decrement(key, 20, initial=1) == 90
        assert await counting.decrement(key, 1000, initial=1) == 0
        await counting.delete(key)
        assert await counting.decrement(key, 5, initial=7) == 7
        assert await counting.decrement(key, 5, initial=7) == 2

    @within(20)
    async def test_limits(self, counting, key):
        most = 2**64 - 1
        assert await counting.increment(key, most, initial=0) == 0
        assert await counting.increment(key, most, initial=0) == most
        assert await counting.increment(key, 1, initial=0) == 0
        await counting.delete(key)
        assert await counting.increment(key, 1, initial=most) == most

    @within(20)
    async def test_exptime_is_that_of_a_new_one(self, counting, key):
        assert await counting.increment(key, 1, initial=5, exptime=-1) == 5
        assert await counting.increment(key, 1, initial=6, exptime=timedelta(minutes=5)) == 6
        # It stays: this one does not expire.
        assert await counting.increment(key, 1, initial=6, exptime=-1) == 7
        assert await counting.increment(key, 1) == 8

    @within(20)
    async def test_what_is_no_number(self, counting, key):
        await counting.set(key, b"text")
        with pytest.raises(emcache.ArithmeticCommandError):
            await counting.increment(key, 1, initial=0)
        assert (await counting.get(key)).value == b"text"

    @within(30)
    async def test_nothing_is_lost(self, counting, key):
        """The first of 100 at once, whichever it is, creates it; all others count."""
        calls = (counting.increment(key, 3, initial=1000) for _ in range(100))
        numbers = await asyncio.gather(*calls)
        assert sorted(numbers) == [1000 + 3 * n for n in range(100)]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"initial": -1}, ValueError),
            ({"initial": 2**64}, ValueError),
            ({"initial": 1.0}, TypeError),
            ({"initial": True}, TypeError),
            ({"initial": 1, "exptime": 2**31}, ValueError),
            ({"initial": 1, "exptime": "60"}, TypeError),
            ({"exptime": 60}, ValueError),
            ({"exptime": timedelta(seconds=1)}, ValueError),
            ({"initial": 1, "noreply": True}, ValueError),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("name", ["increment", "decrement"])
    async def test_bad_arguments(self, client, server, key, name, arguments, error):
        with pytest.raises(error):
            await getattr(client, name)(key, 1, **arguments)
        for bad_key, value in [(b"a b", 1), (key, -1), (key, 2**64)]:
            with pytest.raises(ValueError):
                await getattr(client, name)(bad_key, value, initial=0)
        assert await client.get(key) is None


class TestHowItIsAsked:
    @within(20)
    async def test_one_round_trip_when_the_version_is_known(self, server, key):
        async with standing_before(server, NEW) as (stand, client):
            for n in range(5):
                assert await client.increment(key, 1, initial=0) == n
        assert stand.asked == [b"mn", b"version", *[b"ma"] * 5]

    @within(20)
    async def test_steps_on_an_old_server(self, server, key):
        async with standing_before(server, OLD) as (stand, client):
            for n in range(3):
                assert await client.increment(key, 1, initial=0) == n
        assert stand.asked == [b"mn", b"version", b"incr", b"add", b"incr", b"incr"]

    @within(20)
    async def test_what_refuses_is_not_asked_again(self, server, key):
        async with standing_before(server, LIAR) as (stand, client):
            for n in range(3):
                assert await client.increment(key, 1, initial=0) == n
        assert stand.asked == [b"mn", b"version", b"ma", b"incr", b"add", b"incr", b"incr"]

    @within(20)
    async def test_a_new_connection_is_asked_anew(self, server, key):
        """The server that is there now may be another one."""
        stand = Stand(server.port, **NEW)

        async def script(connection):
            if connection.number == 2:
                stand.version, stand.knows_ma = b"1.4.39", False
            await asyncio.wait(
                [
                    asyncio.ensure_future(stand(connection)),
                    asyncio.ensure_future(leave.wait()),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            leave.clear()

        leave = asyncio.Event()
        async with scripted(script) as peer, client_of(peer) as client:
            assert await client.increment(key, 1, initial=0) == 0
            leave.set()
            while peer.accepted < 3:
                await asyncio.sleep(0.01)
                with contextlib.suppress(emcache.ConnectionFailedError):
                    await client.get(b"k")
            assert await client.increment(key, 1, initial=0) == 1
            assert await client.increment(key, 1, initial=0) == 2
        assert [word for word in stand.asked if word != b"get"] == [
            *(b"mn", b"version", b"ma"),
            *(b"mn", b"version", b"incr", b"incr"),
        ]

    @within(20)
    async def test_a_counter_that_others_delete_all_the_time(self):
        async def script(connection):
            while line := await connection.line():
                words = line.split()
                if words[0] == b"version":
                    await connection.send(b"VERSION 1.4.39\r\n")
                elif words[0] == b"incr":
                    await connection.send(b"NOT_FOUND\r\n")
                else:
                    await connection.line()
                    await connection.send(b"NOT_STORED\r\n")

        async with scripted(script) as peer, client_of(peer) as client:
            with pytest.raises(emcache.NotFoundCommandError, match="created and deleted"):
                await client.increment(b"k", 1, initial=0)

    @within(20)
    @pytest.mark.parametrize("answer", [b"NF\r\n", b"VA 1\r\n", b"HD\r\n", b"7\r\n"])
    async def test_other_answers(self, answer):
        async def script(connection):
            if await connection.line() == b"mn":
                await connection.send(b"MN\r\nVERSION 1.6.45\r\n")
                return
            await connection.send(answer)

        async with scripted(script) as peer, client_of(peer) as client:
            expected = {
                b"NF\r\n": emcache.NotFoundCommandError,
                b"VA 1\r\n": emcache.ConnectionFailedError,
                b"HD\r\n": emcache.CommandError,
            }.get(answer, emcache.ProtocolError)
            with pytest.raises(expected):
                await client.increment(b"k", 1, initial=0)

    @within(20)
    async def test_a_server_that_is_silent(self):
        given_up = asyncio.Event()

        async def script(connection):
            while line := await connection.line():
                if line == b"mn":
                    await connection.send(b"MN\r\nVERSION 1.6.45\r\n")
                elif line.startswith(b"ma silent"):
                    # Late: the caller is gone, and the next one gets its own.
                    await given_up.wait()
                    await connection.send(b"VA 1\r\n1\r\n")
                else:
                    number = b"7" if line.startswith(b"ma first") else b"22"
                    await connection.send(b"VA %d\r\n%b\r\n" % (len(number), number))

        async with scripted(script) as peer, client_of(peer, timeout=1) as client:
            assert await client.increment(b"first", 1, initial=7) == 7
            with pytest.raises(emcache.OperationTimeoutError):
                await client.increment(b"silent", 1, initial=0)
            given_up.set()
            assert await client.increment(b"other", 1, initial=0) == 22


@within(20)
async def test_a_closed_client(server, key):
    async with client_of(server) as client:
        pass
    with pytest.raises(emcache.ClientClosedError):
        await client.increment(key, 1, initial=0)


@within(20)
async def test_a_restarted_server(key):
    with memcached() as server:
        async with emcache.create_client([server.address], timeout=5.0) as client:
            assert await client.increment(key, 1, initial=10) == 10
            server.kill()
            server.start()
            await client.wait_ready(10)
            assert await client.increment(key, 1, initial=20) == 20
