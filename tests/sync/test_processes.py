"""Signals, forks, event loops and the end of the process, each in a program of its own."""

import subprocess
import sys
import textwrap

import pytest

from support.memcached import memcached

pytestmark = pytest.mark.driver_independent

PRELUDE = """
import asyncio, gc, os, signal, sys, threading, time, warnings
import emcache, emcache.sync
signal.signal(signal.SIGINT, signal.default_int_handler)
address = emcache.MemcachedHostAddress("127.0.0.1", int(sys.argv[1]))

def create(**options):
    return emcache.sync.create_client([address], **{"timeout": 30.0, **OPTIONS, **options})

def in_child(work):
    # Run in the child of a fork; returns its exit code.
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print("child:", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture(params=["", "failover='next'"])
def run(request):
    """Runs a program that must end well, on cores of its threads and on one; returns its output."""

    def run(port, program):
        text = f"OPTIONS = dict({request.param})\n" + PRELUDE + textwrap.dedent(program)
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", text, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def paused():
    """A server that accepts connections, and answers nothing."""
    with memcached() as server:
        server.pause()
        yield server
        server.resume()


def test_a_signal_ends_a_wait_and_the_client_stays_usable(run, paused):
    output = run(
        paused.address.port,
        """
        client = create()
        times = []
        def handler(*_):
            times.append(time.monotonic())
            raise InterruptedError("by the handler")
        signal.signal(signal.SIGALRM, handler)
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            due = time.monotonic() + 0.2
            try:
                client.get(b"key")
            except InterruptedError:
                print("late" if times[-1] - due > 1 else "in time")
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            client.set_many({b"a": b"1", b"b": b"2"})
        except InterruptedError:
            print("many")
        client.close()
        """,
    )
    assert output.split() == ["in", "time"] * 3 + ["many"]


def test_a_handler_that_returns_does_not_disturb_the_call(run, server):
    output = run(
        server.address.port,
        """
        client = create()
        calls = []
        signal.signal(signal.SIGALRM, lambda *_: calls.append(client.get(b"signal")))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for n in range(2000):
            client.set(b"signal", b"%d" % n)
            assert client.get(b"signal").value == b"%d" % n
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(calls) > 0, all(item.value.isdigit() for item in calls if item))
        client.close()
        """,
    )
    assert output.split() == ["True", "True"]


def test_keyboard_interrupt(run, paused):
    output = run(
        paused.address.port,
        """
        client = create()
        main = threading.main_thread().ident
        threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        try:
            client.get(b"key")
        except KeyboardInterrupt:
            print("interrupted")
        client.close()
        """,
    )
    assert output == "interrupted\n"


def test_a_client_made_before_a_fork_works_in_both_processes(run, server):
    output = run(
        server.address.port,
        """
        client = create()
        client.set(b"fork", b"0")
        before = client.metrics().nodes[0].pool.connections_created
        def work():
            for n in range(200):
                client.set(b"fork:%d" % os.getpid(), b"%d" % n)
                assert client.get(b"fork:%d" % os.getpid()).value == b"%d" % n
            assert client.metrics().commands["set"].count == 200
            client.close()
        codes = [in_child(work) for _ in range(3)]
        for n in range(200):
            client.set(b"fork", b"%d" % n)
            assert client.get(b"fork").value == b"%d" % n
        print(codes, client.metrics().nodes[0].pool.connections_created - before)
        client.close()
        """,
    )
    assert output == "[0, 0, 0] 0\n"


def test_a_fork_while_other_threads_call(run, server):
    output = run(
        server.address.port,
        """
        client = create()
        stop = threading.Event()
        wrong = []
        def work(name):
            n = 0
            while not stop.is_set():
                n += 1
                client.set(name, b"%d" % n)
                if client.get(name).value != b"%d" % n:
                    wrong.append(name)
        threads = [threading.Thread(target=work, args=(b"t%d" % i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        def child():
            for n in range(50):
                client.set(b"child", b"%d" % n)
                assert client.get(b"child").value == b"%d" % n
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            codes = {in_child(child) for _ in range(15)}
        stop.set()
        for thread in threads:
            thread.join()
        print(codes, wrong)
        client.close()
        """,
    )
    assert output == "{0} []\n"


def test_a_handler_that_forks_in_the_middle_of_a_call(run, paused):
    output = run(
        paused.address.port,
        """
        client = create()
        pid = None
        def handler(*_):
            global pid
            pid = os.fork()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        threading.Timer(0.6, lambda: signal.pthread_kill(threading.main_thread().ident,
                                                         signal.SIGINT)).start()
        try:
            client.get(b"key")
        except KeyboardInterrupt:
            print("parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            client.close()
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 8)
        """,
    )
    assert output == "parent 7\n"


def test_a_running_loop_is_refused_unless_it_is_allowed(run, server):
    output = run(
        server.address.port,
        """
        client, allowed = create(), create(allow_in_event_loop=True)
        async def main():
            # A call that blocks the loop is slow on a busy machine.
            asyncio.get_running_loop().slow_callback_duration = 60
            try:
                client.get(b"key")
            except RuntimeError as error:
                print("would block the event loop" in str(error))
            print(allowed.get(b"no-such-key"))
            print(await asyncio.to_thread(client.get, b"no-such-key"))
        asyncio.run(main())
        client.close()
        allowed.close()
        """,
    )
    assert output.split() == ["True", "None", "None"]


def test_green_threads_are_refused(run, server):
    output = run(
        server.address.port,
        """
        import types
        monkey = types.ModuleType("gevent.monkey")
        monkey.is_module_patched = lambda name: name == "socket"
        sys.modules["gevent.monkey"] = monkey
        try:
            create()
        except RuntimeError as error:
            print(error)
        """,
    )
    assert output.startswith("gevent has patched this process")


def test_a_client_that_is_not_closed_warns(run, server):
    output = run(
        server.address.port,
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client = create()
            client.get(b"key")
            before = len(os.listdir("/proc/self/fd"))
            del client
            gc.collect()
        print(caught[0].category.__name__, len(os.listdir("/proc/self/fd")) < before)
        """,
    )
    assert output.split() == ["ResourceWarning", "True"]


def test_a_process_ends_while_a_daemon_thread_waits(run, paused):
    output = run(
        paused.address.port,
        """
        warnings.simplefilter("ignore")
        client = create()
        for _ in range(3):
            threading.Thread(target=client.get, args=(b"key",), daemon=True).start()
        time.sleep(0.2)
        print("end")
        """,
    )
    assert output == "end\n"


def test_a_cache_forgets_the_computations_of_the_parent(run, server):
    output = run(
        server.address.port,
        """
        client = create()
        cache = emcache.sync.Cache(client, prefix=b"forgets:")
        computing, finish = threading.Event(), threading.Event()
        def slow():
            computing.set()
            finish.wait(20)
            return 1
        thread = threading.Thread(target=cache.get_or_set, args=("k", slow), kwargs={"lease": None})
        thread.start()
        computing.wait(20)
        def child():
            signal.alarm(20)
            print(cache.get_or_set("k", lambda: 2, lease=None), flush=True)
        print(in_child(child))
        finish.set()
        thread.join()
        cache.delete("k")
        client.close()
        """,
    )
    assert output.split() == ["2", "0"]
