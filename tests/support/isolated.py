"""Programs of their own: what a process prints, how it ends, what it leaves behind."""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, contextlib, gc, logging, os, resource, signal, sys, threading, time, warnings
import emcache
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine is no fault: debug mode reports callbacks that took long.
logging.getLogger("asyncio").addFilter(lambda record: "Executing " not in record.getMessage())
# Nodes that are made to fail are told of in a line each.
logging.getLogger("emcache").addHandler(logging.NullHandler())
loop_name, port = sys.argv[1], int(sys.argv[2])
if loop_name == "uvloop":
    import uvloop
    bare_loop = uvloop.new_event_loop
else:
    bare_loop = asyncio.SelectorEventLoop

def new_loop():
    loop = bare_loop()
    # Development mode is on for its warnings. In debug mode tasks are woken in another way.
    loop.set_debug(False)
    if os.environ.get("EMCACHE_TEST_EAGER") == "1" and sys.version_info >= (3, 12):
        loop.set_task_factory(
            lambda loop, coroutine, eager_start=True, **options: asyncio.Task(
                coroutine, loop=loop, eager_start=True, **options
            )
        )
    return loop

def run(main):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)

def create(**options):
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    return emcache.create_client([address], **{"timeout": 30, **options})

def descriptors():
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))

def threads():
    # libuv's io_uring has workers of the kernel's that are listed as threads, and come and go.
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as comm:
            names.append(comm.read())
    # Helpers of the thread driver live on for a second after their last use.
    return sum(not name.startswith(("iou-", "emcache-aux")) for name in names)
"""


def run_program(
    program: str, loop: str, port: int, *arguments: str, warnings: str = "error"
) -> subprocess.CompletedProcess[str]:
    """Run a program in development mode; `PRELUDE` says what it finds."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    source = PRELUDE + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", warnings, "-c", source, loop, str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def run_silent(program: str, loop: str, port: int, *arguments: str, warnings: str = "error") -> str:
    """Run a program that must end well and complain about nothing; its output."""
    done = run_program(program, loop, port, *arguments, warnings=warnings)
    assert done.stderr == "", done.stderr
    assert done.returncode == 0, done.stdout
    return done.stdout
