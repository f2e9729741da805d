"""The options ``routing``, ``weights`` and ``names``, checked and converted for the core."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ._address import Address
from ._checks import check_range
from ._emcache import Routing
from ._memcached.addresses import (
    format_address,
    parse_address,
    parse_node,
    split_addresses,
    to_endpoint,
)

if TYPE_CHECKING:
    from ._router import Router, RouterNode
    from .discovery import DiscoveredNode, Topology

NodeWeights = Mapping[Address, int] | Mapping[str, int]
NodeNames = Mapping[Address, str] | Mapping[str, str]

MAX_WEIGHT = 65_535
SUBSTITUTES_ROUTING = "rendezvous"
"""The rule that chooses substitutes for the nodes of a router; see the page on failover."""


class NodeSpec(NamedTuple):
    """What a rule has to know of a node."""

    weight: int | None = None
    name: str | None = None


class NodeRouting:
    """A rule, and what it has to know of the nodes.

    Args:
        rule: the name of the rule, or a router.
        weights: weights by node, or None.
        names: names by node, or None.
    """

    def __init__(
        self, rule: "str | Router", weights: NodeWeights | None, names: NodeNames | None
    ) -> None:
        self._rule = rule
        self._given_weights = weights
        self._given_names = names
        self._specs: dict[Address, NodeSpec] = {}
        """Those in effect, of the nodes that have one."""

    @property
    def is_named(self) -> bool:
        """Whether the core knows the rule; otherwise it is a router."""
        return isinstance(self._rule, str)

    @property
    def rule(self) -> str:
        """The name of the rule.

        Raises:
            ValueError: the rule is a router; its choices cannot be followed during a migration.
        """
        if not isinstance(self._rule, str):
            raise ValueError("a client whose routing is a Router cannot migrate")  # noqa: TRY004
        return self._rule

    def weights_of(self, nodes: Iterable[Address]) -> dict[Address, int]:
        """Return the weights of those nodes that have one."""
        specs = ((node, self.spec(node).weight) for node in nodes)
        return {node: weight for node, weight in specs if weight is not None}

    def names_of(self, nodes: Iterable[Address]) -> dict[Address, str]:
        """Return the names of those nodes that have one."""
        specs = ((node, self.spec(node).name) for node in nodes)
        return {node: name for node, name in specs if name is not None}

    def check(self, addresses: Iterable[Address] | None) -> None:
        """Check everything; ``addresses`` are the nodes, or None if others may follow.

        Raises:
            ValueError: an unknown rule, or something that the rule or the nodes do not have.
            TypeError: an argument has a wrong type.
        """
        if not isinstance(self._rule, str):
            _check_router(self._rule)
        known = None if addresses is None else set(addresses)
        weights: dict[Address, int] = by_address("weights", self._given_weights, known)
        names: dict[Address, str] = by_address("names", self._given_names, known)
        self._given = {
            node: NodeSpec(weights.get(node), names.get(node))
            for node in dict.fromkeys([*weights, *names])
        }
        self.hashes_ips = self._checked(self._given).hashes_ips
        self._specs = self._given

    def check_topology(self, topology: "Topology") -> None:
        """Check the weights and names of discovered nodes.

        Raises:
            ValueError, TypeError: as :meth:`check`.
        """
        if any(node.weight is not None or node.name is not None for node in topology.nodes):
            self._checked(self._specs_of(topology))

    async def for_nodes(self, addresses: list[Address], topology: "Topology | None") -> Routing:
        """Return the rule for these nodes. Resolves their names if the rule hashes IP addresses.

        Raises:
            OSError: a name cannot be resolved.
        """
        if topology is not None:
            self._specs = self._specs_of(topology)
        if not isinstance(self._rule, str):
            return Routing(SUBSTITUTES_ROUTING, [], self._builder(self._rule, addresses))
        if not self.hashes_ips:
            return self._routing(self._specs)
        from .discovery._ips import names_with_ips
        from .discovery._topology import Topology

        names = {node: spec.name for node, spec in self._specs.items() if spec.name is not None}
        names |= await names_with_ips(topology or Topology.of(addresses), known=names)
        return self._routing({node: NodeSpec(name=name) for node, name in names.items()})

    def update(self, topology: "Topology") -> "list[DiscoveredNode]":
        """Take the weights and names of a new list; return the nodes that have other ones now."""
        old, self._specs = self._specs, self._specs_of(topology)
        none = NodeSpec()
        return [
            node
            for node in topology.nodes
            if old.get(node.address, none) != self._specs.get(node.address, none)
        ]

    def spec(self, address: Address) -> NodeSpec:
        """Return what the rule has to know of a node."""
        return self._specs.get(address) or NodeSpec()

    def _specs_of(self, topology: "Topology") -> dict[Address, NodeSpec]:
        """Return the specs of these nodes; those given as options take precedence."""
        specs = self._given.copy()
        for node in topology.nodes:
            weight, name = specs.get(node.address) or NodeSpec()
            weight = node.weight if weight is None else weight
            name = node.name if name is None else name
            if weight is not None or name is not None:
                specs[node.address] = NodeSpec(weight, name)
        return specs

    def _checked(self, specs: dict[Address, NodeSpec]) -> Routing:
        for node, (weight, name) in specs.items():
            if weight is not None:
                check_range(f"the weight of {format_address(node)}", weight, 1, MAX_WEIGHT)
            if name is not None and (not isinstance(name, str) or not name):
                raise TypeError(f"the name of {format_address(node)} must be a text")
        if isinstance(self._rule, str):
            return self._routing(specs)
        return Routing(SUBSTITUTES_ROUTING, [], self._rule.build)

    def _routing(self, specs: dict[Address, NodeSpec]) -> Routing:
        nodes = [(to_endpoint(node), *spec) for node, spec in specs.items()]
        return Routing(str(self._rule), nodes, None)

    def _builder(
        self, router: "Router", addresses: list[Address]
    ) -> Callable[[Sequence[int]], Callable[[bytes], int]]:
        """Return the function that the core calls with the indexes of the nodes."""

        def build(indexes: Sequence[int]) -> Callable[[bytes], int]:
            return router.build([self._router_node(addresses[index]) for index in indexes])

        return build

    def _router_node(self, address: Address) -> "RouterNode":
        from ._router import RouterNode

        weight, name = self.spec(address)
        return RouterNode(
            address,
            1 if weight is None else weight,
            format_address(address) if name is None else name,
        )


def _check_router(router: object) -> None:
    if isinstance(router, type) or not callable(getattr(router, "build", None)):
        what = f"the class {router.__name__}" if isinstance(router, type) else type(router).__name__
        raise TypeError(f"routing must be a str or an object with a method build(), not {what}")


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
        address = parse_node(node)
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


def parse_names(text: str) -> dict[Address, str]:
    """Parse ``10.0.0.1:11211=alpha,10.0.0.2:11211=beta``.

    Raises:
        ValueError: not such a text.
    """
    names = {}
    for item in split_addresses(text):
        node, separator, name = item.partition("=")
        if not separator or not name:
            raise ValueError(f"names must be a text like 10.0.0.1:11211=alpha, not {item!r}")
        names[parse_address(node)] = name
    return names
