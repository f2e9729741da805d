"""``create_client``: checks the options, finds the nodes, and opens a client."""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, cast

from ._address import Address, Node
from ._checks import check_bools, check_range, check_seconds, check_timeouts
from ._client import Client
from ._cluster import ClusterEvents
from ._emcache import CoreClient, Security
from ._hints import with_option_hints
from ._memcached.addresses import parse_nodes, to_endpoint, warn_of_duplicates
from ._options import (
    LoginArguments,
    Pem,
    TlsArguments,
    check_limits,
    login_arguments,
    refuse_unix_sockets,
    tls_arguments,
)
from ._routing import NodeNames, NodeRouting, NodeWeights
from .default_values import (
    DEFAULT_AUTOBATCHING_ENABLED,
    DEFAULT_AUTOBATCHING_MAX_KEYS,
    DEFAULT_AUTODISCOVERY_POLL_INTERVAL,
    DEFAULT_AUTODISCOVERY_TIMEOUT,
    DEFAULT_CONNECTION_TIMEOUT,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MIN_CONNECTIONS,
    DEFAULT_PURGE_UNHEALTHY_NODES,
    DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER,
    DEFAULT_ROUTING,
    DEFAULT_SSL,
    DEFAULT_SSL_VERIFY,
    DEFAULT_TIMEOUT,
)

if TYPE_CHECKING:
    from . import _failover as failovers
    from . import _migration as migration
    from . import _router as router
    from . import discovery
else:
    from ._lazy import discovery, failovers, migration, router

_TIMEOUTS = ("timeout", "connection_timeout", "purge_unused_connections_after")


class _Openable(Protocol):
    """How a client of either kind is opened."""

    @classmethod
    def _open(
        cls,
        addresses: list[Address],
        cluster_events: Any,
        close_timeout: float,
        make_core: Callable[[Callable[[int, str, str | None], object]], CoreClient],
        routing: NodeRouting,
        gutter: Sequence[Address] = (),
    ) -> Self: ...

    def _watch(
        self,
        source: "discovery.Discovery",
        current: "discovery.Topology",
        interval: float,
        connect_timeout: float,
        *,
        is_listed: bool,
    ) -> None: ...


C = TypeVar("C", bound=_Openable)


class _CreateClient(Coroutine[Any, Any, Client]):
    """The result of ``create_client``: await it, or enter it with ``async with``."""

    def __init__(self, create: Coroutine[Any, Any, Client]) -> None:
        self._create = create
        self._client: Client | None = None

    def __repr__(self) -> str:
        return "<emcache.create_client(...), not awaited: await it, or use it in async with>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            if name.startswith("_") or not hasattr(Client, name):
                raise AttributeError(f"create_client() has no attribute {name!r}")
            raise AttributeError(
                f"create_client() was not awaited; use (await create_client(...)).{name}, or "
                f"async with create_client(...) as client"
            )

    def __await__(self) -> Generator[Any, Any, Client]:
        return self._create.__await__()

    def send(self, value: Any) -> Any:
        return self._create.send(value)

    def throw(self, *args: Any) -> Any:
        return self._create.throw(*args)

    def close(self) -> None:
        self._create.close()

    async def __aenter__(self) -> Client:
        self._client = await self._create
        return self._client

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            await self._client.close()


