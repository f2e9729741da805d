"""Lists of nodes that are probably mistakes."""

import logging

import pytest

import emcache
from support.calls import client_of

pytestmark = pytest.mark.driver_independent


async def test_a_node_that_is_listed_twice_is_kept_and_logged(server, caplog):
    """As in 1.3.3: each entry is a node of its own."""
    caplog.set_level(logging.WARNING, logger="emcache")
    async with client_of(server, server, min_connections=0) as client:
        assert client.cluster_managment().nodes() == [server.address] * 2
        assert [record.getMessage() for record in caplog.records] == [
            f"node {server.address} is listed twice, so it gets twice the keys and connections"
        ]
        with pytest.raises(ValueError, match="is twice in the list"):
            await client.migrate([server.address])


async def test_a_node_that_is_listed_twice_is_refused_where_copies_count(server):
    node = server.address
    former = emcache.Cluster([node])
    for make in (
        lambda: client_of(server, server, failover="next"),
        lambda: client_of(server, server, migrating_from=former),
        lambda: emcache.Cluster([node, node]),
        lambda: emcache.Gutter([node, node]),
    ):
        with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+ is twice in"):
            await make()


async def test_a_gutter_is_a_text_or_a_list():
    for nodes in ("10.0.0.1;10.0.0.2:11212", ["10.0.0.1", "10.0.0.2:11212"]):
        gutter = emcache.Gutter(nodes, ttl=5)
        assert repr(gutter).startswith("Gutter([10.0.0.1:11211, 10.0.0.2:11212], ttl=5")
    assert emcache.Gutter("10.0.0.1").nodes == (emcache.MemcachedHostAddress("10.0.0.1", 11211),)


@pytest.mark.parametrize("option", ["timeout", "connection_timeout"])
@pytest.mark.parametrize("seconds", [0, 0.0, -1, float("nan")])
async def test_no_time_at_all_is_refused(server, option, seconds):
    with pytest.raises(ValueError, match=f"^{option} must be a number of seconds > 0, or None"):
        await client_of(server, **{option: seconds})
