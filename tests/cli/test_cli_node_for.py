"""node-for with routing rules, and what it says another rule would move."""

import json

import pytest

import emcache
from support.cli import Terminal, document, invoke, invoke_beside, named, one_loop

NODES = ["10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11212"]
SERVERS = ["-s", ",".join(NODES)]
KEYS = [f"user:{n}" for n in range(30)]

pytestmark = pytest.mark.driver_independent


async def nodes_of(**options):
    addresses = [emcache.MemcachedHostAddress(n[:8], int(n[9:])) for n in NODES]
    async with emcache.create_client(addresses, min_connections=0, **options) as client:
        found = [client.node_for(key.encode()) for key in KEYS]
    return [f"{node.address}:{node.port}" for node in found]


@one_loop
async def test_rule_and_weights_are_those_of_the_client():
    weights = f"{NODES[0]}=5,{NODES[2]}=2"
    rule = ["--routing", "ketama", "--weights", weights]
    result = await invoke_beside("node-for", *KEYS, *SERVERS, *rule)
    assert result.exit_code == 0, result.output
    found = [line.split("\t")[1] for line in result.stdout.splitlines()]
    assert found == await nodes_of(routing="ketama", weights={NODES[0]: 5, NODES[2]: 2})


@one_loop
async def test_the_rule_of_the_environment():
    result = await invoke_beside("node-for", *KEYS, *SERVERS, EMCACHE_ROUTING="ketama")
    found = result.stdout.splitlines()
    assert [line.split("\t")[1] for line in found] == await nodes_of(routing="ketama")


@one_loop
async def test_keys_that_move():
    before, after = await nodes_of(), await nodes_of(routing="ketama")
    assert before != after
    compare = ["node-for", *KEYS, *SERVERS, "--compare", "ketama"]
    lines = (await invoke_beside(*compare)).stdout.splitlines()
    rows = zip(KEYS, before, after, strict=True)
    assert lines == ["\t".join(row) for row in rows]
    found = json.loads((await invoke_beside(*compare, "--json")).stdout)
    assert (found["routing"], found["compared"]) == ("emcache", "ketama")
    moves = [old != new for old, new in zip(before, after, strict=True)]
    assert [key["moves"] for key in found["keys"]] == moves


def test_the_share_that_moves():
    found = document("node-for", *SERVERS, "--compare", "rendezvous")
    assert 0.6 < found["moved_share"] < 0.73
    assert [node["node"] for node in found["nodes"]] == NODES
    assert abs(sum(node["compared_share"] for node in found["nodes"]) - 1) < 1e-9
    same = invoke("node-for", *SERVERS, "--compare", "emcache").stdout
    assert same.splitlines()[-1] == "moved\t0.0000"


def test_other_weights():
    options = ["--routing", "rendezvous", "--compare", "rendezvous"]
    weights = ["--compare-weights", f"{NODES[1]}=2"]
    found = document("node-for", *SERVERS, *options, *weights)
    # From a third to a half of the keys.
    assert 0.14 < found["moved_share"] < 0.20
    shares = {node["node"]: node["compared_share"] for node in found["nodes"]}
    assert 0.47 < shares[NODES[1]] < 0.53


def test_a_terminal_gets_a_table():
    with Terminal("node-for", *SERVERS, "--compare", "ketama") as terminal:
        assert terminal.end() == 0
        lines = terminal.text.splitlines()
    assert lines[0].split() == ["node", "emcache", "ketama"]
    assert "of 10,000 random keys would move" in lines[-1]
    with Terminal("node-for", *KEYS[:3], *SERVERS, "--compare", "ketama") as terminal:
        assert terminal.end() == 0
        assert terminal.text.splitlines()[0].split() == ["key", "emcache", "ketama"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Missing argument"),
        (["k", "--compare-weights", "a=1"], "needs --compare"),
        (["k", "--routing", "katama"], "routing must be one of"),
        (["k", "--compare", "katama"], "routing must be one of"),
        (["k", "--weights", f"{NODES[0]}=2"], "'emcache' ignores weights"),
        (["k", "--routing", "ketama", "--weights", "7"], "weights must be a text like"),
        (["k", "--routing", "ketama", "--weights", "other=7"], "which is not a node"),
    ],
)
def test_mistakes(arguments, text):
    result = invoke("node-for", *arguments, *SERVERS)
    assert (result.exit_code, text in result.stderr) == (2, True), result.output


@one_loop
async def test_items_are_written_by_the_rule(cluster):
    addresses = [server.address for server in cluster]
    rule = [*named(*cluster), "--routing", "ketama"]
    for key in KEYS[:9]:
        assert (await invoke_beside("set", key, "value", *rule)).exit_code == 0
    async with emcache.create_client(addresses, routing="ketama") as client:
        found = await client.get_many([key.encode() for key in KEYS[:9]])
    assert len(found) == 9
