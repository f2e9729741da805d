"""The migration of a client's items to other nodes, or to another routing rule."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

from ._address import Address, Node
from ._checks import check_range, check_seconds
from ._cluster import NodeDirectory
from ._emcache import CoreClient, CoreMigration, Routing
from ._memcached.addresses import format_address, parse_nodes, refuse_duplicates, to_endpoint
from ._memcached.times import THIRTY_DAYS
from ._routing import NodeNames, NodeRouting, NodeWeights
from ._snapshots import Snapshots
from .default_values import DEFAULT_ROUTING

Phase = Literal["prepare", "move", "finish"]

_Arguments = tuple[list[tuple[str, int] | str], Routing, Phase, float | None, int]

DEFAULT_UNKNOWN_TTL = 60
_POLL = 0.02


class Cluster:
    """The nodes that a client's items come from; see ``migrating_from`` of ``create_client``.

    Args:
        node_addresses: the old nodes, as the clients before had them.
        routing: their rule; see :func:`emcache.create_client`.
        weights: their weights.
        names: their names.
        phase: ``"prepare"``, ``"move"`` or ``"finish"``. With several processes, each phase has
            to be rolled out to all of them before the next one begins.
        drain: seconds to stay in the phase ``"move"``, and the same time again in ``"finish"``.
            Then the migration ends by itself. None: it lasts until :meth:`Migration.finish`.
        unknown_ttl: the seconds that an item lives after its move if its server does not tell how
            many it has left: before memcached 1.6, with SASL, and behind most proxies.
    """

    def __init__(
        self,
        node_addresses: Node | Iterable[Node],
        *,
        routing: str = DEFAULT_ROUTING,
        weights: NodeWeights | None = None,
        names: NodeNames | None = None,
        phase: Phase = "move",
        drain: float | None = None,
        unknown_ttl: int = DEFAULT_UNKNOWN_TTL,
    ) -> None:
        self._addresses = parse_nodes(node_addresses, "node_addresses")
        if not self._addresses:
            raise ValueError("a cluster needs at least one node")
        refuse_duplicates(self._addresses, "the list")
        self._endpoints = [to_endpoint(address) for address in self._addresses]
        self._routing = NodeRouting(routing, weights, names)
        self._routing.check(self._addresses)
        self._phase = check_phase(phase)
        if drain is not None:
            check_seconds("drain", drain)
        self._drain = drain
        check_range("unknown_ttl", unknown_ttl, 1, THIRTY_DAYS)
        self._unknown_ttl = unknown_ttl

    def __repr__(self) -> str:
        nodes = ", ".join(map(format_address, self._addresses))
        return f"<emcache.Cluster [{nodes}] phase={self._phase}>"

    async def _arguments(self) -> _Arguments:
        routing = await self._routing.for_nodes(self._addresses, None)
        return self._endpoints, routing, self._phase, self._drain, self._unknown_ttl


def check_phase(phase: Phase) -> Phase:
    """Check the name of a phase."""
    if phase not in ("prepare", "move", "finish"):
        raise ValueError("phase must be 'prepare', 'move' or 'finish'")
    return phase


@dataclass(frozen=True, slots=True)
class MigrationMetrics:
    """Counters of a migration since it began."""

    phase: Phase
    fallback_hits: int = 0
    """Items that a ``get`` found at their other place, after a miss at the first."""
    moved: int = 0
    """Items that were moved to their new node."""
    overtaken: int = 0
    """Moves that were given up because the item was written, deleted or moved meanwhile."""
    busy: int = 0
    """Moves that another call or process had begun already."""
    failed: int = 0
    """Moves that failed because a node did not answer or refused the item."""
    immovable: int = 0
    """Leases of a :class:`emcache.Cache` and empty values, and items of servers without CAS."""
    skipped: int = 0
    """Moves that were left out because too many were waiting; the next ``get`` tries again."""
    unreached: int = 0
    """Writes that could not reach the item's other place."""
    queued: int = 0
    """Moves that are running or waiting at present."""
    unreachable: tuple[Address, ...] = ()
    """Nodes that a write could not reach: this client does not read the key of the write there."""
    is_rolled_back: bool = False
    """Whether the old nodes are the client's again, and items move to them."""
    ends_in: float | None = None
    """The least number of seconds until the migration ends by itself; None: it does not."""


