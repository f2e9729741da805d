"""The public surface, as a table of what emcache 1.3.3 has."""

import asyncio
import builtins
import collections.abc
import copy
import dataclasses
import importlib
import importlib.metadata
import inspect
import pickle
from pathlib import Path

import pytest

import emcache

NODE = emcache.MemcachedHostAddress("127.0.0.1", 11211)

NAMES_1_3 = {
    "Client",
    "ClusterEvents",
    "ClusterManagment",
    "ClusterNoAvailableNodes",
    "CommandError",
    "ConnectionPoolMetrics",
    "DEFAULT_AUTOBATCHING_ENABLED",
    "DEFAULT_AUTOBATCHING_MAX_KEYS",
    "DEFAULT_CONNECTION_TIMEOUT",
    "DEFAULT_MAX_CONNECTIONS",
    "DEFAULT_PURGE_UNHEALTHY_NODES",
    "DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER",
    "DEFAULT_SSL",
    "DEFAULT_SSL_VERIFY",
    "DEFAULT_TIMEOUT",
    "Item",
    "MemcachedHostAddress",
    "MemcachedUnixSocketPath",
    "NotFoundCommandError",
    "NotStoredStorageCommandError",
    "StorageCommandError",
    "create_client",
}

# Names that are the very same object at the top level and in a submodule.
SUBMODULES = {
    "_address": {"MemcachedHostAddress", "MemcachedUnixSocketPath"},
    "base": {"Client", "ClusterEvents", "ClusterManagment", "Item"},
    "client": {"create_client"},
    "client_errors": {
        "AuthenticationError",
        "ClusterNoAvailableNodes",
        "CommandError",
        "NotFoundCommandError",
        "NotStoredStorageCommandError",
        "StorageCommandError",
    },
    "connection_pool": {"ConnectionPoolMetrics"},
    "default_values": {name for name in NAMES_1_3 if name.startswith("DEFAULT_")},
    "version": {"__version__"},
}

DEFAULTS = {
    "DEFAULT_AUTOBATCHING_MAX_KEYS": 32,
    "DEFAULT_AUTODISCOVERY_POLL_INTERVAL": 60.0,
    "DEFAULT_AUTODISCOVERY_TIMEOUT": 5.0,
    "DEFAULT_CONNECTION_TIMEOUT": 5.0,
    "DEFAULT_MAX_CONNECTIONS": 2,
    "DEFAULT_MIN_CONNECTIONS": 1,
    "DEFAULT_PURGE_UNHEALTHY_NODES": False,
    "DEFAULT_PURGE_UNUSED_CONNECTIONS_AFTER": 60.0,
    "DEFAULT_SSL": False,
    "DEFAULT_SSL_VERIFY": True,
    "DEFAULT_STARTUP_WAIT_AUTODISCOVERY": 10.0,
    "DEFAULT_TIMEOUT": 1.0,
}

CREATE_CLIENT = (
    "(node_addresses, *, timeout=1.0, max_connections=2, min_connections=1, "
    "purge_unused_connections_after=60.0, connection_timeout=5.0, cluster_events=None, "
    "purge_unhealthy_nodes=False, "
    f"autobatching={emcache.DEFAULT_AUTOBATCHING_ENABLED}, autobatching_max_keys=32, "
    "ssl=False, ssl_verify=True, ssl_extra_ca=None, username=None, password=None, "
    "autodiscovery=False, autodiscovery_poll_interval=60.0, autodiscovery_timeout=5.0, "
    # Not of 1.3.
    "ssl_certfile=None, ssl_keyfile=None, ssl_server_hostname=None, ssl_min_version=None, "
    "auth=None, routing='emcache', weights=None, names=None, migrating_from=None, hot_keys=0, "
    "failover=None)"
)

