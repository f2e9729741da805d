"""top: on a terminal, in a pipe, as JSON."""

import json
import re
import signal
import termios
import time

import pytest
from rich.console import Console

from emcache.cli._sampling import ALL, Counters, Row, total
from emcache.cli._sparkline import ASCII, sparkline
from emcache.cli._top_order import ORDERS, Order
from emcache.cli._top_table import History, middle_cut, plain_line, table_of
from emcache.cli._units import duration, number, percent, plural, size
from support.cli import Terminal, document, invoke, named, start
from support.memcached import memcached

QUICK = ("--interval", "0.2")


def load(server, gets=300, hits=200):
    """Gets, of which so many hit."""
    server.command(b"set top:there 0 0 1\r\nx\r\n")
    lines = b"get top:there\r\n" * hits + b"get top:missing\r\n" * (gets - hits)
    with server.connect() as sock:
        sock.sendall(lines + b"quit\r\n")
        while sock.recv(65536):
            pass


def test_once(server):
    answer = document("top", "--once", *QUICK, *named(server), "-s", "127.0.0.1:1", code=3)
    dead, alive = sorted(answer["nodes"], key=lambda node: node["up"])
    assert (dead["node"], dead["up"], "refused" in dead["error"]) == ("127.0.0.1:1", False, True)
    assert alive["version"] == server.stats()["version"]
    assert alive["bytes_limit"] == 1024 * 2**20
    assert 0 < alive["ping_ms_p50"] <= alive["ping_ms_p99"]
    assert alive["connections"] >= 1
    assert alive.keys() == dead.keys() == answer["all"].keys()
    text = invoke("top", "--once", *QUICK, *named(server)).stdout
    assert f"127.0.0.1:{server.port} up ops/s=" in text


def test_rates_are_those_of_the_server():
    """A document for each interval, until Ctrl-C; all that was done is in one of them."""
    with memcached() as server:
        process = start("top", *QUICK, "--json", *named(server))
        documents = [json.loads(process.stdout.readline())]
        load(server)
        while sum(operations(documents)) < 250 and len(documents) < 40:
            documents.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    documents += map(json.loads, out.splitlines())
    # The intervals are measured, and rounded in the document.
    assert sum(operations(documents)) == pytest.approx(301, rel=0.5)
    ratios = [d["nodes"][0]["hit_ratio"] for d in documents if d["nodes"][0]["hit_ratio"]]
    assert ratios == [pytest.approx(2 / 3, abs=0.34)] * len(ratios)
    assert ratios


def operations(documents):
    return [d["nodes"][0]["ops_per_second"] * d["interval"] for d in documents]


@pytest.mark.parametrize("columns", [60, 160])
def test_on_a_terminal(columns):
    """A node that dies is shown as that, and comes back; q ends it and leaves the terminal be."""
    with memcached() as dying, memcached() as other:
        arguments = ("top", *QUICK, *named(dying, other))
        with Terminal(*arguments, columns=columns) as terminal:
            terminal.until(lambda text: "2 of 2 up" in text and "q quits" in text)
            lines = last_screen(terminal)
            assert max(map(len, lines)) <= columns
            assert ("version" in lines[1]) == (columns == 160)
            load(other)
            terminal.until(lambda text: "66.7%" in text)
            dying.kill()
            terminal.forget()
            terminal.until(lambda text: "1 of 2 up" in text and "DOWN" in text)
            assert b"\x1b[31m127.0.0.1:%d" % dying.port in terminal.raw
            dying.start()
            terminal.forget()
            terminal.until(lambda text: "2 of 2 up" in text)
            assert termios.tcgetattr(terminal.theirs) != terminal.before
            terminal.press(b"q")
            assert terminal.end() == 0
            assert terminal.raw.endswith((b"\x1b[?1049l\x1b[?25h", b"\x1b[?25h\x1b[?1049l"))
            assert termios.tcgetattr(terminal.theirs) == terminal.before
        dying.process.wait(0.1) if dying.process.poll() else None


def test_ctrl_c_and_no_colour(server):
    with Terminal("top", *QUICK, *named(server), "-s", "127.0.0.1:1", NO_COLOR="1") as terminal:
        terminal.until(lambda text: "1 of 2 up" in text)
        assert b"\x1b[31m" not in terminal.raw
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.text
        assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_ctrl_c_while_a_node_is_silent():
    with memcached() as server:
        with Terminal("top", *QUICK, *named(server), "--timeout", "30") as terminal:
            terminal.until(lambda text: "1 of 1 up" in text)
            server.pause()
            time.sleep(0.5)
            begin = time.monotonic()
            terminal.press(b"\x03")
            assert terminal.end() == 0
            assert time.monotonic() - begin < 10
        server.resume()