@with_option_hints
def create_client(
    node_addresses: Node | Iterable[Node],
    *,
    timeout: float | None = DEFAULT_TIMEOUT,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    min_connections: int = DEFAULT_MIN_CONNECTIONS,
    purge_unused_connections_after: float | None = DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER,
    connection_timeout: float | None = DEFAULT_CONNECTION_TIMEOUT,
    cluster_events: ClusterEvents | None = None,
    purge_unhealthy_nodes: bool = DEFAULT_PURGE_UNHEALTHY_NODES,
    autobatching: bool = DEFAULT_AUTOBATCHING_ENABLED,
    autobatching_max_keys: int = DEFAULT_AUTOBATCHING_MAX_KEYS,
    ssl: bool = DEFAULT_SSL,
    ssl_verify: bool = DEFAULT_SSL_VERIFY,
    ssl_extra_ca: Pem | None = None,
    username: str | None = None,
    password: str | None = None,
    autodiscovery: "bool | discovery.Discovery" = False,
    autodiscovery_poll_interval: float = DEFAULT_AUTODISCOVERY_POLL_INTERVAL,
    autodiscovery_timeout: float = DEFAULT_AUTODISCOVERY_TIMEOUT,
    ssl_certfile: Pem | None = None,
    ssl_keyfile: Pem | None = None,
    ssl_server_hostname: str | None = None,
    ssl_min_version: Literal["TLSv1.2", "TLSv1.3"] | None = None,
    auth: Literal["ascii", "sasl"] | None = None,
    routing: "str | router.Router" = DEFAULT_ROUTING,
    weights: NodeWeights | None = None,
    names: NodeNames | None = None,
    migrating_from: "migration.Cluster | None" = None,
    hot_keys: int = 0,
    failover: "Literal['next'] | failovers.NextNode | None" = None,
) -> _CreateClient:
    """Create a client in the running event loop.

    Use it as ``client = await create_client(...)`` with ``await client.close()`` at the end, or as
    ``async with create_client(...) as client``. It does not wait for a connection, so a node that
    is down does not make it fail.

    Args:
        node_addresses: the nodes, at least one: a text such as ``"cache-1:11211,cache-2"``, or a
            list of texts or addresses; see :func:`emcache.parse_nodes`. Their order and spelling
            decide which node gets which key, so all clients of a cluster must use the same list.
        timeout: seconds from a call to its reply, including the wait for a connection; None for no
            limit.
        max_connections: the most connections to each node, >= 1. One more is opened while a
            replaced node moves to its new address.
        min_connections: connections that are opened at once and kept open, 0 <= min <= max.
        purge_unused_connections_after: seconds after which an unused connection above the minimum
            is closed; None for never.
        connection_timeout: seconds for name resolution, connect, TLS and login; None for no limit.
        cluster_events: handlers to call when nodes become unhealthy and healthy.
        purge_unhealthy_nodes: do not route keys to unhealthy nodes. Their keys move to other nodes
            and back, so values may be stale.
        autobatching: merge the single gets of one loop iteration into one command.
        autobatching_max_keys: the most keys in a merged command, >= 1.
        ssl: connect with TLS.
        ssl_verify: verify that the certificate is issued by a trusted CA, is within its validity
            period, and matches the node's name. With False, anyone on the network path can read and
            alter traffic.
        ssl_extra_ca: CAs to trust in addition to those of the system (or of ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR``): the path of a PEM file, or PEM data as bytes.
        username: the name for the login to each node; together with ``password``.
        password: see ``username``.
        autodiscovery: ask the cluster for its nodes and follow changes. With True the client sends
            ``config get cluster`` (AWS ElastiCache, GCP Memorystore) to ``node_addresses``, the
            configuration endpoint. Or pass a :class:`emcache.discovery.Discovery`; then
            ``node_addresses`` is the fallback if the first query fails, and may be empty.
        autodiscovery_poll_interval: seconds between two queries, with a jitter of a tenth. After a
            failure, or when a node becomes unhealthy, the next query comes sooner.
        autodiscovery_timeout: seconds for each query, including its connection. Connecting may take
            nine tenths of it.
        ssl_certfile: the client's certificate, with the intermediate certificates up to its CA: a
            path or PEM data.
        ssl_keyfile: the key of ``ssl_certfile``, unencrypted; None if that file has it too.
        ssl_server_hostname: the name that certificates must match, instead of each node's own
            name. Unix sockets have no name.
        ssl_min_version: ``"TLSv1.2"`` (the default) or ``"TLSv1.3"``.
        auth: the kind of login: ``"ascii"`` (the default, ``memcached -Y``) or ``"sasl"`` (SASL
            PLAIN over the binary protocol, ``memcached -S``).
        routing: the rule that decides which node gets which key. All clients of a cluster must use
            the same rule. ``"emcache"`` is the rule of emcache 1.3 (``"emcache-arm64"`` that of 1.3
            on Linux/arm64), ``"rendezvous"`` is the best choice for a new cluster, and the others
            are the rules of other clients: see the page on routing.
            A :class:`Router` is a rule of your own.
        weights: the share of the keys that a node gets, relative to the other nodes: whole numbers
            from 1 to 65,535, by address or by its text (``"10.0.0.1:11211"``). Nodes that are not
            listed have the weight 1. Only some rules have weights.
        names: for rules that hash the names of nodes: the name by which other clients know a node,
            by address or by its text. Without one it is made from the node's address.
        migrating_from: the nodes and the rule that the items were stored with before, as an
            :class:`emcache.Cluster`. Items that are read are moved to ``node_addresses``.
        hot_keys: report this many of the most requested keys in :meth:`Client.metrics`, up to 100;
            0 to count none. Each request then costs a little more.
        failover: where the keys of a node go while it is down. With None, their calls fail. With
            ``"next"`` or a :class:`NextNode` the other nodes take them, and with a
            :class:`Gutter`, spare nodes do. See the page on failover.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument has a wrong type.
        OSError: a file cannot be read.
        DiscoveryError: ``autodiscovery`` found no list of nodes; a ``ConnectionError`` and a
            ``TimeoutError``.
        AuthenticationError: the configuration endpoint refused the login.
    """
    return _CreateClient(
        _create_client(
            node_addresses,
            cluster_events,
            (autodiscovery, autodiscovery_poll_interval, autodiscovery_timeout),
            needs_names=bool(ssl and ssl_verify and not ssl_server_hostname),
            reads_files=bool(ssl),
            login=lambda: login_arguments(username, password, auth),
            tls=lambda addresses: tls_arguments(
                ssl,
                ssl_verify,
                ssl_extra_ca,
                ssl_certfile,
                ssl_keyfile,
                ssl_server_hostname,
                ssl_min_version,
                addresses,
            ),
            timeout=timeout,
            min_connections=min_connections,
            max_connections=max_connections,
            purge_unused_connections_after=purge_unused_connections_after,
            connection_timeout=connection_timeout,
            switches={"purge_unhealthy_nodes": purge_unhealthy_nodes, "autobatching": autobatching},
            purge_unhealthy_nodes=bool(purge_unhealthy_nodes),
            max_merged_keys=autobatching_max_keys if autobatching else 1,
            routing=NodeRouting(routing, weights, names),
            migrating_from=migrating_from,
            hot_keys=hot_keys,
            failover=failover,
            client_class=Client,
        )
    )


