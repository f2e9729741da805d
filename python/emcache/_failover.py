"""Where the keys of a node that is down go: :class:`NextNode` and :class:`Gutter`."""

from collections.abc import Iterable, Sequence
from typing import Literal

from ._address import Address, Node
from ._checks import check_range
from ._memcached.addresses import (
    format_address,
    parse_nodes,
    refuse_duplicates,
    to_endpoint,
)

CoreFailover = tuple[list[tuple[str, int] | str], int, int, bool]
"""What the core takes: gutter nodes, ``ttl``, ``max_keys``, whether a node is kept out."""

MAX_TTL = 86_400
"""A day. Longer outages are not failovers."""
MAX_KEYS = 10_000_000

OnOverflow = Literal["flush", "keep_out"]


class NextNode:
    """While a node is down, the other nodes take its keys, as the routing rule distributes them.

    Args:
        ttl: the longest exptime, in seconds, of what is written at a substitute; 1 to 86,400.
        max_keys: how many keys the client remembers for each node, to delete them before the node
            serves them again. A remembered key takes about 100 bytes plus its length.
        on_overflow: what happens to a node with more keys than that when it comes back:
            ``"flush"`` sends ``flush_all`` to it, and ``"keep_out"`` gives it no keys until you
            flush it.
    """

    def __init__(
        self,
        *,
        ttl: int = 60,
        max_keys: int = 100_000,
        on_overflow: OnOverflow = "flush",
    ) -> None:
        check_range("ttl", ttl, 1, MAX_TTL)
        check_range("max_keys", max_keys, 1, MAX_KEYS)
        if on_overflow not in ("flush", "keep_out"):
            raise ValueError(f"on_overflow must be 'flush' or 'keep_out', not {on_overflow!r}")
        self.ttl = ttl
        self.max_keys = max_keys
        self.on_overflow = on_overflow

    @property
    def nodes(self) -> tuple[Address, ...]:
        """The gutter nodes."""
        return ()

    def __repr__(self) -> str:
        nodes = ", ".join(format_address(node) for node in self.nodes)
        return (
            f"{type(self).__name__}({f'[{nodes}], ' if nodes else ''}ttl={self.ttl}, "
            f"max_keys={self.max_keys}, on_overflow={self.on_overflow!r})"
        )


class Gutter(NextNode):
    """While a node is down, spare nodes take its keys: the gutter.

    Args:
        nodes: the gutter nodes, as a text or a list; see :func:`emcache.parse_nodes`. They get no
            other keys.
        ttl: see :class:`NextNode`.
        max_keys: see :class:`NextNode`.
        on_overflow: see :class:`NextNode`. A gutter node is always flushed.
    """

    def __init__(
        self,
        nodes: Node | Iterable[Node],
        *,
        ttl: int = 60,
        max_keys: int = 100_000,
        on_overflow: OnOverflow = "flush",
    ) -> None:
        super().__init__(ttl=ttl, max_keys=max_keys, on_overflow=on_overflow)
        self._nodes = tuple(parse_nodes(nodes))
        if not self._nodes:
            raise ValueError("a gutter needs at least one node")
        refuse_duplicates(self._nodes, "the gutter")

    @property
    def nodes(self) -> tuple[Address, ...]:
        return self._nodes


def check_failover(failover: object, purge_unhealthy_nodes: bool) -> NextNode | None:
    """Check the option ``failover``.

    Raises:
        TypeError: it is none of the possible values.
        ValueError: it cannot be combined with another option.
    """
    if failover is None:
        return None
    if failover == "next":
        failover = NextNode()
    if not isinstance(failover, NextNode):
        given = repr(failover) if isinstance(failover, str) else type(failover).__name__
        raise TypeError(f"failover must be 'next', a NextNode, a Gutter or None, not {given}")
    if purge_unhealthy_nodes:
        raise ValueError("failover replaces purge_unhealthy_nodes; pass only one of them")
    return failover


def check_gutter(failover: NextNode | None, addresses: Sequence[Address]) -> None:
    """Refuse a node twice, and a gutter node that is a node of the cluster too."""
    if failover is not None:
        refuse_duplicates(addresses, "the cluster, which failover does not support")
    for node in set(addresses).intersection(() if failover is None else failover.nodes):
        raise ValueError(f"{format_address(node)} is a node of the cluster and of the gutter")


def for_core(failover: NextNode | None) -> CoreFailover | None:
    """Convert the option for the core."""
    if failover is None:
        return None
    gutter = [to_endpoint(node) for node in failover.nodes]
    return gutter, failover.ttl, failover.max_keys, failover.on_overflow == "keep_out"
