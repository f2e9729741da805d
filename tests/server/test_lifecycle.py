"""Clients, loops, threads and processes that begin and end, in every order."""

import asyncio
import contextlib
import gc
import signal
import socket
import textwrap
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo
from typing import ClassVar

import pytest

import emcache
from support.calls import COMMANDS, client_of, outcomes, until, within
from support.isolated import run_program, run_silent
from support.oracle import answer, value_of
from support.scripted import hold, scripted

LOOPS = ["asyncio", "uvloop"]
both_loops = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture
def silent_port():
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# -- what is left behind -------------------------------------------------------------------------


@both_loops
def test_a_thousand_loops_leave_nothing(server, loop):
    run_silent(
        """
        async def main():
            client = await create()
            await client.set(b"lifecycle", b"v")
            assert (await client.get(b"lifecycle")).value == b"v"
            await client.close()

        run(main())
        before = descriptors(), threads()
        for _ in range(1000):
            run(main())
        assert (descriptors(), threads()) == before, (descriptors(), threads(), before)
        """,
        loop,
        server.port,
    )


@both_loops
def test_loops_that_end_before_their_client_leave_nothing(server, loop):
    run_silent(
        """
        async def main():
            client = await create()
            await client.set(b"lifecycle", b"v")
            pending = [asyncio.create_task(client.get(b"lifecycle")) for _ in range(10)]
            await asyncio.sleep(0)

        def round():
            run(main())
            gc.collect()

        round()
        before = descriptors(), threads()
        for _ in range(50):
            round()
        assert (descriptors(), threads()) == before, (descriptors(), threads(), before)
        """,
        loop,
        server.port,
        warnings="ignore",
    )


@both_loops
def test_clients_that_nobody_closes_leave_nothing(server, loop):
    run_silent(
        """
        async def use():
            client = await create()
            await client.get(b"lifecycle")

        async def settled():
            gc.collect()
            await asyncio.sleep(0.1)
            return descriptors(), threads()

        async def main():
            await use()
            before = await settled()
            for _ in range(50):
                await use()
            assert await settled() == before, before

        run(main())
        """,
        loop,
        server.port,
        warnings="ignore",
    )


# -- a client that is dropped --------------------------------------------------------------------


class Witness:
    """A script that answers, and tells when the connection is gone."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def __call__(self, connection):
        with contextlib.suppress(ConnectionError):
            await answer(connection)
        self.gone.set()


@within(20)
async def test_a_client_dropped_without_close_warns_and_disconnects():
    witness = Witness()
    async with scripted(witness) as server:
        client = await client_of(server)
        await client.get(b"k")
        box = [client]
        del client
        with pytest.warns(ResourceWarning, match=f"unclosed.*127.0.0.1:{server.port}"):
            box.clear()
        await witness.gone.wait()


@within(20)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_client_dropped_where_warnings_are_errors_disconnects():
    witness = Witness()
    async with scripted(witness) as server:
        client = await client_of(server)
        await client.get(b"k")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del client
            gc.collect()
        await witness.gone.wait()


@within(20)
async def test_a_client_dropped_in_a_cycle_disconnects():
    witness = Witness()
    async with scripted(witness) as server:
        client = await client_of(server)
        await client.get(b"k")
        client.itself = client
        del client
        with pytest.warns(ResourceWarning, match="unclosed"):
            gc.collect()
        await witness.gone.wait()


@within(20)
async def test_a_client_dropped_on_another_thread_disconnects():
    witness = Witness()
    async with scripted(witness) as server:
        box = [await client_of(server)]
        await box[0].get(b"k")

        def drop():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                box.clear()
                gc.collect()
            box.extend(str(warning.message) for warning in caught)

        await asyncio.to_thread(drop)
        assert any("unclosed" in message for message in box)
        await witness.gone.wait()
        # The loop's driver is as good as before.
        async with scripted(answer) as other, client_of(other) as client:
            assert (await client.get(b"k")).value == value_of(b"k")


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


@pytest.fixture
def plain_memory(monkeypatch):
    """Without what development mode adds to each block."""
    monkeypatch.setenv("PYTHONMALLOC", "default")


@both_loops
@pytest.mark.usefixtures("plain_memory")
def test_what_sleeps_for_a_pool_ends_with_it(server, loop):
    """Somebody else keeps the driver alive: what is left behind for an hour adds up."""
    run_silent(
        """
