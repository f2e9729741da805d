"""stats on a terminal: the nodes as columns, numbers with units."""

import re

import pytest
from rich.console import Console

from emcache.cli._stats_table import tables_of, value_text
from support.cli import Terminal, invoke, named
from support.memcached import memcached


def test_a_summary_of_all_nodes(cluster):
    with Terminal("stats", *named(*cluster), columns=120) as terminal:
        assert terminal.end() == 0
        header, *rows, more = terminal.text.splitlines()
    assert header.split() == ["name", *(f"127.0.0.1:{s.port}" for s in cluster), "all"]
    by_name = {row[:17].strip(): row[17:].split() for row in rows}
    assert by_name["limit_maxbytes"] == ["64.0M", "64.0M", "64.0M", "192M"]
    assert by_name["version"] == [cluster[0].stats()["version"]] * 3 + ["-"]
    assert by_name["memory"][0].endswith("%")
    assert re.fullmatch(r"\d+ more with --all", more)
    assert "pid" not in by_name


@pytest.mark.parametrize(("columns", "tables"), [(40, 4), (60, 2), (160, 1)])
def test_nodes_that_do_not_fit_are_in_tables_below(cluster, columns, tables):
    arguments = ("stats", *named(*cluster), "-s", "127.0.0.1:1")
    with Terminal(*arguments, columns=columns) as terminal:
        assert terminal.end() == 3
        text = terminal.text
    lines = text.splitlines()
    assert max(len(line) for line in lines if "is down" not in line) <= columns
    assert [node for node in cluster if f"127.0.0.1:{node.port}" not in text] == []
    assert text.count("curr_items") == tables
    assert any(line.startswith("127.0.0.1:1 is down: Connection refused") for line in lines)


def test_all_and_match(server):
    with Terminal("stats", "--all", *named(server), columns=80) as terminal:
        assert terminal.end() == 0
        assert "pointer_size" in terminal.text
        assert "more with --all" not in terminal.text
    with Terminal("stats", "--match", "limit_*", *named(server), columns=80) as terminal:
        assert terminal.end() == 0
        assert terminal.text.splitlines()[1].split() == ["limit_maxbytes", "1.00G"]
    with Terminal("stats", "--match", "nothing", *named(server), columns=80) as terminal:
        assert terminal.end() == 0
        assert terminal.text == f"127.0.0.1:{server.port}: no statistics\r\n"
    # Pipes have the numbers as they are.
    assert invoke("stats", "--match", "limit_*", *named(server)).stdout.split()[2] == str(2**30)


def test_settings_that_differ_are_marked(server):
    with (
        memcached("-I", "2m") as other,
        Terminal("stats", "settings", *named(server, other), columns=100) as terminal,
    ):
        assert terminal.end() == 0
        lines = terminal.raw.split(b"\r\n")
    marked = {line.split()[0] for line in lines if line.startswith(b"\x1b[33m")}
    assert b"\x1b[33mitem_size_max" in marked
    assert b"\x1b[33mtcpport" not in marked
    assert b"\x1b[33mcas_enabled" not in marked


@pytest.mark.driver_independent
def test_units():
    values = {
        "bytes": ("1048576", "1.00M"),
        "39:chunk_size": ("96", "96B"),
        "items:1:age": ("7200", "2h"),
        "curr_items": ("1234567", "1,234,567"),
        "tcpport": ("11211", "11211"),
        "rusage_user": ("0.5", "0.5"),
        "version": ("1.6.18\x1b", "1.6.18\\x1b"),
    }
    assert {name: value_text(name, value) for name, (value, _) in values.items()} == {
        name: text for name, (_, text) in values.items()
    }


@pytest.mark.driver_independent
def test_sums_and_what_is_missing():
    stats = {
        "a": {"get_hits": "1", "get_misses": "1", "bytes": "10", "uptime": "5"},
        "b": {"get_hits": "2", "get_misses": "0", "uptime": "9"},
    }
    names = ["uptime", "bytes", "hit ratio", "evictions"]
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        for table in tables_of(stats, 80, names):
            console.print(table)
    rows = [line.split() for line in captured.get().splitlines()]
    assert rows == [
        ["name", "a", "b", "all"],
        ["uptime", "5s", "9s", "-"],
        ["bytes", "10B", "-", "10B"],
        ["hit", "ratio", "50.0%", "100.0%", "75.0%"],
    ]