STORE = "(self, key, value, *, flags=0, exptime=0, noreply=False)"
APPEND = "(self, key, value, *, noreply=False)"
# The last two are not of 1.3, and neither is `on_error`, nor that a node may be left out.
COUNT = "(self, key, value, *, noreply=False, initial=None, exptime=0)"
CLIENT = {
    "add": STORE,
    "append": APPEND,
    "cache_memlimit": "(self, memcached_host_address, value, *, noreply=False)",
    "cas": "(self, key, value, cas, *, flags=0, exptime=0, noreply=False)",
    "close": "(self)",
    "cluster_managment": "(self)",
    "decrement": COUNT,
    "delete": "(self, key, *, noreply=False)",
    "flush_all": "(self, memcached_host_address=ALL_NODES, delay=0, *, noreply=False)",
    "gat": "(self, exptime, key, return_flags=False)",
    "gat_many": "(self, exptime, keys, return_flags=False, *, on_error='raise')",
    "gats": "(self, exptime, key, return_flags=False)",
    "gats_many": "(self, exptime, keys, return_flags=False, *, on_error='raise')",
    "get": "(self, key, return_flags=False)",
    "get_many": "(self, keys, return_flags=False, *, on_error='raise')",
    "gets": "(self, key, return_flags=False)",
    "gets_many": "(self, keys, return_flags=False, *, on_error='raise')",
    "increment": COUNT,
    "prepend": APPEND,
    "replace": STORE,
    "set": STORE,
    "stats": "(self, memcached_host_address=ALL_NODES, *args)",
    "touch": "(self, key, exptime, *, noreply=False)",
    "verbosity": "(self, memcached_host_address, level, *, noreply=False)",
    "version": "(self, memcached_host_address)",
}
# Methods that 1.3.3 does not have.
NEW = {
    "add_many": "(self, items, *, flags=0, exptime=0, noreply=False)",
    "delete_many": "(self, keys, *, noreply=False)",
    "meta_arithmetic": "(self, key, delta=1, *, mode='increment', initial=None, exptime=0, "
    "touch=None, cas=None, new_cas=None)",
    "meta_delete": "(self, key, *, cas=None, invalidate=False, stale_for=None, clear=False, "
    "new_cas=None)",
    "meta_debug": "(self, key)",
    "meta_get_many": "(self, keys, *, value=True, recache=None, vivify=None, touch=None, "
    "no_bump=False, size=False, last_access=False, hit_before=False, new_cas=None, "
    "on_error='raise')",
    "meta_noop": "(self, memcached_host_address)",
    "meta_raw": "(self, command, key, flags='', value=None)",
    "ttl": "(self, key)",
    "meta_get": "(self, key, *, value=True, recache=None, vivify=None, touch=None, no_bump=False, "
    "size=False, last_access=False, hit_before=False, known_cas=None, new_cas=None)",
    "meta_set": "(self, key, value, *, flags=0, exptime=0, mode='set', cas=None, invalidate=False, "
    "vivify=None, new_cas=None, return_cas=False)",
    "metrics": "(self)",
    "migrate": "(self, node_addresses, *, routing=None, weights=None, names=None, phase='move', "
    "drain=None, unknown_ttl=60)",
    "node_for": "(self, key)",
    "ping": "(self)",
    "set_many": "(self, items, *, flags=0, exptime=0, noreply=False)",
    "touch_many": "(self, keys, exptime, *, noreply=False)",
    "wait_ready": "(self, timeout, *, min_nodes=None)",
}
CLUSTER_EVENTS = {
    "on_node_healthy": "(self, cluster_managment, host)",
    "on_node_unhealthy": "(self, cluster_managment, host)",
}
CLUSTER_MANAGMENT = dict.fromkeys(
    ("connection_pool_metrics", "healthy_nodes", "nodes", "unhealthy_nodes"), "(self)"
)

METRICS = (
    "cur_connections",
    "connections_created",
    "connections_created_with_error",
    "connections_purged",
    "connections_closed",
    "operations_executed",
    "operations_executed_with_error",
    "operations_waited",
    "create_connection_avg",
    "create_connection_p50",
    "create_connection_p99",
    "create_connection_upper",
)

# Each exception with everything that a handler may catch it by.
EXCEPTIONS = {
    "EmcacheError": "Exception",
    "CommandError": "EmcacheError",
    "StorageCommandError": "CommandError",
    "NotStoredStorageCommandError": "StorageCommandError CommandError",
    "NotFoundCommandError": "CommandError",
    "AuthenticationError": "CommandError",
    "ArithmeticCommandError": "CommandError ValueError",
    "ClusterNoAvailableNodes": "EmcacheError",
    "InvalidKeyError": "EmcacheError ValueError",
    "SerializationError": "EmcacheError ValueError",
    "ClientClosedError": "EmcacheError RuntimeError",
    "LeaseLostError": "EmcacheError TimeoutError",
    "OverloadedError": "EmcacheError",
    "UnsupportedError": "EmcacheError",
    "OperationTimeoutError": "EmcacheError TimeoutError",
    "LockTimeoutError": "EmcacheError TimeoutError",
    "LockLostError": "EmcacheError",
    "ConnectionFailedError": "EmcacheError ConnectionError TimeoutError OSError",
    "NodeUnavailableError": "ConnectionFailedError ConnectionError TimeoutError",
    "ProtocolError": "ConnectionFailedError ConnectionError TimeoutError",
    "DiscoveryError": "ConnectionFailedError ConnectionError TimeoutError",
}