def _check_events(events: object) -> None:
    if events is None or isinstance(events, ClusterEvents):
        return
    if isinstance(events, type) or not hasattr(events, "on_node_unhealthy"):
        what = f"the class {events.__name__}" if isinstance(events, type) else type(events).__name__
        raise TypeError(f"cluster_events must be a ClusterEvents, not {what}")


def _is_source(autodiscovery: object) -> bool:
    """Return whether the argument is a Discovery and not a bool, whatever its truth value."""
    if autodiscovery is None or isinstance(autodiscovery, bool):
        return False
    if isinstance(autodiscovery, type) or not hasattr(autodiscovery, "discover"):
        raise TypeError("autodiscovery must be a bool, or an object with a method discover()")
    return True


async def _create_client(
    node_addresses: Node | Iterable[Node],
    cluster_events: ClusterEvents | None,
    autodiscovery_options: "tuple[bool | discovery.Discovery | None, float, float]",
    *,
    needs_names: bool,
    reads_files: bool = False,
    login: Callable[[], LoginArguments | None],
    routing: NodeRouting,
    migrating_from: "migration.Cluster | None",
    failover: object,
    tls: Callable[[list[Address]], TlsArguments | None],
    switches: dict[str, bool],
    client_class: type[C],
    **options: Any,
) -> C:
    addresses = parse_nodes(node_addresses, "node_addresses")
    warn_of_duplicates(addresses)
    _check_events(cluster_events)
    if migrating_from is not None:
        from ._migration import check_cluster

        check_cluster(migrating_from, routing, addresses)
    check_bools(**switches)
    check_timeouts(**{name: options[name] for name in _TIMEOUTS})
    autodiscovery, interval, query_timeout = autodiscovery_options
    is_source = _is_source(autodiscovery)
    if not addresses and not is_source:
        raise ValueError("At least one memcached hosts needs to be provided")
    endpoints = [to_endpoint(address) for address in addresses]
    check_limits(options["min_connections"], options["max_connections"])
    check_range("autobatching_max_keys", options["max_merged_keys"], 1, 2**32 - 1)
    check_range("hot_keys", options["hot_keys"], 0, 100)
    fallback, options["failover"] = None, None
    if failover is not None:
        from ._failover import check_failover, check_gutter, for_core

        fallback = check_failover(failover, options["purge_unhealthy_nodes"])
        check_gutter(fallback, addresses)
        if migrating_from is not None:
            raise ValueError(
                "a client with failover cannot migrate: pass only one of failover "
                "and migrating_from"
            )
        options["failover"] = for_core(fallback)
    routing.check(None if autodiscovery is True or is_source else addresses)
    protected = [*addresses, *(fallback.nodes if fallback else ())]

    def security() -> Security:
        return Security(tls(protected), login())

    # With TLS, these are files of the options, and those with the CAs of the system.
    options["security"] = await asyncio.to_thread(security) if reads_files else security()
    source, topology, is_listed = None, None, False
    if autodiscovery is True or is_source:
        from .discovery._autodiscovery import first_topology

        check_seconds("autodiscovery_poll_interval", interval)
        check_seconds("autodiscovery_timeout", query_timeout)

        def check_nodes(found: "discovery.Topology") -> None:
            routing.check_topology(found)
            if needs_names:
                refuse_unix_sockets(node.address for node in found.nodes)

        source, topology, is_listed = await first_topology(
            autodiscovery, addresses, query_timeout, options, check_nodes
        )
        if routing.hashes_ips:
            from .discovery._ips import DiscoveryWithIps, with_ips

            source, topology = DiscoveryWithIps(source), await with_ips(topology)
        addresses = [node.address for node in topology.nodes]
        endpoints = [to_endpoint(address) for address in addresses]
        if fallback is not None:
            check_gutter(fallback, addresses)
    options["routing"] = await routing.for_nodes(addresses, topology)
    former = None if migrating_from is None else await migrating_from._arguments()
    client = client_class._open(
        addresses,
        cluster_events,
        DEFAULT_TIMEOUT if options["timeout"] is None else options["timeout"],
        lambda on_change, **more: CoreClient(endpoints, on_change=on_change, **options | more),
        routing,
        fallback.nodes if fallback else (),
    )
    if former is not None and migrating_from is not None:
        from ._migration import attach_migration

        attach_migration(cast(Any, client), migrating_from, former)
    if source is not None and topology is not None:
        # A new node that cannot be reached must not delay the others for ever.
        connect_timeout = options["connection_timeout"]
        if connect_timeout is None:
            connect_timeout = DEFAULT_CONNECTION_TIMEOUT
        if options["min_connections"] == 0:
            # New nodes connect when they are first used.
            connect_timeout = 0
        client._watch(source, topology, interval, connect_timeout, is_listed=is_listed)
    return client
