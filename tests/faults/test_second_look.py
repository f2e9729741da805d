"""What a second look at the core found: each of these went wrong once.

Where a test takes seconds in which nobody has much to do, both loops do it at the same time.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

import emcache
from support.calls import client_of, frozen, outcomes, until, within
from support.faults import Faults, Link, Recorder, fault_proxy, fill
from support.isolated import run_program, run_silent
from support.memcached import Memcached, memcached
from support.oracle import answer, reply_to, value_of
from support.scripted import scripted

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
both_loops = pytest.mark.parametrize("loop", LOOPS)
KEYS = [b"second:%d" % number for number in range(20)]


def on_both_loops(check):
    """At the same time, each in a thread of its own."""

    def run(loop_factory):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(check())

    with ThreadPoolExecutor(len(LOOPS)) as threads:
        list(threads.map(run, LOOPS.values()))


def metrics_of(client):
    (metrics,) = client.cluster_managment().connection_pool_metrics().values()
    return metrics


def serve(answers):
    """A script: what `answers` says to the words of a command; None: it is closed."""

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            reply = answers(words)
            if reply is None:
                return
            await connection.send(reply)

    return script


# -- who is unhealthy ----------------------------------------------------------------------------


def test_idle_connections_that_the_server_closes_are_no_failures():
    """Again and again, and nobody ever asked anything on them."""
    life, closes = 1.3, 4

    @within(30)
    async def check():
        recorder, closed = Recorder(), 0

        async def script(connection):
            nonlocal closed
            while True:
                try:
                    async with asyncio.timeout(life):
                        words, _ = await connection.command()
                except TimeoutError:
                    closed += 1
                    return
                if words == [b""]:
                    return
                await connection.send(reply_to(words))

        async with (
            scripted(script) as server,
            client_of(server, cluster_events=recorder) as client,
        ):
            await until(lambda: closed >= closes)
            await asyncio.sleep(0.2)
            assert recorder.events == []
            assert client.cluster_managment().unhealthy_nodes() == []
            # A new one was dialled each time.
            await until(lambda: server.accepted == closed + 1)
            assert (await client.get(b"k")).value == value_of(b"k")

    on_both_loops(check)


@contextlib.asynccontextmanager
async def down(script, recorder):
    """A node that is down as its server refuses connections, and its client."""
    async with scripted(script) as server:
        with fault_proxy(Memcached(port=server.port)) as proxy:
            proxy.refuse()
            async with client_of(proxy, timeout=5, cluster_events=recorder) as client:
                await until(lambda: bool(client.cluster_managment().unhealthy_nodes()))
                yield proxy, client


UNAUTHENTICATED = b"CLIENT_ERROR unauthenticated\r\n"
# What servers and proxies answer that are in good health.
ALIVE = {
    "ERROR to version": lambda words: b"ERROR\r\n" if words == [b"version"] else reply_to(words),
    "no answer to version but the end": lambda words: (
        None if words == [b"version"] else reply_to(words)
    ),
    "a login is wanted": lambda words: UNAUTHENTICATED,
    "the backend of the probe's key is down": lambda words: (
        b"SERVER_ERROR backend failure\r\n" if words[1] == b"emcache:probe" else reply_to(words)
    ),
}


@within(20)
@pytest.mark.parametrize("answers", ALIVE.values(), ids=ALIVE)
async def test_a_node_comes_back_whatever_it_thinks_of_version(answers):
    recorder = Recorder()
    async with down(serve(answers), recorder) as (proxy, client):
        proxy.listen()
        async with asyncio.timeout(5):
            await until(lambda: not client.cluster_managment().unhealthy_nodes())
        (found,) = await outcomes(client.get(b"k"))
        if answers([b"get", b"k"]) == UNAUTHENTICATED:
            assert isinstance(found, emcache.CommandError), repr(found)
            assert "unauthenticated" in str(found)
        else:
            assert found.value == value_of(b"k")
        await until(lambda: len(recorder.events) == 2)
        await asyncio.sleep(0.1)
        assert recorder.events == [("unhealthy", proxy.address), ("healthy", proxy.address)]


@within(30)
async def test_a_refused_connection_is_no_sign_of_life():
    recorder = Recorder()
    asked = 0

    def answers(words):
        nonlocal asked
        asked += 1
        return b"ERROR Too many open connections\r\n"

    async with down(serve(answers), recorder) as (proxy, client):
        proxy.listen()
        await until(lambda: asked >= 2)
        await asyncio.sleep(0.1)
        assert client.cluster_managment().unhealthy_nodes() == [proxy.address]
        with pytest.raises(emcache.NodeUnavailableError, match="open connections"):
            await client.get(b"k")
        assert recorder.events == [("unhealthy", proxy.address)]


def test_a_loop_that_is_blocked_takes_nobody_for_silent():
    """In the iteration of its calls, so that their time is up before anybody could hear of them."""

    @within(40)
    async def check(server):
        recorder = Recorder()
        link = Link(answers=Faults(delay=0.002))
        with fault_proxy(server, lambda _: link) as proxy:
            options = {"timeout": 1, "autobatching": True, "max_connections": 2}
            async with client_of(proxy, cluster_events=recorder, **options) as client:

                async def ask():
                    return await outcomes(*map(client.get, KEYS))

                def look(key, found):
                    assert isinstance(found, emcache.Item | emcache.OperationTimeoutError), found
                    if isinstance(found, emcache.Item):
                        assert found.value == value_of(key)

                while not all(isinstance(found, emcache.Item) for found in await ask()):
                    await asyncio.sleep(0.01)

                async def block():
                    time.sleep(3)

                calls = [asyncio.create_task(client.get(key)) for key in KEYS]
                await asyncio.gather(*calls, block(), return_exceptions=True)
                for key, found in zip(KEYS, await outcomes(*calls), strict=True):
                    look(key, found)
                look(KEYS[0], *await outcomes(client.get(KEYS[0])))
                await asyncio.sleep(0.3)
                assert recorder.events == []
                assert client.cluster_managment().unhealthy_nodes() == []
                assert metrics_of(client).connections_closed == 0

    with memcached() as server:
        fill(server, KEYS)
        on_both_loops(lambda: check(server))


def test_a_stopped_node_with_little_to_do_turns_unhealthy():
    """Also while it takes connections, of which there may be more."""

    @within(40)
    async def check():
        with memcached() as server:
            async with client_of(server, timeout=0.5, max_connections=4) as client:
                management = client.cluster_managment()
                while await outcomes(client.set(b"k", b"v")) != [None]:
                    await asyncio.sleep(0.01)
                calls = 0
                with frozen(server):
                    while not management.unhealthy_nodes():
                        pause = asyncio.create_task(asyncio.sleep(1.2))
                        (error,) = await outcomes(client.get(b"k"))
                        # It may be known meanwhile that the node is down.
                        if not management.unhealthy_nodes():
                            assert isinstance(error, emcache.OperationTimeoutError), error
                        calls += 1
                        assert calls <= 6
                        if management.unhealthy_nodes():
                            pause.cancel()
                        await asyncio.wait([pause])
                assert calls >= 3

    on_both_loops(check)


# -- a process that is short of something --------------------------------------------------------

DESCRIPTORS = """
expected = os.environ.get("EMCACHE_DRIVER") or "loop"