def bare_signature(function) -> str:
    """The signature without annotations, which 1.3 has differently."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def exception_class(name: str) -> type[BaseException]:
    return getattr(emcache, name, None) or getattr(builtins, name)


@pytest.mark.driver_independent
class TestNames:
    def test_all_has_the_names_of_1_3(self):
        assert set(emcache.__all__) >= NAMES_1_3

    def test_all_is_true(self):
        assert [name for name in emcache.__all__ if not hasattr(emcache, name)] == []

    def test_all_is_sorted(self):
        def constants_classes_functions(name: str):
            return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

        assert list(emcache.__all__) == sorted(emcache.__all__, key=constants_classes_functions)
        assert len(set(emcache.__all__)) == len(emcache.__all__)

    def test_all_has_every_public_name(self):
        public = {
            name
            for name, value in vars(emcache).items()
            if not name.startswith("_") and not inspect.ismodule(value)
        }
        assert public <= set(emcache.__all__)

    def test_star_import(self):
        namespace: dict[str, object] = {}
        exec("from emcache import *", namespace)
        assert namespace.keys() >= NAMES_1_3

    @pytest.mark.parametrize("submodule", SUBMODULES)
    def test_submodule(self, submodule):
        module = importlib.import_module(f"emcache.{submodule}")
        for name in SUBMODULES[submodule]:
            assert getattr(module, name) is getattr(emcache, name)

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_default(self, name):
        value = getattr(importlib.import_module("emcache.default_values"), name)
        assert value == DEFAULTS[name]
        assert type(value) is type(DEFAULTS[name])

    def test_autobatching_default_is_a_bool(self):
        assert emcache.DEFAULT_AUTOBATCHING_ENABLED in (True, False)

    def test_version(self):
        assert emcache.__version__ == importlib.metadata.version("emcache")

    def test_typing_marker_ships(self):
        assert (Path(emcache.__file__).parent / "py.typed").is_file()


@pytest.mark.driver_independent
class TestSignatures:
    def test_create_client(self):
        assert bare_signature(emcache.create_client) == CREATE_CLIENT

    @pytest.mark.parametrize("name", CLIENT | NEW)
    def test_client_method(self, name):
        assert bare_signature(getattr(emcache.Client, name)) == (CLIENT | NEW)[name]

    @pytest.mark.parametrize("name", sorted(CLIENT.keys() - {"cluster_managment"}))
    def test_client_method_is_a_coroutine_function(self, name):
        assert inspect.iscoroutinefunction(getattr(emcache.Client, name))

    def test_client_has_no_other_public_methods(self):
        public = {name for name in dir(emcache.Client) if not name.startswith("_")}
        assert public == CLIENT.keys() | NEW.keys() | {"closed", "migration"}

    @pytest.mark.parametrize("name", CLUSTER_EVENTS)
    def test_cluster_events_method(self, name):
        method = getattr(emcache.ClusterEvents, name)
        assert bare_signature(method) == CLUSTER_EVENTS[name]
        assert inspect.iscoroutinefunction(method)

    @pytest.mark.parametrize("name", CLUSTER_MANAGMENT)
    def test_cluster_managment_method(self, name):
        method = getattr(emcache.ClusterManagment, name)
        assert bare_signature(method) == CLUSTER_MANAGMENT[name]

    @pytest.mark.parametrize(
        ("cls", "abstract"),
        [
            (emcache.ClusterEvents, CLUSTER_EVENTS.keys()),
            (emcache.ClusterManagment, CLUSTER_MANAGMENT.keys()),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_abstract(self, cls, abstract):
        assert cls.__abstractmethods__ == abstract
        with pytest.raises(TypeError, match="abstract"):
            cls()

    def test_cluster_events_needs_both_methods(self):
        class OnlyHealthy(emcache.ClusterEvents):
            async def on_node_healthy(self, cluster_managment, host):
                pass

        with pytest.raises(TypeError, match="on_node_unhealthy"):
            OnlyHealthy()

    def test_one_class_of_client(self):
        """The names of 1.3.3's abstract and concrete class are the same class now."""
        module = importlib.import_module("emcache.client")
        assert module._Client is importlib.import_module("emcache.base").Client is emcache.Client
        assert not inspect.isabstract(emcache.Client)
        assert isinstance(emcache.Client.closed, property)

    def test_a_client_is_created_by_create_client(self):
        with pytest.raises(TypeError, match="create_client"):
            emcache.Client()

    def test_a_client_of_ones_own(self):
        """Programs subclass it for their tests, as they did the abstract class of 1.3.3."""

        class Fake(emcache.Client):
            async def get(self, key, return_flags=False):
                return emcache.Item(b"value", None, None)

            async def close(self):
                pass

        async def use():
            async with Fake() as client:
                assert isinstance(client, emcache.Client)
                assert "Fake object" in repr(client)
                return await client.get(b"key")

        assert asyncio.run(use()) == emcache.Item(b"value", None, None)
        with pytest.raises(TypeError, match="Fake"):
            importlib.import_module("emcache.contrib._real_client").check_real_client(Fake())

    def test_correct_spelling_is_an_alias(self):
        assert emcache.ClusterManagement is emcache.ClusterManagment


