"""The options ``routing``, ``weights`` and ``names``, checked and converted for the core."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._address import Address
from ._checks import check_range
from ._emcache import Routing
from ._memcached.addresses import format_address, parse_address, split_addresses, to_endpoint

if TYPE_CHECKING:
    from .discovery import Topology

NodeWeights = Mapping[Address, int] | Mapping[str, int]
NodeNames = Mapping[Address, str] | Mapping[str, str]

MAX_WEIGHT = 65_535


class NodeRouting:
    """A rule, and what it has to know of the nodes.

    Args:
        rule: the name of the rule.
        weights: weights by node, or None.
        names: names by node, or None.
    """

    def __init__(self, rule: str, weights: NodeWeights | None, names: NodeNames | None) -> None:
        self._rule = rule
        self._given_weights = weights
        self._given_names = names

    @property
    def rule(self) -> str:
        """The name of the rule."""
        return self._rule

    def weights_of(self, nodes: Iterable[Address]) -> dict[Address, int]:
        """Return the weights of those nodes that have one."""
        return {node: self._weights[node] for node in nodes if node in self._weights}

    def names_of(self, nodes: Iterable[Address]) -> dict[Address, str]:
        """Return the names of those nodes that have one."""
        return {node: self._names[node] for node in nodes if node in self._names}

    def check(self, addresses: Iterable[Address] | None) -> None:
        """Check everything; ``addresses`` are the nodes, or None if others may follow.

        Raises:
            ValueError: an unknown rule, or something that the rule or the nodes do not have.
            TypeError: an argument has a wrong type.
        """
        if not isinstance(self._rule, str):
            raise TypeError(f"routing must be a str, not {type(self._rule).__name__}")
        known = None if addresses is None else set(addresses)
        self._weights: dict[Address, int] = by_address("weights", self._given_weights, known)
        self._names: dict[Address, str] = by_address("names", self._given_names, known)
        for node, weight in self._weights.items():
            check_range(f"the weight of {format_address(node)}", weight, 1, MAX_WEIGHT)
        for node, name in self._names.items():
            if not isinstance(name, str) or not name:
                raise TypeError(f"the name of {format_address(node)} must be a text")
        self.hashes_ips = self._routing(self._names).hashes_ips

    async def for_nodes(self, addresses: list[Address], topology: "Topology | None") -> Routing:
        """Return the rule for these nodes. Resolves their names if the rule hashes IP addresses.

        Raises:
            OSError: a name cannot be resolved.
        """
        if not self.hashes_ips:
            return self._routing(self._names)
        from .discovery._ips import names_with_ips
        from .discovery._topology import Topology

        names = await names_with_ips(topology or Topology.of(addresses), known=self._names)
        return self._routing(names | self._names)

    def _routing(self, names: dict[Address, str]) -> Routing:
        nodes = dict.fromkeys([*self._weights, *names])
        return Routing(
            self._rule,
            [(to_endpoint(node), self._weights.get(node), names.get(node)) for node in nodes],
        )


def by_address(option: str, given: Any, known: set[Address] | None) -> dict[Address, Any]:
    """Return a mapping by node with addresses as keys; a text is parsed.

    Raises:
        TypeError: not a mapping.
        ValueError: a key is not an address, or not one of the ``known`` nodes.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise TypeError(f"{option} must be a dict by address, not {kind}")
    found = {}
    for node, value in given.items():
        address = parse_address(node) if isinstance(node, str) else node
        to_endpoint(address)
        if known is not None and address not in known:
            raise ValueError(f"{option} has {format_address(address)}, which is not a node")
        found[address] = value
    return found


def parse_weights(text: str) -> dict[Address, int]:
    """Parse ``10.0.0.1:11211=3,10.0.0.2:11211=1``.

    Raises:
        ValueError: not such a text.
    """
    weights = {}
    for item in split_addresses(text):
        node, separator, weight = item.rpartition("=")
        if not separator or not weight.isascii() or not weight.isdigit():
            raise ValueError(f"weights must be a text like 10.0.0.1:11211=3, not {item!r}")
        weights[parse_address(node)] = int(weight[:9])
    return weights
