"""Clients for several loops, and a loop for programs that have none."""

import asyncio
import concurrent.futures
import contextvars
import gc
import signal
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

import emcache
from emcache._memcached.addresses import parse_address, parse_nodes
from emcache._memcached.keys import safe_key
from emcache._memcached.times import ttl_to_exptime
from emcache.cache._keys import Keys
from emcache.contrib.loops import BackgroundLoop, ClientPerLoop
from support.isolated import run_program, run_silent

pytestmark = pytest.mark.filterwarnings("error")


def kind(value):
    return type(value).__name__


@pytest.fixture
def clients(server):
    return ClientPerLoop(lambda: emcache.create_client([server.address], timeout=30))


@pytest.fixture
def background():
    background = BackgroundLoop()
    yield background
    background.close()


async def test_one_client_for_a_loop(clients):
    first, second = await asyncio.gather(clients.get(), clients.get())
    assert first is second
    await clients.close()
    assert first.closed
    third = await clients.get()
    assert third is not first
    assert not third.closed


async def test_a_client_that_somebody_closed_is_replaced(clients):
    first = await clients.get()
    await first.close()
    second, third = await asyncio.gather(clients.get(), clients.get())
    assert second is third is await clients.get()
    assert not second.closed
    await clients.close()


def test_a_client_ends_with_its_loop(clients, key):
    async def use():
        client = await clients.get()
        await client.set(key, b"v")
        return client

    first, second = asyncio.run(use()), asyncio.run(use())
    assert first is not second
    assert first.closed
    assert second.closed
    assert not clients._entries


def test_a_loop_that_is_just_closed_is_forgotten(clients):
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(clients.get())
    loop.close()
    asyncio.run(clients.get())
    assert client.closed
    assert not clients._entries


async def test_clients_that_nobody_holds_are_closed(server):
    clients = ClientPerLoop(lambda: emcache.create_client([server.address], timeout=30))
    client = await clients.get()
    del clients
    gc.collect()
    async with asyncio.timeout(5):
        while not client.closed:
            await asyncio.sleep(0.001)


async def test_asked_while_another_is_creating(server):
    begun, go, made = asyncio.Event(), asyncio.Event(), []

    async def create():
        made.append(begun.set())
        await go.wait()
        return await emcache.create_client([server.address], timeout=30)

    clients = ClientPerLoop(create)
    one, two = (asyncio.create_task(clients.get()) for _ in range(2))
    await begun.wait()
    one.cancel()
    await asyncio.wait([one])
    go.set()
    assert await two is await clients.get()
    assert len(made) == 2
    await clients.close()


