"""Measure what emcache costs a program before and beside its calls: start-up time and memory.

Each figure is taken in new processes; those of all builds alternate. `--with NAME=PYTHON` adds a
build: the interpreter of a virtual environment with another emcache, such as 1.3.3.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from servers import start_memcached

IMPORT = """
import asyncio, time
begin = time.perf_counter()
import emcache
print((time.perf_counter() - begin) * 1000)
"""

START = """
import asyncio, time
begin = time.perf_counter()
import emcache
async def main():
    client = await emcache.create_client([emcache.MemcachedHostAddress("127.0.0.1", {port})])
    await client.get(b"key")
    print((time.perf_counter() - begin) * 1000)
    await client.close()
asyncio.run(main())
"""

# Private memory, because an allocator returns little of what is freed: the growth for `count` more.
MEMORY = """
import asyncio, emcache, gc
def private():
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Private"))
async def main():
    async def client(**options):
        node = emcache.MemcachedHostAddress("127.0.0.1", {port})
        return await emcache.create_client([node], **options)
    async def connected(**options):
        made = await client(**options)
        await made.get(b"key")
        return made
    {body}
asyncio.run(main())
"""

CLIENTS = """
    kept = [await {make} for _ in range(20)]
    gc.collect()
    before = private()
    kept += [await {make} for _ in range(200)]
    gc.collect()
    print((private() - before) / 200)
    for one in kept:
        await one.close()
"""

# The server never answers; the bare form has the tasks alone.
IN_FLIGHT = """
    async def silence(reader, writer):
        await asyncio.sleep(3600)
    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    node = emcache.MemcachedHostAddress("127.0.0.1", port)
    one = await emcache.create_client([node], timeout=60.0, connection_timeout=60.0)
    loop = asyncio.get_running_loop()
    {wait}
    tasks = [asyncio.create_task(call(n)) for n in range(100)]
    await asyncio.sleep(0.5)
    gc.collect()
    before = private()
    tasks += [asyncio.create_task(call(n)) for n in range(100, 10_100)]
    await asyncio.sleep(1)
    gc.collect()
    print((private() - before) / 1000)
    import os
    os._exit(0)
"""
GETS = """
    async def call(n):
        await one.get(b"key:%d" % n)
"""
BARE = """
    async def call(n):
        await loop.create_future()
"""


def figures(port):
    """Return the figures: name, unit, whether the smallest counts, program."""

    def memory(body):
        return MEMORY.replace("{body}", body).replace("{port}", str(port))

    def clients(make):
        return memory(CLIENTS.replace("{make}", make))

    def in_flight(wait):
        return memory(IN_FLIGHT.replace("{wait}", wait))

    return [
        ("import, beyond asyncio", "ms", IMPORT),
        (
            "import, create a client and first get, beyond asyncio's import",
            "ms",
            START.replace("{port}", str(port)),
        ),
        ("a client without a connection", "KiB", clients("client(min_connections=0)")),
        ("a client with a connection", "KiB", clients("connected()")),
        ("10,000 gets in flight, with their tasks", "MB", in_flight(GETS)),
        ("10,000 tasks that wait for a future", "MB", in_flight(BARE)),
    ]


def measure(python, program, caches):
    """Run a program in a new process, with compiled modules, and return the number it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(
        [python, "-c", program],
        env=environment | {"PYTHONPYCACHEPREFIX": caches},
        cwd=caches,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return float(run.stdout) if run.returncode == 0 and run.stdout else None


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with", dest="others", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument(
        "--rounds", type=int, default=15, help="of each figure of time (default 15)"
    )
    parser.add_argument("--json", help="write the figures here")
    return parser.parse_args()


def main():
    chosen = parsed()
    builds = {"emcache": sys.executable}
    for text in chosen.others:
        name, _, python = text.partition("=")
        # The programs run in another folder. A symbolic link is what makes an environment.
        builds[name] = os.path.abspath(python)  # noqa: PTH100
    rows = []
    with contextlib.ExitStack() as stack:
        server, port = start_memcached()
        stack.callback(server.terminate)
        caches = stack.enter_context(tempfile.TemporaryDirectory())
        for name, unit, program in figures(port):
            found = {build: [] for build in builds}
            for _ in range(chosen.rounds + 1 if unit == "ms" else 3):
                for build, python in builds.items():
                    found[build].append(measure(python, program, caches))
            best = {
                # The first one compiled the modules.
                build: None if None in values else min(values[1:])
                for build, values in found.items()
            }
            rows.append({"figure": name, "unit": unit, **best})
            shown = ", ".join(
                f"{build} {'-' if value is None else f'{value:.1f}'}"
                for build, value in best.items()
            )
            print(f"{name}: {shown} {unit}", flush=True)
    if chosen.json:
        about = {"when": time.strftime("%Y-%m-%d"), "load": os.getloadavg()}
        text = json.dumps({"about": about, "rows": rows}, indent=1)
        Path(chosen.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
