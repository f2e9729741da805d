"""keys: all that servers hold, as it comes."""

import json

import pytest

from emcache.cli._keys import FirstItems
from emcache.cli._metadump import Listed, parse
from support.cli import Terminal, document, invoke, invoke_beside, named, one_loop, run, start
from support.memcached import memcached
from support.sasl import PASSWORD, USER, file_memcached, sasl_memcached
from support.scripted import scripted
from support.tls import certificates, tls_memcached

MANY = 20_000


@pytest.fixture(scope="module")
def filled():
    with memcached("-m", "256") as server:
        sets = [b"set k:%d 0 0 1 noreply\r\nx\r\n" % number for number in range(MANY)]
        sets.append(b"set caf\xc3\xa9 0 0 1 noreply\r\nx\r\n")
        sets.append(b"set 50%%25 0 100 1 noreply\r\nx\r\n".replace(b"%%", b"%"))
        sets.append(b"set \xff\xfe 0 0 1\r\nx\r\n")
        assert server.command(b"".join(sets)) == b"STORED\r\n"
        yield server


def test_all_of_them(filled):
    keys = invoke("keys", *named(filled)).stdout_bytes.splitlines()
    expected = {b"k:%d" % number for number in range(MANY)}
    assert set(keys) == expected | {"café".encode(), b"50%25", b"\xff\xfe"}
    assert len(keys) == MANY + 3


def test_prefix_and_limit(filled):
    some = invoke("keys", "--prefix", "k:1999", *named(filled)).stdout.split()
    assert sorted(some) == sorted(["k:1999"] + [f"k:1999{digit}" for digit in range(10)])
    assert len(invoke("keys", "--limit", "5", *named(filled)).stdout.split()) == 5
    assert invoke("keys", "--prefix", "nothing", *named(filled)).stdout == ""


def test_json(filled):
    answer = document("keys", "--prefix", "50%", *named(filled))
    (item,) = answer["keys"]
    assert item.pop("expires") > item.pop("last_access") > 1_600_000_000
    assert item.pop("size") > 50
    node = f"127.0.0.1:{filled.port}"
    assert item == {"key": "50%25", "key_encoding": "utf-8", "node": node}
    assert answer["nodes"] == [{"node": node, "ok": True, "error": None}]
    assert answer["limited"] is False
    (item,) = document("keys", "--prefix", "caf", *named(filled))["keys"]
    assert (item["key"], item["expires"]) == ("café", None)
    answer = document("keys", "--limit", "3", *named(filled))
    assert (len(answer["keys"]), answer["limited"]) == (3, True)
    assert len(document("keys", *named(filled))["keys"]) == MANY + 3


def test_long(filled):
    (line,) = invoke("keys", "-l", "--prefix", "50", *named(filled)).stdout.splitlines()
    left, unused, size, node, key = line.split("\t")
    assert 0 < int(left) <= 101
    assert int(unused) >= 0
    assert (int(size) > 50, node, key) == (True, f"127.0.0.1:{filled.port}", "50%25")


def test_a_pipe_that_is_closed(filled):
    process = start("keys", *named(filled))
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_many_nodes_and_a_dead_one(cluster):
    for number, server in enumerate(cluster):
        server.command(b"set only:%d 0 0 1\r\nx\r\n" % number)
    result = invoke("keys", "--prefix", "only:", *named(*cluster), "-s", "127.0.0.1:1")
    assert sorted(result.stdout.split()) == ["only:0", "only:1", "only:2"]
    assert (result.exit_code, "refused" in result.stderr) == (3, True)
    answer = document("keys", "--prefix", "only:", *named(*cluster), "-s", "127.0.0.1:1", code=3)
    assert [node["ok"] for node in answer["nodes"]] == [True, True, True, False]


def test_where_they_are_not_listed():
    with memcached() as disabled, memcached("-X") as forbidden:
        disabled.command(b"lru_crawler disable\r\n")
        for server, says in ((disabled, "crawler is disabled"), (forbidden, "-X")):
            result = invoke("keys", *named(server))
            assert (result.exit_code, says in result.stderr) == (4, True)