class _Client(Protocol):
    """The parts of a client that a migration uses."""

    _addresses: list[Address]
    _core: CoreClient
    _directory: NodeDirectory
    _migration: "Migration | None"
    _routing: NodeRouting
    _snapshots: Snapshots
    _watcher: Any


class Migration:
    """A migration of a client that is under way; see ``Client.migration``.

    The methods return when the change has taken place. A change goes on if a call of them is
    cancelled.
    """

    _rules: tuple[NodeRouting, NodeRouting]
    """Those of the old and of the new nodes."""

    def __init__(self, client: _Client, core: CoreMigration) -> None:
        self._client = client
        self._core = core
        self._swaps = core.swaps()

    def __repr__(self) -> str:
        try:
            metrics = self.metrics()
        except RuntimeError:
            return "<emcache.Migration>"
        if metrics is None:
            return "<emcache.Migration ended>"
        where = f"phase={metrics.phase}" + (" rolled back" if metrics.is_rolled_back else "")
        end = "" if metrics.ends_in is None else f" ends_in={metrics.ends_in:.0f}s"
        return f"<emcache.Migration {where} moved={metrics.moved}{end}>"

    @property
    def phase(self) -> Phase | None:
        """The phase, or None if the migration has ended."""
        metrics = self.metrics()
        return None if metrics is None else metrics.phase

    def metrics(self) -> MigrationMetrics | None:
        """Return the counters, or None if the migration has ended."""
        return read_status(self._status(), self._client._addresses)

    async def set_phase(self, phase: Phase) -> None:
        """Continue until a phase, or go back to it, and wait until it is reached.

        The phases in between are taken too. Each lasts at least the client's ``timeout`` (10 s
        without one), so that calls which began before can end.

        Raises:
            RuntimeError: the migration has ended, or another call has changed it meanwhile.
        """
        check_phase(phase)
        self._check(self._is_latest() and self._core.set_phase(phase))
        await self._until(lambda status: status is None or status["phase"] == phase)

    async def finish(self) -> None:
        """End the migration, and wait for it: items that were not moved are misses from then on.

        The phases that are left last the client's ``timeout`` each (10 s without one), from
        ``"move"`` twice that time. With several processes, use ``set_phase("finish")`` in all of
        them before you call this in any.

        Raises:
            RuntimeError: the migration has ended, or another call has changed it meanwhile.
        """
        self._check(self._is_latest() and self._core.finish())
        await self._until(lambda status: status is None)

    async def roll_back(self, *, drain: float | None = None) -> None:
        """Take the migration back, and wait until the old nodes are the client's again.

        The client goes back to the phase ``"prepare"`` and then begins a migration in the other
        direction, in the phase ``"move"``: items that are used move to the old nodes. Then
        :meth:`finish` ends it, or ``drain`` does. With several processes, use
        ``set_phase("prepare")`` in all of them before you call this in any.

        Args:
            drain: as in :class:`Cluster`; None for that of the migration.

        Raises:
            RuntimeError: the migration has ended, or another call has changed it meanwhile.
            ValueError: ``drain`` is not a number of seconds, or the client has ``autodiscovery``.
        """
        if drain is not None:
            check_seconds("drain", drain)
        if self._client._watcher is not None:
            raise ValueError(
                "a client with autodiscovery cannot be rolled back; create one with both lists "
                "exchanged"
            )
        status = self._status()
        direction = status is not None and status["is_rolled_back"]
        self._check(self._is_latest() and self._core.roll_back(drain))
        await self._until(
            lambda status: status is None or status["is_rolled_back"] is not direction
        )

    async def wait(self) -> None:
        """Wait until the migration has ended, whoever ends it.

        Raises:
            ClientClosedError: the client was closed.
        """
        while self._status() is not None:  # noqa: ASYNC110 - the core has no event for it
            await asyncio.sleep(_POLL)

    async def _until(self, is_reached: Callable[[dict[str, Any] | None], bool]) -> None:
        """Wait until the decision of the last call has taken effect."""
        status = self._status()
        plan = None if status is None else status["plan"]
        while not is_reached(status):
            await asyncio.sleep(_POLL)
            status = self._status()
            if status is not None and status["plan"] != plan:
                raise RuntimeError("another call has changed the migration meanwhile")

    def _status(self) -> dict[str, Any] | None:
        return self._core.status() if self._is_latest() else None

    def _is_latest(self) -> bool:
        """Return whether this is the client's latest migration; the core knows no other."""
        latest: object = self._client._migration
        return latest is self

    @property
    def _routing(self) -> NodeRouting:
        """The rule of the nodes that are in charge, or were when the migration ended."""
        return self._rules[(self._core.swaps() - self._swaps + 1) % 2]

    @staticmethod
    def _check(is_under_way: bool) -> None:
        if not is_under_way:
            raise RuntimeError("the migration has ended")


