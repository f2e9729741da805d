"""watch: what the servers log, line by line."""

import asyncio
import contextlib
import json
import re
import select
import threading

import pytest

from emcache.cli._watch import parse
from support.cli import Terminal, invoke, named, start
from support.memcached import memcached
from support.nutcracker import nutcracker
from support.oracle import reply_to
from support.sasl import PASSWORD, USER, sasl_memcached
from support.scripted import scripted

pytestmark = pytest.mark.driver_independent


@contextlib.contextmanager
def repeated(server, command):
    """Send a command again and again, in another thread."""
    ended = threading.Event()

    def send():
        while not ended.wait(0.02):
            server.command(command)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


COMMANDS = b"get nothing\r\nset some:k 0 90 3\r\nabc\r\nget some:k\r\n"


@pytest.fixture(scope="module")
def busy():
    with memcached() as server, repeated(server, COMMANDS):
        yield server


def test_a_pipe(busy):
    lines = invoke("watch", "--limit", "12", *named(busy)).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    assert len(rows) == 12
    assert {row[1] for row in rows} == {f"127.0.0.1:{busy.port}"}
    found = {tuple(row[2:5]) for row in rows}
    assert ("item_get", "miss", "nothing") in found
    assert ("item_get", "hit", "some:k") in found
    assert ("item_store", "stored", "some:k") in found
    assert all(float(row[0]) > 1_600_000_000 for row in rows)


def test_json_lines(busy):
    out = invoke("watch", "mutations", "--limit", "2", "--json", *named(busy)).stdout
    first, _ = map(json.loads, out.splitlines())
    assert (first["type"], first["key"], first["cmd"]) == ("item_store", "some:k", "set")
    assert (first["size"], first["ttl"], first["key_encoding"]) == (3, 90, "utf-8")
    assert first["node"] == f"127.0.0.1:{busy.port}"


def test_filters(busy):
    def rows(*options):
        out = invoke("watch", "--limit", "5", *options, *named(busy)).stdout
        return {tuple(line.split("\t")[2:5]) for line in out.splitlines()}

    assert {key for _, _, key in rows("--prefix", "some:")} == {"some:k"}
    assert {outcome for _, outcome, _ in rows("--misses")} == {"miss"}
    assert rows("mutations") == {("item_store", "stored", "some:k")}
    assert {kind for kind, _, _ in rows("connevents")} <= {"conn_new", "conn_close"}


def test_a_terminal_until_ctrl_c(busy):
    with Terminal("watch", *named(busy), columns=80) as terminal:
        text = terminal.until(lambda text: "ttl 90s" in text and "nothing" in text)
        assert "watching fetchers, mutations, evictions of 1 node until Ctrl-C" in text
        assert re.search(r"\d\d:\d\d:\d\d\.\d{3}  get      miss    nothing\r\n", text)
        assert re.search(r"set      stored  some:k  3B, ttl 90s\r\n", text)
        assert terminal.end(press=b"\x03") == 130
        assert "Traceback" not in terminal.text
        assert "never retrieved" not in terminal.text


def test_no_colour(busy):
    with Terminal("watch", "--limit", "4", *named(busy), NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert b"\x1b[3" not in terminal.raw


def test_evictions():
    value = b"x" * 500_000
    with memcached("-m", "8") as server:
        fill = b"".join(b"set k%d 0 0 500000\r\n%b\r\n" % (n, value) for n in range(60))
        with repeated(server, fill):
            out = invoke("watch", "evictions", "--limit", "1", "--json", *named(server)).stdout
        event = json.loads(out)
        assert (event["type"], event["fetch"], event["size"]) == ("eviction", "no", 500_000)


def test_a_reader_that_is_gone(busy):
    process = start("watch", *named(busy))
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_time(busy):
    assert invoke("watch", "--seconds", "0.3", *named(busy)).exit_code == 0


def test_dead_nodes(busy):
    result = invoke("watch", "--limit", "1", *named(busy), "-s", "127.0.0.1:1")
    assert (result.exit_code, "refused" in result.stderr) == (3, True)
    assert len(result.stdout.splitlines()) == 1
    with memcached() as dying:
        process = start("watch", "connevents", *named(dying, busy), "--limit", "1000000")
        process.stdout.readline()
        dying.kill()
        assert f"127.0.0.1:{dying.port}" in process.stderr.readline()
        assert process.stdout.readline()  # of the other node
        process.kill()
        process.communicate()


def test_a_server_that_hangs():
    """Without a word about it, no lines would look like no fetches."""
    with memcached() as hanging:
        process = start("watch", *named(hanging), "--timeout", "0.3")
        try:
            hanging.command(b"get k\r\n")
            while not select.select([process.stdout], (), (), 0.1)[0]:
                hanging.command(b"get k\r\n")
            hanging.pause()
            assert f"no reply from 127.0.0.1:{hanging.port}" in process.stderr.readline()
            hanging.resume()
        finally:
            process.kill()
            process.communicate()


def test_lines_that_a_server_drops():
    async def script(connection):
        dropped = 0
        while True:
            words, _ = await connection.command()
            if words == [b""]:
                return
            if words[0] == b"watch":
                await connection.send(b"OK\r\nskipped=5\n")
                await connection.line()
                return
            if words[0] == b"stats":
                await connection.send(b"STAT log_watcher_skipped %d\r\nEND\r\n" % dropped)
                dropped += 5
                continue
            await connection.send(reply_to(words))

    async def against():
        async with scripted(script) as server:
            return await asyncio.to_thread(invoke, "watch", "--seconds", "0.3", *named(server))

    result = asyncio.run(against())
    assert re.search(r"dropped \d+ lines of its log", result.stderr)


def test_servers_that_cannot_be_watched():
    with memcached("-W") as server:
        result = invoke("watch", *named(server))
        assert (result.exit_code, "started with -W" in result.stderr) == (4, True)
    with nutcracker() as proxy:
        result = invoke("watch", *named(proxy))
        assert result.exit_code in (3, 4)
        assert "prox" in result.stderr
    with sasl_memcached() as server:
        login = ("--username", USER, "--auth", "sasl")
        result = invoke("watch", *login, *named(server), EMCACHE_PASSWORD=PASSWORD)
        assert (result.exit_code, "text protocol" in result.stderr) == (4, True)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b"skipped=17", None),
        (b"", None),
        (b"type=conn_new rip=::1 rport=5", {"type": "conn_new", "rip": "::1", "rport": 5}),
        (b"ts=x gid=1 type=new_thing key=a%20b%ff", {"type": "new_thing", "time": None}),
        (b"ts=1.5 type=eviction key=a ttl=-1", {"time": 1.5, "key": "a", "ttl": -1}),
    ],
)
def test_lines(line, fields):
    event = parse(line, "node")
    if fields is None:
        assert event is None
    else:
        assert fields.items() <= event.fields().items()


def test_keys_cannot_act_on_a_terminal():
    event = parse(b"ts=1 type=item_get key=%1b[2J status=\x1b[2J", "node")
    assert event.key == b"\x1b[2J"
    assert event.details == {"status": "\\x1b[2J"}