def test_a_terminal_that_cannot_draw(server):
    with Terminal("top", *QUICK, *named(server), TERM="dumb") as terminal:
        terminal.until(lambda text: "ops/s=" in text)
        assert b"\x1b" not in terminal.raw
        terminal.press(b"\x03")
        assert terminal.end() == 0


def last_screen(terminal):
    """The lines of the last whole screen, which ends with the line about the keys."""

    def screen(text):
        lines = ("emcache top" + text.rpartition("emcache top")[2]).rstrip().splitlines()
        is_whole = " up" in lines[0] and lines[-1].startswith("q quits") and len(lines[-1]) > 50
        return lines if is_whole else None

    return screen(terminal.until(screen))


def row(**fields):
    return Row(**{"node": "cache1.internal:11211", "up": True} | fields)


def drawn(rows, width):
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(table_of(rows, width))
    return captured.get().splitlines()


@pytest.mark.driver_independent
@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_a_table_fits(width):
    long = "memcached-0.memcached.production.svc.cluster.local:11211"
    rows = [
        row(
            node=long,
            ops_per_second=123456.7,
            hit_ratio=0.987,
            evictions_per_second=0.25,
            bytes_used=60 * 2**20,
            bytes_limit=2**26,
            connections=12,
            items=10**7,
            ping_ms_p50=0.1234,
            ping_ms_p99=1234.5,
            uptime=86400 * 3,
            version="1.6.18",
        ),
        row(node="b", up=False, error="Connection refused"),
    ]
    lines = drawn([*rows, total(rows)], width)
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert "state" in lines[0]
    assert "DOWN" in lines[2]
    assert "123k" in lines[1]
    assert ("10.0M" in lines[1]) == (width == 200)
    assert (long in lines[1]) == (width == 200)
    assert lines[1].split()[0].endswith("11211")


@pytest.mark.driver_independent
def test_what_is_outside_its_threshold_is_coloured():
    fine = {"hit_ratio": 0.9, "ping_ms_p50": 1.0, "connections": 5, "connections_limit": 100}
    bad = {"hit_ratio": 0.3, "ping_ms_p50": 7.0, "connections": 99, "evictions_per_second": 3.0}
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(table_of([row(**fine), row(**fine | bad)], 200))
    _, first, second = captured.get().replace("\x1b[36m", "").splitlines()
    assert "\x1b[3" not in first
    for cell in ("\x1b[31m30.0%", "\x1b[33m3\x1b", "\x1b[31m99\x1b", "\x1b[33m7.00"):
        assert cell in re.sub(r"(m) +", r"\1", second)


@pytest.mark.driver_independent
def test_a_sparkline():
    assert sparkline([0.0, 1.0, 8.0], 3, 3, 8.0) == "▁▂█"
    assert sparkline([None, 8.0], 4, 4, 8.0, ASCII) == "   @"
    assert sparkline([1.0, 3.0, 8.0, 8.0], 4, 2, 8.0) == "▃█"
    assert sparkline(range(600), 60, 60, 599.0)[-1] == "█"
    assert sparkline([], 60, 10, 0.0) == " " * 10
    assert sparkline([0.0] * 60, 60, 10, 0.0) == "▁" * 10
    assert len(sparkline([1.0] * 60, 60, 17, 1.0)) == 17
    assert len(sparkline([1.0] * 9, 10, 60, 1.0)) == 10


@pytest.mark.driver_independent
def test_nodes_share_the_scale_of_their_history():
    rows = [row(history=(1.0, 8.0)), row(history=(4.0,)), row(node=ALL, history=(5.0, 12.0))]
    assert History(2).draw(rows, 2) == ["▂█", " ▅", "▄█"]
    assert total(rows[:2]).history == (1.0, 12.0)


@pytest.mark.driver_independent
def test_orders():
    def named_row(name, **fields):
        return row(node=name, **fields)

    rows = [
        named_row("a", ops_per_second=1.0, hit_ratio=0.9, ping_ms_p99=1.0),
        named_row("b", ops_per_second=5.0, hit_ratio=0.5),
        named_row("c", up=False),
        named_row("d", hit_ratio=None, ping_ms_p99=9.0, ops_per_second=3.0),
    ]

    def names(*keys, order="node"):
        by = Order(order)
        assert all(map(by.press, keys))
        return "".join(each.node for each in by.sorted(rows))

    assert names() == "abcd"
    assert names("r") == "dcba"
    assert names("o") == names(order="ops") == "cbda"
    assert names("o", "r") == "adbc"
    assert names("h") == "cbad"
    assert names("p") == "cdab"
    assert names("p", "n") == "abcd"
    assert not Order("node").press("x")
    assert len({order.key for order in ORDERS} | {"q", "r"}) == len(ORDERS) + 2


