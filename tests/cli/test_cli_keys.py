"""keys: all that servers hold, as it comes."""

import json

import pytest

from emcache.cli._keys import parse
from support.cli import document, invoke, invoke_beside, named, one_loop, run, start
from support.memcached import free_port, memcached
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
    left, size, key = line.split()
    assert 0 < int(left.removesuffix("s")) <= 101
    assert (int(size) > 50, key) == (True, "50%25")


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
        assert [len(line.split()) for line in lines] == [3, 3]


def test_delete_by_prefix():
    with memcached() as a, memcached() as b, memcached() as c:
        servers = [a, b, c]
        for server in servers:
            # On all nodes, wherever this client would look for it.
            for key in (b"user:1", b"user:2", b"other"):
                server.command(b"set %b 0 0 1\r\nx\r\n" % key)
        done = invoke("delete", "--prefix", "user:", *named(*servers))
        assert (done.exit_code, done.stdout) == (0, "deleted 6\n")
        assert invoke("keys", *named(*servers)).stdout == "other\n" * 3
        answer = document("delete", "--prefix", "other", *named(*servers))
        assert [each["key"] for each in answer["keys"]] == ["other"] * 3
        assert all(each["deleted"] for each in answer["keys"])
        assert len(answer["nodes"]) == 3
        assert document("delete", "--prefix", "other", *named(*servers))["keys"] == []


def test_delete_by_prefix_of_many_and_odd_keys():
    with memcached() as server:
        sets = [b"set k:%d 0 0 1 noreply\r\nx\r\n" % number for number in range(5000)]
        # "k: \n", in base64.
        odd = b"ms azogCg== 1 b\r\nx\r\n"
        server.command(b"".join(sets) + odd + b"set kept 0 0 1\r\nx\r\n")
        assert invoke("delete", "--prefix", "k:", *named(server)).stdout == "deleted 5001\n"
        assert invoke("keys", *named(server)).stdout == "kept\n"


def test_delete_by_prefix_where_a_node_is_dead(cluster):
    cluster[0].command(b"set user:1 0 0 1\r\nx\r\n")
    dead = f"127.0.0.1:{free_port()}"
    done = invoke("delete", "--prefix", "user:", *named(cluster[0]), "-s", dead)
    assert (done.exit_code, done.stdout) == (3, "deleted 1\n")
    assert dead in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prefix", ""], "must not be empty"),
        (["key", "--prefix", "k"], "or --prefix"),
        ([], "or --prefix"),
    ],
)
def test_delete_wants_keys_or_a_prefix(server, arguments, says):
    done = invoke("delete", *arguments, *named(server))
    assert done.exit_code == 2
    assert says in done.stderr
