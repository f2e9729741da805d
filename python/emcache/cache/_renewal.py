"""The computation of ``renew``: it replaces whatever is under the key."""

import contextlib
from typing import Generic, TypeVar

from .._errors import EmcacheError, NotFoundCommandError
from ._flights import Outcome
from ._leases import Guard, LeaseGuard, ValueGuard, Won
from ._miss import Miss
from ._values import is_stub

T = TypeVar("T")


class Renewal(Miss[T], Generic[T]):
    """Computes a value that replaces an older one, or one that is being computed."""

    async def replace(self) -> Outcome[T]:
        """Compute the value, and store it unless the key is written or deleted meanwhile."""
        try:
            guard = await self._guard()
        except EmcacheError as error:
            outcome = await self.compute_alone("unreachable")
            outcome.set_cache_error(error)
            return outcome
        if guard is not None and not guard.cas:
            self._has_unguarded_stub = isinstance(guard, LeaseGuard)
            return await self.compute_without_lease()
        if guard is None:
            outcome = await self.compute_alone("replaced")
        else:
            outcome = await self._compute(guard)
        if outcome.not_stored == "replaced":
            # The other value may be older than this call.
            with contextlib.suppress(EmcacheError, NotFoundCommandError):
                await self._storage.client.delete(self.name)
            self._storage.flights.local.forget(self.name)
        return outcome

    async def _guard(self) -> Guard | None:
        """Return what the value is stored with; None if another process has just begun."""
        epoch = self._leases.epoch(self.name)
        item = await self._leases.look(self.name)
        if item is not None and not is_stub(item.value, item.flags):
            return ValueGuard(self._leases, self.name, item.cas or 0, epoch)
        if item is not None:
            await self._leases.give_back(self.name, item.cas or 0)
        taken = await self._winning(self._leases.take(self.name, self.policy.lease_exptime))
        return (
            LeaseGuard(self._leases, self.name, taken.cas, epoch)
            if isinstance(taken, Won)
            else None
        )