async def test_who_waits_for_what_fails_fails_with_it(server):
    made = []

    async def create():
        made.append(1)
        await asyncio.sleep(0.01)
        if len(made) == 1:
            raise emcache.DiscoveryError("no list")
        return await emcache.create_client([server.address], timeout=30)

    clients = ClientPerLoop(create)
    results = await asyncio.gather(*(clients.get() for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {emcache.DiscoveryError}
    assert not (await clients.get()).closed
    assert len(made) == 2
    await clients.close()


async def test_creating_that_fails_is_tried_again(server):
    nodes = []
    clients = ClientPerLoop(lambda: emcache.create_client(nodes))
    with pytest.raises(ValueError, match="At least one"):
        await clients.get()
    nodes.append(server.address)
    assert not (await clients.get()).closed
    await clients.close()


def test_many_threads_share_the_background_loop(background, clients, key):
    async def count():
        return await (await clients.get()).increment(key, 1)

    async def start():
        await (await clients.get()).set(key, b"0")

    background.run(start())
    threads = [threading.Thread(target=lambda: background.run(count())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert background.run(count()) == 17


def test_the_background_loop_ends_and_begins(background, clients):
    first = background.run(clients.get())
    background.close()
    background.close()
    assert first.closed
    assert not background.run(clients.get()).closed


def waiting_for_ever(background):
    """A thread to start that waits for ever in the loop; when it does; what it raised."""
    begun, ended = threading.Event(), []

    async def for_ever():
        begun.set()
        await asyncio.Event().wait()

    def wait():
        try:
            background.run(for_ever())
        except BaseException as error:
            ended.append(error)

    return threading.Thread(target=wait, daemon=True), begun, ended


def test_what_waits_when_the_background_loop_is_closed(background):
    thread, begun, ended = waiting_for_ever(background)
    thread.start()
    assert begun.wait(5)
    background.close()
    thread.join(5)
    assert [type(error).__name__ for error in ended] == ["CancelledError"]


def test_run_in_the_background_loop_itself_is_refused(background):
    async def again():
        background.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="use await"):
        background.run(again())


async def waits():
    await asyncio.sleep(0)


@pytest.mark.driver_independent
@pytest.mark.parametrize("wrong", [5, None, waits, concurrent.futures.Future()], ids=kind)
def test_what_is_no_coroutine(background, wrong):
    with pytest.raises(TypeError, match=f"needs a coroutine, not {kind(wrong)}$"):
        background.run(wrong)


@pytest.mark.driver_independent
def test_a_client_of_each_loop_needs_a_function():
    with pytest.raises(TypeError, match=r"create must be a function.* not tuple"):
        ClientPerLoop(())


async def test_what_makes_no_client():
    async def five():
        return 5

    with pytest.raises(TypeError, match=r"create must return an emcache\.Client, not int"):
        await ClientPerLoop(five).get()


@pytest.mark.driver_independent
def test_errors_come_through(background):
    async def fail(error):
        raise error

    with pytest.raises(KeyError):
        background.run(fail(KeyError("k")))
    thread = background._thread
    with pytest.raises(SystemExit):
        background.run(fail(SystemExit(3)))
    with pytest.raises(concurrent.futures.CancelledError):
        background.run(fail(asyncio.CancelledError()))
    assert background._thread is thread
    assert not background._calls


@pytest.mark.driver_independent
def test_the_context_of_the_caller_is_that_of_the_coroutine(background):
    variable = contextvars.ContextVar("variable", default="outside")
    variable.set("inside")

    async def look():
        return variable.get()

    assert background.run(look()) == "inside"


@pytest.mark.driver_independent
def test_a_task_that_cannot_be_made(background):
    async def refuse():
        def factory(loop, coroutine, **options):
            raise OSError("no task")

        asyncio.get_running_loop().set_task_factory(factory)

    background.run(refuse())
    with pytest.raises(OSError, match="no task"):
        background.run(asyncio.sleep(0))
    background._loop.set_task_factory(None)


class Interrupted(BaseException):
    pass


@pytest.fixture
def interrupt():
    """Raise in the main thread, which waits."""

    def handle(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, handle)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.driver_independent
def test_an_interrupted_wait_cancels(background, interrupt):
    cancelled = threading.Event()

    async def wait():
        interrupt()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(Interrupted):
        background.run(wait())
    assert cancelled.wait(30)
    assert background.run(asyncio.sleep(0, "usable")) == "usable"
    assert not background._calls


@pytest.mark.driver_independent
def test_interrupted_before_the_loop_has_begun_it(background, interrupt):
    blocked, go = threading.Event(), threading.Event()

    async def block():
        blocked.set()
        go.wait(30)

    thread = threading.Thread(target=lambda: background.run(block()))
    thread.start()
    blocked.wait(30)
    threading.Timer(0.05, interrupt).start()
    begun = []

    async def begin():
        begun.append(1)

    with pytest.raises(Interrupted):
        background.run(begin())
    go.set()
    thread.join(30)
    # Twice: the task that was cancelled ends in the turn after the first.
    background.run(asyncio.sleep(0))
    background.run(asyncio.sleep(0))
    assert not begun
    assert not background._calls


@pytest.mark.driver_independent
def test_what_comes_while_the_loop_dies_is_ended_too(background, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    thread, begun, ended = waiting_for_ever(background)

    async def die():
        asyncio.get_running_loop().call_soon(sys.exit)
        try:
            await asyncio.Event().wait()
        finally:
            thread.start()
            while not begun.is_set():
                await asyncio.sleep(0)

    background.run(asyncio.sleep(0))
    dying = background._thread
    with pytest.raises(concurrent.futures.CancelledError):
        background.run(die())
    thread.join(30)
    assert [type(error).__name__ for error in ended] == ["CancelledError"]
    assert background.run(asyncio.sleep(0, "anew")) == "anew"
    dying.join(30)
    gc.collect()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_forks_threads_and_the_end_of_the_process(server, loop):
    out = run_silent(
        """
        from emcache.contrib.loops import BackgroundLoop, ClientPerLoop

        if loop_name == "uvloop":
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        background, clients = BackgroundLoop(), ClientPerLoop(create)

        async def get():
            client = await clients.get()
            await client.set(b"forked", b"v")
            return (await client.get(b"forked")).value, type(asyncio.get_running_loop()).__module__

        print(*background.run(get()))
        child = os.fork()
        assert background.run(get())[0] == b"v"
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print(background.run(get())[0])
        """,
        loop,
        server.port,
    )
    assert out.splitlines()[0] == f"b'v' {'uvloop' if loop == 'uvloop' else 'asyncio.unix_events'}"
    assert out.splitlines()[-1] == "b'v'"


def test_an_interrupt_ends_the_wait(server):
    done = run_program(
        """
        from emcache.contrib.loops import BackgroundLoop

        async def wait():
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                await asyncio.Event().wait()
            finally:
                print("cancelled")

        BackgroundLoop().run(wait())
        """,
        "asyncio",
        server.port,
    )
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stdout == "cancelled\n"


@pytest.mark.driver_independent
def test_a_signal_handler_that_forks(server):
    """In the child the wait for a loop that is not there ends."""
    out = run_silent(
        """
        from concurrent.futures import CancelledError
        from emcache.contrib.loops import BackgroundLoop

        background, children = BackgroundLoop(), []
        signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))

        async def wait():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            while not children:
                await asyncio.sleep(0.001)
            return "waited"

        try:
            print(background.run(wait()), flush=True)
            assert os.waitpid(children[0], 0)[1] == 0
        except CancelledError:
            assert children == [0]
            assert background.run(asyncio.sleep(0, 1)) == 1
            print("ended", flush=True)
        """,
        "asyncio",
        server.port,
    )
    assert sorted(out.split()) == ["ended", "waited"]


# -- what settings are written as ------------------------------------------------------------------


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", emcache.MemcachedHostAddress("localhost", 11211)),
        ("10.0.0.1:11212", emcache.MemcachedHostAddress("10.0.0.1", 11212)),
        ("[::1]", emcache.MemcachedHostAddress("::1", 11211)),
        ("[::1]:11212", emcache.MemcachedHostAddress("::1", 11212)),
        ("unix:/run/m.sock", emcache.MemcachedUnixSocketPath("/run/m.sock")),
        ("/run/m.sock", emcache.MemcachedUnixSocketPath("/run/m.sock")),
    ],
)
def test_nodes(text, address):
    assert parse_address(text) == address
    assert parse_nodes(f"{text}, a:1;b:2")[0] == address
    assert parse_nodes(address) == parse_nodes([address]) == [address]


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    "text", ["", ":11211", "::1", "a:", "a:b", "a:-1", "[::1", "[::1]x", "[]:1"]
)
def test_what_is_no_node(text):
    with pytest.raises(ValueError, match="is not a node address"):
        parse_address(text)


@pytest.mark.driver_independent
def test_nodes_of_a_wrong_type():
    with pytest.raises(TypeError, match="not int"):
        parse_nodes([11211])


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("seconds", "exptime"),
    [
        *[
            (None, 0),
            (0, -1),
            (-5, -1),
            (0.2, 1),
            (1.0, 1),
            (1.5, 2),
            (1e-9, 1),
            (2592000, 2592000),
        ],
        *[(timedelta(0), -1), (timedelta(days=-1), -1), (timedelta(seconds=1, microseconds=1), 2)],
        (timedelta.max, 2**31 - 1),
    ],
)
def test_exptime(seconds, exptime):
    assert ttl_to_exptime(seconds) == exptime