def test_nodes_are_in_the_order_given(cluster):
    for servers in (cluster, cluster[::-1]):
        answer = document("top", "--once", *QUICK, *named(*servers))
        assert [node["node"] for node in answer["nodes"]] == [
            f"127.0.0.1:{server.port}" for server in servers
        ]


def test_keys_change_the_order(cluster):
    a, b, *_ = cluster
    dead = "127.0.0.1:1"
    with Terminal("top", *QUICK, *named(a, b), "-s", dead, columns=80) as terminal:
        terminal.until(lambda text: "2 of 3 up" in text)
        for key, first in ((b"h", dead), (b"N", f"127.0.0.1:{a.port}"), (b"\x1b[B", "")):
            terminal.forget()
            terminal.press(key)
            if first:
                terminal.until(lambda text, first=first: re.search(rf"minute\s+{first} ", text))
        terminal.press(b"q")
        assert terminal.end() == 0


def test_more_nodes_than_lines():
    nodes = ",".join(f"127.0.0.1:{port}" for port in range(1, 61))
    with Terminal("top", *QUICK, "-s", nodes, columns=80) as terminal:
        lines = last_screen(terminal)
        assert len(lines) <= 40
        assert lines[-2].rstrip() == "31 more nodes do not fit"
        assert sum(line.startswith("all ") for line in lines) == 1
        terminal.press(b"q")
        assert terminal.end() == 0


def test_a_terminal_without_unicode(server):
    variables = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    with Terminal("top", *QUICK, *named(server), **variables) as terminal:
        terminal.until(lambda text: re.search(r"[_@] *\r\n", text))
        assert terminal.raw.isascii()
        terminal.press(b"q")
        assert terminal.end() == 0


@pytest.mark.driver_independent
def test_what_servers_say_cannot_act_on_the_terminal():
    evil = "\x1b[2J[red]"
    (_, line) = drawn([row(version=evil)], 200)
    assert "\\x1b[2J[red]" in line
    assert "\x1b" not in plain_line(row(up=False, error=evil), "now")


@pytest.mark.driver_independent
def test_numbers():
    assert [number(n) for n in (None, 0, 7.25, 950, 9999, 12345, 4.56e6, 1e12)] == [
        *("-", "0", "7.25", "950", "9999", "12.3k", "4.56M", "1.00T"),
    ]
    assert [size(n) for n in (0, 1023, 2**20, 1.5 * 2**30)] == ["0B", "1.00K", "1.00M", "1.50G"]
    assert [percent(p) for p in (None, 0.0, 0.9999, 1.0)] == ["-", "0.0%", "100.0%", "100.0%"]
    assert [duration(s) for s in (None, 0, 119, 120, 7200, 200000)] == [
        *("-", "0s", "119s", "2m", "2h", "2d"),
    ]
    assert [plural(1, "node"), plural(2000, "node")] == ["1 node", "2,000 nodes"]
    assert middle_cut("cache1.internal:11211", 12) == "cache1…11211"


@pytest.mark.driver_independent
def test_a_restart_is_no_rate():
    before = Counters({"pid": "1", "uptime": "100", "cmd_get": "50", "get_hits": "50"})
    after = Counters({"pid": "1", "uptime": "101", "cmd_get": "60"})
    assert after.follows(before)
    assert not Counters({"pid": "2", "uptime": "101", "cmd_get": "60"}).follows(before)
    assert not Counters({"pid": "1", "uptime": "1", "cmd_get": "60"}).follows(before)
    assert not Counters({"pid": "1", "uptime": "101", "cmd_get": "6"}).follows(before)


@pytest.mark.driver_independent
def test_the_sum():
    up = row(ops_per_second=2.0, hits=1.0, misses=3.0, bytes_used=1, ping_ms_p99=5.0)
    both = total([up, up, row(up=False)])
    assert (both.node, both.up, both.ops_per_second, both.hit_ratio) == (ALL, False, 4.0, 0.25)
    assert (both.bytes_used, both.bytes_limit, both.ping_ms_p99) == (2, None, 5.0)
