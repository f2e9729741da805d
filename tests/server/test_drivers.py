"""What drives the core: the loop itself, or a thread where the loop cannot."""

import asyncio
import contextvars
import errno
import gc
import logging
import socket
from pathlib import Path

import pytest

import emcache
from support.calls import COMMANDS, client_of, outcomes, within
from support.isolated import run_program, run_silent
from support.oracle import answer, value_of
from support.scripted import hold, scripted

LOOPS = ["asyncio", "uvloop"]
DRIVERS = ["loop", "thread"]
both_loops = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture(params=DRIVERS)
def driver(request, monkeypatch):
    """Forced, whatever the whole run is made with: for loops and programs that begin after it."""
    monkeypatch.setenv("EMCACHE_DRIVER", request.param)
    return request.param


@pytest.fixture
def thread(monkeypatch):
    monkeypatch.setenv("EMCACHE_DRIVER", "thread")


@pytest.fixture
def silent_port():
    """A port where connections are taken and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Unwatchable(asyncio.SelectorEventLoop):
    """As those of Windows, and of some frameworks: descriptors cannot be watched."""

    refusal: BaseException = NotImplementedError("not by this loop")

    def add_reader(self, fd, callback, *args):
        raise self.refusal


def run_unwatchable(main):
    with asyncio.Runner(loop_factory=Unwatchable) as runner:
        return runner.run(main)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


# -- which one -----------------------------------------------------------------------------------


@within(20)
async def test_it_can_be_forced(driver):
    async with scripted(answer) as server:
        async with client_of(server) as client:
            assert client._core.driver == driver
            assert (await client.get(b"k")).value == value_of(b"k")
        pool = emcache.ConnectionPool(server.address)
        assert pool._core.driver == driver
        await pool.close()


@within(20)
@pytest.mark.parametrize("value", [None, ""])
async def test_it_is_the_loop_where_that_works(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)
    else:
        monkeypatch.setenv("EMCACHE_DRIVER", value)
    async with scripted(answer) as server, client_of(server) as client:
        assert client._core.driver == "loop"


@within(20)
@pytest.mark.parametrize("value", ["Loop", "thread ", "threads", "auto", "1", "\udcff"], ids=ascii)
async def test_anything_else_is_refused(monkeypatch, value):
    async with scripted(answer) as server:
        monkeypatch.setenv("EMCACHE_DRIVER", value)
        with pytest.raises(ValueError, match="EMCACHE_DRIVER"):
            async with client_of(server):
                pass
        with pytest.raises(ValueError, match="EMCACHE_DRIVER"):
            emcache.ConnectionPool(server.address)
        # A loop is not spoiled by that.
        monkeypatch.delenv("EMCACHE_DRIVER")
        async with client_of(server) as client:
            assert (await client.get(b"k")).value == value_of(b"k")


@within(20)
async def test_a_loop_keeps_it_while_it_has_clients(monkeypatch, driver):
    other = DRIVERS[1 - DRIVERS.index(driver)]
    async with scripted(answer) as server:
        async with client_of(server) as first:
            monkeypatch.setenv("EMCACHE_DRIVER", other)
            async with client_of(server) as second:
                assert first._core.driver == second._core.driver == driver
                for client in (first, second):
                    assert (await client.get(b"k")).value == value_of(b"k")
        async with client_of(server) as client:
            assert client._core.driver == other
            assert (await client.get(b"k")).value == value_of(b"k")


class TestUnwatchable:
    def test_the_thread_steps_in(self, server, monkeypatch, caplog):
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)
        caplog.set_level(logging.INFO, "emcache")

        async def main():
            async with emcache.create_client([server.address], timeout=10) as client:
                assert client._core.driver == "thread"
                keys = [b"unwatchable:%d" % number for number in range(100)]
                await asyncio.gather(*(client.set(key, value_of(key)) for key in keys))
                items = await asyncio.gather(*map(client.get, keys))
                assert [found.value for found in items] == [value_of(key) for key in keys]
                assert len(await client.get_many(keys)) == len(keys)
                async with emcache.create_client([server.address]) as second:
                    await second.get(keys[0])
            pool = emcache.ConnectionPool(server.address)
            async with pool.create_connection_context() as connection:
                assert await connection.delete_command(keys[0], False) == b"DELETED"
            await pool.close()

        run_unwatchable(main())
        records = [record for record in caplog.records if record.name.startswith("emcache")]
        assert {(record.name, record.levelno) for record in records} == {("emcache", logging.INFO)}
        assert "not by this loop" in records[0].getMessage()
        # Once for each time that the loop gets its first client.
        assert len(records) == 2

    @pytest.mark.parametrize(
        "refusal",
        [
            RuntimeError("not by this loop"),
            AttributeError("'Loop' object has no attribute '_selector'"),
            ValueError("filedescriptor out of range in select()"),
            TypeError("add_reader() takes 2 positional arguments"),
            KeyError("fd"),
            OSError("not by this loop"),
            PermissionError(errno.EPERM, "Operation not permitted"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_however_the_loop_refuses(self, server, monkeypatch, caplog, refusal):
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)
        monkeypatch.setattr(Unwatchable, "refusal", refusal)
        caplog.set_level(logging.INFO, "emcache")

        async def main():
            async with emcache.create_client([server.address], timeout=10) as client:
                assert client._core.driver == "thread"
                await client.set(b"unwatchable", b"v")
                assert (await client.get(b"unwatchable")).value == b"v"

        run_unwatchable(main())
        told = [record.getMessage() for record in caplog.records]
        assert any(str(refusal) in line for line in told if "using a thread" in line)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EMFILE, "Too many open files"),
            OSError(errno.ENFILE, "Too many open files in system"),
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            OSError(errno.ENOSPC, "No space left on device"),
            MemoryError(),
            asyncio.CancelledError(),
        ],
        ids=repr,
    )
    def test_what_the_system_lacks_is_no_refusal(self, server, monkeypatch, caplog, error):
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)
        monkeypatch.setattr(Unwatchable, "refusal", error)
        caplog.set_level(logging.INFO, "emcache")

        async def main():
            with pytest.raises(type(error)) as raised:
                await emcache.create_client([server.address])
            assert raised.value is error

        run_unwatchable(main())
        assert not [record for record in caplog.records if "using a thread" in record.getMessage()]

    def test_it_can_be_forced_too(self, server, monkeypatch, caplog):
        monkeypatch.setenv("EMCACHE_DRIVER", "thread")
        caplog.set_level(logging.INFO, "emcache")

        async def main():
            async with emcache.create_client([server.address]) as client:
                assert client._core.driver == "thread"
                await client.get(b"k")

        run_unwatchable(main())
        assert [record for record in caplog.records if record.name.startswith("emcache")] == []

    def test_the_loop_cannot_be_forced(self, server, monkeypatch):
        monkeypatch.setenv("EMCACHE_DRIVER", "loop")

        async def main():
            with pytest.raises(NotImplementedError, match="not by this loop"):
                await emcache.create_client([server.address])
            with pytest.raises(NotImplementedError, match="not by this loop"):
                emcache.ConnectionPool(server.address)

        run_unwatchable(main())
        gc.collect()
        before = descriptors()
        for _ in range(20):
            run_unwatchable(main())
        gc.collect()
        assert descriptors() == before

    def test_again_and_again(self, server, monkeypatch):
        monkeypatch.delenv("EMCACHE_DRIVER", raising=False)

        async def main():
            async with emcache.create_client([server.address], timeout=10) as client:
                await client.get(b"k")

        run_unwatchable(main())
        before = descriptors()
        for _ in range(50):
            run_unwatchable(main())
        assert descriptors() == before


# -- whichever it is -----------------------------------------------------------------------------


@within(20)
@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command(driver, command):
    async with scripted(answer) as server, client_of(server) as client:
        await COMMANDS[command](client, server.address)


@within(30)
async def test_many_clients(driver):
    async with scripted(answer) as server:
        clients = [await client_of(server, max_connections=2) for _ in range(50)]
        assert {client._core.driver for client in clients} == {driver}

        async def use(number, client):
            keys = [b"%d:%d" % (number, n) for n in range(20)]
            items = await asyncio.gather(*map(client.get, keys))
            assert [found.value for found in items] == [value_of(key) for key in keys]
            found = await client.get_many(keys)
            assert {key: item.value for key, item in found.items()} == {
                key: value_of(key) for key in keys
            }

        await asyncio.gather(*(use(number, client) for number, client in enumerate(clients)))
        for client in clients[::2]:
            await client.close()
        for number, client in enumerate(clients):
            if client.closed:
                with pytest.raises(emcache.ClientClosedError):
                    await client.get(b"k")
            else:
                await use(number, client)
        for client in clients:
            await client.close()


@within(20)
async def test_timeouts_and_cancellations(driver):
    async with scripted(hold) as server, client_of(server, timeout=0.2) as client:
        tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks[::2]:
            task.cancel()
        results = await outcomes(*tasks)
        assert {type(result) for result in results[::2]} == {asyncio.CancelledError}
        assert {type(result) for result in results[1::2]} == {emcache.OperationTimeoutError}


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


@within(20)
async def test_each_task_keeps_its_context(driver):
    """Also where one wake-up of the loop is for all of them."""
    VARIABLE.set("test")
    async with scripted(answer) as server, client_of(server) as client:

        async def nested():
            await client.get(b"nested")
            return VARIABLE.get()

        async def work(name):
            assert VARIABLE.get() == "test"
            VARIABLE.set(name)
            for number in range(5):
                await client.get(b"%d" % number)
                assert VARIABLE.get() == name
                await client.set(b"k", b"v", noreply=True)
                await asyncio.sleep(0)
                assert VARIABLE.get() == name
            assert await asyncio.create_task(nested()) == name
            seen = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: seen.set_result(VARIABLE.get()))
            assert await seen == name

        await asyncio.gather(*(work(f"task {number}") for number in range(50)))
        assert VARIABLE.get() == "test"


EXITS = {
    # The interpreter ends threads where they wait for its lock, which may be in a turn of ours.
    "a thread that works until the end": """
        class Slow:
            # Modules may be cleared by then.
            def __del__(self, sleep=time.sleep):
                sleep(0.2)

        async def main():
            client = await create()
            started.set()
            while True:
                await client.get(b"k")
                time.sleep(0.002)  # lets go of the lock, as writing a log does

        started = threading.Event()
        threading.Thread(target=lambda: run(main()), daemon=True).start()
        started.wait()
        time.sleep(0.1)
        slow = Slow()
        """,
    "sys.exit in a callback": """
        async def main():
            client = await create()
            asyncio.get_running_loop().call_later(0.05, sys.exit, 0)
            while True:
                await asyncio.gather(*(client.get(b"k%d" % n) for n in range(10)))

        run(main())
        """,
    "the end of main": """
        async def main():
            global client, tasks
            client = await create()
            tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]

        run(main())
        """,
    "a loop that is not closed": """
        async def main():
            global client, tasks
            client = await create()
            tasks = [asyncio.create_task(client.get(b"k%d" % n)) for n in range(10)]
            for task in tasks:
                task._log_destroy_pending = False  # that is asyncio's affair
            await asyncio.sleep(0)

        loop = new_loop()
        loop.run_until_complete(main())
        """,
    "a pool with a connection held": """
        async def main():
            global pool, context, connection
            pool = emcache.ConnectionPool(emcache.MemcachedHostAddress("127.0.0.1", port))
            context = pool.create_connection_context()
            connection = await context.__aenter__()

        run(main())
        """,
}


@both_loops
@pytest.mark.parametrize("program", EXITS.values(), ids=EXITS)
def test_exit_with_calls_under_way(server, driver, loop, program):
    run_silent(program, loop, server.port, warnings="ignore")


@both_loops
@pytest.mark.parametrize("program", list(EXITS.values())[:4], ids=list(EXITS)[:4])
def test_exit_with_calls_that_nobody_answers(silent_port, driver, loop, program):
    run_silent(program, loop, silent_port, warnings="ignore")


@both_loops
def test_an_interrupt(silent_port, driver, loop):
    done = run_program(
        """
        async def main():
            client = await create()
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            await client.get(b"k")

        run(main())
        """,
        loop,
        silent_port,
        warnings="ignore",
    )
    assert done.stderr.strip().endswith("KeyboardInterrupt")
    assert "panic" not in done.stderr


@both_loops
def test_a_thousand_clients_leave_nothing(server, driver, loop):
    run_silent(
        """
        async def once():
            async with create() as client:
                await client.set(b"drivers", b"v")
                assert (await client.get(b"drivers")).value == b"v"

        async def main():
            for _ in range(10):
                await once()
            before = descriptors()
            for _ in range(1000):
                await once()
            # Helpers of the thread live for a second after their last work.
            deadline = time.monotonic() + 3
            while (descriptors(), threads()) != (before, at_first):
                assert time.monotonic() < deadline, (descriptors(), before, threads())
                await asyncio.sleep(0.02)

        at_first = threads()
        run(main())
        """,
        loop,
        server.port,
    )


# -- the thread ----------------------------------------------------------------------------------

NAMES = """
def ours():
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as comm:
            names.append(comm.read().strip())
    return names.count("emcache")