from emcache import ConnectionPool, MemcachedHostAddress

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()

def pool_of(**options):
    return ConnectionPool(MemcachedHostAddress("127.0.0.1", port), **options)

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


# -- close ---------------------------------------------------------------------------------------


@within(20)
@pytest.mark.parametrize("command", COMMANDS)
async def test_close_ends_a_call_under_way(command):
    asked = asyncio.Event()

    async def script(connection):
        await connection.line()
        asked.set()
        await hold(connection)

    async with scripted(script) as server:
        client = await client_of(server)
        task = asyncio.ensure_future(COMMANDS[command](client, server.address))
        await asked.wait()
        await client.close()
        with pytest.raises(emcache.ClientClosedError) as caught:
            await task
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value, emcache.EmcacheError)
        with pytest.raises(RuntimeError, match="Emcache client is closed"):
            await COMMANDS[command](client, server.address)


@within(20)
async def test_close_ends_calls_wherever_they_wait():
    async with scripted(hold) as server:
        client = await client_of(server)
        calls = [client.set(b"big", b"x" * 16 * 1024 * 1024)]
        calls += [client.get(b"k") for _ in range(100)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0.1)
        tasks[5].cancel()
        await client.close()
        results = await outcomes(*tasks)
        assert isinstance(results.pop(5), asyncio.CancelledError)
        assert {type(result) for result in results} == {emcache.ClientClosedError}


