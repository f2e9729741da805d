"""The client: what arguments mean. What is done with them is in the core."""

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import emcache

from ._address import ALL_NODES, Address, AllNodes
from ._arguments import (
    Changed,
    Exptime,
    LoginArguments,
    OnError,
    Pem,
    TlsArguments,
    Value,
    address_text,
    check_between,
    check_bools,
    check_limits,
    check_patience,
    check_seconds,
    endpoint,
    login_arguments,
    refuse_sockets,
    stats_words,
    tls_arguments,
)
from ._emcache import CoreClient, Security
from ._errors import ClientClosedError, ConnectionFailedError
from ._owner import CoreOwner
from ._snapshots import Snapshots
from .base import Client, ClusterEvents, ClusterManagment, Item
from .cluster import EventDispatcher, _ClusterManagment
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
    DEFAULT_SSL,
    DEFAULT_SSL_VERIFY,
    DEFAULT_TIMEOUT,
)

# Only those who use these pay for their import. What public annotations name is found by way of the
# package, also at run time.
if TYPE_CHECKING:
    from ._watcher import Watcher

_TIMES = ("timeout", "connection_timeout", "purge_unused_connections_after")
_LOOK_EVERY = 0.01
"""Seconds between two looks whether new nodes are connected."""


class _Client(CoreOwner, Client):
    def __init__(
        self,
        addresses: list[Address],
        cluster_events: ClusterEvents | None,
        grace: float,
        make_core: Callable[[Callable[[int, str, str | None], object]], CoreClient],
    ) -> None:
        self._addresses = addresses
        self._grace = grace
        self._watcher: Watcher | None = None
        self._watching: asyncio.Task[None] | None = None
        self._management = _ClusterManagment(addresses)
        self._dispatcher = EventDispatcher(self._management, cluster_events)
        # The core must not keep its client alive: it would never be seen that nobody closed it.
        client = weakref.ref(self)

        def on_change(index: int, what: str, why: str | None) -> None:
            if (alive := client()) is None:
                return
            if what in ("healthy", "unhealthy"):
                alive._management.node_changed(index, what == "healthy")
            alive._dispatcher.node_changed(addresses[index], what, why)
            if what == "unhealthy" and alive._watcher is not None:
                alive._watcher.hurry()

        self._core = make_core(on_change)
        self._snapshots = Snapshots(self._core, asyncio.get_running_loop())
        self._management.attach(self._core, self._snapshots)

    def _watch(
        self,
        discovery: "emcache.Discovery",
        current: "emcache.Topology",
        interval: float,
        patience: float,
        *,
        is_listed: bool,
    ) -> None:
        """Follow the nodes of a cluster."""
        for index, node in enumerate(current.nodes):
            self._core.set_ip(index, node.ip)
        client = weakref.ref(self)

        from ._watcher import Watcher

        async def apply(topology: "emcache.Topology") -> None:
            if (alive := client()) is not None:
                await alive._apply(topology, patience)

        self._watcher = Watcher(discovery, current, interval, apply, is_listed=is_listed)
        loop = asyncio.get_running_loop()
        self._watching = loop.create_task(self._watcher.run(), name="emcache autodiscovery")
        task = weakref.ref(self._watching)

        def end() -> None:
            # On whatever thread it is noticed that nobody holds the client.
            with contextlib.suppress(RuntimeError):
                if (running := task()) is not None:
                    loop.call_soon_threadsafe(running.cancel)

        weakref.finalize(self, end).atexit = False

    async def _apply(self, topology: "emcache.Topology", patience: float) -> None:
        old = {self._addresses[index]: index for index in self._management.members()}
        new = {node.address: node for node in topology.nodes}
        joining = []
        for address, node in new.items():
            if address in old:
                self._core.set_ip(old[address], node.ip)
            else:
                # In step with the core's indexes: nothing may come between these two.
                joining.append(self._core.add_node(endpoint(address), node.ip))
                self._addresses.append(address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                for index in joining:
                    while not self._core.is_connected(index):  # noqa: ASYNC110 - no event of it
                        await asyncio.sleep(_LOOK_EVERY)
        # One that cannot be reached gets its keys all the same: clients must agree on them.
        leaving = [index for address, index in old.items() if address not in new]
        self._core.change_nodes(joining, leaving)
        self._management.members()
        if joining or leaving:
            self._dispatcher.topology_changed(list(old), list(new), topology.version)

    def __repr__(self) -> str:
        up, down = (", ".join(map(address_text, nodes)) for nodes in self._management.known())
        return f"<emcache.Client {'closed' if self.closed else 'open'} up=[{up}] down=[{down}]>"

    def _node(self, address: Address) -> int:
        if self.closed:
            raise ClientClosedError("Emcache client is closed")
        for index in sorted(self._management.members()):
            if self._addresses[index] == address:
                return index
        raise ValueError(f"{address} can not be found")

    def _nodes(self) -> dict[int, Address]:
        """Give all nodes by their index."""
        if self.closed:
            raise ClientClosedError("Emcache client is closed")
        return {index: self._addresses[index] for index in sorted(self._management.members())}

    @property
    def closed(self) -> bool:
        return self._core.closed

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        try:
            await self._drain()
        finally:
            # What it is to tell of its nodes from now on.
            self._management.known()
            self._snapshots.take()
            self._core.close()
            self._dispatcher.close()

    def cluster_managment(self) -> ClusterManagment:
        return self._management

    def metrics(self) -> "emcache.ClientMetrics":
        from .metrics import metrics_of_client

        return metrics_of_client(self)

    def node_for(self, key: bytes) -> Address:
        return self._addresses[self._core.node_for(key)]

    async def get(self, key: bytes, return_flags: bool = False) -> Item | None:
        return await self._core.get(key, return_flags)

    async def gets(self, key: bytes, return_flags: bool = False) -> Item | None:
        return await self._core.gets(key, return_flags)

    async def get_many(  # type: ignore[override] # mypy does not see the overloads in it
        self,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        if on_error != "raise":
            return await self._partial("get", 0, keys, return_flags, on_error)
        return await self._core.get_many(keys, return_flags)

    async def gets_many(  # type: ignore[override] # mypy does not see the overloads in it
        self,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        if on_error != "raise":
            return await self._partial("gets", 0, keys, return_flags, on_error)
        return await self._core.gets_many(keys, return_flags)

    async def gat(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        try:
            return await self._core.gat(exptime, key, return_flags)
        except ConnectionFailedError as error:
            return await self._instead_of("gat", error, exptime, key, return_flags)

    async def gats(self, exptime: Exptime, key: bytes, return_flags: bool = False) -> Item | None:
        try:
            return await self._core.gats(exptime, key, return_flags)
        except ConnectionFailedError as error:
            return await self._instead_of("gats", error, exptime, key, return_flags)

    async def _instead_of(
        self,
        verb: Literal["gat", "gats"],
        error: ConnectionFailedError,
        exptime: Exptime,
        key: bytes,
        return_flags: bool,
    ) -> Item | None:
        from ._substitutes import get_and_touch, instead

        return await instead(
            error, lambda: get_and_touch(self._core, verb, exptime, key, return_flags)
        )

    async def gat_many(  # type: ignore[override] # as above
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        if on_error != "raise":
            return await self._partial("gat", exptime, keys, return_flags, on_error)
        return await self._touching("gat", exptime, keys, return_flags)

    async def gats_many(  # type: ignore[override] # as above
        self,
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool = False,
        *,
        on_error: OnError = "raise",
    ) -> dict[bytes, Item]:
        if on_error != "raise":
            return await self._partial("gats", exptime, keys, return_flags, on_error)
        return await self._touching("gats", exptime, keys, return_flags)

    async def _touching(
        self,
        verb: Literal["gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
    ) -> dict[bytes, Item]:
        # They may be needed twice.
        keys = list(keys) if hasattr(keys, "__next__") else keys
        ask = self._core.gat_many if verb == "gat" else self._core.gats_many
        try:
            return await ask(exptime, keys, return_flags)
        except ConnectionFailedError as error:
            from ._substitutes import get_and_touch_many, instead

            return await instead(
                error, lambda: get_and_touch_many(self._core, verb, exptime, keys, return_flags)
            )

    async def _partial(
        self,
        verb: Literal["get", "gets", "gat", "gats"],
        exptime: Exptime,
        keys: Iterable[bytes],
        return_flags: bool,
        on_error: OnError,
    ) -> "emcache.PartialResult[bytes, Item]":
        if on_error != "partial":
            raise ValueError("on_error must be 'raise' or 'partial'")
        from ._many import PartialResult

        told = await self._core.fetch_partial(verb, exptime, keys, return_flags)
        if verb in ("gat", "gats") and told[1]:
            from ._substitutes import get_and_touch_partial

            told = await get_and_touch_partial(self._core, verb, exptime, *told, return_flags)
        return PartialResult(*told)

    async def set(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        await self._core.set(key, value, flags, exptime, noreply)

    async def add(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        await self._core.add(key, value, flags, exptime, noreply)

    async def replace(
        self,
        key: bytes,
        value: Value,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        await self._core.replace(key, value, flags, exptime, noreply)

    async def append(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        await self._core.append(key, value, 0, 0, noreply)

    async def prepend(self, key: bytes, value: Value, *, noreply: bool = False) -> None:
        await self._core.prepend(key, value, 0, 0, noreply)

    async def cas(
        self,
        key: bytes,
        value: Value,
        cas: int,
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> None:
        await self._core.cas(key, value, cas, flags, exptime, noreply)

    async def delete(self, key: bytes, *, noreply: bool = False) -> None:
        await self._core.delete(key, noreply)

    async def increment(
        self,
        key: bytes,
        value: int,
        *,
        noreply: bool = False,
        initial: int | None = None,
        exptime: Exptime = 0,
    ) -> int | None:
        if initial is not None or exptime != 0:
            return await self._count("incr", key, value, noreply, initial, exptime)
        return await self._core.increment(key, value, noreply)

    async def decrement(
        self,
        key: bytes,
        value: int,
        *,
        noreply: bool = False,
        initial: int | None = None,
        exptime: Exptime = 0,
    ) -> int | None:
        if initial is not None or exptime != 0:
            return await self._count("decr", key, value, noreply, initial, exptime)
        return await self._core.decrement(key, value, noreply)

    async def _count(
        self,
        verb: Literal["incr", "decr"],
        key: bytes,
        value: int,
        noreply: bool,
        initial: int | None,
        exptime: Exptime,
    ) -> int:
        check_bools(noreply=noreply)
        if initial is None:
            raise ValueError("exptime applies only when a counter is created; pass initial as well")
        if noreply:
            raise ValueError("initial and noreply exclude each other, because the reply is needed")
        from ._counters import count

        return await count(self._core, verb, key, value, initial, exptime)

    async def touch(self, key: bytes, exptime: Exptime, *, noreply: bool = False) -> None:
        await self._core.touch(key, exptime, noreply)

    async def set_many(
        self,
        items: Mapping[bytes, Value],
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> "emcache.ManyResult":
        return _many(await self._core.store_many("set", items, flags, exptime, noreply))

    async def add_many(
        self,
        items: Mapping[bytes, Value],
        *,
        flags: int = 0,
        exptime: Exptime = 0,
        noreply: bool = False,
    ) -> "emcache.ManyResult":
        return _many(await self._core.store_many("add", items, flags, exptime, noreply))

    async def delete_many(
        self, keys: Iterable[bytes], *, noreply: bool = False
    ) -> "emcache.ManyResult":
        return _many(await self._core.delete_many(keys, noreply))

    async def touch_many(
        self, keys: Iterable[bytes], exptime: Exptime, *, noreply: bool = False
    ) -> "emcache.ManyResult":
        return _many(await self._core.touch_many(keys, exptime, noreply))

    async def ping(self) -> dict[Address, float | Exception]:
        from ._nodes import ping

        return await ping(self._core, self._nodes, self._grace)

    async def wait_ready(
        self,
        timeout: float,  # noqa: ASYNC109 - it says why
        *,
        min_nodes: int | None = None,
    ) -> None:
        from ._nodes import wait_ready

        await wait_ready(self._core, self._nodes, timeout, min_nodes, self._grace)

    async def flush_all(
        self,
        memcached_host_address: Address | AllNodes = ALL_NODES,
        delay: int = 0,
        *,
        noreply: bool = False,
    ) -> None:
        if memcached_host_address is not ALL_NODES:
            await self._core.flush_all(self._node(memcached_host_address), delay, noreply)
            return
        from ._nodes import ask_all

        told = await ask_all(self._nodes, lambda node: self._core.flush_all(node, delay, noreply))
        told.raise_errors()

    async def version(self, memcached_host_address: Address) -> str | None:
        return await self._core.version(self._node(memcached_host_address))

    async def stats(  # type: ignore[override] # as above
        self, memcached_host_address: Address | AllNodes = ALL_NODES, *args: str
    ) -> "dict[str, str] | emcache.PartialResult[Address, dict[str, str]]":
        if memcached_host_address is not ALL_NODES:
            return await self._core.stats(self._node(memcached_host_address), stats_words(args))
        from ._nodes import ask_all

        words = stats_words(args)
        return await ask_all(self._nodes, lambda node: self._core.stats(node, words))

    async def verbosity(
        self, memcached_host_address: Address, level: int, *, noreply: bool = False
    ) -> None:
        await self._core.verbosity(self._node(memcached_host_address), level, noreply)

    async def cache_memlimit(
        self, memcached_host_address: Address, value: int, *, noreply: bool = False
    ) -> None:
        await self._core.cache_memlimit(self._node(memcached_host_address), value, noreply)


def _many(told: Changed | None) -> "emcache.ManyResult":
    from ._many import ManyResult

    return ManyResult(*(told or ([], [], {})))


class _CreateClient(Coroutine[Any, Any, Client]):
    """What ``create_client`` returns: to be awaited, or entered with ``async with``."""

    def __init__(self, create: Coroutine[Any, Any, Client]) -> None:
        self._create = create
        self._client: Client | None = None

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


def create_client(
    node_addresses: Sequence[Address],
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
    autodiscovery: "bool | emcache.Discovery" = False,
    autodiscovery_poll_interval: float = DEFAULT_AUTODISCOVERY_POLL_INTERVAL,
    autodiscovery_timeout: float = DEFAULT_AUTODISCOVERY_TIMEOUT,
    ssl_certfile: Pem | None = None,
    ssl_keyfile: Pem | None = None,
    ssl_server_hostname: str | None = None,
    ssl_min_version: Literal["TLSv1.2", "TLSv1.3"] | None = None,
    auth: Literal["ascii", "sasl"] | None = None,
) -> _CreateClient:
    """Create a client in the running event loop.

    Use it as ``client = await create_client(...)`` with ``await client.close()`` at the end, or as
    ``async with create_client(...) as client``. It does not wait for a connection, so a node that
    is down is no error here.

    Args:
        node_addresses: the nodes, at least one. Their order and spelling decide which node gets
            which key: all clients of a cluster must agree on them.
        timeout: seconds from a call to its reply, with the wait for a connection; None: no limit.
        max_connections: at most this many connections to each node, >= 1; one more while a node
            that was replaced is followed to its new address.
        min_connections: this many are opened at once and kept, 0 <= min <= max.
        purge_unused_connections_after: seconds after which an unused connection above the minimum
            is closed; None: never.
        connection_timeout: seconds for resolving the name, connecting, TLS and login; None: no
            limit.
        cluster_events: told when nodes turn unhealthy and healthy.
        purge_unhealthy_nodes: route no keys to unhealthy nodes. Their keys move to other nodes and
            back, so values may be stale.
        autobatching: let single gets of one loop iteration share a command on the wire.
        autobatching_max_keys: at most this many of them, >= 1.
        ssl: speak TLS.
        ssl_verify: whether the server's certificate must be of a known CA, in time, and for the
            name in the node's address. False takes any: who can come between reads and writes.
        ssl_extra_ca: CAs to trust besides those of the system (or of ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR``): the path of a PEM file, or PEM data as bytes.
        username: log in to each node with this name; together with ``password``.
        password: see ``username``.
        autodiscovery: ask the cluster for its nodes, and follow their changes. True: by ``config
            get cluster`` (AWS ElastiCache, GCP Memorystore), and ``node_addresses`` is the endpoint
            that is asked. Or a :class:`emcache.discovery.Discovery`; then ``node_addresses`` is
            what to begin with if that fails, and may be empty.
        autodiscovery_poll_interval: seconds between two questions, give or take a tenth. After a
            failure, or when a node turns unhealthy, the next comes sooner.
        autodiscovery_timeout: seconds for each question, with its connection; connecting has nine
            tenths of it.
        ssl_certfile: the client's own certificate, with those that it needs up to its CA: a path
            or PEM data.
        ssl_keyfile: its key, unencrypted; None: it is in ``ssl_certfile`` too.
        ssl_server_hostname: the name that the certificates must be valid for, instead of each
            node's own. Unix sockets have none.
        ssl_min_version: ``"TLSv1.2"`` (the default) or ``"TLSv1.3"``.
        auth: how to log in: ``"ascii"`` (the default, ``memcached -Y``) or ``"sasl"`` (SASL PLAIN
            over the binary protocol, ``memcached -S``).

    Raises:
        ValueError: an argument out of its range.
        TypeError: an argument of a wrong type.
        OSError: a file cannot be read.
        DiscoveryError: ``autodiscovery`` found no list of nodes; a ``ConnectionError`` and a
            ``TimeoutError``.
        AuthenticationError: ``autodiscovery`` was refused the login.
    """
    return _CreateClient(
        _create_client(
            node_addresses,
            cluster_events,
            discovery=(autodiscovery, autodiscovery_poll_interval, autodiscovery_timeout),
            needs_names=bool(ssl and ssl_verify and not ssl_server_hostname),
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
        )
    )


def _listed(addresses: Iterable[Address]) -> list[Address]:
    # Of a text each character would be called wrong.
    if isinstance(addresses, str | bytes | Address) or not isinstance(addresses, Iterable):
        raise TypeError(
            "node_addresses must be a list of MemcachedHostAddress or MemcachedUnixSocketPath, "
            f"not {type(addresses).__name__}"
        )
    return list(addresses)


def _check_events(events: object) -> None:
    if events is None or isinstance(events, ClusterEvents):
        return
    if isinstance(events, type) or not hasattr(events, "on_node_unhealthy"):
        what = f"the class {events.__name__}" if isinstance(events, type) else type(events).__name__
        raise TypeError(f"cluster_events must be a ClusterEvents, not {what}")


async def _create_client(
    node_addresses: Sequence[Address],
    cluster_events: ClusterEvents | None,
    discovery: "tuple[bool | emcache.Discovery | None, float, float]",
    needs_names: bool,
    login: Callable[[], LoginArguments | None],
    tls: Callable[[list[Address]], TlsArguments | None],
    switches: dict[str, bool],
    **options: Any,
) -> Client:
    addresses = _listed(node_addresses)
    _check_events(cluster_events)
    check_bools(**switches)
    check_patience(**{name: options[name] for name in _TIMES})
    how, interval, limit = discovery
    # An object is no bool, whatever its length or truth.
    is_object = how is not None and not isinstance(how, bool)
    if is_object and (isinstance(how, type) or not hasattr(how, "discover")):
        raise TypeError("autodiscovery must be a bool, or have a method discover()")
    if not addresses and not is_object:
        raise ValueError("At least one memcached hosts needs to be provided")
    endpoints = [endpoint(address) for address in addresses]
    check_limits(options["min_connections"], options["max_connections"])
    check_between("autobatching_max_keys", options["max_merged_keys"], 1, 2**32 - 1)
    options["security"] = Security(tls(addresses), login())
    source, topology, is_listed = None, None, False
    if how is True or is_object:
        from ._following import begin

        check_seconds("autodiscovery_poll_interval", interval)
        check_seconds("autodiscovery_timeout", limit)
        refuse = refuse_sockets if needs_names else None
        source, topology, is_listed = await begin(how, addresses, limit, options, refuse)
        addresses = [node.address for node in topology.nodes]
        endpoints = [endpoint(address) for address in addresses]
    client = _Client(
        addresses,
        cluster_events,
        DEFAULT_TIMEOUT if options["timeout"] is None else options["timeout"],
        lambda on_change: CoreClient(endpoints, on_change=on_change, **options),
    )
    if source is not None and topology is not None:
        patience = options["connection_timeout"]
        # A node that cannot be connected must not keep the others waiting for ever.
        patience = DEFAULT_CONNECTION_TIMEOUT if patience is None else patience
        client._watch(source, topology, interval, patience, is_listed=is_listed)
    return client