async def become(count):
    # A thread has the name of the one that started it until it gives itself its own, and is
    # listed for a moment after it was joined.
    async with asyncio.timeout(10):
        while ours() != count:
            await asyncio.sleep(0.001)

async def ended():
    await become(0)
"""


@both_loops
def test_the_thread_lives_as_long_as_there_are_clients(server, thread, loop):
    run_silent(
        NAMES
        + """
async def main():
    await become(0)
    for _ in range(3):
        first = await create()
        await become(1)
        second = await create()
        pool = emcache.ConnectionPool(emcache.MemcachedHostAddress("127.0.0.1", port))
        await asyncio.gather(first.get(b"k"), second.get(b"k"))
        await become(1)
        await first.close()
        await second.get(b"k")
        await second.close()
        async with pool.create_connection_context() as connection:
            await connection.version_command()
        await become(1)
        await pool.close()
        await ended()

for _ in range(3):
    run(main())
""",
        loop,
        server.port,
    )


@both_loops
def test_the_thread_ends_with_clients_that_nobody_closes(server, thread, loop):
    run_silent(
        NAMES
        + """
async def use():
    client = await create()
    await client.get(b"k")
    await become(1)

async def main():
    await use()
    gc.collect()
    await ended()

async def leave():
    kept.append(await create())
    await kept[0].get(b"k")