HOST = emcache.MemcachedHostAddress
PATH = emcache.MemcachedUnixSocketPath


@pytest.mark.driver_independent
class TestAddress:
    @pytest.mark.parametrize(
        ("address", "text"),
        [
            (HOST("localhost", 11211), "MemcachedHostAddress(address='localhost', port=11211)"),
            (HOST(port=1, address="::1"), "MemcachedHostAddress(address='::1', port=1)"),
            (PATH("/tmp/m"), "MemcachedUnixSocketPath(path='/tmp/m')"),
            (PATH(path="/tmp/m"), "MemcachedUnixSocketPath(path='/tmp/m')"),
        ],
        ids=["tcp", "keywords", "unix", "unix keyword"],
    )
    def test_is_a_frozen_dataclass(self, address, text):
        twin = dataclasses.replace(address)
        assert repr(address) == text
        assert twin == address
        assert {address: 1}[twin] == 1
        assert pickle.loads(pickle.dumps(address)) == copy.deepcopy(address) == address
        name = dataclasses.fields(address)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(address, name, "other")

    @pytest.mark.parametrize("path", ["/run/m.sock", "m.sock", "./m.sock", "///run/m.sock"])
    def test_the_text_of_a_path_is_that_path(self, path):
        assert emcache.parse_nodes([str(PATH(path))]) == [PATH(path)]

    def test_fields(self):
        assert [field.name for field in dataclasses.fields(HOST)] == ["address", "port"]
        assert [field.name for field in dataclasses.fields(PATH)] == ["path"]

    def test_a_subclass_that_is_a_dataclass(self):
        @dataclasses.dataclass(frozen=True)
        class Weighted(emcache.MemcachedHostAddress):
            weight: int = 1

        assert repr(Weighted("a", 1)).endswith("Weighted(address='a', port=1, weight=1)")
        assert Weighted("a", 1, 2) != Weighted("a", 1)
        assert Weighted("a", 1) != HOST("a", 1) != Weighted("a", 1)
        assert dataclasses.asdict(Weighted("a", 1)) == {"address": "a", "port": 1, "weight": 1}

    def test_a_subclass_with_another_attribute(self):
        class Named(emcache.MemcachedHostAddress):
            pass

        named = Named("a", 1)
        named.name = "one"
        assert named.name == "one"
        del named.name
        assert dataclasses.replace(named, port=2) == Named("a", 2)
        assert hash(named) == hash(HOST("a", 1)) == hash(("a", 1))
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'port'"):
            named.port = 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'port'"):
            del named.port

    def test_patterns(self):
        match HOST("a", 1):
            case emcache.MemcachedHostAddress("b", _) | emcache.MemcachedHostAddress(_, 2):
                pytest.fail("the fields differ")
            case emcache.MemcachedHostAddress(host, port):
                assert (host, port) == ("a", 1)

    def test_types_of_fields(self):
        assert [field.type for field in dataclasses.fields(HOST)] == [str, int]
        assert [field.type for field in dataclasses.fields(emcache.Item)] == [
            bytes,
            int | None,
            int | None,
        ]

    @pytest.mark.skipif(not hasattr(copy, "replace"), reason="Python 3.13")
    def test_copy_replace(self):
        assert copy.replace(HOST("a", 1), port=2) == HOST("a", 2)

    @pytest.mark.parametrize(
        "other", [HOST("a", 2), HOST("b", 1), PATH("a")], ids=["port", "host", "kind"]
    )
    def test_differs(self, other):
        assert HOST("a", 1) != other


