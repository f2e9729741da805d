# Written by tools/make_sync.py from emcache/_create.py.
"""``create_client`` of the synchronous client."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from .._address import Node
from .._create import _create_client
from .._options import Pem, login_arguments, tls_arguments
from .._routing import NodeNames, NodeRouting, NodeWeights
from ..default_values import (
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
from ._client import Client
from ._creation import created
from ._events import ClusterEvents

if TYPE_CHECKING:
    from .. import _failover as failovers
    from .. import _migration as migration
    from .. import _router as router
    from .. import discovery
else:
    from .._lazy import discovery, failovers, migration, router


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
    allow_in_event_loop: bool = False,
    migrating_from: "migration.Cluster | None" = None,
    hot_keys: int = 0,
    failover: "Literal['next'] | failovers.NextNode | None" = None,
) -> Client:
    """Create a synchronous client, which threads may share.

    Use it as ``client = create_client(...)`` with ``client.close()`` at the end, or as
    ``with create_client(...) as client``. It does not connect: the first call does.

    Args:
        node_addresses: the nodes, at least one: a text such as ``"cache-1:11211,cache-2"``, or a
            list of texts or addresses; see :func:`emcache.parse_nodes`. Their order and spelling
            decide which node gets which key, so all clients of a cluster must use the same list.
        timeout: seconds from a call to its reply, including the wait for a connection; None for no
            limit.
        max_connections: the most connections to each node, >= 1, for each call that is under
            way. One more is opened while a replaced node moves to its new address.
        min_connections: connections that the first call opens and that are kept open, for
            each call that is under way, 0 <= min <= max.
        purge_unused_connections_after: seconds after which an unused connection above the minimum
            is closed; None for never.
        connection_timeout: seconds for name resolution, connect, TLS and login; None for no limit.
        cluster_events: handlers to call when nodes become unhealthy and healthy.
        purge_unhealthy_nodes: do not route keys to unhealthy nodes. Their keys move to other nodes
            and back, so values may be stale.
        autobatching: accepted, so that both clients have the same options; each call waits
            for its reply, so there is nothing to merge.
        autobatching_max_keys: see ``autobatching``; >= 1.
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
            A :class:`emcache.Router` is a rule of your own.
        weights: the share of the keys that a node gets, relative to the other nodes: whole numbers
            from 1 to 65,535, by address or by its text (``"10.0.0.1:11211"``). Nodes that are not
            listed have the weight 1. Only some rules have weights.
        names: for rules that hash the names of nodes: the name by which other clients know a node,
            by address or by its text. Without one it is made from the node's address.
        allow_in_event_loop: allow calls in a thread with a running event loop. They block
            the loop, so they raise ``RuntimeError`` by default.
        migrating_from: the nodes and the rule that the items were stored with before, as an
            :class:`emcache.Cluster`. Items that are read are moved to ``node_addresses``.
        hot_keys: report this many of the most requested keys in :meth:`Client.metrics`, up to 100;
            0 to count none. Each request then costs a little more.
        failover: where the keys of a node go while it is down. With None, their calls fail. With
            ``"next"`` or a :class:`emcache.NextNode` the other nodes take them, and with a
            :class:`emcache.Gutter`, spare nodes do. See the page on failover. All calls
            then use one core, in a thread of its own.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument has a wrong type.
        RuntimeError: gevent or eventlet has replaced the modules of the standard library.
        OSError: a file cannot be read.
        DiscoveryError: ``autodiscovery`` found no list of nodes; a ``ConnectionError`` and a
            ``TimeoutError``.
        AuthenticationError: the configuration endpoint refused the login.
    """
    return created(
        _create_client(
            node_addresses,
            cluster_events,  # type: ignore[arg-type]
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
            switches={
                "purge_unhealthy_nodes": purge_unhealthy_nodes,
                "autobatching": autobatching,
                "allow_in_event_loop": allow_in_event_loop,
            },
            purge_unhealthy_nodes=bool(purge_unhealthy_nodes),
            max_merged_keys=autobatching_max_keys if autobatching else 1,
            routing=NodeRouting(routing, weights, names),
            migrating_from=migrating_from,
            hot_keys=hot_keys,
            failover=failover,
            client_class=Client,
            blocking=bool(allow_in_event_loop),
            shared=migrating_from is not None,
        )
    )
