"""top: shows the load of the nodes, refreshed periodically."""

import asyncio
import datetime
import sys
from collections import deque
from dataclasses import replace

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from .._address import Address
from .._client import Client
from ._commands import Command, runs
from ._exit_codes import NODE
from ._live import end_on_signals, keys_pressed, on_resize
from ._output import Output, json_text, printable
from ._sampling import Row, Sampler, total
from ._settings import Settings
from ._sparkline import ASCII, BLOCKS
from ._top_order import ORDERS, Order
from ._top_table import History, plain_line, table_of

_MINUTE = 60.0
_MOST_SAMPLES = 600
_MOST_TROUBLES = 5


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
@click.option(
    "--sort",
    type=click.Choice([order.name for order in ORDERS]),
    default="node",
    show_default=True,
    help="The worst first; node is the order of --servers.",
)
@click.option("--once", is_flag=True, help="Measure one interval, print, and exit.")
@runs
async def top(settings: Settings, output: Output, interval: float, sort: str, once: bool) -> int:
    """Show the load of the nodes, live; q quits.

    Operations, evictions and hits are those of the last interval; this program measures the pings.
    Keys change the order of the nodes: n, o, h, e, m, c or p, and r for the reverse. If the output
    is not a terminal, it prints a line for each node and interval, or a document with --json.
    """
    order = Order(sort)
    async with await settings.client() as client:
        nodes = Nodes(client, interval)
        try:
            if once:
                return await _once(nodes, output, interval, order)
            if _is_live(output):
                await _live(nodes, output, interval, order)
            else:
                await _lines(nodes, output, interval, order)
        finally:
            await nodes.close()
    return 0


class Nodes:
    """The samplers of all nodes of a client, also of nodes that join and leave."""

    def __init__(self, client: Client, interval: float) -> None:
        self._client = client
        self._pause = min(max(interval / 10, 0.02), 1.0)
        self.samples = min(max(round(_MINUTE / interval), 10), _MOST_SAMPLES)
        self._samplers: dict[Address, Sampler] = {}
        self._history: dict[str, deque[float | None]] = {}

    async def rows(self) -> list[Row]:
        """Sample all nodes at once."""
        nodes = self._client.cluster_managment().nodes()
        for left_node in [node for node in self._samplers if node not in nodes]:
            await self._samplers.pop(left_node).close()
        for node in nodes:
            if node not in self._samplers:
                self._samplers[node] = Sampler(self._client, node, self._pause)
        rows = await asyncio.gather(*(self._samplers[node].sample() for node in nodes))
        return [self._with_history(row) for row in rows]

    def _with_history(self, row: Row) -> Row:
        history = self._history.setdefault(row.node, deque(maxlen=self.samples))
        history.append(row.ops_per_second)
        return replace(row, history=tuple(history))

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


async def _once(nodes: Nodes, output: Output, interval: float, order: Order) -> int:
    await nodes.rows()
    await asyncio.sleep(interval)
    rows = order.sorted(await nodes.rows())
    if output.as_json:
        output.document(_document(rows, interval))
    elif output.is_terminal:
        output.console.print(Screen(output.console, nodes.samples, order).draw(rows, ""))
    else:
        _print_lines(rows)
    return 0 if all(row.up for row in rows) else NODE


async def _lines(nodes: Nodes, output: Output, interval: float, order: Order) -> None:
    with end_on_signals() as ended:
        await _next(nodes, ended, 0)
        while (rows := await _next(nodes, ended, interval)) is not None:
            if output.as_json:
                click.echo(json_text(_document(order.sorted(rows), interval)))
            else:
                _print_lines(order.sorted(rows))


def _print_lines(rows: list[Row]) -> None:
    clock = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    for row in rows:
        click.echo(plain_line(row, clock))
    sys.stdout.flush()


async def _live(nodes: Nodes, output: Output, interval: float, order: Order) -> None:
    console = output.console
    screen = Screen(console, nodes.samples, order)
    rows: list[Row] = []

    def draw() -> None:
        live.update(screen.draw(rows, f"every {interval:g} s; "), refresh=True)

    def pressed(key: str) -> None:
        if order.press(key):
            draw()

    live = Live(console=console, screen=True, auto_refresh=False)
    with end_on_signals() as ended, keys_pressed(ended, pressed), live, on_resize(draw):
        draw()
        pause = 0.0
        while (found := await _next(nodes, ended, pause)) is not None:
            rows, pause = found, interval
            draw()


class Screen:
    """What is drawn.

    Args:
        console: the terminal.
        samples: the number of samples in a minute.
        order: the order of the nodes.
    """

    def __init__(self, console: Console, samples: int, order: Order) -> None:
        self._console = console
        self._order = order
        is_utf8 = console.encoding.lower().startswith("utf")
        self._history = History(samples, BLOCKS if is_utf8 else ASCII)

    def draw(self, rows: list[Row], footer: str) -> Group:
        """Draw the rows; an empty footer is left out, and with it the limit to one screen."""
        up = sum(row.up for row in rows)
        clock = datetime.datetime.now().strftime("%H:%M:%S")
        state = f"{up} of {len(rows)} up" if rows else "connecting"
        title = Text(f"emcache top  {clock}  {state}", "bold", no_wrap=True)
        if up < len(rows):
            title.stylize("red")
        troubles = _troubles(rows, _MOST_TROUBLES if footer else len(rows))
        shown = self._order.sorted(rows)
        if footer:
            # Title, header, total, the line about others, footer.
            shown = shown[: max(self._console.height - len(troubles) - 6, 3)]
        hidden = len(rows) - len(shown)
        with_total = [*shown, total(rows)] if len(rows) > 1 else shown
        width, column = self._console.width, self._order.column
        parts: list[RenderableType] = [title]
        if rows:
            parts += [table_of(with_total, width, self._history, column), *troubles]
        if hidden:
            parts.append(Text(f"{hidden} more nodes do not fit", "dim"))
        if footer:
            keys = " ".join(order.key for order in ORDERS)
            text = f"q quits; {footer}sort: {keys}, r reverses; p50, p99: ping in ms"
            parts.append(Text(text, "dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)


def _troubles(rows: list[Row], most: int) -> list[Text]:
    found = [
        Text(
            f"{printable(row.node)}: {printable(row.error)}",
            "yellow" if row.up else "red",
            overflow="fold",
        )
        for row in rows
        if row.error is not None
    ]
    return found[:most]


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


COMMANDS = [top]