class Tagged(emcache.Item):
    """A subclass as 1.3's dataclass allowed it; at module level for pickle."""

    def text(self) -> str:
        return self.value.decode()


class OwnInit(emcache.Item):
    def __init__(self, value):
        super().__init__(value, None, None)


@pytest.mark.driver_independent
class TestItem:
    def item(self) -> emcache.Item:
        return emcache.Item(b"value", 7, 2**64 - 1)

    @pytest.mark.parametrize(
        "item",
        [
            emcache.Item(b"v", 1, 2),
            emcache.Item(b"v", flags=1, cas=2),
            emcache.Item(cas=2, flags=1, value=b"v"),
        ],
        ids=["positional", "mixed", "keywords"],
    )
    def test_construction(self, item):
        assert (item.value, item.flags, item.cas) == (b"v", 1, 2)

    @pytest.mark.parametrize("args", [(), (b"v",), (b"v", 1), (b"v", 1, 2, 3)])
    def test_has_no_defaults(self, args):
        with pytest.raises(TypeError):
            emcache.Item(*args)

    def test_signature(self):
        assert bare_signature(emcache.Item) == "(value, flags, cas)"

    @pytest.mark.parametrize("name", ["value", "flags", "cas"])
    def test_is_mutable(self, name):
        item, before = self.item(), self.item()
        setattr(item, name, None)
        assert getattr(item, name) is None
        assert item != before

    def test_takes_no_further_attribute(self):
        with pytest.raises(AttributeError):
            self.item().note = "no __dict__"

    @pytest.mark.parametrize(
        ("other", "equal"),
        [
            (emcache.Item(b"value", 7, 2**64 - 1), True),
            (emcache.Item(b"other", 7, 2**64 - 1), False),
            (emcache.Item(b"value", None, 2**64 - 1), False),
            (emcache.Item(b"value", 7, None), False),
            (Tagged(b"value", 7, 2**64 - 1), False),
            ((b"value", 7, 2**64 - 1), False),
            (None, False),
        ],
        ids=["same", "value", "flags", "cas", "subclass", "tuple", "None"],
    )
    def test_equality(self, other, equal):
        assert (self.item() == other) is equal
        assert (self.item() != other) is not equal

    def test_is_unhashable(self):
        assert not isinstance(self.item(), collections.abc.Hashable)
        with pytest.raises(TypeError, match="unhashable"):
            hash(self.item())

    def test_has_no_order(self):
        with pytest.raises(TypeError):
            sorted([self.item(), self.item()])

    @pytest.mark.parametrize(
        ("item", "text"),
        [
            (emcache.Item(b"a\r\n", None, None), "Item(value=b'a\\r\\n', flags=None, cas=None)"),
            (emcache.Item(b"", 1, 2), "Item(value=b'', flags=1, cas=2)"),
            (Tagged(b"", 1, 2), "Tagged(value=b'', flags=1, cas=2)"),
        ],
        ids=["none", "numbers", "subclass"],
    )
    def test_repr(self, item, text):
        assert repr(item) == str(item) == text

    def test_dataclass_functions(self):
        item = self.item()
        assert dataclasses.is_dataclass(emcache.Item)
        assert [field.name for field in dataclasses.fields(item)] == ["value", "flags", "cas"]
        assert dataclasses.asdict(item) == {"value": b"value", "flags": 7, "cas": 2**64 - 1}
        assert dataclasses.astuple(item) == (b"value", 7, 2**64 - 1)
        assert dataclasses.replace(item, value=b"new") == emcache.Item(b"new", 7, 2**64 - 1)

    def test_match(self):
        match self.item():
            case emcache.Item(value, flags, cas=cas):
                assert (value, flags, cas) == (b"value", 7, 2**64 - 1)
            case _:
                pytest.fail("did not match")

    @pytest.mark.parametrize(
        "duplicate",
        [
            copy.copy,
            copy.deepcopy,
            *(
                lambda item, protocol=protocol: pickle.loads(pickle.dumps(item, protocol))
                for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
            ),
        ],
        ids=["copy", "deepcopy", *(f"pickle{n}" for n in range(pickle.HIGHEST_PROTOCOL + 1))],
    )
    @pytest.mark.parametrize("cls", [emcache.Item, Tagged], ids=lambda cls: cls.__name__)
    def test_duplicate(self, cls, duplicate):
        item = cls(b"value", 7, None)
        twin = duplicate(item)
        assert type(twin) is cls
        assert twin is not item
        assert twin == item
        twin.value = b"changed"
        assert item.value == b"value"

    def test_duplicate_of_a_subclass_keeps_its_attributes(self):
        item = Tagged(b"value", 7, None)
        item.note = "mine"
        assert copy.copy(item).note == "mine"
        assert pickle.loads(pickle.dumps(item)).note == "mine"

    def test_subclass(self):
        assert Tagged(b"abc", None, None).text() == "abc"
        assert isinstance(Tagged(b"abc", None, None), emcache.Item)

    def test_subclass_with_its_own_init(self):
        assert OwnInit(b"abc").value == b"abc"

    def test_subclass_that_is_a_dataclass(self):
        @dataclasses.dataclass
        class Extended(emcache.Item):
            origin: str = ""

        item = Extended(b"abc", None, None, "here")
        assert (item.value, item.origin) == (b"abc", "here")


