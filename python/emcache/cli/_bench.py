"""bench: a load of gets and sets, and how long they took."""

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .._address import Address
from .._errors import CommandError, EmcacheError, NotFoundCommandError
from ..base import Client
from ._commands import Command, runs
from ._exits import NODE, SERVER
from ._latency import Latencies
from ._output import Output, plain_table
from ._settings import Settings
from ._top_table import milliseconds, size

_EXPTIME = 900
"""Seconds after which keys are gone that could not be deleted."""
_AT_ONCE = 64
_REFRESH = 0.1


@dataclass(frozen=True)
class Load:
    """What is to be done."""

    get_ratio: float
    size: int
    tasks: int
    seconds: float
    keys: int


class Run:
    """One run: its keys, and what came of it."""

    def __init__(self, client: Client, load: Load) -> None:
        self._client = client
        self._load = load
        self.prefix = f"emcache-bench:{os.urandom(6).hex()}:"
        self._value = random.randbytes(load.size)
        self.gets = Latencies()
        self.sets = Latencies()
        self.misses = 0
        self.errors: Counter[str] = Counter()
        self.is_refused = False
        self.seconds = 0.0

    def _key(self, number: int) -> bytes:
        return f"{self.prefix}{number}".encode()

    async def fill(self) -> None:
        """Store every key once; the first failure ends it."""
        await self._for_all(lambda key: self._client.set(key, self._value, exptime=_EXPTIME))

    async def clean_up(self) -> int:
        """Delete the keys, and give how many could not be."""
        left = 0

        async def delete(key: bytes) -> None:
            nonlocal left
            try:
                await self._client.delete(key)
            except NotFoundCommandError:
                pass
            except EmcacheError:
                left += 1

        await self._for_all(delete)
        return left

    async def _for_all(self, act: Callable[[bytes], Awaitable[None]]) -> None:
        waiting = iter(range(self._load.keys))

        async def work() -> None:
            for number in waiting:
                await act(self._key(number))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, self._load.keys)):
                group.create_task(work())

    async def go(self) -> None:
        """Run the load for its time."""
        begin = time.perf_counter()
        end = begin + self._load.seconds
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._load.tasks):
                    group.create_task(self._task(random.Random(number), end))
        finally:
            self.seconds = time.perf_counter() - begin

    async def _task(self, chance: random.Random, end: float) -> None:
        now = time.perf_counter()
        while now < end:
            key = self._key(int(chance.random() * self._load.keys))
            is_get = chance.random() < self._load.get_ratio
            try:
                if is_get:
                    self.misses += await self._client.get(key) is None
                else:
                    await self._client.set(key, self._value, exptime=_EXPTIME)
            except EmcacheError as error:
                self.errors[type(error).__name__] += 1
                self.is_refused |= isinstance(error, CommandError)
                # What fails at once would be all that is done.
                await asyncio.sleep(0.01)
                now = time.perf_counter()
                continue
            before, now = now, time.perf_counter()
            (self.gets if is_get else self.sets).add(now - before)

    def document(self) -> dict[str, object]:
        """Give what JSON says of it."""
        both = self.gets + self.sets
        return {
            "load": {**vars(self._load)},
            "seconds": round(self.seconds, 3),
            "ops_per_second": round(both.count / self.seconds, 1) if self.seconds else 0.0,
            "all": both.fields(),
            "get": {**self.gets.fields(), "misses": self.misses},
            "set": self.sets.fields(),
            "errors": dict(self.errors),
        }

    def exit_code(self) -> int:
        """Say how it went: errors are no success."""
        if not self.errors:
            return 0
        return SERVER if self.is_refused else NODE