def test_over_tls():
    with certificates() as made, tls_memcached(made.good) as server:
        server.command(b"set k 0 0 1\r\nx\r\n")
        tls = ["-s", f"localhost:{server.port}", "--ca", str(made.ca.file)]
        assert invoke("keys", *tls).stdout == "k\n"
        refused = invoke("keys", "-s", f"localhost:{server.port}", "--tls")
        assert (refused.exit_code, "not trusted" in refused.stderr) == (3, True)
        assert "(pass its CA as --ca)" in refused.stderr


def test_after_a_login():
    with file_memcached() as server, sasl_memcached() as binary:
        server.command(b"set k 0 0 1\r\nx\r\n")
        login = ["--username", USER]
        result = invoke("keys", *named(server), *login, EMCACHE_PASSWORD=PASSWORD)
        assert (result.exit_code, result.stdout) == (0, "k\n")
        login += ["--auth", "sasl"]
        result = invoke("keys", *named(binary), *login, EMCACHE_PASSWORD=PASSWORD)
        assert (result.exit_code, "text protocol, which SASL" in result.stderr) == (4, True)
        result = invoke("ttl", "k", *named(binary), *login, EMCACHE_PASSWORD=PASSWORD)
        assert (result.exit_code, "SASL" in result.stderr) == (4, True)


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ([b"key=a exp=-1\r\nEND\r\n"], 0, "a\n"),
        ([b"key=a exp=-1\r\nke", b"y=b exp=-1\r\nEN", b"D\r\n"], 0, "a\nb\n"),
        ([b"END\r\n"], 0, ""),
        ([b"OK\r\nkey=a exp=-1\r\nEND\r\n"], 0, "a\n"),
        ([b"OK\r\n", b"key=a exp=-1\r\nEND\r\n"], 0, "a\n"),
        ([b"OK\r\nEND\r\n"], 0, ""),
        ([b"key=a exp=-1\r\n", b"OK\r\nEND\r\n"], 4, "answered 'OK'"),
        ([b"ERROR\r\n"], 4, "1.4.31"),
        ([b"SERVER_ERROR out of memory\r\n"], 4, "out of memory"),
        ([b"key=\r\nEND\r\n"], 3, "invalid list of keys"),
        ([b"key=a exp=-1\r\n", None], 3, "closed"),
        ([b"key=" + b"a" * 200_000], 3, "sent a line without an end"),
        ([b"BUSY currently processing crawler request\r\n"], 4, "busy"),
        ([b"key=a exp=-1\r\n"], 3, "did not answer within 0.5 s"),
    ],
)
@one_loop
async def test_what_servers_say(answers, code, says):
    async def script(connection):
        while line := await connection.line():
            if line == b"version":
                await connection.send(b"VERSION 1.4.0\r\n")
                continue
            if None in answers:
                await connection.send(*answers[:-1], pause=0.01)
                return
            await connection.send(*answers, pause=0.01)

    async with scripted(script) as server:
        result = await invoke_beside("keys", "-s", f"127.0.0.1:{server.port}", "--timeout", "0.5")
        assert result.exit_code == code
        assert says in result.output


@one_loop
async def test_a_crawler_that_is_busy_for_a_while():
    asked = 0

    async def script(connection):
        nonlocal asked
        while line := await connection.line():
            if line == b"version":
                await connection.send(b"VERSION 1.6.18\r\n")
                continue
            asked += 1
            busy = b"BUSY currently processing crawler request\r\n"
            await connection.send(busy if asked < 3 else b"key=a exp=-1\r\nEND\r\n")

    async with scripted(script) as server:
        result = await invoke_beside("keys", "-s", f"127.0.0.1:{server.port}")
        assert (result.exit_code, result.stdout, asked) == (0, "a\n", 3)


@pytest.mark.parametrize("said", [b"BADCLASS invalid class id\r\n", b"END\r\n"])
@one_loop
async def test_a_server_that_lists_by_age_alone(said):
    """An old one, or one whose table of keys grows just now."""

    async def script(connection):
        while line := await connection.line():
            if line == b"version":
                await connection.send(b"VERSION 1.5.0\r\n")
            elif line == b"lru_crawler metadump hash":
                await connection.send(said)
            else:
                assert line == b"lru_crawler metadump all"
                await connection.send(b"key=a exp=-1\r\nEND\r\n")

    async with scripted(script) as server:
        result = await invoke_beside("keys", "-s", f"127.0.0.1:{server.port}")
        assert (result.exit_code, result.stdout) == (0, "a\n")