@pytest.mark.driver_independent
class TestMetrics:
    def test_fields(self):
        fields = [field.name for field in dataclasses.fields(emcache.ConnectionPoolMetrics)]
        assert tuple(fields[: len(METRICS)]) == METRICS
        assert fields[len(METRICS) :] == [
            "connections_checked_out",
            "requests_in_flight",
            "requests_queued",
            "requests_abandoned",
            "requests_retried",
            "requests_timed_out",
            "protocol_errors",
            "bytes_read",
            "bytes_written",
            "connections_idle",
            "reconnects",
            "keys_shared",
        ]

    def test_is_a_mutable_value(self):
        metrics = emcache.ConnectionPoolMetrics(*range(12))
        twin = copy.deepcopy(metrics)
        assert twin == metrics
        twin.cur_connections = 99
        assert twin != metrics
        assert pickle.loads(pickle.dumps(metrics)) == metrics
        assert dataclasses.asdict(metrics)["create_connection_upper"] == 11
        with pytest.raises(TypeError, match="unhashable"):
            hash(metrics)

    @pytest.mark.parametrize(
        ("values", "named", "message"),
        [
            ((), {}, "needs cur_connections"),
            (range(25), {}, "once"),
            (range(12), {"cur_connections": 1}, "once"),
            (range(12), {"other": 1}, "has no field other"),
        ],
        ids=["missing", "too many", "twice", "unknown"],
    )
    def test_wrong_arguments(self, values, named, message):
        with pytest.raises(TypeError, match=rf"ConnectionPoolMetrics\(\) .*{message}"):
            emcache.ConnectionPoolMetrics(*values, **named)

    def test_signature(self):
        parameters = inspect.signature(emcache.ConnectionPoolMetrics).parameters
        names = [field.name for field in dataclasses.fields(emcache.ConnectionPoolMetrics)]
        assert list(parameters) == names
        assert parameters["keys_shared"].default == 0
        assert parameters["cur_connections"].default is inspect.Parameter.empty

    def test_a_subclass_that_is_a_dataclass(self):
        @dataclasses.dataclass
        class Named(emcache.ConnectionPoolMetrics):
            name: str = ""

        assert list(inspect.signature(Named).parameters)[-2:] == ["keys_shared", "name"]
        assert Named(*range(12), name="a") != Named(*range(12))

    def test_a_subclass_with_its_own_init(self):
        class Zero(emcache.ConnectionPoolMetrics):
            def __init__(self, connections):
                super().__init__(connections, *[0] * 11)

        assert list(inspect.signature(Zero).parameters) == ["connections"]
        assert Zero(3).cur_connections == 3


