"""Arguments as somebody mistypes them: each error names the argument, and what was given."""

import socket
from datetime import timedelta
from decimal import Decimal

import pytest

import emcache
from emcache.contrib.prometheus import EmcacheCollector
from emcache.discovery import CallableDiscovery, DnsDiscovery
from support.calls import within

NODE = emcache.MemcachedHostAddress("127.0.0.1", 11211)


class Deaf(emcache.ClusterEvents):
    """Of a class that is given in the place of its object."""

    async def on_node_healthy(self, cluster_managment, host):
        raise NotImplementedError

    async def on_node_unhealthy(self, cluster_managment, host):
        raise NotImplementedError


OF_BOTH = [
    ({"timeout": "1"}, "timeout must be a number of seconds or None, not str"),
    ({"timeout": timedelta(seconds=1)}, "timeout must be a number .*, not timedelta"),
    ({"timeout": True}, "timeout must be a number of seconds or None, not bool"),
    ({"connection_timeout": "1"}, "connection_timeout must be a number"),
    ({"purge_unused_connections_after": []}, "purge_unused_connections_after must be a number"),
    ({"ssl": "no"}, "ssl must be a bool, not str 'no'"),
    ({"ssl": None}, "ssl must be a bool, not NoneType"),
    ({"ssl": True, "ssl_verify": None}, "ssl_verify must be a bool, not NoneType"),
    ({"ssl": True, "ssl_verify": "false"}, "ssl_verify must be a bool, not str 'false'"),
]
OF_CLIENT = [
    ({"node_addresses": None}, "node_addresses must be a text .*or a list of nodes, not NoneType"),
    ({"node_addresses": b"a:1"}, "node_addresses must be a text .*, not bytes"),
    ({"node_addresses": [5]}, "a node must be a text .* or an address of emcache, not int"),
    ({"cluster_events": 5}, "cluster_events must be a ClusterEvents, not int"),
    ({"cluster_events": Deaf}, "cluster_events must be a ClusterEvents, not the class Deaf"),
    ({"purge_unhealthy_nodes": "no"}, "purge_unhealthy_nodes must be a bool, not str 'no'"),
    ({"autobatching": "no"}, "autobatching must be a bool, not str 'no'"),
    ({"autobatching": 2}, "autobatching must be a bool, not int 2"),
    ({"autodiscovery": DnsDiscovery}, "autodiscovery must be a bool, or an object"),
]
OF_POOL = [
    ({"on_healthy_status_change_cb": 5}, "on_healthy_status_change_cb must be a function, not int"),
]


@pytest.mark.parametrize(("options", "says"), OF_BOTH + OF_CLIENT, ids=str)
async def test_create_client(options, says):
    with pytest.raises(TypeError, match=says):
        await emcache.create_client(**{"node_addresses": [NODE], **options})


@pytest.mark.parametrize(("options", "says"), OF_BOTH + OF_POOL, ids=str)
async def test_pool(options, says):
    with pytest.raises(TypeError, match=says):
        emcache.ConnectionPool(NODE, **options)


@within(20)
async def test_what_is_as_good_as_it(server, key):
    """Zero and one for bools, as programs of 1.3 have them, and numbers of any kind."""

    class Events:
        async def on_node_healthy(self, cluster_managment, host):
            raise NotImplementedError

        async def on_node_unhealthy(self, cluster_managment, host):
            raise NotImplementedError

    options = {"ssl": 0, "ssl_verify": 1, "purge_unhealthy_nodes": 1, "autobatching": 0}
    async with emcache.create_client(
        (server.address,), timeout=Decimal("10.5"), cluster_events=Events(), **options
    ) as client:
        await client.set(key, b"value")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DnsDiscovery(None, 1), "address must be a str, not NoneType"),
        (lambda: DnsDiscovery("name", "1"), "port must be an int, not str"),
        (lambda: DnsDiscovery("name:1", 1), "pass the port as the second argument"),
        (lambda: DnsDiscovery("name", 1, family=socket.AF_UNIX), "family must be"),
        (lambda: CallableDiscovery([NODE]), "function must be a function, not list"),
    ],
)
@pytest.mark.driver_independent
def test_discovery(make, says):
    with pytest.raises((TypeError, ValueError), match=says):
        make()


