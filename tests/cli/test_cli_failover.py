"""--failover: where reads and writes go while a node is down."""

import pytest

from support.cli import document, invoke, named
from support.memcached import free_port, memcached

pytestmark = pytest.mark.driver_independent


@pytest.fixture(scope="module")
def spare():
    with memcached() as server:
        yield server


@pytest.fixture(scope="module")
def dead():
    return f"127.0.0.1:{free_port()}"


def test_items_at_a_substitute(spare, dead):
    gutter = ("--failover", f"gutter:127.0.0.1:{spare.port}", "-s", dead)
    stored = invoke("set", "k", "v", *gutter)
    assert (stored.exit_code, stored.stdout) == (0, "")
    assert f"{dead} is down; a substitute answered" in stored.stderr
    assert "is not deleted when the node comes back" in stored.stderr
    assert spare.command(b"get k\r\n").startswith(b"VALUE k 0 1")
    got = invoke("get", "k", *gutter)
    assert (got.exit_code, got.stdout) == (0, "v")
    assert "a substitute answered" in got.stderr
    assert "is not deleted" not in got.stderr
    assert invoke("get", "k", "-s", dead).exit_code == 3


def test_nothing_is_said_without_a_failure(spare):
    for failover in ("next", "gutter:127.0.0.1:1"):
        done = invoke("set", "k", "v", "--failover", failover, *named(spare))
        assert (done.exit_code, done.stderr) == (0, "")


def test_the_other_nodes_take_the_keys(spare, dead):
    servers = (*named(spare), "-s", dead)
    keys = [f"k{number}" for number in range(20)]
    found = document("node-for", *keys, "--failover", "next", *servers)["keys"]
    alive = f"127.0.0.1:{spare.port}"
    assert {item["node"] for item in found} == {alive, dead}
    assert {item["serving"] for item in found} == {alive}
    plain = document("node-for", *keys, *servers)["keys"]
    assert [item["node"] for item in plain] == [item["node"] for item in found]
    key = next(item["key"] for item in found if item["node"] == dead)
    text = invoke("node-for", key, *servers, EMCACHE_FAILOVER="next").stdout
    assert text == f"{dead} is down, {alive} serves\n"


@pytest.mark.parametrize(
    ("failover", "says"),
    [
        ("elsewhere", "--failover must be next, or gutter:"),
        ("gutter:", "--failover names no server"),
        ("gutter:a:b", "is not a node address"),
        ("gutter:127.0.0.1:1", "is a node of the cluster and of the gutter"),
    ],
)
def test_mistakes(failover, says):
    refused = invoke("get", "k", "--failover", failover, "-s", "127.0.0.1:1")
    assert (refused.exit_code, says in refused.stderr) == (2, True), refused.stderr