@click.command("bench", cls=Command)
@click.option(
    "--get-ratio",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Which part are gets; the others are sets.",
)
@click.option(
    "--size", "size_", type=click.IntRange(0, 2**30), default=100, show_default=True, help="Bytes."
)
@click.option("--tasks", "-t", type=click.IntRange(1, 10_000), default=32, show_default=True)
@click.option("--seconds", "-d", type=click.FloatRange(0.1, 86400), default=5.0, show_default=True)
@click.option("--keys", type=click.IntRange(1, 10_000_000), default=1000, show_default=True)
@click.option(
    "--connections",
    type=click.IntRange(1, 65535),
    default=2,
    show_default=True,
    help="At most, to each node.",
)
@click.option("--force", is_flag=True, help="Even if other items will be evicted.")
@runs
async def bench(
    settings: Settings,
    output: Output,
    get_ratio: float,
    size_: int,
    tasks: int,
    seconds: float,
    keys: int,
    connections: int,
    force: bool,
) -> int:
    """Put a load on the nodes, and say how fast it went.

    It stores keys of its own (emcache-bench:...), and deletes them when it ends. What it measures
    is this program together with the servers: it uses one core.
    """
    load = Load(get_ratio, size_, tasks, seconds, keys)
    async with await settings.client(max_connections=connections) as client:
        if not force:
            await _check_room(client, load)
        run = Run(client, load)
        try:
            with _bar(run, output) as bar:
                await _unwrapped(run.fill())
                bar.start()
                await _unwrapped(run.go())
        finally:
            if left := await asyncio.shield(run.clean_up()):
                click.echo(
                    f"emcache: {left} keys {run.prefix}* were not deleted; they expire within "
                    f"{_EXPTIME // 60} minutes",
                    err=True,
                )
        nodes = len(client.cluster_managment().nodes())
    if output.as_json:
        output.document({"nodes": nodes, **run.document()})
    else:
        _print(output, run, load, nodes)
    return run.exit_code()


async def _unwrapped(work: Awaitable[None]) -> None:
    try:
        await work
    except* EmcacheError as errors:
        failures = errors.exceptions
    else:
        return
    raise failures[0]


async def _check_room(client: Client, load: Load) -> None:
    """Refuse what would push others' items out."""
    nodes = client.cluster_managment().nodes()
    needed = load.keys * (load.size + 120) / len(nodes)

    async def room(node: Address) -> None:
        stats = await client.stats(node)
        limit, used = int(stats.get("limit_maxbytes", 0)), int(stats.get("bytes", 0))
        if limit and needed > limit - used:
            raise click.UsageError(
                f"{load.keys} keys of {load.size} bytes need about {size(needed)} on each node, "
                f"and one has {size(max(limit - used, 0))} left: other items would be evicted. "
                "Fewer or smaller ones, or --force"
            )

    await asyncio.gather(*map(room, nodes))


class _Bar:
    """The progress bar, if somebody looks at it."""

    def __init__(self, run: Run, load: Load, progress: Progress | None) -> None:
        self._run, self._load, self._progress = run, load, progress
        self._begin: float | None = None
        self._task = progress.add_task("storing keys", total=None) if progress else None

    def start(self) -> None:
        self._begin = time.perf_counter()

    def update(self) -> None:
        if self._progress is None or self._task is None or self._begin is None:
            return
        done = min(time.perf_counter() - self._begin, self._load.seconds)
        count = self._run.gets.count + self._run.sets.count
        text = f"{count / max(done, 1e-9):,.0f} ops/s"
        if errors := self._run.errors.total():
            text += f", {errors} errors"
        self._progress.update(
            self._task, total=self._load.seconds, completed=done, description=text
        )


@contextlib.contextmanager
def _bar(run: Run, output: Output) -> Iterator[_Bar]:
    console = Console(stderr=True)
    if output.as_json or not console.is_terminal or console.is_dumb_terminal:
        yield _Bar(run, run._load, None)
        return
    columns = (BarColumn(bar_width=None), TextColumn("{task.description}"), TimeRemainingColumn())
    progress = Progress(
        *columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False
    )
    with progress:
        bar = _Bar(run, run._load, progress)

        async def draw() -> None:
            while True:
                bar.update()
                progress.refresh()
                await asyncio.sleep(_REFRESH)

        drawing = asyncio.create_task(draw())
        try:
            yield bar
        finally:
            drawing.cancel()


def _print(output: Output, run: Run, load: Load, nodes: int) -> None:
    both = run.gets + run.sets
    rate = both.count / run.seconds if run.seconds else 0
    output.line(
        f"{rate:,.0f} ops/s  {nodes} node{'s' * (nodes != 1)}, {load.tasks} tasks, "
        f"{load.size} bytes, {run.seconds:.1f} s",
        "bold",
    )
    table = plain_table("", ">count", ">p50 ms", ">p99 ms", ">p99.9 ms", ">max ms")
    for name, times in (("get", run.gets), ("set", run.sets), ("all", both)):
        shown = [milliseconds(times.quantile(part)) for part in (0.5, 0.99, 0.999, 1.0)]
        if times.count:
            table.add_row(name, f"{times.count:,}", *shown)
    output.table(table)
    if run.misses:
        output.line(f"{run.misses:,} gets missed: the items were evicted or flushed", "yellow")
    for name, count in sorted(run.errors.items()):
        output.line(f"{count:,} {name}", "red")
    if not run.errors:
        output.line("no errors")
    sys.stdout.flush()


COMMANDS = [bench]
