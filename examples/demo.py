"""256 tasks use a cluster of memcached servers at the same time.

They store every file of Python's standard library under its path, read it back and compare it.
Run it with `make demo`; `make demo PEERS=1` repeats the reads with other clients.
"""

import argparse
import asyncio
import hashlib
import json
import subprocess
import sysconfig
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import emcache
from servers import Address, memcached_cluster

TASKS = 256
console = Console(soft_wrap=True)


def key_of(path: Path) -> bytes:
    """Turn a path into a valid key: paths may be long and contain spaces or non-ASCII letters."""
    key = urllib.parse.quote(str(path)).encode()
    if len(key) <= 250:
        return key
    return key[:180] + b"~" + hashlib.sha256(key).hexdigest().encode()


def load_files() -> dict[bytes, bytes]:
    root = Path(sysconfig.get_path("stdlib"))
    files = (
        path for path in root.rglob("*") if path.is_file() and "site-packages" not in path.parts
    )
    return {key_of(path.relative_to(root)): path.read_bytes() for path in files}


def bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(TextColumn("{task.description:12}"), *columns, console=console)


async def store(client: emcache.Client, files: dict[bytes, bytes]) -> list[bytes]:
    """Store every file; return the keys that the servers rejected."""
    refused = []
    queue = iter(files.items())
    with bar() as progress:
        line = progress.add_task("storing", total=len(files))

        async def worker() -> None:
            for key, content in queue:
                try:
                    await client.set(key, content)
                except emcache.StorageCommandError:
                    refused.append(key)
                progress.advance(line)

        await asyncio.gather(*[worker() for _ in range(TASKS)])
    return refused


async def read_back(
    client: emcache.Client, files: dict[bytes, bytes], keys: Iterable[bytes]
) -> tuple[Counter[str], list[float], float]:
    """Get and compare every key; return the outcomes, the latencies and the total time."""
    outcomes: Counter[str] = Counter()
    latencies = []
    queue = iter(keys)

    async def worker() -> None:
        for key in queue:
            asked = time.perf_counter()
            item = await client.get(key)
            latencies.append(time.perf_counter() - asked)
            if item is None:
                outcomes["missed"] += 1
            else:
                outcomes["equal" if item.value == files[key] else "different"] += 1

    started = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(TASKS)])
    return outcomes, latencies, time.perf_counter() - started


def show_reads(name: str, latencies: list[float], seconds: float, volume: int) -> None:
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
    speed = f"{len(latencies) / seconds:8.0f} gets/s  {volume / seconds / 2**20:6.0f} MiB/s"
    console.print(f"  {name:26} {speed}   p50 {p50:.2f} ms  p99 {p99:.2f} ms", highlight=False)


async def show_nodes(client: emcache.Client) -> None:
    table = Table("node", "items", "MiB", "evictions", "connections", title="items by node")
    for address in client.cluster_managment().nodes():
        stats = await client.stats(address)
        name = ":".join(map(str, vars(address).values()))
        mebibytes = f"{int(stats['bytes']) / 2**20:.1f}"
        connections = str(int(stats["curr_connections"]) - 1)
        table.add_row(name, stats["curr_items"], mebibytes, stats["evictions"], connections)
    console.print(table)


async def demo(addresses: list[Address], files: dict[bytes, bytes], peers: str | None) -> int:
    async with emcache.create_client(addresses, timeout=30.0) as client:
        refused = await store(client, files)
        await show_nodes(client)
        limit = max(len(content) for key, content in files.items() if key not in set(refused))
        console.print(f"{len(refused)} files rejected by the servers, all over their item limit:")
        for key in refused:
            console.print(f"  {len(files[key]) / 2**20:6.1f} MiB  {key.decode()}", highlight=False)
            if len(files[key]) <= limit:
                console.print("  [red]this file is not larger than an accepted one[/red]")
                return 1
        keys = [key for key in files if key not in set(refused)]
        volume = sum(len(files[key]) for key in keys)
        console.print(f"reading {len(keys)} files ({volume / 2**20:.0f} MiB), {TASKS} tasks")
        outcomes, latencies, seconds = await read_back(client, files, keys)
        show_reads("emcache", latencies, seconds, volume)
        small = [key for key in keys if len(files[key]) <= 1024] * 10
        again, latencies, seconds = await read_back(client, files, small)
        volume = sum(len(files[key]) for key in small)
        show_reads("emcache, files up to 1 KiB", latencies, seconds, volume)
        outcomes += again
        hits = outcomes["equal"] + outcomes["different"]
        console.print(
            f"hit ratio {hits / outcomes.total():.4f}: {outcomes['equal']} equal byte for byte, "
            f"{outcomes['different']} different, {outcomes['missed']} missed"
        )
        if peers:
            by_node = {key.decode(): addresses.index(client.node_for(key)) for key in keys}
            run_peers(peers, addresses, by_node)
    return 0 if outcomes["equal"] == outcomes.total() else 1


def run_peers(python: str, addresses: list[Address], by_node: dict[str, int]) -> None:
    nodes = [list(vars(address).values()) for address in addresses]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as plan:
        json.dump({"nodes": nodes, "keys": by_node, "tasks": TASKS}, plan)
        plan.flush()
        for peer in ("emcache 1.3.3", "emcache 1.3.3 autobatching", "aiomcache"):
            script = str(Path(__file__).with_name("demo_peers.py"))
            subprocess.run([python, script, peer, plan.name], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="a Python that has emcache 1.3.3 and aiomcache")
    arguments = parser.parse_args()
    with console.status("reading Python's standard library"):
        files = load_files()
    with memcached_cluster(tcp=3, unix=1, memory_mib=512) as addresses:
        return asyncio.run(demo(addresses, files, arguments.peers))


if __name__ == "__main__":
    raise SystemExit(main())
