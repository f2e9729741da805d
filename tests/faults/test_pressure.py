"""More than the network, the server, or the process can take."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

import emcache
from support.calls import client_of, outcomes, until, within
from support.faults import Faults, Link, fault_proxy, fill
from support.isolated import run_silent
from support.memcached import memcached
from support.oracle import value_of

LOOPS = ["asyncio", "uvloop"]
both_loops = pytest.mark.parametrize("loop", LOOPS)
TESTS = str(Path(__file__).parent.parent)
KEYS = [b"pressure:%d" % number for number in range(32)]


# -- a slow line ---------------------------------------------------------------------------------

MBIT = 125_000  # bytes a second


async def with_small_calls(client, large):
    """The end of a large call, and how long small ones take meanwhile."""
    started = time.monotonic()
    took = []
    while not large.done():
        asked = time.monotonic()
        (found,) = await outcomes(client.get(KEYS[0]))
        took.append(time.monotonic() - asked)
        if isinstance(found, emcache.Item):
            assert found.value == value_of(KEYS[0])
        await asyncio.sleep(0.01)
    (ended,) = await outcomes(large)
    assert isinstance(ended, emcache.OperationTimeoutError)
    # The time for writing and for reading counts.
    assert time.monotonic() - started < 2
    return took


@within(40)
async def test_a_large_set_on_a_slow_line(server, key):
    """It ends at its deadline, its write included; small calls go on another connection."""
    fill(server, KEYS)
    slow = {"split": 4096, "rate": MBIT}
    with fault_proxy(server, lambda _: Link(Faults(**slow), Faults(**slow))) as proxy:
        async with client_of(proxy, timeout=1, max_connections=2, min_connections=2) as client:
            assert (await client.get(KEYS[0])).value == value_of(KEYS[0])
            large = asyncio.create_task(client.set(key, b"x" * 1_000_000))
            await asyncio.sleep(0)
            took = await with_small_calls(client, large)
            assert len(took) > 5
            assert max(took) < 0.5


@within(40)
async def test_a_large_get_on_a_slow_line(server, key):
    fill(server, KEYS)
    server.command(b"set %b 0 0 1000000\r\n%b\r\n" % (key, b"x" * 1_000_000))
    slow = Faults(split=4096, rate=MBIT)
    with fault_proxy(server, lambda _: Link(answers=slow)) as proxy:
        async with client_of(proxy, timeout=1, max_connections=2, min_connections=2) as client:
            assert (await client.get(KEYS[0])).value == value_of(KEYS[0])
            large = asyncio.create_task(client.get(key))
            # Until the head of the answer came nobody can know that it is large.
            await asyncio.sleep(0.2)
            took = await with_small_calls(client, large)
            assert len(took) > 5
            assert max(took) < 0.5
    server.command(b"set %b 0 0 0\r\n\r\n" % key)


# -- a server that does not read -----------------------------------------------------------------

MEMORY = """
import pathlib
sys.path.insert(0, sys.argv[3])
MIB = 1024 * 1024

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

make_loop = new_loop

def new_loop():
    # Debug mode notes for each task and coroutine where it comes from.
    loop = make_loop()
    loop.set_debug(False)
    return loop

async def results_of(calls):
    return await asyncio.gather(*calls, return_exceptions=True)

def kinds(results):
    return {type(result) for result in results}

# On a slow machine the node is known to be down before the last deadline.
GIVEN_UP = {emcache.OperationTimeoutError, emcache.NodeUnavailableError}
"""


@pytest.fixture
def plain_memory(monkeypatch):
    """Without what development mode adds to each block."""
    monkeypatch.setenv("PYTHONMALLOC", "default")


@pytest.fixture
def deaf():
    """A server that is stopped: it has connections and does not read."""
    with memcached() as server:
        server.pause()
        yield server
        server.resume()


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_a_hundred_megabytes_for_a_server_that_does_not_read(deaf, loop):
    run_silent(
        MEMORY
        + """
async def main():
    async with create(timeout=1.5) as client:
        value = b"x" * 100_000
        before, started = resident(), time.monotonic()
        results = await results_of([client.set(b"k%d" % n, value) for n in range(1000)])
        refused = [type(result) is emcache.OverloadedError for result in results]
        assert 0 < sum(refused) < 1000
        assert kinds(results) <= {emcache.OverloadedError, *GIVEN_UP}
        assert 1.4 < time.monotonic() - started < 5
        # 64 MiB may wait; the rest is the calls.
        assert resident() - before < 110 * MIB, (resident() - before) / MIB

run(main())
""",
        loop,
        deaf.port,
        TESTS,
    )


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_fifty_thousand_queued_sets_cost_little(deaf, loop):
    run_silent(
        MEMORY
        + """
async def main():
    async with create(timeout=1.5) as client:
        value = b"x" * 200
        before, made = resident(), []
        started = time.monotonic()

        async def call(number):
            made.append(time.monotonic())
            await client.set(b"k%d" % number, value)

        results = await results_of([call(n) for n in range(50_000)])
        ended = time.monotonic()
        # On a machine that is slower still it is given up with what was sent to it.
        lost = {emcache.ConnectionFailedError}
        assert kinds(results) <= GIVEN_UP | lost, kinds(results)
        assert made[0] + 1.4 < ended < made[-1] + 10, (ended - made[0], ended - made[-1])
        assert resident() - before < 150 * MIB, (resident() - before) / MIB

run(main())
""",
        loop,
        deaf.port,
        TESTS,
    )


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_a_checked_out_connection_to_a_server_that_does_not_read(deaf, loop):
    run_silent(
        MEMORY
        + """
