"""hot: the keys that clients fetch most often."""

import asyncio
import contextlib
import json
import re
import threading

import pytest

from emcache.cli._hot import _MOST_KEYS, Fetches, Prefixes, _forget_rare_keys, rows_of
from support.cli import Terminal, document, invoke, named
from support.memcached import memcached
from support.nutcracker import nutcracker
from support.oracle import reply_to
from support.sasl import PASSWORD, USER, sasl_memcached
from support.scripted import scripted

pytestmark = pytest.mark.driver_independent
KEYS = b"get shop:tea shop:tea shop:tea shop:milk user:1:cart caf\xc3\xa9\r\n"
QUICK = ("--seconds", "0.6")


@contextlib.contextmanager
def load(*servers):
    """Fetch in another thread: `shop:tea` three times as often as the others."""
    ended = threading.Event()

    def fetch():
        while not ended.wait(0.005):
            for server in servers:
                server.command(KEYS)

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def busy():
    with memcached() as server:
        server.command(b"set shop:tea 0 0 1\r\nx\r\n")
        with load(server):
            yield server


def test_json(busy):
    found = document("hot", *QUICK, *named(busy))
    node = f"127.0.0.1:{busy.port}"
    first = found["keys"][0]
    assert (first["key"], first["key_encoding"], first["node"]) == ("shop:tea", "utf-8", node)
    assert first["hit_ratio"] == 1.0
    assert 0.4 < first["share"] < 0.6
    assert {row["key"] for row in found["keys"]} == {"shop:tea", "shop:milk", "user:1:cart", "café"}
    shop, *others = found["prefixes"]
    assert (shop["prefix"], 0.6 < shop["share"] < 0.72) == ("shop:", True)
    assert 0.7 < shop["hit_ratio"] < 0.8
    assert {row["prefix"] for row in others} == {"user:", ""}
    assert found["per_second"] > 20
    (of_node,) = found["nodes"]
    assert (of_node["ok"], of_node["dropped"]) == (True, 0)
    assert of_node["seen"] == sum(row["seen"] for row in found["keys"])


def test_limit_depth_and_separator(busy):
    found = document("hot", *QUICK, "--limit", "1", "--prefix-depth", "2", *named(busy))
    assert [row["key"] for row in found["keys"]] == ["shop:tea"]
    found = document("hot", *QUICK, "--prefix-depth", "2", *named(busy))
    assert {row["prefix"] for row in found["prefixes"]} == {"shop:", "user:1:", ""}
    found = document("hot", *QUICK, "--separator", "er", *named(busy))
    assert {row["prefix"] for row in found["prefixes"]} == {"user", ""}
    assert invoke("hot", "--separator", "", *named(busy)).exit_code == 2


def test_a_pipe_and_a_terminal(busy):
    lines = [line.split("\t") for line in invoke("hot", *QUICK, *named(busy)).stdout.splitlines()]
    assert lines[0][0] == "key"
    assert lines[0][3:] == ["100.00%", f"127.0.0.1:{busy.port}", "shop:tea"]
    assert ["prefix", "shop:"] in [[line[0], line[-1]] for line in lines]
    with Terminal("hot", *QUICK, *named(busy)) as terminal:
        text = terminal.until(lambda text: "(no separator)" in text)
        assert "fetches/s" in text


def test_several_nodes_of_which_one_is_dead(busy):
    with memcached() as idle:
        nodes = [*named(busy, idle), "-s", "127.0.0.1:1"]
        result = invoke("hot", *QUICK, *nodes)
        assert (result.exit_code, "refused" in result.stderr) == (3, True)
        assert "shop:tea" in result.stdout
        found = document("hot", *QUICK, *nodes, code=3)
        assert [of_node["ok"] for of_node in found["nodes"]] == [True, True, False]
        assert [of_node["seen"] for of_node in found["nodes"]][1:] == [0, None]
        assert invoke("hot", *QUICK, *named(idle)).stdout == "no fetches within 0.6 s\n"


def test_a_server_that_drops_lines():
    """More fetches at once than its buffers hold."""
    keys = b" ".join(b"k:%d" % number for number in range(100))
    with memcached("-t", "1") as server:
        ended = threading.Event()

        def fetch():
            while not ended.is_set():
                server.command(b"get %b\r\n" % keys * 300 + b"mn\r\n")

        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            result = invoke("hot", "--seconds", "1.5", "--json", *named(server))
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert result.exit_code == 0
    assert "of its log; the rates are estimates" in result.stderr
    found = json.loads(result.stdout)
    (of_node,) = found["nodes"]
    assert of_node["dropped"] > 0
    assert found["per_second"] > of_node["seen"] / 1.5


def test_servers_that_cannot_be_watched():
    with memcached("-W") as server:
        result = invoke("hot", *QUICK, *named(server))
        assert (result.exit_code, result.stdout) == (4, "")
        assert "cannot be watched: it was started with -W" in result.stderr
        assert document("hot", *QUICK, *named(server), code=4)["nodes"][0]["ok"] is False


def test_a_proxy():
    with nutcracker() as proxy:
        result = invoke("hot", *QUICK, *named(proxy))
        assert result.exit_code in (3, 4)
        assert "prox" in result.stderr


def test_sasl():
    with sasl_memcached() as server:
        login = ("--username", USER, "--auth", "sasl")
        result = invoke("hot", *QUICK, *login, *named(server), EMCACHE_PASSWORD=PASSWORD)
        assert (result.exit_code, "text protocol" in result.stderr) == (4, True)


def peer(reply, *more):
    async def script(connection):
        while True:
            words, _ = await connection.command()
            if words == [b""]:
                return None
            if words[0] != b"watch":
                await connection.send(reply_to(words))
                continue
            await connection.send(reply, *more, pause=0.05)
            if more:
                return connection.abort()

    return script


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (peer(b"ERROR\r\n"), 4, "'watch fetchers' is not supported"),
        (peer(b"WATCHER_TOO_MANY log watcher limit reached\r\n"), 4, "limit reached"),
        (peer(b"OK\r\n", b"ts=1 gid=1 type=item_get key=a status"), 3, "reset|closed"),
        (peer(b"OK\r\n", *[b"x" * 65_536] * 3), 3, "line without an end"),
    ],
)
def test_replies_of_other_servers(script, code, text):
    async def against():
        async with scripted(script) as server:
            return await asyncio.to_thread(invoke, "hot", "--seconds", "3", *named(server))

    result = asyncio.run(against())
    assert (result.exit_code, bool(re.search(text, result.stderr))) == (code, True), result.stderr


def test_keys_that_are_counted_are_bounded():
    prefixes = Prefixes(b":", 1)
    fetches = Fetches(seconds=1.0)
    fetches.counts.update({(b"hot:%d" % number, b"found"): 9 for number in range(10)})
    fetches.counts.update({(b"cold:%d" % n, b"not_found"): 1 for n in range(_MOST_KEYS)})
    fetches.seen = fetches.counts.total()
    _forget_rare_keys(fetches, prefixes)
    assert len(fetches.counts) == _MOST_KEYS // 2
    keys, groups, total = rows_of({"node": fetches}, prefixes)
    assert {row.name for row in keys[:10]} == {b"hot:%d" % number for number in range(10)}
    assert {row.name: row.count for row in groups} == {b"cold:": _MOST_KEYS, b"hot:": 90}
    assert total == _MOST_KEYS + 90
