"""ping, version, stats, node-for, flush: what is asked of every node."""

import asyncio
import json

import pytest

import emcache
from support.cli import Terminal, document, invoke, invoke_beside, named, one_loop
from support.discovery import endpoint, listed
from support.memcached import memcached

DEAD = "127.0.0.1:1"

NOW = ("--seconds", "0")


def test_ping(cluster):
    answer = document("ping", *named(*cluster), "--count", "2")
    assert [node["ok"] for node in answer["nodes"]] == [True] * 3
    assert all(0 < node["ms_min"] <= node["ms_p50"] <= node["ms_max"] for node in answer["nodes"])
    assert invoke("ping", *named(*cluster)).stdout.count(" up ") == 3


@pytest.mark.parametrize("command", ["ping", "version", "stats"])
def test_a_dead_node_hides_no_other(server, command):
    arguments = (command, "-s", DEAD, *named(server))
    nodes = {node.pop("node"): node for node in document(*arguments, code=3)["nodes"]}
    dead, alive = nodes[DEAD], nodes[f"127.0.0.1:{server.port}"]
    assert (dead["ok"], "refused" in dead["error"]) == (False, True)
    assert (alive["ok"], alive["error"]) == (True, None)
    assert dead.keys() == alive.keys()
    result = invoke(*arguments)
    assert (result.exit_code, "refused" in result.output) == (3, True)


def test_a_silent_node_is_told_within_the_timeout():
    with memcached() as silent:
        silent.pause()
        answer = document("ping", *named(silent), "--timeout", "0.3", code=3)
    assert "0.3 s" in answer["nodes"][0]["error"]


def test_version(server):
    answer = document("version", *named(server))
    assert answer["emcache"] == emcache.__version__
    assert answer["nodes"][0]["version"] == server.stats()["version"]
    assert f"  {server.stats()['version']}\n" in invoke("version", *named(server)).stdout


def test_a_unix_socket():
    with memcached(unix=True) as server:
        assert document("ping", "-s", f"unix:{server.path}")["nodes"][0]["node"] == server.path
        assert invoke("set", "k", "v", "-s", server.path).exit_code == 0
        assert invoke("keys", "-s", server.path).stdout == "k\n"
        assert invoke("doctor", *NOW, "-s", server.path).exit_code == 0


def test_stats(server):
    general = document("stats", *named(server))["nodes"][0]["stats"]
    assert general["pid"] == server.stats()["pid"]
    settings = document("stats", "settings", *named(server))["nodes"][0]["stats"]
    assert settings["maxconns"] == "2048"
    lines = invoke("stats", "--match", "pid*", *named(server)).stdout
    assert lines == f"127.0.0.1:{server.port}\tpid\t{general['pid']}\n"
    unknown = invoke("stats", "bogus", *named(server))
    assert (unknown.exit_code, f":{server.port}" in unknown.stderr) == (4, True)


@pytest.mark.parametrize(
    ("what", "columns", "dropped"),
    [("items", 60, None), ("slabs", 60, None), ("conns", 60, "server")],
)
def test_tables_fit_the_terminal(server, what, columns, dropped):
    server.command(b"set tables 0 0 1\r\nx\r\n")
    with Terminal("stats", what, *named(server), columns=columns) as terminal:
        assert terminal.end() == 0
        lines = terminal.text.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0] == f"127.0.0.1:{server.port}"
    assert dropped is None or dropped not in lines[1]


@one_loop
async def test_node_for_is_that_of_the_client(cluster):
    async with emcache.create_client([server.address for server in cluster]) as client:
        expected = {f"k{n}": client.node_for(b"k%d" % n).port for n in range(20)}
    answer = await invoke_beside("node-for", *expected, *named(*cluster), "--json")
    found = {item["key"]: item["node"] for item in json.loads(answer.stdout)["keys"]}
    assert found == {key: f"127.0.0.1:{port}" for key, port in expected.items()}
    assert len(set(found.values())) == 3


@pytest.mark.driver_independent
def test_node_for_needs_no_server():
    result = invoke("node-for", "k", "-s", "nowhere.invalid")
    assert (result.exit_code, result.stdout) == (0, "nowhere.invalid:11211\n")


def test_flush():
    with memcached() as server:
        server.command(b"set k 0 0 1\r\nx\r\n")
        refused = invoke("flush", *named(server))
        assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
        assert invoke("get", "k", *named(server)).exit_code == 0
        assert document("flush", "--yes", *named(server))["nodes"][0]["ok"] is True
        assert invoke("get", "k", *named(server)).exit_code == 1


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"\n", 1), (b"\x03", 130)])
def test_flush_asks(typed, code):
    with (
        memcached() as server,
        Terminal("flush", *named(server), "--delay", "2592000") as terminal,
    ):
        terminal.until(lambda text: f"items of 127.0.0.1:{server.port}?" in text)
        if typed == b"\x03":
            assert terminal.end(press=typed) == code
        else:
            terminal.press(typed)
            assert terminal.end() == code
        assert ("flushed" in terminal.text) == (code == 0)
        assert "Traceback" not in terminal.text


@one_loop
async def test_discovery(cluster):
    async with endpoint(*map(listed, cluster)) as source:
        where = ["--discovery", f"127.0.0.1:{source.port}"]
        result = await invoke_beside("ping", *where, "--json")
        nodes = {node["node"] for node in json.loads(result.stdout)["nodes"]}
        assert nodes == {f"127.0.0.1:{server.port}" for server in cluster}
        checked = await invoke_beside("doctor", *NOW, *where)
        assert checked.exit_code == 0, checked.output
        assert "ok\tall\tdiscovery\tversion 1, 3 nodes: " in checked.stdout


@one_loop
async def test_discovery_of_a_server_without_a_list(server):
    where = ["--discovery", f"127.0.0.1:{server.port}"]
    result = await invoke_beside("ping", *where)
    assert (result.exit_code, "has no list" in result.stderr) == (0, True)
    assert "warn\tall\tdiscovery\t" in (await invoke_beside("doctor", *NOW, *where)).stdout


@one_loop
async def test_an_endpoint_that_has_no_list_yet(cluster):
    async with endpoint() as source:
        where = ["--discovery", f"127.0.0.1:{source.port}", "--timeout", "1"]
        source.reply = lambda: b"END\r\n"
        result, checked = await asyncio.gather(
            invoke_beside("ping", *where), invoke_beside("doctor", *NOW, *where)
        )
        assert (result.exit_code, "no list of nodes yet" in result.stderr) == (3, True)
        assert (checked.exit_code, "fail\tall\tdiscovery\t" in checked.stdout) == (1, True)