def take_all():
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    return taken

async def attempt():
    '''Whether a client could be made.'''
    try:
        client = await create(timeout=2)
    except OSError as error:
        assert error.errno == 24 or "os error 24" in str(error), repr(error)
        return False
    assert client._core.driver == expected, client._core.driver
    with contextlib.suppress(emcache.NodeUnavailableError):
        await client.get(b"k")
    await client.close()
    return True

async def works():
    async with create(timeout=10) as client:
        assert client._core.driver == expected, client._core.driver
        await client.set(b"second", b"v")
        assert (await client.get(b"second")).value == b"v"

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""


@pytest.fixture(params=[None, "thread"], ids=["whatever works", "the thread"])
def driver(request, monkeypatch):
    if request.param is None:
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)
    else:
        monkeypatch.setenv("EMCACHE_DRIVER", request.param)


@both_loops
@pytest.mark.usefixtures("driver")
def test_no_descriptor_is_left_for_a_new_client(server, loop):
    run_silent(
        DESCRIPTORS
        + """
async def main():
    taken = take_all()
    for _ in range(3):
        assert not await attempt()
    for descriptor in taken:
        os.close(descriptor)
    await works()

run(main())
""",
        loop,
        server.port,
    )


@both_loops
@pytest.mark.usefixtures("driver")
def test_a_few_descriptors_are_left_for_a_new_client(server, loop):
    """Wherever in the making of a client the last is taken, it is no reason for another driver."""
    run_silent(
        DESCRIPTORS
        + """
async def main():
    taken = take_all()
    made = []
    for _ in range(15):
        made.append(await attempt())
        os.close(taken.pop())
    assert not made[0] and made[-1], made
    for descriptor in taken:
        os.close(descriptor)
    await works()

run(main())
""",
        loop,
        server.port,
    )