@pytest.mark.driver_independent
class TestExceptions:
    def test_table_is_complete(self):
        public = {
            name
            for name in emcache.__all__
            if inspect.isclass(getattr(emcache, name))
            and issubclass(getattr(emcache, name), BaseException)
        }
        assert public == EXCEPTIONS.keys()

    @pytest.mark.parametrize("name", EXCEPTIONS)
    def test_bases(self, name):
        for base in EXCEPTIONS[name].split():
            assert issubclass(exception_class(name), exception_class(base))

    @pytest.mark.parametrize(
        "name", ["AuthenticationError", "NotFoundCommandError", "ClusterNoAvailableNodes"]
    )
    def test_is_not_caught_by_other_handlers(self, name):
        assert not issubclass(exception_class(name), (emcache.StorageCommandError, OSError))

    def test_no_available_nodes_is_no_command_error(self):
        assert not issubclass(emcache.ClusterNoAvailableNodes, emcache.CommandError)

    @pytest.mark.parametrize("name", ["OperationTimeoutError", "ConnectionFailedError"])
    def test_is_caught_as_the_timeout_of_1_3(self, name):
        assert issubclass(exception_class(name), asyncio.TimeoutError)

    @pytest.mark.parametrize("args", [(), ("text",)], ids=["bare", "text"])
    @pytest.mark.parametrize("name", EXCEPTIONS)
    def test_pickle(self, name, args):
        error = exception_class(name)(*args)
        error.node = "127.0.0.1:11211"
        twin = pickle.loads(pickle.dumps(error))
        assert type(twin) is type(error)
        assert (twin.args, str(twin), twin.node) == (args, "".join(args), "127.0.0.1:11211")

    def test_node_is_none_unless_known(self):
        assert emcache.CommandError("text").node is None


class TestCreateClient:
    async def check(self, client: emcache.Client, key: bytes) -> None:
        assert isinstance(client, emcache.Client)
        assert client.closed is False
        await client.set(key, b"value")
        assert await client.get(key) == emcache.Item(b"value", None, None)

    async def test_await(self, server, key):
        client = await emcache.create_client([server.address])
        await self.check(client, key)
        await client.close()
        assert client.closed is True
        await client.close()

    async def test_async_with(self, server, key):
        async with emcache.create_client([server.address]) as client:
            await self.check(client, key)
        assert client.closed is True

    async def test_async_with_await(self, server, key):
        async with await emcache.create_client([server.address]) as client:
            await self.check(client, key)
        assert client.closed is True

    async def test_async_with_closes_when_the_body_fails(self, server):
        with pytest.raises(ZeroDivisionError):
            async with emcache.create_client([server.address]) as client:
                raise ZeroDivisionError
        assert client.closed is True

    async def test_async_with_after_close(self, server):
        async with emcache.create_client([server.address]) as client:
            await client.close()
        assert client.closed is True

    @pytest.mark.parametrize(
        "run",
        [
            asyncio.create_task,
            asyncio.ensure_future,
            lambda created: asyncio.wait_for(created, 5),
            lambda created: asyncio.shield(created),
        ],
        ids=["create_task", "ensure_future", "wait_for", "shield"],
    )
    async def test_inside(self, server, key, run):
        async with await run(emcache.create_client([server.address])) as client:
            await self.check(client, key)

    async def test_inside_gather(self, server, key):
        clients = await asyncio.gather(*(emcache.create_client([server.address]) for _ in range(3)))
        for client in clients:
            await self.check(client, key)
            await client.close()

    async def test_inside_task_group(self, server, key):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(emcache.create_client([server.address]))
        async with task.result() as client:
            await self.check(client, key)

    async def test_is_a_coroutine(self, server):
        created = emcache.create_client([server.address])
        assert asyncio.iscoroutine(created)
        assert inspect.isawaitable(created)
        await (await created).close()

    def test_asyncio_run(self, server, key):
        async def main() -> None:
            async with emcache.create_client([server.address]) as client:
                await self.check(client, key)

        asyncio.run(main())

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout": None, "connection_timeout": None, "purge_unused_connections_after": None},
            {"min_connections": 0},
            {"max_connections": 1},
            {"min_connections": 2, "max_connections": 2},
            {"username": "", "password": ""},
            {"username": None, "password": None},
            {"autobatching": False, "autobatching_max_keys": 0},
            {"autobatching": True, "autobatching_max_keys": 1},
            {"purge_unhealthy_nodes": True},
            {"ssl": False, "ssl_verify": False, "ssl_extra_ca": None},
            {"timeout": 1, "connection_timeout": 5},
        ],
        ids=str,
    )
    async def test_good_options(self, server, key, options):
        async with emcache.create_client([server.address], **options) as client:
            await self.check(client, key)

    @pytest.mark.parametrize("make", [tuple, list, lambda nodes: iter(nodes)])
    async def test_any_sequence_of_nodes(self, server, key, make):
        async with emcache.create_client(make([server.address])) as client:
            await self.check(client, key)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"node_addresses": []}, "At least one memcached hosts needs to be provided"),
            ({"max_connections": 0}, "max_connections"),
            ({"max_connections": -1}, "max_connections"),
            ({"min_connections": -1}, "min_connections"),
            ({"min_connections": 3}, "min_connections"),
            ({"min_connections": 2, "max_connections": 1}, "min_connections"),
            ({"username": "user"}, "username"),
            ({"password": "secret"}, "username"),
            ({"username": "user", "password": ""}, "username"),
            ({"autobatching": True, "autobatching_max_keys": 0}, "autobatching_max_keys"),
            ({"timeout": -1.0}, "timeout"),
            ({"timeout": float("nan")}, "timeout"),
            ({"connection_timeout": -1.0}, "connection_timeout"),
            ({"purge_unused_connections_after": -1.0}, "purge_unused_connections_after"),
            ({"node_addresses": [HOST("127.0.0.1", 0)]}, "port"),
            ({"node_addresses": [HOST("127.0.0.1", 65536)]}, "port"),
            ({"node_addresses": [HOST("", 1)]}, "address"),
            ({"node_addresses": [PATH("")]}, "path"),
        ],
        ids=str,
    )
    async def test_value_error(self, options, message):
        with pytest.raises(ValueError, match=message) as raised:
            await emcache.create_client(**{"node_addresses": [NODE]} | options)
        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("nodes", [NODE, "127.0.0.1:11211", PATH("/nowhere")], ids=str)
    async def test_one_node_that_is_in_no_list(self, nodes):
        async with emcache.create_client(nodes) as client:
            assert len(client.cluster_managment().nodes()) == 1

    @pytest.mark.parametrize(
        "options",
        [
            {"node_addresses": [("127.0.0.1", 11211)]},
            {"node_addresses": None},
            {"node_addresses": [HOST("127.0.0.1", "11211")]},
            {"node_addresses": [HOST(None, 11211)]},
            {"max_connections": "2"},
            {"max_connections": 2.0},
            {"timeout": "1"},
        ],
        ids=str,
    )
    async def test_type_error(self, options):
        with pytest.raises(TypeError):
            await emcache.create_client(**{"node_addresses": [NODE]} | options)

    async def test_node_addresses_only_is_positional(self):
        with pytest.raises(TypeError):
            emcache.create_client([NODE], 1.0)


