"""How values are computed, stored and shared: the options of a cache, a function or a call."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from .._hints import unknown_option
from .._memcached.times import THIRTY_DAYS
from ._ttl import ONE_HOUR, Ttl, exptime

OnError = Literal["miss", "raise"]
OnLost = Literal["compute", "raise", "default"]
RefreshIn = Literal["background", "caller"]
LeaseKey = Literal["same", "separate"]

_SHORTEST_LEASE = 2
"""memcached counts whole seconds, so one second would be mostly the slack of its rounding."""


class SharingOptions(TypedDict, total=False):
    """Options of ``Cache``, ``get_or_set`` and ``cached``: a function's override its cache's."""

    jitter: float
    """Shortens each ttl of seconds at random by up to this fraction, such as 0.1, so that values
    that were stored together do not expire together."""
    lease: float | None
    """How many seconds one process may take to compute a missing value while the others wait; at
    least 2, by default 30. A result that takes longer is returned but not stored. None: every
    process computes for itself, and invalidations count within one process only."""
    wait: float | None
    """The longest wait for a value that another process computes, in seconds; None for twice the
    lease, so that the value is computed once more if that process is killed."""
    on_lost: OnLost
    """What happens after ``wait``: ``"compute"`` calls the factory and does not store the result,
    ``"raise"`` raises :class:`emcache.LeaseLostError`, ``"default"`` returns ``default``."""
    default: Any
    """Returned with ``on_lost="default"``, and only allowed with it."""
    refresh: float | None
    """Seconds before the end of the ttl from which one caller in all processes computes the value
    anew, while the others are served the old one; at most half of the ttl counts."""
    refresh_in: RefreshIn
    """``"background"`` refreshes in a task, after the caller was served. ``"caller"`` lets that
    caller wait for the new value; use it if the factory needs something that ends with the caller,
    such as a database session."""
    stale_for: float | None
    """How many seconds after its ttl a value may still be served: while one caller refreshes it,
    and when the factory fails. 0 serves no stale value, not even after
    ``invalidate(key, stale_for=...)``."""
    on_error: OnError
    """With ``"miss"``, the factory is called if the cache fails, and its result is returned even if
    the cache refuses it. With ``"raise"``, errors of the cache are raised."""


class Options(SharingOptions, total=False):
    """Options of ``get_or_set`` and ``cached``; those that are not passed are the cache's."""

    ttl: Ttl | Callable[[Any], Ttl] | None
    """How long values live, or a function that returns it for a computed value."""
    store_if: Callable[[Any], bool] | None
    """Returns whether to store a computed value; None for always."""


def check_function(name: str, given: object) -> None:
    """Refuse an argument that cannot be called, before anything is sent."""
    if not callable(given):
        raise TypeError(f"{name} must be a function, not {type(given).__name__}")


def _check_synchronous(name: str, given: object) -> None:
    """Refuse an async function, whose coroutine would be taken for its result."""
    if inspect.iscoroutinefunction(given):
        raise TypeError(f"{name} must be a synchronous function, not an async one")


def check_seconds(name: str, seconds: object, least: float) -> None:
    """Refuse anything but a number of seconds."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    if not least <= seconds <= THIRTY_DAYS:
        raise ValueError(f"{name} must be from {least} to {THIRTY_DAYS} seconds, not {seconds}")


def _check_choice(name: str, given: object, *choices: str) -> None:
    if given not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}")


UNSET: Any = object()
"""In place of a ``default`` that was not passed; None is one."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Checked options; see :class:`Options`."""

    ttl: Ttl | Callable[[Any], Ttl] = ONE_HOUR
    jitter: float = 0.0
    lease: float | None = 30.0
    wait: float | None = None
    on_lost: OnLost = "compute"
    default: Any = UNSET
    refresh: float | None = None
    refresh_in: RefreshIn = "background"
    stale_for: float | None = None
    store_if: Callable[[Any], bool] | None = None
    on_error: OnError = "miss"

    def __post_init__(self) -> None:
        _check_synchronous("ttl", self.ttl)
        if not callable(self.ttl):
            exptime(self.ttl)
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float):
            raise TypeError(f"jitter must be a number, not {type(self.jitter).__name__}")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be from 0 to below 1, not {self.jitter}")
        if self.lease is not None:
            check_seconds("lease", self.lease, _SHORTEST_LEASE)
        for name, seconds in (("wait", self.wait), ("stale_for", self.stale_for)):
            if seconds is not None:
                check_seconds(name, seconds, 0)
        if self.refresh is not None:
            check_seconds("refresh", self.refresh, 0)
        _check_choice("on_lost", self.on_lost, "compute", "raise", "default")
        _check_choice("refresh_in", self.refresh_in, "background", "caller")
        _check_choice("on_error", self.on_error, "miss", "raise")
        if self.store_if is not None:
            check_function("store_if", self.store_if)
            _check_synchronous("store_if", self.store_if)

    @property
    def ignores_errors(self) -> bool:
        """Whether a cache that fails counts as a miss."""
        return self.on_error == "miss"

    @property
    def lease_seconds(self) -> int:
        """How long a computation or a refresh may take."""
        return math.ceil(30 if self.lease is None else self.lease)

    @property
    def lease_exptime(self) -> int:
        """The exptime of a lease or a refresh mark, which memcached may end up to 1 s early."""
        return min(self.lease_seconds + 1, THIRTY_DAYS)

    @property
    def longest_wait(self) -> float:
        """The longest wait for another process, in seconds."""
        # Who waits ends a dead winner's lease after a second more, and then has a whole one.
        return 2 * self.lease_seconds + 2 if self.wait is None else self.wait

    def with_options(self, options: dict[str, Any]) -> "Policy":
        """Return this policy with other options; a ``ttl`` of None changes nothing.

        Raises:
            TypeError: there is no such option, or its value has another type.
            ValueError: its value is out of range.
        """
        if unknown := options.keys() - _NAMES:
            raise TypeError(unknown_option(min(unknown)))
        if options.get("ttl", 0) is None:
            options = {name: given for name, given in options.items() if name != "ttl"}
        return replace(self, **options) if options else self

    def with_all_options(self, options: dict[str, Any]) -> "Policy":
        """Do the same with the last options: there are no others that could complete them.

        Raises:
            ValueError: also if ``default`` is missing or has no effect.
        """
        policy = self.with_options(options)
        if policy.on_lost == "default" and policy.default is UNSET:
            raise ValueError("on_lost='default' needs default=, which may be None")
        if policy.on_lost != "default" and "default" in options:
            raise ValueError("default= has no effect without on_lost='default'")
        return policy


_NAMES = set(Policy.__dataclass_fields__)
