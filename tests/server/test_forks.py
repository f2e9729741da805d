"""A process that forks while the client works: the child touches nothing of its parent's."""

import os

import pytest

from support.isolated import run_silent

#: With uvloop and the thread driver these programs hang after a fork in a callback. The child may
#: take a wake-up that `call_soon_threadsafe` sent to the parent; that cause is not confirmed.
LOOPS = ["asyncio"] if os.environ.get("EMCACHE_DRIVER") == "thread" else ["asyncio", "uvloop"]
both_loops = pytest.mark.parametrize("loop", LOOPS)

#: A peer in a thread, which keeps what it is asked. Answers name their question, so that one that
#: reaches another caller shows.
PEER = """
import socket
lines = []
answers_decr = threading.Event()

def serve(connection):
    with connection, connection.makefile("rb") as requests:
        for number, line in enumerate(requests):
            words = line.split()
            lines.append(line.strip())
            if words[0] == b"decr":
                answers_decr.wait()
            if words[0] in (b"incr", b"decr"):
                connection.sendall(b"%d\\r\\n" % (int(words[2]) * 100_000 + number))
            elif words[0] == b"set":
                requests.readline()
                connection.sendall(b"STORED\\r\\n")
            elif words[0] in (b"get", b"gets"):
                for key in words[1:]:
                    connection.sendall(b"VALUE %b 0 %d\\r\\n%b\\r\\n" % (key, len(key), key))
                connection.sendall(b"END\\r\\n")
            else:
                connection.sendall(b"OK\\r\\n")

def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
threading.Thread(target=accept, args=(listener,), daemon=True).start()
parent = os.getpid()

def is_child():
    return os.getpid() != parent

def fork():
    loop = asyncio._get_running_loop()
    task = loop and asyncio.current_task(loop)
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
    elif sys.version_info >= (3, 14):
        # Otherwise the child cannot leave its task, the loop drops a SystemExit, and it goes on.
        asyncio._set_running_loop(loop)
        if task:
            asyncio.tasks._swap_current_task(loop, task)
    return pid == 0

def asked(command):
    return [line for line in lines if line.startswith(command)]
"""

IN_A_TASK = """
async def main():
    loop = asyncio.get_running_loop()
    client = await create(max_connections=1)
    await client.get(b"warm")

    async def count(i):
        assert (await client.get(b"a%d" % i)).value == b"a%d" % i
        return [await client.increment(b"c", n) // 100_000 == n for n in (i, 100 + i)]

    async def forks():
        await client.get(b"z")
        if fork():
            end = sys.argv[3]
            if end == "sys.exit":
                sys.exit(0)
            if end == "os._exit":
                os._exit(0)
            if end == "raises":
                raise ValueError
            if end == "is interrupted":
                raise KeyboardInterrupt

    tasks = [count(1), count(2), forks(), count(3), count(4)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    if is_child():
        # Their calls are the parent's: they fail instead of waiting for ever.
        del results[2]
        assert all(isinstance(result, RuntimeError) for result in results), results
        assert all("fork" in str(result) for result in results), results
        return
    del results[2]
    assert results == [[True, True]] * 4, results
    assert (await client.get(b"after")).value == b"after"
    (metrics,) = client.cluster_managment().connection_pool_metrics().values()
    assert metrics.connections_created == 1, metrics
    await client.close()

loop = new_loop()
try:
    loop.run_until_complete(main())
except (SystemExit, KeyboardInterrupt):
    assert is_child()
if is_child():
    # What asyncio does at the end is done to the parent's epoll instance too.
    gc.collect()
    os._exit(0)
loop.close()
increments = asked(b"incr")
assert len(increments) == len(set(increments)) == 8, increments
assert len(asked(b"get after")) == 1
"""


@both_loops
@pytest.mark.parametrize("end", ["sys.exit", "os._exit", "raises", "is interrupted", "returns"])
def test_a_task_that_was_just_woken_forks(loop, end):
    run_silent(PEER + IN_A_TASK, loop, 0, end, warnings="ignore")


IN_A_FINALIZER = """
class Forks:
    def __init__(self):
        self.itself = self

    def __del__(self):
        # A thread of the peer may be the one that collects.
        if threading.current_thread() is threading.main_thread():
            done.append(fork())

done = []

async def main():
    client = await create(max_connections=1)
    await client.get(b"warm")
    calls = {
        "get": lambda key: client.get(key),
        "set": lambda key: client.set(key, b"v"),
        "get_many": lambda key: client.get_many([key]),
        "increment": lambda key: client.increment(key, 1),
    }
    gc.freeze()
    for threshold in range(1, 25):
        for name, call in calls.items():
            key = b"k%d-%s" % (threshold, name.encode())
            Forks()
            # A collection comes after so many allocations: here and there in the call.
            gc.set_threshold(threshold)
            try:
                await call(key)
            except RuntimeError as error:
                assert is_child() and "fork" in str(error)
            finally:
                gc.set_threshold(0)
            gc.collect()
            if is_child():
                os._exit(0)
    await client.close()

gc.set_threshold(0)
loop = new_loop()
loop.run_until_complete(main())
loop.close()
assert len(done) > 24 * 2, len(done)
keys = [word for line in lines for word in line.split() if word.startswith(b"k")]
assert len(keys) == len(set(keys)) == 24 * 4, keys
"""