@pytest.mark.parametrize("found", [None, 5], ids=str)
async def test_a_function_that_finds_no_list(found):
    says = f"the nodes that the function returns must be .*, not {type(found).__name__}"
    with pytest.raises(TypeError, match=says):
        await CallableDiscovery(lambda: found).discover()


@within(20)
async def test_stats_and_auth(server):
    says = "arguments of stats must be str, not int"
    async with emcache.create_client([server.address]) as client:
        for of in (server.address, emcache.ALL_NODES):
            with pytest.raises(TypeError, match=says):
                await client.stats(of, 5)
    pool = emcache.ConnectionPool(server.address)
    async with pool.create_connection_context() as connection:
        with pytest.raises(TypeError, match=says):
            await connection.stats_command(5)
        with pytest.raises(TypeError, match="username must be a str, not NoneType"):
            await connection.auth(None, None)
    await pool.close()


async def test_keys_of_a_cache(client):
    cache = emcache.Cache(client)
    for keys in (None, 5):
        for call in (cache.get_many, cache.delete_many):
            with pytest.raises(TypeError, match="keys must be an iterable of keys, not one"):
                await call(keys)
    for made in ("text", None):
        cache = emcache.Cache(client, keys=lambda _, made=made: made)
        says = f"the function given as keys must return bytes, not {type(made).__name__}"
        with pytest.raises(TypeError, match=says):
            await cache.get("k")


async def test_labels_of_metrics(client):
    with pytest.raises(TypeError, match="name must be a str, not int"):
        EmcacheCollector(client, 5)
    with pytest.raises(TypeError, match="namespace must be a str, not int"):
        EmcacheCollector(client, namespace=5)


async def test_a_ca_without_tls(server):
    """Allowed, as 1.3 allows it; but who names a CA believes that something is encrypted."""
    with pytest.warns(RuntimeWarning, match="ssl_extra_ca without ssl=True: nothing is encrypted"):
        client = await emcache.create_client([server.address], ssl_extra_ca="ca.pem")
    await client.close()


# Neither fits a float; the second is longer than Python prints.
HUGE = [10**400, 10**5000]


@pytest.mark.parametrize("number", HUGE, ids=["400 digits", "5000 digits"])
@pytest.mark.parametrize(
    "name",
    [
        "timeout",
        "connection_timeout",
        "purge_unused_connections_after",
        "max_connections",
        "min_connections",
        "autodiscovery_poll_interval",
        "autodiscovery_timeout",
    ],
)
async def test_numbers_that_no_float_holds_are_refused(server, name, number):
    options = {name: number}
    if name.startswith("autodiscovery"):
        options["autodiscovery"] = True
    for sign in (1, -1):
        with pytest.raises(ValueError, match=name):
            await emcache.create_client([server.address], **{**options, name: sign * number})
        if not name.startswith("autodiscovery"):
            with pytest.raises(ValueError, match=name):
                emcache.ConnectionPool(server.address, **{name: sign * number})


@pytest.mark.parametrize("number", HUGE, ids=["400 digits", "5000 digits"])
async def test_calls_refuse_numbers_that_are_too_large(client, key, number):
    cache = emcache.Cache(client)
    for call in (
        lambda: client.wait_ready(number),
        lambda: client.set(key, b"v", exptime=number),
        lambda: client.set(key, b"v", flags=number),
        lambda: client.touch(key, number),
        lambda: client.increment(key, number),
        lambda: client.increment(key, 1, initial=number),
        lambda: client.cas(key, b"v", number),
        lambda: client.flush_all(delay=number),
        lambda: cache.set(key, 1, ttl=number),
        lambda: cache.touch(key, number),
    ):
        with pytest.raises(ValueError, match=r"between|large"):
            await call()
    with pytest.raises(ValueError, match="max_size"):
        emcache.Cache(client, max_size=number)
    assert await client.get(key) is None
