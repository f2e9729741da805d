"""Snapshots of a synchronous client's counters."""

import contextlib
import time
from typing import TYPE_CHECKING, Any

from .._emcache import CoreClient

if TYPE_CHECKING:
    from .._emcache import CoreMigration, _RawSnapshot
else:
    _RawSnapshot = tuple


class SyncSnapshots:
    """Takes snapshots, and keeps the last for the time after a close."""

    def __init__(self, core: CoreClient) -> None:
        self._core = core
        self._last: tuple[float, _RawSnapshot] | None = None
        self.failover: tuple[int, ...] | None = None
        self.core_migration: CoreMigration | None = None
        self.migration_status: dict[str, Any] | None = None

    def latest(self, _timeout: float = 0.0) -> tuple[float, _RawSnapshot] | None:
        """Return current counters, or those at the time of the close."""
        with contextlib.suppress(RuntimeError):
            if self.core_migration is not None:
                self.migration_status = self.core_migration.status()
            self._last = time.time(), self._core.snapshot()
            self.failover = self._core.failover_counters()
        return self._last