class TestClusterManagment:
    async def test_nodes(self, cluster):
        addresses = [node.address for node in cluster]
        async with emcache.create_client(addresses) as client:
            management = client.cluster_managment()
            assert isinstance(management, emcache.ClusterManagment)
            assert client.cluster_managment() is management
            assert management.nodes() == management.healthy_nodes() == addresses
            assert management.unhealthy_nodes() == []

    async def test_lists_are_copies(self, server):
        async with emcache.create_client([server.address]) as client:
            management = client.cluster_managment()
            management.nodes().clear()
            management.healthy_nodes().clear()
            management.connection_pool_metrics().clear()
            assert management.nodes() == management.healthy_nodes() == [server.address]
            assert management.connection_pool_metrics().keys() == {server.address}

    async def test_duplicate_addresses_are_two_nodes(self, server, key):
        async with emcache.create_client([server.address] * 2) as client:
            assert client.cluster_managment().nodes() == [server.address] * 2
            await client.set(key, b"value")
            assert (await client.get(key)).value == b"value"

    async def test_metrics_before_the_first_connection(self):
        async with emcache.create_client([NODE], min_connections=0) as client:
            metrics = client.cluster_managment().connection_pool_metrics()
        assert metrics == {NODE: emcache.ConnectionPoolMetrics(*[0] * 8, *[None] * 4)}

    async def test_metrics(self, server, key):
        async with emcache.create_client([server.address], max_connections=1) as client:
            await client.set(key, b"value")
            await client.get(key)
            snapshot = copy.deepcopy(client.cluster_managment().connection_pool_metrics())
        metrics = snapshot[server.address]
        assert (metrics.cur_connections, metrics.connections_created) == (1, 1)
        assert metrics.operations_executed == 2
        assert metrics.operations_executed_with_error == 0
        assert metrics.connections_created_with_error == 0
        for name in METRICS[:8]:
            assert type(getattr(metrics, name)) is int
        for name in METRICS[8:]:
            assert 0 < getattr(metrics, name) < 5

    async def test_closed_client_still_tells_its_nodes(self, server):
        client = await emcache.create_client([server.address])
        management = client.cluster_managment()
        await client.close()
        assert client.cluster_managment() is management
        assert management.nodes() == [server.address]
