"""ping, version, flush."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

import click

from .._address import Address
from .._client import Client
from .._errors import EmcacheError
from ..version import __version__
from ._capabilities import ProxyLacksError, answers, explained
from ._commands import Command, interruptible, runs
from ._exit_codes import code_of, short_text_of, text_of
from ._output import Output, printable
from ._settings import Settings, node_name

T = TypeVar("T")


class Answer(Generic[T]):
    """The answer of one node: ``value`` or ``error``."""

    def __init__(self, node: Address, value: T | None, error: EmcacheError | None) -> None:
        self.node = node_name(node)
        self.value = value
        self.error = error

    def failure(self) -> str:
        """Return the error with the node's name."""
        text = "" if self.error is None else text_of(self.error)
        return text if self.node in text else f"{self.node}: {text}"

    def fields(self) -> dict[str, object]:
        """Return the JSON of the node."""
        return {
            "node": self.node,
            "ok": self.error is None,
            "error": None if self.error is None else text_of(self.error),
        }


async def ask_all(client: Client, ask: Callable[[Address], Awaitable[T]]) -> list[Answer[T]]:
    """Query all nodes at once; return the answer or the error of each, in the order given."""

    async def one(node: Address) -> Answer[T]:
        try:
            return Answer(node, await ask(node), None)
        except EmcacheError as error:
            return Answer(node, None, await explained(client, node, error))

    return await asyncio.gather(*map(one, client.cluster_managment().nodes()))


def worst_code(errors: Iterable[EmcacheError | None]) -> int:
    """Return one exit code for all nodes: the largest."""
    return max((code_of(error) or 0 for error in errors if error is not None), default=0)


async def _pings(client: Client, node: Address, count: int) -> list[float]:
    await answers(client, node)  # connects, which must not be measured
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        await answers(client, node)
        times.append((time.perf_counter() - begin) * 1000)
    return sorted(times)


@click.command("ping", cls=Command)
@click.option("--count", "-c", type=click.IntRange(1, 100_000), default=3, show_default=True)
@runs
async def ping(settings: Settings, output: Output, count: int) -> int:
    """Measure the round trip to every node."""
    async with await settings.client() as client:
        answers = await ask_all(client, lambda node: _pings(client, node, count))
    if output.as_json:
        nodes = [{**a.fields(), **_times(a.value)} for a in answers]
        output.document({"nodes": nodes})
    else:
        _print_lines(output, answers, _times_text)
    return worst_code([answer.error for answer in answers])


def _print_lines(
    output: Output, answers: list[Answer[T]], text_for: Callable[[T | None], str]
) -> None:
    width = max((len(answer.node) for answer in answers), default=0)
    for answer in answers:
        node = answer.node.ljust(width)
        if answer.error is None:
            output.line(f"{node}  {text_for(answer.value)}")
        elif isinstance(answer.error, ProxyLacksError):
            output.line(f"{node}  up  {answer.error.reason}", "yellow")
        else:
            output.line(f"{node}  down  {short_text_of(answer.error)}", "red")


def _times_text(times: list[float] | None) -> str:
    assert times
    text = f"up  {times[len(times) // 2]:.2f} ms"
    return text if len(times) == 1 else f"{text} ({times[0]:.2f} to {times[-1]:.2f})"


def _times(times: list[float] | None) -> dict[str, float | None]:
    if times is None:
        return {"ms_min": None, "ms_p50": None, "ms_max": None}
    values = {"ms_min": times[0], "ms_p50": times[len(times) // 2], "ms_max": times[-1]}
    return {name: round(value, 3) for name, value in values.items()}


@click.command("version", cls=Command)
@runs
async def version(settings: Settings, output: Output) -> int:
    """Print the versions of all servers."""
    async with await settings.client() as client:
        answers = await ask_all(client, client.version)
    if output.as_json:
        nodes = [{**a.fields(), "version": a.value} for a in answers]
        output.document({"emcache": __version__, "nodes": nodes})
    else:
        output.line(f"emcache  {__version__}")
        _print_lines(output, answers, lambda text: printable(text or "?"))
    return worst_code([answer.error for answer in answers])


@click.command("flush", cls=Command)
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--delay", type=click.IntRange(0, 2_592_000), default=0, help="Seconds from now.")
@runs
async def flush(settings: Settings, output: Output, yes: bool, delay: int) -> int:
    """Invalidate ALL items of all nodes."""
    async with await settings.client() as client:
        nodes = list(map(node_name, client.cluster_managment().nodes()))
        if not yes:
            _confirm(nodes)
        answers = await ask_all(client, lambda node: client.flush_all(node, delay))
    if output.as_json:
        output.document({"nodes": [answer.fields() for answer in answers]})
    else:
        _print_lines(output, answers, lambda _: "flushed")
    return worst_code([answer.error for answer in answers])


def _confirm(nodes: list[str]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(
            "flush asks for confirmation, but stdin is not a terminal; use --yes"
        )
    with interruptible():
        click.confirm(f"Invalidate all items of {', '.join(nodes)}?", abort=True, err=True)


COMMANDS = [ping, version, flush]
