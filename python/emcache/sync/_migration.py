# Written by tools/make_sync.py from emcache/_migration.py.
"""The migration of a synchronous client."""

from collections.abc import Iterable
from typing import Any, cast

from .._address import Node
from .._emcache import CoreMigration
from .._migration import MigrationMetrics, Phase, _Client, check_phase, read_status
from .._migration import start_migration as _start_migration
from .._routing import NodeNames, NodeWeights
from ._creation import run


class Migration:
    """A migration of a client that is under way; see ``emcache.sync.Client.migration``."""

    def __init__(self, client: _Client, core: CoreMigration) -> None:
        self._client = client
        self._core = core

    @property
    def phase(self) -> Phase | None:
        """The phase, or None if the migration has ended."""
        metrics = self.metrics()
        return None if metrics is None else metrics.phase

    def metrics(self) -> MigrationMetrics | None:
        """Return the counters, or None if the migration has ended."""
        return read_status(self._core.status(), self._client._addresses)

    def set_phase(self, phase: Phase) -> None:
        """Continue until a phase, or go back to it.

        The phases in between are taken too, and each lasts at least the client's ``timeout``, so
        that calls which began before can end. The method returns at once; :attr:`phase` tells how
        far the client is.

        Raises:
            RuntimeError: the migration has ended.
        """
        self._check(self._core.set_phase(check_phase(phase)))

    def finish(self) -> None:
        """End the migration: items that were not moved are misses from then on.

        The method returns at once. The migration ends after the phase ``"finish"`` has lasted for
        the client's ``timeout``. With several processes, use ``set_phase("finish")`` in all of them
        before you call this in any.

        Raises:
            RuntimeError: the migration has ended.
        """
        self._check(self._core.finish())

    def roll_back(self) -> None:
        """Take the migration back: the old nodes are the client's again, and items move to them.

        The method returns at once. The client goes back to the phase ``"prepare"`` and then begins
        a migration in the other direction. With several processes, use ``set_phase("prepare")`` in
        all of them before you call this in any.

        Raises:
            RuntimeError: the migration has ended.
        """
        self._check(self._core.roll_back())

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