@both_loops
def test_no_thread_can_be_started(server, loop, monkeypatch):
    """That of the driver goes on without the helpers that it has wait for the interpreter."""
    monkeypatch.setenv("EMCACHE_DRIVER", "thread")
    done = run_program(
        """
        async def main():
            async with create(timeout=10) as client:
                assert client._core.driver == "thread"
                await client.set(b"second", b"v")
                # Helpers live on for a second after their last use.
                await asyncio.sleep(1.5)
                if os.geteuid() == 0:
                    # No limit is for root.
                    try:
                        os.setuid(12_345)
                    except OSError as error:
                        return print("skip:", error)
                soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
                resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
                try:
                    threading.Thread(target=int).start()
                except RuntimeError:
                    pass
                else:
                    return print("skip: threads can be started all the same")
                async with asyncio.timeout(10):
                    for number in range(3):
                        assert (await client.get(b"second")).value == b"v"
                        found = await asyncio.gather(*(client.get(b"second") for _ in range(20)))
                        assert {item.value for item in found} == {b"v"}
                resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
                async with asyncio.timeout(10):
                    for number in range(3):
                        assert (await client.get(b"second")).value == b"v"
            print("done")

        run(main())
        """,
        loop,
        server.port,
    )
    # A helper that cannot be started is told on stderr.
    said = done.stdout.strip()
    if said.startswith("skip: "):
        pytest.skip(said)
    assert (said, done.returncode) == ("done", 0), done.stderr


# -- the end of the interpreter ------------------------------------------------------------------

AT_EXIT = """
import asyncio, atexit, sys, time

def finish():
    run(main("at exit"))
    print("the end")

# Before the package is imported: then it is called after what the package does at exit.
atexit.register(finish)

import emcache
if sys.argv[1] == "uvloop":
    import uvloop
    base = uvloop.Loop
else:
    base = asyncio.SelectorEventLoop
slowness = float(sys.argv[3])

class Loop(base):
    def call_soon_threadsafe(self, *args, **options):
        handle = super().call_soon_threadsafe(*args, **options)
        if slowness:
            time.sleep(slowness)
        return handle

class Lingering:
    def __del__(self, sleep=time.sleep):
        sleep(3 * slowness)

# Among the last things to go.
sys.lingering = Lingering()

def run(main):
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)

async def main(when):
    address = emcache.MemcachedHostAddress("127.0.0.1", int(sys.argv[2]))
    async with asyncio.timeout(10), emcache.create_client([address], timeout=5) as client:
        await client.set(b"second:exit", when.encode())
        print((await client.get(b"second:exit")).value.decode())

run(main("before"))
"""