@both_loops
def test_a_finalizer_forks_in_the_middle_of_a_call(loop):
    """Wherever it is run by a garbage collection: the child continues there, and sends nothing."""
    run_silent(PEER + IN_A_FINALIZER, loop, 0, warnings="ignore")


IN_A_CALLBACK = """
told = []

def changed(healthy):
    told.append(healthy)
    if healthy and fork():
        sys.exit(0)

async def main():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = emcache.MemcachedHostAddress(*taken.getsockname())
    pool = emcache.ConnectionPool(address, min_connections=1, on_healthy_status_change_cb=changed)
    while not told:
        await asyncio.sleep(0.01)
    again = socket.create_server((address.address, address.port))
    threading.Thread(target=accept, args=(again,), daemon=True).start()
    while len(told) < 2:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20), pool.create_connection_context() as connection:
        await connection.incr_decr_command(b"incr", b"c", 7, False)
    await pool.close()

loop = new_loop()
try:
    loop.run_until_complete(main())
except SystemExit:
    assert is_child()
if is_child():
    gc.collect()
    os._exit(0)
loop.close()
assert told == [False, True], told
assert asked(b"incr") == [b"incr c 7"]
"""


@both_loops
def test_a_callback_about_a_node_forks(loop):
    run_silent(PEER + IN_A_CALLBACK, loop, 0, warnings="ignore")


CHECKED_OUT = """
async def main():
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    pool = emcache.ConnectionPool(address, max_connections=2)

    async def count(i):
        async with pool.create_connection_context() as connection:
            answers = []
            for number in (i, 100 + i, 200 + i):
                answers.append(await connection.incr_decr_command(b"incr", b"c", number))
                if number == 101 and fork():
                    sys.exit(0)
        return [int(answer) // 100_000 for answer in answers] == [i, 100 + i, 200 + i]

    assert await asyncio.gather(*map(count, range(1, 5))) == [True] * 4
    await pool.close()

loop = new_loop()
try:
    loop.run_until_complete(main())
except SystemExit:
    assert is_child()
if is_child():
    gc.collect()
    os._exit(0)
loop.close()
assert len(asked(b"incr")) == len(set(asked(b"incr"))) == 12
"""


@both_loops
def test_the_holder_of_a_connection_forks(loop):
    run_silent(PEER + CHECKED_OUT, loop, 0, warnings="ignore")


AT_EXIT = """
async def main():
    client = await create(max_connections=1)
    await client.get(b"warm")

    async def forks():
        await client.get(b"z")
        return fork()

    others = [asyncio.create_task(client.increment(b"c", n)) for n in range(1, 5)]
    is_child = await forks()
    if not is_child:
        assert [await other // 100_000 for other in others] == [1, 2, 3, 4]
        await client.close()
    return client

loop = new_loop()
client = loop.run_until_complete(main())
if not is_child():
    loop.close()
    assert len(asked(b"incr")) == len(set(asked(b"incr"))) == 4
# The child ends as programs do: with exit handlers and the end of all that is alive.
"""


@both_loops
def test_a_child_that_ends_as_programs_do(loop):
    run_silent(PEER + AT_EXIT, loop, 0, warnings="ignore")


BETWEEN_RUNS = """
async def begin():
    client = await create(max_connections=1)
    await client.get(b"warm")
    calls = [asyncio.create_task(client.decrement(b"c", n)) for n in range(1, 5)]
    await asyncio.sleep(0)
    return client, calls

async def end(client, calls):
    results = await asyncio.gather(*calls, return_exceptions=True)
    if is_child():
        assert all(isinstance(result, RuntimeError) for result in results), results
        assert all("fork" in str(result) for result in results), results
    else:
        assert [result // 100_000 for result in results] == [1, 2, 3, 4]
        await client.close()

loop = new_loop()
client, calls = loop.run_until_complete(begin())
fork()
answers_decr.set()
loop.run_until_complete(asyncio.wait_for(end(client, calls), 20))
if is_child():
    os._exit(0)
loop.close()
assert len(asked(b"decr")) == len(set(asked(b"decr"))) == 4
"""


@both_loops
def test_a_loop_that_is_run_again_in_the_child(loop):
    run_silent(PEER + BETWEEN_RUNS, loop, 0, warnings="ignore")
