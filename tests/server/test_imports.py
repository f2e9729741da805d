"""The package in other interpreters of the process, and imported more than once."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.driver_independent

SUBINTERPRETER = """
import os, sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    interpreter = interpreters.create("legacy")
else:
    import _xxsubinterpreters as interpreters
    options = {} if sys.version_info < (3, 12) else {"isolated": False}
    interpreter = interpreters.create(**options)
told, tell = os.pipe()

def main():
    import emcache
    emcache.MemcachedHostAddress("127.0.0.1", 1)

def other():
    interpreters.run_string(interpreter, f'''
import os, sys
sys.path[:] = {sys.path!r}
for name in ("emcache", "emcache.client", "emcache.cache", "emcache"):
    try:
        __import__(name)
        os.write({tell}, b"imported")
    except ImportError as error:
        os.write({tell}, str(error).encode() + b";")
''')

for step in sys.argv[1].split():
    {"main": main, "other": other}[step]()
print(os.read(told, 10_000).decode(), flush=True)
os._exit(0)  # the other interpreter is not taken down
"""


@pytest.mark.parametrize("order", ["other main", "main other", "other main other"])
def test_a_sub_interpreter_is_refused(order):
    """And the main one is not, whoever came first."""
    program = [sys.executable, "-c", SUBINTERPRETER, order]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""
    texts = done.stdout.strip().strip(";").split(";")
    assert len(texts) == 4 * order.count("other")
    assert all("WSGIApplicationGroup %{GLOBAL}" in text for text in texts), texts


OWN_LOCK = """
import sys

code = f"import sys; sys.path[:] = {sys.path!r}; import emcache"
if sys.version_info >= (3, 14):
    from concurrent import interpreters
    try:
        interpreters.create().exec(code)
    except interpreters.ExecutionFailed as error:
        print(error.excinfo.formatted)
else:
    import _interpreters
    error = _interpreters.exec(_interpreters.create("isolated"), code)
    print(error.formatted)
import emcache
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason="no interpreters with a lock of their own")
def test_a_sub_interpreter_with_its_own_lock_is_refused():
    """The interpreter of Python does that, and the main one is not affected."""
    program = [sys.executable, "-c", OWN_LOCK]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ImportError: module emcache._emcache does not support loading")


IMPORTED_AGAIN = """
import asyncio, importlib, sys, types
import emcache as first
from emcache.testing import MemcachedServer

def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == "emcache"]:
        del sys.modules[name]

def reload():
    for name in ("emcache._errors", "emcache.client_errors", "emcache"):
        importlib.reload(sys.modules[name])

async def use(module, address):
    async with module.create_client([address], timeout=5) as client:
        await client.set(b"k", b"v")
        item = await client.get(b"k")
        assert item.value == b"v"
        for each in (first, module):
            assert isinstance(item, each.Item)
            for call, error in [
                (client.add(b"k", b"v"), each.NotStoredStorageCommandError),
                (client.increment(b"missing", 1), each.NotFoundCommandError),
                (client.get(b"a key"), each.InvalidKeyError),
                (client.increment(b"k", 1), each.ArithmeticCommandError),
            ]:
                try:
                    await call
                except error:
                    continue
                raise AssertionError(error)
        await client.flush_all(first.ALL_NODES)
        await client.flush_all(module.ALL_NODES)

async def main():
    with MemcachedServer() as server:
        # Before anything was raised, and after.
        forget()
        second = importlib.import_module("emcache")
        assert second is not first
        await use(second, server.address)
        await use(first, server.address)
        importlib.import_module("emcache.client_errors")
        reload()
        await use(second, server.address)
        forget()
        third = importlib.import_module("emcache.client_errors")
        assert third.CommandError is first.CommandError
        await use(importlib.import_module("emcache"), server.address)
        await use(first, server.address)

asyncio.run(main(), debug=False)
"""


def test_a_second_import_and_a_reload_work():
    """Clients and handlers of each import know the exceptions and addresses of the others."""
    program = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(IMPORTED_AGAIN)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