def run_at_exit(kind, loop, slowness=0.0):
    with memcached() as server:
        program = [sys.executable, "-X", "dev", "-W", "error", "-c", AT_EXIT]
        done = subprocess.run(
            [*program, loop, str(server.port), str(slowness)],
            env=os.environ | {"EMCACHE_DRIVER": kind},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.stdout.split("\n") == ["before", "at exit", "the end", ""], done.stderr
    assert (done.stderr, done.returncode) == ("", 0)


@both_loops
@pytest.mark.parametrize("kind", ["loop", "thread"])
def test_a_client_of_an_exit_handler_that_runs_last(loop, kind):
    run_at_exit(kind, loop)


@both_loops
def test_nobody_calls_the_loop_of_an_exit_handler_after_it(loop):
    """A helper that is still at it, when the interpreter ends, would be ended with it: an abort."""
    run_at_exit("thread", loop, slowness=0.05)


# -- a server at its limit -----------------------------------------------------------------------


@within(40)
async def test_a_pool_that_is_larger_than_its_server_allows():
    """It makes do with what it has: few dials, and few callers that hear of it."""
    most, callers = 30, 20

    @contextlib.asynccontextmanager
    async def leasing(server):
        pool = emcache.ConnectionPool(server.address, max_connections=most, timeout=10)

        async def ask(key):
            async with pool.create_connection_context() as connection:
                found = await connection.fetch_command(b"get", [key])
                await asyncio.sleep(0.002)
                return found[1]

        yield ask, pool.metrics
        await pool.close()

    @contextlib.asynccontextmanager
    async def sharing(server):
        options = {"timeout": 10, "min_connections": most, "max_connections": most}
        async with client_of(server, **options) as client:

            async def ask(key):
                found = await client.get(key)
                return [found.value]

            yield ask, lambda: metrics_of(client)

    def dials(metrics):
        return metrics.connections_created + metrics.connections_created_with_error

    async def use(kind):
        answered, refusals = dict.fromkeys(KEYS, 0), []
        with memcached("-c", "24", "-t", "1") as server:
            fill(server, KEYS)
            async with kind(server) as (ask, metrics):

                async def call(key):
                    while True:
                        try:
                            assert await ask(key) == [value_of(key)]
                            answered[key] += 1
                        except emcache.ConnectionFailedError as error:
                            refusals.append(str(error))
                        await asyncio.sleep(0.01)

                calls = [asyncio.create_task(call(key)) for key in KEYS[:callers]]
                # Until the first is refused all may be dialled that there may be.
                await until(lambda: metrics().cur_connections < dials(metrics()))
                await asyncio.sleep(1)
                at_first, by_then = dials(metrics()), dict(answered)
                await asyncio.sleep(2)
                dialled = dials(metrics()) - at_first
                for each in calls:
                    each.cancel()
                ended = await outcomes(*calls)
                assert dialled < 30
                assert {type(end) for end in ended} == {asyncio.CancelledError}, ended
                assert len(refusals) <= most
                assert all("oo many open connections" in refusal for refusal in refusals), refusals
                assert all(answered[key] - by_then[key] >= 5 for key in KEYS[:callers]), answered
                assert metrics().protocol_errors == 0

    await asyncio.gather(use(leasing), use(sharing))


# -- connections that end together ---------------------------------------------------------------


@within(20)
async def test_reads_are_asked_again_when_all_connections_ended():
    """Not on the other one, whose end was only not seen yet."""
    connections, asked = [], []

    async def script(connection):
        connections.append(connection)
        while (words := (await connection.command())[0]) != [b""]:
            asked.append(connection)
            if connection.number >= 2:
                await connection.send(reply_to(words))

    options = {"min_connections": 2, "max_connections": 2}
    async with scripted(script) as server, client_of(server, **options) as client:
        await until(lambda: len(connections) == 2)
        await until(lambda: metrics_of(client).cur_connections == 2)
        calls = [asyncio.create_task(client.get(key)) for key in KEYS[:3]]
        await until(lambda: len(asked) == 3)
        assert len(set(asked)) == 1
        # The end of the other one is seen at the same time, or a moment later.
        connections.sort(key=lambda connection: connection is not asked[0])
        for connection in connections:
            connection.close()
        for key, found in zip(KEYS, await outcomes(*calls), strict=False):
            assert isinstance(found, emcache.Item), repr(found)
            assert found.value == value_of(key)
        assert metrics_of(client).requests_retried >= 3
        assert client.cluster_managment().unhealthy_nodes() == []


# -- memory --------------------------------------------------------------------------------------

MEMORY = """
from emcache import ConnectionPool, MemcachedHostAddress

MIB = 1024 * 1024

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

def pool_of(**options):
    return ConnectionPool(MemcachedHostAddress("127.0.0.1", port), **options)
"""


@pytest.fixture
def plain_memory(monkeypatch):
    """Without what development mode adds to each block."""
    monkeypatch.setenv("PYTHONMALLOC", "default")


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_a_leased_connection_to_a_server_that_does_not_read(loop):
    with memcached() as server, frozen(server):
        run_silent(
            MEMORY
            + """
async def main():
    asyncio.get_running_loop().set_debug(False)
    pool = pool_of(max_connections=1)
    async with pool.create_connection_context() as connection:
        value, before, calls = b"x" * 100_000, resident(), []
        for wave in range(20):
            for number in range(100):
                call = connection.storage_command(b"set", b"k%d" % number, value)
                calls.append(asyncio.create_task(call))
            # A thread that has no turn cannot refuse what is too much.
            await asyncio.sleep(0)
            pool.metrics()
        async with asyncio.timeout(20):
            while sum(call.done() for call in calls) + pool.metrics().requests_in_flight < 2000:
                await asyncio.sleep(0.01)
        for call in calls:
            assert not call.done() or type(call.exception()) is emcache.OverloadedError
        # 64 MiB, and what the kernel took.
        taken = sum(not call.done() for call in calls)
        assert 64 * MIB <= taken * 100_050 + 100_050 <= 100 * MIB, taken
        assert resident() - before < 130 * MIB, (resident() - before) / MIB
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await pool.close()

run(main())
""",
            loop,
            server.port,
        )


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_what_sleeps_for_a_pool_ends_with_it(server, loop):
    """Somebody else keeps the driver alive: what is left behind for an hour adds up."""
    run_silent(
        MEMORY
        + """
async def once():
    pool = pool_of(max_connections=10, min_connections=0, purge_unused_connections_after=3600.0)
    async with pool.create_connection_context() as connection:
        await connection.version_command()

async def main():
    asyncio.get_running_loop().set_debug(False)
    async with create() as other:
        await other.get(b"k")
        for _ in range(1000):
            await once()
        gc.collect()
        before = resident()
        for _ in range(5000):
            await once()
        gc.collect()
        grown = resident() - before
        await other.get(b"k")
    # Half of what they cost when they are kept.
    assert grown < 2.5e6, grown

run(main())
""",
        loop,
        server.port,
        warnings="ignore",
    )


# -- metrics -------------------------------------------------------------------------------------


def seen(client, *names):
    return [getattr(metrics_of(client), name) for name in names]


@within(20)
async def test_an_answer_that_comes_too_late_is_counted_once():
    gate = asyncio.Event()

    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            await gate.wait()
            await connection.send(reply_to(words))

    counts = ("operations_executed", "operations_executed_with_error", "requests_timed_out")
    async with scripted(script) as server, client_of(server, timeout=0.2) as client:

        async def answered():
            gate.set()
            await until(lambda: metrics_of(client).requests_in_flight == 0)
            gate.clear()

        for _ in range(2):
            with pytest.raises(emcache.OperationTimeoutError):
                await client.get(b"k")
        assert seen(client, *counts) == [0, 2, 2]
        await answered()
        assert seen(client, *counts) == [0, 2, 2]
        # Whoever went away before is told of no timeout.
        call = asyncio.create_task(client.get(b"k"))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])
        await asyncio.sleep(0.4)
        await answered()
        assert seen(client, *counts)[1:] == [2, 2]
        assert metrics_of(client).connections_closed == 0