async def main():
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    pool = emcache.ConnectionPool(address, max_connections=1)
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
        deaf.port,
        TESTS,
    )


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_a_hundred_thousand_calls_for_a_stalled_node(server, loop):
    """What is too much is refused at once, the rest is answered when the node goes on, again."""
    fill(server, KEYS)
    run_silent(
        MEMORY
        + """
from support.faults import Faults, Link, fault_proxy
from support.memcached import Memcached
from support.oracle import value_of

KEYS = [b"pressure:%d" % number for number in range(32)]

async def round(proxy, requests, client):
    requests.stall_after = 0
    tasks = [asyncio.create_task(client.get(KEYS[n % 32])) for n in range(100_000)]
    await asyncio.sleep(0)
    while sum(task.done() for task in tasks[65_536:]) < 100_000 - 65_536:
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks[:65_536])
    for task in tasks[65_536:]:
        assert isinstance(task.exception(), emcache.OverloadedError)
    requests.stall_after = None
    for number, item in enumerate(await asyncio.gather(*tasks[:65_536])):
        assert item.value == value_of(KEYS[number % 32])

async def main():
    requests = Faults()
    with fault_proxy(Memcached(port=port), lambda _: Link(requests=requests)) as proxy:
        address = proxy.address
        async with emcache.create_client([address], timeout=60, autobatching=False) as client:
            for _ in range(2):
                await round(proxy, requests, client)
            first = resident()
            await round(proxy, requests, client)
            assert resident() - first < 64 * MIB, (resident() - first) / MIB
            assert proxy.accepted <= 2

with contextlib.redirect_stdout(None):
    run(main())
""",
        loop,
        server.port,
        TESTS,
    )


# -- a server at its limit -----------------------------------------------------------------------


def metrics_of(client):
    (metrics,) = client.cluster_managment().connection_pool_metrics().values()
    return metrics


@within(40)
async def test_a_pool_that_is_larger_than_its_server_allows():
    """It makes do with what it has: few dials, and few callers that hear of it."""
    most, callers = 30, 20

    @contextlib.asynccontextmanager
    async def checking_out(server):
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

    await asyncio.gather(use(checking_out), use(sharing))


# -- a process that is short of something --------------------------------------------------------


@both_loops
def test_no_descriptor_is_left(server, loop):
    fill(server, KEYS)
    run_silent(
        MEMORY
        + """
from support.oracle import value_of

KEY = b"pressure:1"

async def main():
    async with create(timeout=2, min_connections=0) as client:
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(3):
            started = time.monotonic()
            try:
                await client.get(KEY)
            except emcache.ConnectionFailedError as error:
                assert "Too many open files" in str(error) or "os error 24" in str(error), error
            else:
                raise AssertionError("no descriptor, and yet an answer")
            assert time.monotonic() - started < 5
        # While it waits for better times it does not spin.
        (metrics,) = client.cluster_managment().connection_pool_metrics().values()
        dials, spent = metrics.connections_created_with_error, time.process_time()
        await asyncio.sleep(1.5)
        (metrics,) = client.cluster_managment().connection_pool_metrics().values()
        assert metrics.connections_created_with_error - dials < 20
        assert time.process_time() - spent < 0.3
        for descriptor in taken:
            os.close(descriptor)
        while True:
            with contextlib.suppress(emcache.ConnectionFailedError):
                assert (await client.get(KEY)).value == value_of(KEY)
                break
            await asyncio.sleep(0.01)
        assert client.cluster_managment().unhealthy_nodes() == []

run(main())
""",
        loop,
        server.port,
        TESTS,
    )


HOGS = {
    # The interpreter takes turns between threads every 5 ms.
    "another thread that computes": """
def hog():
    while not done.is_set():
        sum(range(1000))
worker = threading.Thread(target=hog)
""",
    # One call in C, as long as the loop has no turn at all.
    "another thread that holds the interpreter": """
def hog():
    while not done.is_set():
        sum(range(20_000_000))
        time.sleep(0.01)
worker = threading.Thread(target=hog)
""",
}


@both_loops
@pytest.mark.parametrize("hog", HOGS.values(), ids=HOGS)
def test_a_thread_that_keeps_the_interpreter_busy(server, loop, hog):
    """Answers that are there in time are given, however late the loop looks."""
    fill(server, KEYS)
    run_silent(
        MEMORY
        + "done = threading.Event()\n"
        + hog
        + """
from support.oracle import value_of

KEYS = [b"pressure:%d" % number for number in range(32)]

async def main():
    async with create(timeout=0.15) as client:
        while True:
            with contextlib.suppress(emcache.OperationTimeoutError):
                assert (await client.get(KEYS[0])).value == value_of(KEYS[0])
                break
        worker.start()
        try:
            answered = late = 0
            end = time.monotonic() + 1
            while time.monotonic() < end:
                for key, result in zip(KEYS, await results_of(map(client.get, KEYS)), strict=True):
                    if isinstance(result, emcache.OperationTimeoutError):
                        # The interpreter was taken between the call and its write.
                        late += 1
                    else:
                        assert result.value == value_of(key)
                        answered += 1
        finally:
            done.set()
            worker.join()
        (metrics,) = client.cluster_managment().connection_pool_metrics().values()
        assert metrics.connections_created <= 2
        assert metrics.connections_closed == 0
        assert answered > 5 * late, (answered, late)
        assert answered >= 2 * len(KEYS), answered

run(main())
""",
        loop,
        server.port,
        TESTS,
    )