kept = []
run(main())
# A loop that ends before its client: the next one that comes by sees to it.
run(leave())
kept.clear()
gc.collect()
run(main())
""",
        loop,
        server.port,
        warnings="ignore",
    )


@both_loops
def test_the_loop_needs_no_thread(server, monkeypatch, loop):
    monkeypatch.setenv("EMCACHE_DRIVER", "loop")
    run_silent(
        """
        async def main():
            async with create() as client:
                await client.get(b"k")
                assert threads() == at_first

        at_first = threads()
        run(main())
        """,
        loop,
        server.port,
    )


@both_loops
def test_two_loops_in_two_threads_share_one(server, thread, loop):
    run_silent(
        NAMES
        + """
async def main(name):
    async with create() as client:
        both.wait()
        await become(1)
        for number in range(100):
            keys = [b"%d:%d:%d" % (name, number, n) for n in range(4)]
            await asyncio.gather(*(client.set(key, key * 3) for key in keys))
            items = await asyncio.gather(*map(client.get, keys))
            assert [item.value for item in items] == [key * 3 for key in keys]
        both.wait()
        if name == 0:
            await client.close()
        both.wait()
        # It stays for who still needs it.
        if name == 1:
            await become(1)
            assert (await client.get(keys[0])).value == keys[0] * 3
    finished.append(name)