@within(20)
async def test_a_connection_that_is_free_is_not_waited_for():
    async with scripted(answer) as server:
        pool = emcache.ConnectionPool(server.address, max_connections=1)
        await until(lambda: pool.total_connections == 1)
        # After the second it is looked at before it is leased.
        for pause in (0, 1, 0):
            await asyncio.sleep(pause)
            async with pool.create_connection_context() as connection:
                await connection.version_command()
        assert pool.metrics().operations_waited == 0
        async with pool.create_connection_context() as connection:
            context = pool.create_connection_context()
            waiter = asyncio.create_task(context.__aenter__())
            await until(lambda: pool.metrics().requests_queued == 1)
            assert pool.metrics().operations_waited == 1
        await waiter
        await context.__aexit__(None, None, None)
        await pool.close()


@within(20)
async def test_what_was_asked_again_and_what_was_no_reply_are_counted():
    async def script(connection):
        while (words := (await connection.command())[0]) != [b""]:
            if b"end" in words and connection.number == 0:
                return
            await connection.send(b"nonsense\r\n" if b"bad" in words else reply_to(words))

    names = (
        "requests_retried",
        "protocol_errors",
        "operations_executed",
        "operations_executed_with_error",
        "requests_timed_out",
    )
    async with scripted(script) as server, client_of(server) as client:
        await client.get(b"k")
        assert seen(client, *names) == [0, 0, 1, 0, 0]
        assert (await client.get(b"end")).value == value_of(b"end")
        assert seen(client, *names) == [1, 0, 2, 0, 0]
        for number in range(1, 3):
            with pytest.raises(emcache.ProtocolError):
                await client.get(b"bad")
            assert (await client.get(b"k")).value == value_of(b"k")
            assert seen(client, *names) == [1, number, 2 + number, number, 0]
        assert client.cluster_managment().unhealthy_nodes() == []


# -- clients that are dropped --------------------------------------------------------------------


@within(20)
@pytest.mark.parametrize("count", [1, 300])
async def test_what_nobody_waits_for_is_not_lost_with_a_dropped_client(server, key, count):
    keys = [key + b":%d" % number for number in range(count)]

    async def once():
        client = await client_of(server)
        for each in keys:
            await client.set(each, each, noreply=True)

    with pytest.warns(ResourceWarning, match="unclosed"):
        await once()
    async with client_of(server) as client, asyncio.timeout(3):
        while len(await client.get_many(keys)) < len(keys):
            await asyncio.sleep(0.01)
        for each, item in (await client.get_many(keys)).items():
            assert item.value == each
