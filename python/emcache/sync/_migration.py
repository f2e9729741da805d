# Written by tools/make_sync.py from emcache/_migration.py.
"""The migration of a synchronous client."""

import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from .._address import Node
from .._checks import check_seconds
from .._emcache import CoreMigration
from .._migration import _POLL, MigrationMetrics, Phase, _Client, check_phase, read_status
from .._migration import start_migration as _start_migration
from .._routing import NodeNames, NodeRouting, NodeWeights
from ._creation import run


class Migration:
    """A migration of a client that is under way; see ``emcache.sync.Client.migration``.

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

    def set_phase(self, phase: Phase) -> None:
        """Continue until a phase, or go back to it, and wait until it is reached.

        The phases in between are taken too. Each lasts at least the client's ``timeout`` (10 s
        without one), so that calls which began before can end.

        Raises:
            RuntimeError: the migration has ended, or another call has changed it meanwhile.
        """
        check_phase(phase)
        self._check(self._is_latest() and self._core.set_phase(phase))
        self._until(lambda status: status is None or status["phase"] == phase)

    def finish(self) -> None:
        """End the migration, and wait for it: items that were not moved are misses from then on.

        The phases that are left last the client's ``timeout`` each (10 s without one), from
        ``"move"`` twice that time. With several processes, use ``set_phase("finish")`` in all of
        them before you call this in any.

        Raises:
            RuntimeError: the migration has ended, or another call has changed it meanwhile.
        """
        self._check(self._is_latest() and self._core.finish())
        self._until(lambda status: status is None)

    def roll_back(self, *, drain: float | None = None) -> None:
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
        self._until(lambda status: status is None or status["is_rolled_back"] is not direction)

    def wait(self) -> None:
        """Wait until the migration has ended, whoever ends it.

        Raises:
            ClientClosedError: the client was closed.
        """
        while self._status() is not None:
            time.sleep(_POLL)

    def _until(self, is_reached: Callable[[dict[str, Any] | None], bool]) -> None:
        """Wait until the decision of the last call has taken effect."""
        status = self._status()
        plan = None if status is None else status["plan"]
        while not is_reached(status):
            time.sleep(_POLL)
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


def start_migration(
    client: Any,
    node_addresses: Node | Iterable[Node],
    routing: str | None,
    weights: NodeWeights | None,
    names: NodeNames | None,
    phase: Phase,
    drain: float | None,
    unknown_ttl: int,
) -> Migration:
    """Begin a migration of a client to ``node_addresses``."""
    options = routing, weights, names, phase, drain, unknown_ttl
    return cast(Migration, run(_start_migration(client, node_addresses, *options)))