@pytest.mark.driver_independent
def test_exptime_of_more_than_thirty_days(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.7)
    assert ttl_to_exptime(2592001) == 1_800_000_001 + 2592001
    assert ttl_to_exptime(2592001.3) == 1_800_000_001 + 2592001
    assert ttl_to_exptime(10**12) == 2**31 - 1
    with pytest.raises(ValueError, match="time to live"):
        ttl_to_exptime(float("nan"))


@pytest.mark.driver_independent
@pytest.mark.parametrize("ttl", ["10", b"10", [], datetime.now(UTC), datetime.max.date()], ids=kind)
def test_what_is_no_time(ttl):
    with pytest.raises(TypeError, match=f"seconds, a timedelta or None, not {kind(ttl)}"):
        ttl_to_exptime(ttl)


@pytest.mark.driver_independent
def test_keys():
    assert safe_key("user:42") == b"user:42"
    assert safe_key("ключ") == "ключ".encode()
    assert safe_key(b"k" * 250) == b"k" * 250
    spaced, long = safe_key("f(1, 2)"), safe_key("k" * 251)
    # One rule for all: what `Cache(keys="hash")` makes of it.
    rule = Keys("", "hash")
    for key in ("f(1, 2)", "k" * 251, "user:42", "ключ", "#sha256:" + "0" * 64, "ü" * 126):
        assert safe_key(key) == rule.wire(key)
    assert len({spaced, safe_key("f(1,_2)"), safe_key("f(1,\t2)"), safe_key(""), long}) == 5
    # What looks like the replacement of another is no key of its own, but a safe one stays safe.
    for replaced in (spaced, long, safe_key("")):
        assert safe_key(replaced) is replaced
        again = safe_key(bytes(replaced))
        assert again != replaced
        assert len(again) <= 250
