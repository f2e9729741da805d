"""Routers: rules written in Python that choose the node of each key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ._address import Address


@dataclass(frozen=True)
class RouterNode:
    """A node as a :class:`Router` sees it."""

    address: Address
    weight: int
    """1 unless ``weights`` or the discovery says otherwise."""
    name: str
    """Its address as a text, such as ``10.0.0.1:11211``, unless ``names`` or the discovery says
    otherwise."""


@runtime_checkable
class Router(Protocol):
    """A rule of your own, for ``create_client(..., routing=router)``."""

    def build(self, nodes: Sequence[RouterNode]) -> Callable[[bytes], int]:
        """Return a function that receives a key and returns the position of its node in ``nodes``.

        emcache calls ``build`` before the first key, and again before the next key whenever the
        list has changed: nodes have joined or left, their weights, names or order have changed, or
        with ``purge_unhealthy_nodes`` the health of a node. It calls neither for a single node,
        which gets all keys.

        Both run in the event loop's thread, during the call that needs them, and must not wait.
        What they raise, that call raises, and nothing is sent. A position that no node has is a
        ``ValueError``.
        """