finished = []
both = threading.Barrier(2, timeout=20)
workers = [threading.Thread(target=lambda n=n: run(main(n))) for n in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert sorted(finished) == [0, 1]
run(ended())
""",
        loop,
        server.port,
    )


@both_loops
def test_loops_with_different_drivers(server, loop):
    run_silent(
        NAMES
        + """
async def main(driver):
    os.environ["EMCACHE_DRIVER"] = driver
    client = await create()
    assert client._core.driver == driver
    return client

async def use(client):
    for number in range(50):
        key = b"drivers:%d" % number
        await client.set(key, key)
        assert (await client.get(key)).value == key
    await client.close()

loops = [new_loop(), new_loop()]
clients = [
    loop.run_until_complete(main(driver))
    for loop, driver in zip(loops, ("loop", "thread"), strict=True)
]
loops[1].run_until_complete(become(1))
for loop, client in zip(loops, clients, strict=True):
    loop.run_until_complete(use(client))
for loop in loops:
    loop.close()
run(ended())
""",
        loop,
        server.port,
    )


@both_loops
def test_a_busy_loop_is_waited_for(server, thread, loop):
    """Answers that come while the loop is at something else, or not running, are kept for it."""
    run_silent(
        """
        async def main():
            client = await create()
            await client.set(b"drivers", b"v")
            tasks = [asyncio.create_task(client.get(b"drivers")) for _ in range(20)]
            await asyncio.sleep(0)
            time.sleep(0.1)
            return client, tasks

        async def rest(client, tasks):
            assert {item.value for item in await asyncio.gather(*tasks)} == {b"v"}
            await client.close()

        loop = new_loop()
        client, tasks = loop.run_until_complete(main())
        time.sleep(0.1)
        loop.run_until_complete(rest(client, tasks))
        loop.close()
        """,
        loop,
        server.port,
    )


@both_loops
def test_a_child_process_has_a_thread_of_its_own(server, thread, loop):
    run_silent(
        NAMES
        + """
async def main():
    client = await create()
    await client.set(b"drivers", b"v")
    return client

async def own(number):
    async with create() as mine:
        assert mine._core.driver == "thread"
        await become(1)
        assert (await mine.get(b"drivers")).value == b"v"
    await ended()
    try:
        await asyncio.wait_for(client.get(b"drivers"), 5)
    except RuntimeError:
        return
    raise AssertionError("no RuntimeError")

loop = new_loop()
client = loop.run_until_complete(main())
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        for number in range(3):
            run(own(number))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

async def again():
    async with asyncio.timeout(10):
        for _ in range(10):
            assert (await client.get(b"drivers")).value == b"v"
    await become(1)
    await client.close()
    await ended()

loop.run_until_complete(again())
loop.close()
""",
        loop,
        server.port,
        warnings="ignore",
    )
