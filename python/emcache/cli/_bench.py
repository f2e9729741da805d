"""bench: generates a load of gets and sets, and measures its latency."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .._address import Address
from .._client import Client
from ._capabilities import if_supported
from ._commands import Command, runs
from ._load import EXPTIME, Load, Run, unwrapped
from ._output import Output, plain_table
from ._settings import Settings
from ._units import milliseconds, size

_REFRESH = 0.1


@click.command("bench", cls=Command)
@click.option(
    "--get-ratio",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Share of gets; the others are sets.",
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
    help="Most connections to each node.",
)
@click.option("--force", is_flag=True, help="Run even if other items may be evicted.")
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
    """Measure throughput and latency under a load of gets and sets.

    It stores its own keys (emcache-bench:...) and deletes them at the end. The result includes the
    speed of this program, which uses one core.
    """
    load = Load(get_ratio, size_, tasks, seconds, keys)
    async with await settings.client(max_connections=connections) as client:
        if not force:
            await _check_room(client, load)
        run = Run(client, load)
        try:
            with _bar(run, load, output) as bar:
                await unwrapped(run.fill())
                bar.start()
                await unwrapped(run.go())
        finally:
            if left := await asyncio.shield(run.clean_up()):
                click.echo(
                    f"emcache: {left} keys {run.prefix}* were not deleted; they expire within "
                    f"{EXPTIME // 60} minutes",
                    err=True,
                )
        nodes = len(client.cluster_managment().nodes())
    if output.as_json:
        output.document({"nodes": nodes, **run.document()})
    else:
        _print(output, run, load, nodes)
    return run.exit_code()


async def _check_room(client: Client, load: Load) -> None:
    """Refuse a load that may evict other items."""
    nodes = client.cluster_managment().nodes()
    needed = load.keys * (load.size + 120) / len(nodes)

    async def room(node: Address) -> None:
        stats = await if_supported(client.stats(node))
        if stats is None:
            return  # a proxy does not tell
        limit, used = int(stats.get("limit_maxbytes", 0)), int(stats.get("bytes", 0))
        if limit and needed > limit - used:
            raise click.UsageError(
                f"{load.keys} keys of {load.size} bytes need about {size(needed)} on each node, "
                f"and one node has {size(max(limit - used, 0))} left, so other items would be "
                "evicted; use fewer or smaller keys, or --force"
            )

    await asyncio.gather(*map(room, nodes))


class _Bar:
    """The progress bar, if the output is a terminal."""

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
def _bar(run: Run, load: Load, output: Output) -> Iterator[_Bar]:
    console = Console(stderr=True)
    if output.as_json or not console.is_terminal or console.is_dumb_terminal:
        yield _Bar(run, load, None)
        return
    columns = (BarColumn(bar_width=None), TextColumn("{task.description}"), TimeRemainingColumn())
    progress = Progress(
        *columns, console=console, auto_refresh=False, transient=True, redirect_stdout=False
    )
    with progress:
        bar = _Bar(run, load, progress)

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
