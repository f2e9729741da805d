"""node-for: where keys are, and which of them another rule would move."""

import dataclasses
import random
from collections import Counter

import click

from .._address import Address
from ..default_values import DEFAULT_ROUTING
from ._commands import Command, runs
from ._failover_notes import wait_for_health
from ._output import Output, bytes_fields, bytes_text, plain_table
from ._settings import Settings, node_name
from ._values import KEY

SAMPLE_SIZE = 10_000


@click.command("node-for", cls=Command)
@click.argument("keys", metavar="[KEY]...", type=KEY, nargs=-1)
@click.option("--compare", metavar="RULE", help="Print what another rule would move.")
@click.option(
    "--compare-weights",
    metavar="ADDRESS=N[,...]",
    help="The weights for --compare. [default: those of --weights]",
)
@runs
async def node_for(
    settings: Settings,
    output: Output,
    keys: tuple[bytes, ...],
    compare: str | None,
    compare_weights: str | None,
) -> None:
    """Print the node that each KEY is routed to.

    Nothing is sent, except with --failover: then the nodes are asked whether they are up, and the
    substitute of a node that is down is printed too. For several KEYs, each line has a key and its
    node, separated by a tab. With --compare, each line also has the key's node by the other rule;
    without a KEY, 10,000 random keys show the share of the keys that would move.
    """
    if compare is None:
        if not keys:
            raise click.UsageError("Missing argument 'KEY...'; only --compare works without one.")
        if compare_weights is not None:
            raise click.UsageError("--compare-weights needs --compare")
        nodes = await _nodes(settings, keys)
        serving = await _serving(settings, keys) if settings.failover is not None else nodes
        _print_nodes(output, keys, nodes, serving)
        return
    if settings.failover is not None:
        raise click.UsageError("use --compare or --failover, not both")
    other = dataclasses.replace(
        settings, routing=compare, weights=compare_weights or settings.weights
    )
    routed = keys or _sample()
    before, after = await _nodes(settings, routed), await _nodes(other, routed)
    rules = (settings.routing or DEFAULT_ROUTING, compare)
    if keys:
        _print_moves(output, rules, keys, before, after)
    else:
        _print_shares(output, rules, before, after)


async def _nodes(settings: Settings, keys: tuple[bytes, ...]) -> list[str]:
    names: dict[Address, str] = {}
    async with await settings.client(min_connections=0) as client:
        for address in client.cluster_managment().nodes():
            names[address] = node_name(address)
        return [names[client.node_for(key)] for key in keys]


async def _serving(settings: Settings, keys: tuple[bytes, ...]) -> list[str]:
    """Return the nodes that serve keys at present: their own ones, or substitutes."""
    async with await settings.item_client() as client:
        await wait_for_health(client, settings.timeout)
        return [node_name(client.node_for(key)) for key in keys]


def _sample() -> tuple[bytes, ...]:
    """Return random keys, the same ones each time."""
    generator = random.Random(0)
    return tuple(b"%016x" % generator.getrandbits(64) for _ in range(SAMPLE_SIZE))


def _print_nodes(
    output: Output, keys: tuple[bytes, ...], nodes: list[str], serving: list[str]
) -> None:
    rows = list(zip(keys, nodes, serving, strict=True))
    if output.as_json:
        found = [
            {**bytes_fields("key", key), "node": node, "serving": now} for key, node, now in rows
        ]
        output.document({"keys": found})
        return
    texts = [node if node == now else f"{node} is down, {now} serves" for _, node, now in rows]
    if len(rows) == 1:
        output.line(texts[0])
    elif not output.is_terminal:
        for key, text in zip(keys, texts, strict=True):
            click.echo(f"{bytes_text(key)}\t{text}")
    else:
        table = plain_table("key", "node")
        for key, text in zip(keys, texts, strict=True):
            table.add_row(bytes_text(key), text)
        output.table(table)


def _print_moves(
    output: Output,
    rules: tuple[str, str],
    keys: tuple[bytes, ...],
    before: list[str],
    after: list[str],
) -> None:
    rows = list(zip(keys, before, after, strict=True))
    if output.as_json:
        found = [
            {**bytes_fields("key", key), "node": old, "compared_node": new, "moves": old != new}
            for key, old, new in rows
        ]
        output.document({"routing": rules[0], "compared": rules[1], "keys": found})
    elif output.is_terminal:
        table = plain_table("key", *rules)
        for key, old, new in rows:
            table.add_row(bytes_text(key), old, new, style="" if old == new else "yellow")
        output.table(table)
    else:
        for key, old, new in rows:
            click.echo(f"{bytes_text(key)}\t{old}\t{new}")


def _print_shares(
    output: Output, rules: tuple[str, str], before: list[str], after: list[str]
) -> None:
    moved = sum(old != new for old, new in zip(before, after, strict=True)) / len(before)
    old_counts, new_counts = Counter(before), Counter(after)
    shares = {
        node: (old_counts[node] / len(before), new_counts[node] / len(after))
        for node in sorted(old_counts | new_counts)
    }
    if output.as_json:
        nodes = [
            {"node": node, "share": old, "compared_share": new}
            for node, (old, new) in shares.items()
        ]
        output.document(
            {"routing": rules[0], "compared": rules[1], "moved_share": moved, "nodes": nodes}
        )
    elif output.is_terminal:
        table = plain_table("node", *(f">{rule}" for rule in rules))
        for node, (old, new) in shares.items():
            table.add_row(node, f"{old:.1%}", f"{new:.1%}")
        output.table(table)
        output.line(f"{moved:.1%} of {SAMPLE_SIZE:,} random keys would move")
    else:
        for node, (old, new) in shares.items():
            click.echo(f"{node}\t{old:.4f}\t{new:.4f}")
        click.echo(f"moved\t{moved:.4f}")


COMMANDS = [node_for]