def check_cluster(cluster: object, routing: NodeRouting, nodes: list[Address]) -> None:
    """Refuse anything but a :class:`Cluster`, and a rule or nodes that cannot be followed."""
    refuse_duplicates(nodes, "the list")
    _ = routing.rule
    if not isinstance(cluster, Cluster):
        kind = type(cluster).__name__
        raise TypeError(f"migrating_from must be an emcache.Cluster, not {kind}")


def attach_migration(client: _Client, cluster: Cluster, arguments: _Arguments) -> None:
    """Begin a migration from ``cluster`` to the nodes of a client that has just been created."""
    nodes = cluster._addresses
    core = CoreMigration(client._core)
    added = core.migrate_from(*arguments)
    _begin(client, core, nodes, added, cluster._routing, client._routing)


async def start_migration(
    client: _Client,
    node_addresses: Node | Iterable[Node],
    routing: str | None,
    weights: NodeWeights | None,
    names: NodeNames | None,
    phase: Phase,
    drain: float | None,
    unknown_ttl: int,
) -> Migration:
    """Begin a migration of a client to ``node_addresses``."""
    if client._watcher is not None:
        raise ValueError("a client with autodiscovery cannot migrate; pass migrating_from instead")
    if client._core.failover_counters() is not None:
        raise ValueError("a client with failover cannot migrate")
    addresses = parse_nodes(node_addresses, "node_addresses")
    refuse_duplicates(client._directory.nodes(), "the list of the client, which cannot migrate")
    before = client._migration
    kept = client._routing if before is None else before._routing
    rule = kept.rule
    if routing is None:
        weights = kept.weights_of(addresses) if weights is None else weights
        names = kept.names_of(addresses) if names is None else names
    cluster = Cluster(
        addresses,
        routing=rule if routing is None else routing,
        weights=weights,
        names=names,
        phase=phase,
        drain=drain,
        unknown_ttl=unknown_ttl,
    )
    arguments = await cluster._arguments()
    if (share := getattr(client, "_share", None)) is not None:
        # Of a synchronous client: all of its calls must know how far the migration is.
        share()
    core = CoreMigration(client._core)
    added = core.migrate_to(*arguments)
    client._routing = cluster._routing
    return _begin(client, core, addresses, added, kept, cluster._routing)


def _begin(
    client: _Client,
    core: CoreMigration,
    nodes: Sequence[Address],
    added: list[int],
    old: NodeRouting,
    new: NodeRouting,
) -> Migration:
    # The core gave the nodes that it did not know the next indexes, in order.
    client._addresses.extend(nodes[position] for position in added)
    client._directory.refresh()
    client._snapshots.core_migration = core
    make = getattr(client, "_make_migration", Migration)
    migration: Migration = make(client, core)
    migration._rules = old, new
    client._migration = migration
    return migration


def read_status(
    status: dict[str, Any] | None, addresses: Sequence[Address]
) -> MigrationMetrics | None:
    """Convert the core's status."""
    if status is None:
        return None
    values = {each.name: status[each.name] for each in fields(MigrationMetrics)}
    values["unreachable"] = tuple(addresses[node] for node in status["unreachable"])
    return MigrationMetrics(**values)
