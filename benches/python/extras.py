"""Rows that no run of a client shows: routing (criterion), allocations (counts), copies (DHAT)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benches"))
import counts  # noqa: E402

COPIES = """
import asyncio, emcache, sys

async def main():
    port, count, size, case = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    address = emcache.MemcachedHostAddress("127.0.0.1", port)
    client = await emcache.create_client([address], timeout=None, connection_timeout=None)
    value = b"v" * size
    await client.set(b"key", value)
    for _ in range(count):
        if case == "get":
            await client.get(b"key")
        else:
            await client.set(b"key", value)
    await client.close()

asyncio.run(main())
"""


def line(work, against, measured, limit, unit):
    reach = {"reach": f"<= {limit:g}{unit}", "measured": measured, "unit": unit}
    reached = {"reached": measured <= limit}
    return {"work": work, "against": against, "loop": ""} | reach | reached


def failure(work, against, error):
    return {
        "work": work,
        "against": against,
        "loop": "",
        "reach": "",
        "error": error,
        "reached": None,
    }


def lines(runner):
    yield from guarded("routing one key", routing)
    yield from guarded("steady state: allocations per get in the core", allocations)
    if shutil.which("valgrind") and runner:
        yield from guarded("bytes copied per value", lambda: copies(runner))


def guarded(work, rows):
    try:
        yield from rows()
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        yield failure(work, "", f"{type(error).__name__}: {error}")


def routing():
    command = ["cargo", "bench", "-q", "--no-default-features", "--bench", "routing", "--"]
    command += ["^pick/(64|256) nodes/20$", "--warm-up-time", "0.5"]
    command += ["--measurement-time", "1.5", "--noplot"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    took = {nodes: estimate(f"pick/{nodes} nodes/20") for nodes in (64, 256)}
    yield line("routing one key, 64 nodes", "the clock", took[64], 1.0, " us")
    yield line("routing one key, 256 nodes", "the clock", took[256], 3.0, " us")
    yield line("routing one key", "256 to 64 nodes", took[256] / took[64], 4.0, "x")


def estimate(bench):
    """The median of the last run of a criterion bench, in microseconds."""
    path = ROOT / "target" / "criterion" / bench / "new" / "estimates.json"
    return json.loads(path.read_text())["median"]["point_estimate"] / 1000


def allocations():
    for case, measured in counts.allocations(counts.build()).items():
        if case.startswith("get"):
            yield line("steady state: allocations per get", f"counts: {case}", measured, 0.0, "")


def copies(runner):
    for size in (10_000, 100_000, 1_000_000):
        for case in ("get", "set"):
            measured = (copied(runner, 40, size, case) - copied(runner, 20, size, case)) / 20 / size
            # Heads, keys and small objects are copied too.
            yield line(
                f"{case} of {size // 1000} KB: bytes copied", "the value", measured, 1.1, "x"
            )


def copied(runner, count, size, case):
    """The bytes that memcpy and its like copied in a process."""
    (port,), _ = runner.servers.of()
    command = ["valgrind", "--tool=dhat", "--mode=copy", "--dhat-out-file=/dev/null"]
    command += [sys.executable, "-c", COPIES, *map(str, (port, count, size)), case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (total,) = [text for text in done.stderr.splitlines() if "Total:" in text]
    return int(total.split("Total:")[1].split("bytes")[0].replace(",", ""))