@within(20)
async def test_close_before_the_first_connection():
    async with scripted(answer) as server:
        client = await client_of(server)
        task = asyncio.ensure_future(client.get(b"k"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(emcache.ClientClosedError):
            await task
        unused = await client_of(server)
        await unused.close()
        assert client.closed
        assert unused.closed


@within(20)
async def test_close_while_a_node_is_down():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = emcache.MemcachedHostAddress(*taken.getsockname())
        client = await emcache.create_client([address], timeout=30)
        task = asyncio.ensure_future(client.get(b"k"))
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises((emcache.ClientClosedError, emcache.NodeUnavailableError)):
            await task


@within(20)
async def test_close_twice(server):
    client = await client_of(server)
    await client.get(b"k")
    assert not client.closed
    await client.close()
    await client.close()
    assert client.closed
    await asyncio.gather(client.close(), client.close())
    with pytest.raises(RuntimeError, match="Emcache client is closed"):
        await client.get_many([])


@within(20)
async def test_close_by_a_task_that_was_just_answered():
    async with scripted(answer) as server:
        client = await client_of(server)

        async def first():
            await client.get(b"a")
            await client.close()

        async def second():
            await client.get(b"b")

        results = await outcomes(first(), second())
        assert results[0] is None
        assert results[1] is None or isinstance(results[1], emcache.ClientClosedError)


@within(20)
async def test_one_of_two_clients_is_closed_while_the_other_works():
    keys = [b"key%d" % number for number in range(200)]
    async with scripted(answer) as server, client_of(server) as kept:
        for _ in range(10):
            other = await client_of(server)
            mine = [asyncio.create_task(kept.get(key)) for key in keys]
            others = [asyncio.create_task(other.get(key)) for key in keys]
            await asyncio.sleep(0.002)
            await other.close()
            items = await asyncio.gather(*mine)
            assert [found.value for found in items] == [value_of(key) for key in keys]
            for key, result in zip(keys, await outcomes(*others), strict=True):
                if isinstance(result, emcache.Item):
                    assert result.value == value_of(key)
                else:
                    assert isinstance(result, emcache.ClientClosedError)


# -- loops and threads ---------------------------------------------------------------------------


@both_loops
def test_a_loop_that_is_closed_with_calls_under_way(silent_port, loop):
    done = run_program(
        """
        async def main():
            client = await create()
            tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]
            tasks += [asyncio.create_task(client.set(b"k", b"v"))]
            await asyncio.sleep(0.05)
            return client, tasks

        kept = run(main())
        del kept
        gc.collect()
        """,
        loop,
        silent_port,
        warnings="always",
    )
    assert done.returncode == 0
    assert "unclosed" in done.stderr
    assert only_resource_warnings(done.stderr), done.stderr


@both_loops
def test_a_loop_that_is_closed_without_cancelling_its_tasks(silent_port, loop):
    done = run_program(
        """
        async def main():
            client = await create()
            tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]
            for task in tasks:
                task._log_destroy_pending = False  # that is asyncio's affair
            await asyncio.sleep(0.05)
            return client, tasks

        loop = new_loop()
        kept = loop.run_until_complete(main())
        loop.close()
        del kept
        gc.collect()
        """,
        loop,
        silent_port,
        warnings="always",
    )
    assert done.returncode == 0
    assert "unclosed" in done.stderr
    assert only_resource_warnings(done.stderr), done.stderr


def only_resource_warnings(text):
    """Each warning has a line of its own, and maybe one of source and where it was allocated."""
    return all(
        "ResourceWarning" in line or line.startswith((" ", "Object allocated at"))
        for line in text.splitlines()
    )


@both_loops
def test_a_client_that_is_never_closed_and_alive_at_exit(server, loop):
    run_silent(
        """
        async def main():
            global client
            client = await create()
            await client.get(b"k")

        run(main())
        """,
        loop,
        server.port,
        warnings="ignore",
    )


@both_loops
def test_two_loops_in_two_threads(server, loop):
    run_silent(
        """
        def value_of(key):
            return key * 3

        async def main(name):
            async with create() as client:
                for number in range(300):
                    keys = [b"%d:%d:%d" % (name, number, n) for n in range(4)]
                    await asyncio.gather(*(client.set(key, value_of(key)) for key in keys))
                    items = await asyncio.gather(*map(client.get, keys))
                    assert [item.value for item in items] == [value_of(key) for key in keys]
            finished.append(name)

        finished = []
        workers = [threading.Thread(target=lambda n=n: run(main(n))) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(finished) == [0, 1]
        """,
        loop,
        server.port,
    )


FOREIGN = """
async def use(client, address):
    for call in (client.get(b"k"), client.set(b"k", b"v"), client.get_many([b"k"]),
                 client.version(address), client.increment(b"n", 1, noreply=True)):
        try:
            await asyncio.wait_for(call, 5)
        except RuntimeError as error:
            assert "loop" in str(error), error
        else:
            raise AssertionError("no RuntimeError")
    try:
        await client.close()
    except RuntimeError:
        pass
    else:
        raise AssertionError("closed by a stranger")

async def main():
    client = await create()
    await client.set(b"lifecycle", b"v")
    return client, client.cluster_managment().nodes()[0]
"""


@both_loops
def test_a_client_used_from_another_loop(server, loop):
    run_silent(
        FOREIGN
        + """
first, second = new_loop(), new_loop()
client, address = first.run_until_complete(main())
second.run_until_complete(use(client, address))
assert first.run_until_complete(client.get(b"lifecycle")).value == b"v"
first.run_until_complete(client.close())
first.close()
second.close()
""",
        loop,
        server.port,
    )


@both_loops
def test_a_client_used_from_another_thread(server, loop):
    run_silent(
        FOREIGN
        + """
errors = []

def foreign(client, address):
    try:
        run(use(client, address))
    except BaseException as error:
        errors.append(error)

async def owner():
    client, address = await main()
    await asyncio.to_thread(foreign, client, address)
    assert not errors, errors
    assert (await client.get(b"lifecycle")).value == b"v"
    await client.close()

run(owner())
""",
        loop,
        server.port,
    )


@both_loops
def test_a_client_used_after_its_loop_was_closed(server, loop):
    run_silent(
        FOREIGN
        + """
client, address = run(main())
async def late():
    try:
        await asyncio.wait_for(client.get(b"lifecycle"), 5)
    except RuntimeError:
        return
    raise AssertionError("no RuntimeError")
run(late())
""",
        loop,
        server.port,
        warnings="ignore",
    )


def test_a_client_outside_of_any_loop(server):
    with pytest.raises(RuntimeError):
        emcache.create_client([server.address]).send(None)


@within(20)
async def test_a_thread_that_uses_the_client_while_it_works():
    """The call is refused on the spot, and does not disturb."""
    async with scripted(answer) as server, client_of(server) as client:
        refused = []

        def intrude():
            coroutine = client.get(b"k")
            try:
                coroutine.send(None)
            except RuntimeError as error:
                refused.append(error)
            finally:
                coroutine.close()

        for _ in range(20):
            calls = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(20)]
            thread = threading.Thread(target=intrude)
            thread.start()
            items = await asyncio.gather(*calls)
            assert [item.value for item in items] == [value_of(b"k%d" % n) for n in range(20)]
            await asyncio.to_thread(thread.join)
        assert len(refused) == 20


@both_loops
def test_threads_that_end_before_their_client_leave_nothing(server, loop):
    run_silent(
        """
        async def main(box):
            box.append(await create())
            await box[0].set(b"lifecycle", b"v")

        def round():
            box = []
            worker = threading.Thread(target=lambda: run(main(box)))
            worker.start()
            worker.join()
            box.clear()
            gc.collect()
            while threads() > 1:  # a thread ends a little after it can be joined
                time.sleep(0.005)

        round()
        before = descriptors(), threads()
        for _ in range(20):
            round()
        assert (descriptors(), threads()) == before, (descriptors(), threads(), before)
        """,
        loop,
        server.port,
        warnings="ignore",
    )


@both_loops
def test_a_thread_that_ends_with_a_client_that_nobody_closes(server, loop):
    run_silent(
        """
        async def main():
            kept.append(await create())
            await kept[-1].get(b"k")

        kept = []
        for _ in range(3):
            worker = threading.Thread(target=lambda: run(main()))
            worker.start()
            worker.join()
        assert len(kept) == 3
        """,
        loop,
        server.port,
        warnings="ignore",
    )


CHILDREN = {
    "ends at once": "",
    "ends as a program does": "sys.exit()",
    "drops the client": """
        del client
        gc.collect()
        """,
    "closes the client": """
        async def close():
            with contextlib.suppress(RuntimeError):
                await client.close()
        run(close())
        """,
    "uses the client": """
        async def refused():
            try:
                await asyncio.wait_for(client.get(b"lifecycle"), 5)
            except RuntimeError:
                return
            raise AssertionError("no RuntimeError")
        run(refused())
        """,
    "has a client of its own": """
        async def own():
            async with create() as mine:
                await mine.set(b"lifecycle:child", b"w")
                assert (await mine.get(b"lifecycle:child")).value == b"w"
        run(own())
        """,
}
FORK = """
async def main():
    client = await create()
    await client.set(b"lifecycle", b"v")
    return client

loop = new_loop()
client = loop.run_until_complete(main())
pid = os.fork()
if pid == 0:
    exec(sys.argv[3])
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0

async def again():
    async with asyncio.timeout(5):
        for _ in range(10):
            assert (await client.get(b"lifecycle")).value == b"v"
    (metrics,) = client.cluster_managment().connection_pool_metrics().values()
    assert metrics.connections_created == 1, metrics
    await client.close()

loop.run_until_complete(again())
loop.close()
"""


@both_loops
@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_a_child_process_leaves_its_parent_alone(server, loop, child):
    run_silent(FORK, loop, server.port, textwrap.dedent(child), warnings="ignore")


# -- the end of the process ----------------------------------------------------------------------

EXITS = {
    "the end of the main thread": """
        async def main():
            client = await create()
            started.set()
            await asyncio.gather(*(client.get(b"k%d" % n) for n in range(10)))

        started = threading.Event()
        threading.Thread(target=lambda: run(main()), daemon=True).start()
        started.wait()
        time.sleep(0.1)
        """,
    "sys.exit in a callback": """
        async def main():
            client = await create()
            asyncio.get_running_loop().call_later(0.05, sys.exit, 0)
            await client.get(b"k")

        run(main())
        """,
    "os._exit": """
        async def main():
            client = await create()
            asyncio.get_running_loop().call_later(0.05, os._exit, 0)
            await client.get(b"k")

        run(main())
        """,
    "the end of main": """
        async def main():
            global client, tasks
            client = await create()
            tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]
            await asyncio.sleep(0.05)

        run(main())
        """,
    "an atexit handler that closes": """
        import atexit

        async def main():
            global client, call
            client = await create()
            call = asyncio.ensure_future(client.get(b"k"))
            await asyncio.sleep(0.05)

        loop = new_loop()
        loop.run_until_complete(main())

        def finish():
            loop.run_until_complete(client.close())
            with contextlib.suppress(emcache.ClientClosedError):
                loop.run_until_complete(call)
            loop.close()

        atexit.register(finish)
        """,
}


@both_loops
@pytest.mark.parametrize("program", EXITS.values(), ids=EXITS)
def test_the_process_ends_with_calls_under_way(silent_port, loop, program):
    run_silent(program, loop, silent_port, warnings="ignore")


@both_loops
def test_an_interrupt_ends_calls_under_way(silent_port, loop):
    done = run_program(
        """
        async def main():
            client = await create()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            await client.get(b"k")

        run(main())
        """,
        loop,
        silent_port,
        warnings="ignore",
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr.strip().endswith("KeyboardInterrupt")
    assert "panic" not in done.stderr


# -- at rest and under load ----------------------------------------------------------------------


def test_an_idle_client_costs_nothing(server):
    """Under both loops at the same time: they only wait."""
    program = """
        async def main():
            async with create(timeout=0.2) as client:
                await asyncio.gather(*(client.get(b"k%d" % n) for n in range(100)))
                await asyncio.sleep(0.5)
                switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
                spent = time.process_time()
                await asyncio.sleep(2)
                switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - switches
                spent = time.process_time() - spent
                # The sleep itself wakes once.
                assert switches < 10, switches
                assert spent < 0.05, spent

        run(main())
        """
    with ThreadPoolExecutor(len(LOOPS)) as threads:
        list(threads.map(lambda loop: run_silent(program, loop, server.port), LOOPS))


@within(40)
@pytest.mark.parametrize("autobatching", [False, True], ids=["one by one", "merged"])
async def test_ten_thousand_gets_at_once(server, autobatching):
    keys = [b"load:%d" % number for number in range(10_000)]
    options = {"max_connections": 2, "autobatching": autobatching}
    async with client_of(server, **options) as client:
        for start in range(0, len(keys), 1000):
            chunk = keys[start : start + 1000]
            await asyncio.gather(*(client.set(key, value_of(key)) for key in chunk))
        items = await asyncio.gather(*map(client.get, keys))
        assert [item.value for item in items] == [value_of(key) for key in keys]
        metrics = client.cluster_managment().connection_pool_metrics()[server.address]
        assert metrics.cur_connections <= 2
        assert metrics.operations_executed_with_error == 0


@within(20)
async def test_more_calls_than_the_queues_take():
    async with scripted(hold) as server:
        client = await client_of(server)
        tasks = [asyncio.ensure_future(client.get(b"k")) for _ in range(70_000)]
        await until(lambda: any(task.done() for task in tasks))
        refused = [task for task in tasks if task.done()]
        for task in refused:
            assert isinstance(task.exception(), emcache.OverloadedError)
        await client.close()
        results = await outcomes(*tasks)
        assert {type(result) for result in results} == {
            emcache.OverloadedError,
            emcache.ClientClosedError,
        }


class Cycle:
    """Garbage that only a collection finds, and that then looks at the client."""

    seen: ClassVar[list[int]] = []

    def __init__(self, client: emcache.Client) -> None:
        self.me = self
        self.client = client

    def __del__(self) -> None:
        (metrics,) = self.client.cluster_managment().connection_pool_metrics().values()
        self.seen.append(metrics.cur_connections)


@within(30)
async def test_a_finalizer_may_use_the_client_whenever_it_runs(server):
    Cycle.seen.clear()
    before = gc.get_threshold()
    async with emcache.create_client([server.address], timeout=30) as client:
        keys = [b"finalizer:%d" % number for number in range(100)]
        await asyncio.gather(*[client.set(key, key) for key in keys])
        # All that pytest has is in no collection's way.
        gc.freeze()
        try:
            # A collection comes after so many allocations: here and there in a call.
            for threshold in range(10, 410, 10):
                gc.collect()
                Cycle(client)
                gc.set_threshold(threshold)
                items = await client.get_many(keys)
                gc.set_threshold(*before)
                assert {key: items[key].value for key in keys} == dict(zip(keys, keys, strict=True))
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()
        gc.collect()
    assert Cycle.seen == [1] * 40


class Closing(tzinfo):
    """Closes the client where an argument with it is read."""

    def __init__(self, client: emcache.Client) -> None:
        self.client = client

    def close(self) -> None:
        # To the end: nothing is under way that it would wait for.
        with contextlib.suppress(StopIteration):
            self.client.close().send(None)

    def utcoffset(self, _moment: datetime | None) -> timedelta:
        self.close()
        return timedelta(0)

    def dst(self, _moment: datetime | None) -> timedelta:
        return timedelta(0)

    def __bool__(self) -> bool:
        self.close()
        return False

    def __iter__(self) -> Iterator[bytes]:
        self.close()
        return iter([b"k"])

    @property
    def later(self) -> datetime:
        return datetime(2037, 1, 1, tzinfo=self)


@within(10)
@pytest.mark.parametrize(
    "call",
    [
        lambda client, closing: client.gat(closing.later, b"k"),
        lambda client, closing: client.gats(closing.later, b"k"),
        lambda client, closing: client.get_many(closing),
        lambda client, closing: client.gat_many(closing.later, [b"k"]),
        lambda client, closing: client.gats_many(closing.later, [b"k"], on_error="partial"),
        lambda client, closing: client.set(b"k", b"v", exptime=closing.later),
        lambda client, closing: client.set(b"k", b"v" * 100_000, exptime=closing.later),
        lambda client, closing: client.cas(b"k", b"v", 1, exptime=closing.later),
        lambda client, closing: client.increment(b"k", 1, initial=1, exptime=closing.later),
        lambda client, closing: client.touch(b"k", closing.later),
        lambda client, closing: client.set_many({b"k": b"v"}, exptime=closing.later),
        lambda client, closing: client.touch_many([b"k"], closing.later),
        lambda client, closing: client.delete_many(closing),
    ],
)
async def test_an_argument_that_closes_the_client(server, call):
    client = await emcache.create_client([server.address], timeout=5)
    with pytest.raises(emcache.ClientClosedError):
        await call(client, Closing(client))
    assert client.closed


class AskedLoop(asyncio.SelectorEventLoop):
    """Closes a client when the core asks whether it runs: a call has its client by then."""

    closing: Closing | None = None

    def is_running(self) -> bool:
        # Once: to close it the core asks again.
        closing, self.closing = self.closing, None
        if closing is not None:
            closing.close()
        return super().is_running()


def test_a_client_that_is_closed_in_the_middle_of_a_call(server):
    async def main(call):
        client = await emcache.create_client([server.address], timeout=5)
        await asyncio.sleep(0)
        asyncio.get_running_loop().closing = Closing(client)
        # What the driver was asked for after its end, and no callback of the loop can bring.
        with pytest.raises(emcache.ClientClosedError):
            async with asyncio.timeout(5):
                await call(client)
        assert client.closed

    with asyncio.Runner(loop_factory=AskedLoop) as runner:
        runner.run(main(lambda client: client.get(b"k")))
        runner.run(main(lambda client: client.touch(b"k", 1)))


class ClosingCycle(Closing):
    """Closes the client when it is collected."""

    def __init__(self, client: emcache.Client) -> None:
        super().__init__(client)
        self.itself = self

    def __del__(self) -> None:
        self.close()


FEW = [b"finalizer:%d" % number for number in range(50)]


@within(30)
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get(FEW[0]),
        lambda client: client.get_many(FEW),
        lambda client: client.touch(FEW[0], 1),
        lambda client: client.set_many(dict.fromkeys(FEW, b"v")),
        lambda client: client.delete_many(FEW, noreply=True),
        lambda client: client.increment(FEW[0], 1, initial=1),
    ],
    ids=["get", "get_many", "touch", "set_many", "delete_many", "increment"],
)
async def test_a_finalizer_may_close_the_client_whenever_it_runs(server, call):
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    try:
        # After so many allocations: anywhere in the call.
        for threshold in range(1, 30):
            client = await emcache.create_client([server.address], timeout=5)
            gc.collect()
            ClosingCycle(client)
            gc.set_threshold(threshold)
            (outcome,) = await outcomes(call(client))
            gc.set_threshold(*before)
            if isinstance(outcome, BaseException):
                # Or what the server says, if nothing was collected meanwhile.
                answers = (emcache.ClientClosedError, emcache.NotFoundCommandError)
                assert isinstance(outcome, answers)
            gc.collect()
            assert client.closed
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@within(30)
@pytest.mark.parametrize("warm", [False, True])
async def test_close_does_not_lose_what_nobody_waits_for(server, warm):
    keys = [b"noreply:%d:%d" % (warm, number) for number in range(50)]
    async with emcache.create_client([server.address], timeout=10) as client:
        if warm:
            await client.get(keys[0])
        for key in keys:
            await client.set(key, key, noreply=True)
    async with emcache.create_client([server.address], timeout=10) as client:
        assert set(await client.get_many(keys)) == set(keys)
        for key in keys:
            await client.delete(key)


@within(30)
async def test_a_close_that_is_cancelled_closes_all_the_same():
    async with scripted(hold) as server:
        client = await emcache.create_client([server.address], timeout=20)
        await client.set(b"k", b"v", noreply=True)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert client.closed
