"""Event loops of other projects: the table in docs/compatibility.md.

Each is skipped where its package is not installed. `make test-event-loops` installs them all.
"""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.driver_independent

WORK = """
import asyncio, contextlib, json, logging, os, sys, threading
import emcache

port = int(sys.argv[1])
logging.getLogger("emcache").addHandler(logging.NullHandler())

async def work(shares_computations=True):
    nodes = [emcache.MemcachedHostAddress("127.0.0.1", port)]
    async with emcache.create_client(nodes, timeout=30) as client:
        keys = [b"loops:%d" % number for number in range(200)]
        await asyncio.gather(*(client.set(key, key) for key in keys))
        assert [item.value for item in await asyncio.gather(*map(client.get, keys))] == keys
        assert len(await client.get_many(keys)) == 200
        for _ in range(50):
            await client.get(keys[0])
        getting = [asyncio.ensure_future(client.get(key)) for key in keys]
        await asyncio.sleep(0)
        for task in getting[::2]:
            task.cancel()
        done = await asyncio.gather(*getting, return_exceptions=True)
        for key, item in zip(keys, done):
            assert isinstance(item, asyncio.CancelledError) or item.value == key
        assert sum(not isinstance(item, BaseException) for item in done) >= 100
        await client.set(b"loops:large", b"x" * 900_000)
        assert len((await client.get(b"loops:large")).value) == 900_000
        if shares_computations:
            await compute(client)
        driver = client._core.driver
    silent = await asyncio.to_thread(listening)
    with silent:
        address = emcache.MemcachedHostAddress(*silent.getsockname())
        async with emcache.create_client([address], timeout=0.1) as client:
            try:
                await client.get(b"a")
            except emcache.OperationTimeoutError:
                pass
            else:
                raise AssertionError("no timeout")
    print("driver:", driver)

async def compute(client):
    calls = []
    cache = emcache.Cache(client, prefix="loops:", ttl=60)

    @emcache.cached(cache, key="{number}")
    async def load(number):
        calls.append(number)
        await asyncio.sleep(0.01)
        return number

    await load.invalidate(7)
    assert await asyncio.gather(*(load(7) for _ in range(20))) == [7] * 20
    assert len(calls) == 1

def listening():
    import socket
    return socket.create_server(("127.0.0.1", 0))
"""

RUNNERS = {
    "rloop": """
        import rloop
        with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
            runner.run(work())
        """,
    "qasync": """
        import PySide6.QtCore, qasync
        application = PySide6.QtCore.QCoreApplication([])
        loop = qasync.QEventLoop(application)
        asyncio.set_event_loop(loop)
        with loop:
            loop.run_until_complete(work())
        """,
    "PySide6.QtAsyncio": """
        import PySide6.QtCore
        from PySide6 import QtAsyncio
        application = PySide6.QtCore.QCoreApplication([])
        # Its tasks share their context variables, so computations cannot be told apart.
        QtAsyncio.run(work(False), keep_running=False, quit_qapp=True, handle_sigint=False)
        """,
    "trio_asyncio": """
        import trio_asyncio
        trio_asyncio.run(trio_asyncio.aio_as_trio(work))
        """,
    "textual": """
        from textual.app import App

        class Tool(App):
            async def on_mount(self):
                self.run_worker(self.do())

            async def do(self):
                await work()
                self.exit("done")

        assert Tool().run(headless=True) == "done"
        """,
    "nest_asyncio2": """
        import nest_asyncio2
        nest_asyncio2.apply()

        async def outer():
            await work()
            asyncio.get_event_loop().run_until_complete(work())

        asyncio.run(outer())
        """,
    "ipykernel": """
        from jupyter_client.manager import start_new_kernel
        source, tail = open(__file__).read().split("# " + "the work ends here")
        manager, client = start_new_kernel(kernel_name="python3")
        try:
            source = source.replace("sys.argv[1]", sys.argv[1])
            source += "\\nawait work()\\nawait work()"
            reply = client.execute_interactive(source, timeout=40)
            assert reply["content"]["status"] == "ok", reply["content"]
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        """,
}

DRIVERS = {
    "rloop": "loop",
    "qasync": "loop",
    "PySide6.QtAsyncio": "thread",
    "trio_asyncio": "loop",
    "textual": "loop",
    "nest_asyncio2": "loop",
    "ipykernel": "loop",
}


def is_installed(name):
    needed = [name, "PySide6"] if name == "qasync" else [name]
    try:
        return all(importlib.util.find_spec(each) for each in needed)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", RUNNERS)
def test_a_loop(server, tmp_path, name):
    if not is_installed(name):
        pytest.skip(f"needs {name}: make test-event-loops")
    if "PySide6" in RUNNERS[name] and sys.version_info < (3, 12):
        import PySide6

        if PySide6.__version__ == "6.12.0":
            pytest.skip("PySide6 6.12.0 breaks Python 3.11: findings/pyside6_none_references.sh")
    program = tmp_path / "program.py"
    program.write_text(WORK + "\n# the work ends here\n" + textwrap.dedent(RUNNERS[name]))
    environment = {key: value for key, value in os.environ.items() if key != "EMCACHE_DRIVER"}
    done = subprocess.run(
        [sys.executable, str(program), str(server.port)],
        env=environment | {"QT_QPA_PLATFORM": "offscreen", "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"driver: {DRIVERS[name]}\n" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