@pytest.mark.driver_independent
def test_a_line():
    item = parse(b"key=a%20b%ff exp=1700000100 la=1700000000 cas=1 fetch=no cls=1 size=61")
    assert item.key == b"a b\xff"
    assert (item.expires, item.last_access, item.size) == (1700000100, 1700000000, 61)
    item = parse(b"key=a exp=-1 la=? new=thing")
    assert (item.expires, item.last_access, item.size) == (None, None, None)
    for line in (b"", b"key=", b"exp=1"):
        with pytest.raises(ValueError, match="key="):
            parse(line)


def test_keys_that_would_act_on_a_terminal_or_a_pipe():
    with memcached() as server:
        # Base64 keys of meta commands may hold anything.
        server.command(b"ms YQpiGw== 1 b\r\nx\r\nbogus\r\n")
        assert invoke("keys", *named(server)).stdout == "a\\nb\\x1b\n"
        assert document("keys", *named(server))["keys"][0]["key"] == "a\nb\x1b"
        assert json.loads(run("keys", "--json", *named(server)).stdout)["keys"]


def test_each_key_is_one_word_of_one_line():
    with memcached() as server:
        # "a b", and "a b" with a line end before the b.
        server.command(b"ms YSBi 1 b\r\nx\r\nms YSAKYg== 1 b\r\nx\r\nbogus\r\n")
        assert sorted(invoke("keys", *named(server)).stdout.splitlines()) == [
            "a\\x20\\nb",
            "a\\x20b",
        ]
        lines = invoke("keys", "--long", *named(server)).stdout.splitlines()
        assert [len(line.split()) for line in lines] == [5, 5]


def test_the_first_ones_of_an_order():
    with memcached() as a, memcached() as b:
        a.command(b"set k:1 0 500 1\r\nx\r\nset k:300 0 0 300\r\n%b\r\n" % (b"x" * 300))
        b.command(b"set k:200 0 100 200\r\n%b\r\nset other 0 0 1\r\nx\r\n" % (b"x" * 200))
        here = ("--prefix", "k:", *named(a, b))

        def sorted_keys(*options):
            lines = invoke("keys", *options, *here).stdout.splitlines()
            return [line.split("\t")[-1] for line in lines]

        assert sorted_keys("--sort", "size") == ["k:300", "k:200", "k:1"]
        assert sorted_keys("--sort", "size", "--reverse") == ["k:1", "k:200", "k:300"]
        assert sorted_keys("--sort", "ttl") == ["k:200", "k:1", "k:300"]
        assert sorted_keys("--sort", "ttl", "--limit", "1") == ["k:200"]
        assert len(sorted_keys("--sort", "age")) == 3
        answer = document("keys", "--sort", "size", "--limit", "2", *here)
        assert [item["key"] for item in answer["keys"]] == ["k:300", "k:200"]
        assert answer["limited"] is True
        assert document("keys", "--sort", "size", *here)["limited"] is False
        refused = invoke("keys", "--reverse", *here)
        assert (refused.exit_code, "--reverse needs --sort" in refused.stderr) == (2, True)
        with Terminal("keys", "--sort", "size", "--limit", "2", *here, columns=80) as terminal:
            assert terminal.end() == 0
            header, first, _, rest = terminal.text.splitlines()
        assert header.split() == ["expires", "unused", "size", "node", "key"]
        assert first.split()[0] == "never"
        assert rest == "2 of 3 keys; see --limit"


@pytest.mark.driver_independent
@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("order", ["size", "age", "ttl"])
def test_an_order_keeps_no_more_than_its_limit(order, is_reversed):
    first = FirstItems(order, is_reversed, 3)
    for number in range(1000):
        mixed = number * 7919 % 1000
        first.add(Listed(b"%d" % mixed, mixed or None, mixed or None, mixed), "node")
        assert len(first._heap) <= 3
    got = [int(ranked.item.key) for ranked in first.in_order()]
    # A time that is missing is the last one.
    expected = {"size": [999, 998, 997], "age": [1, 2, 3], "ttl": [1, 2, 3]}
    backwards = {"size": [0, 1, 2], "age": [0, 999, 998], "ttl": [0, 999, 998]}
    assert got == (backwards if is_reversed else expected)[order]
    assert first.count == 1000
