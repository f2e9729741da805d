"""top: shows the load of the nodes, refreshed periodically."""

import asyncio
import contextlib
import datetime
import os
import signal
import sys
from collections.abc import Callable, Iterator

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from .._address import Address
from .._client import Client
from ._commands import Command, runs
from ._exit_codes import NODE
from ._output import Output, json_text, printable
from ._sampling import Row, Sampler, total
from ._settings import Settings
from ._top_table import plain_line, table_of


@click.command("top", cls=Command)
@click.option(
    "--interval",
    "-i",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two samples.",
)
@click.option("--once", is_flag=True, help="Measure one interval, print, and exit.")
@runs
async def top(settings: Settings, output: Output, interval: float, once: bool) -> int:
    """Show the load of the nodes, live; q quits.

    Operations, evictions and hits are those of the last interval; this program measures the pings.
    If the output is not a terminal, it prints a line for each node and interval, or a document with
    --json.
    """
    async with await settings.client() as client:
        nodes = Nodes(client, pause=min(max(interval / 10, 0.02), 1.0))
        try:
            if once:
                return await _once(nodes, output, interval)
            if _is_live(output):
                await _live(nodes, output, interval)
            else:
                await _lines(nodes, output, interval)
        finally:
            await nodes.close()
    return 0


class Nodes:
    """The samplers of all nodes of a client, also of nodes that join and leave."""

    def __init__(self, client: Client, pause: float) -> None:
        self._client = client
        self._pause = pause
        self._samplers: dict[Address, Sampler] = {}

    async def rows(self) -> list[Row]:
        """Sample all nodes at once."""
        nodes = self._client.cluster_managment().nodes()
        for left_node in [node for node in self._samplers if node not in nodes]:
            await self._samplers.pop(left_node).close()
        for node in nodes:
            if node not in self._samplers:
                self._samplers[node] = Sampler(self._client, node, self._pause)
        rows = await asyncio.gather(*(self._samplers[node].sample() for node in nodes))
        return sorted(rows, key=lambda row: row.node)

    async def close(self) -> None:
        """Stop all samplers."""
        await asyncio.gather(*(sampler.close() for sampler in self._samplers.values()))


def _is_live(output: Output) -> bool:
    console = output.console
    return not output.as_json and console.is_terminal and not console.is_dumb_terminal


def _document(rows: list[Row], interval: float) -> dict[str, object]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "interval": interval,
        "nodes": [row.fields() for row in rows],
        "all": total(rows).fields(),
    }


async def _once(nodes: Nodes, output: Output, interval: float) -> int:
    await nodes.rows()
    await asyncio.sleep(interval)
    rows = await nodes.rows()
    if output.as_json:
        output.document(_document(rows, interval))
    elif output.is_terminal:
        output.console.print(_screen(rows, output.console.width, ""))
    else:
        _print_lines(rows)
    return 0 if all(row.up for row in rows) else NODE


async def _lines(nodes: Nodes, output: Output, interval: float) -> None:
    with _end_on_signals() as ended:
        await _next(nodes, ended, 0)
        while (rows := await _next(nodes, ended, interval)) is not None:
            if output.as_json:
                click.echo(json_text(_document(rows, interval)))
            else:
                _print_lines(rows)


def _print_lines(rows: list[Row]) -> None:
    clock = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    for row in rows:
        click.echo(plain_line(row, clock))
    sys.stdout.flush()


async def _live(nodes: Nodes, output: Output, interval: float) -> None:
    console = output.console
    rows: list[Row] = []
    footer = f"every {interval:g} s; p50, p99: ping in ms; q quits"

    with (
        _end_on_signals() as ended,
        _quit_key(ended),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):

        def draw() -> None:
            live.update(_screen(rows, console.width, footer), refresh=True)

        with _on_resize(draw):
            pause = 0.0
            while (found := await _next(nodes, ended, pause)) is not None:
                rows, pause = found, interval
                draw()


def _screen(rows: list[Row], width: int, footer: str) -> Group:
    up = sum(row.up for row in rows)
    clock = datetime.datetime.now().strftime("%H:%M:%S")
    title = Text(f"emcache top  {clock}  {up} of {len(rows)} up", "bold", no_wrap=True)
    if up < len(rows):
        title.stylize("red")
    shown = [*rows, total(rows)] if len(rows) > 1 else rows
    parts: list[RenderableType] = [title, table_of(shown, width), *_troubles(rows)]
    if footer:
        parts.append(Text(footer, "dim"))
    return Group(*parts)


def _troubles(rows: list[Row]) -> list[Text]:
    return [
        Text(
            f"{printable(row.node)}: {printable(row.error)}",
            "yellow" if row.up else "red",
            overflow="fold",
        )
        for row in rows
        if row.error is not None
    ]


async def _next(nodes: Nodes, ended: asyncio.Event, pause: float) -> list[Row] | None:
    """Wait, then sample; None as soon as the user has quit."""

    async def sample_later() -> list[Row]:
        await asyncio.sleep(pause)
        return await nodes.rows()

    sampling, quitting = asyncio.create_task(sample_later()), asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({sampling, quitting}, return_when=asyncio.FIRST_COMPLETED)
        return None if ended.is_set() else sampling.result()
    finally:
        for task in (sampling, quitting):
            task.cancel()
        await asyncio.gather(sampling, quitting, return_exceptions=True)


@contextlib.contextmanager
def _end_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that signals set, so that Ctrl-C quits without an error."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in signals:
            loop.add_signal_handler(number, ended.set)
    except (NotImplementedError, RuntimeError, ValueError):
        # Windows, or not the main thread.
        yield ended
        return
    try:
        yield ended
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _quit_key(ended: asyncio.Event) -> Iterator[None]:
    """Let the key q quit."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import termios
        import tty
    except ImportError:
        yield
        return
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed() -> None:
        data = os.read(descriptor, 64)
        if not data or b"q" in data or b"Q" in data or b"\x04" in data:
            loop.remove_reader(descriptor)
            ended.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, pressed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _on_resize(draw: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    number = getattr(signal, "SIGWINCH", None)
    if number is None:
        yield
        return
    try:
        loop.add_signal_handler(number, draw)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


COMMANDS = [top]
