"""bench: what it does is what the server counts, and nothing of it is left."""

import signal

import pytest

from emcache.cli._latency import Latencies
from support.cli import Terminal, document, invoke, named, start
from support.memcached import memcached

SHORT = ("--seconds", "0.3", "--keys", "50", "--tasks", "8")


@pytest.fixture(scope="module")
def own():
    with memcached("-m", "64") as server:
        yield server


def counted(server):
    stats = server.stats()
    return int(stats["cmd_get"]), int(stats["cmd_set"]), int(stats["curr_items"])


def test_it_counts_what_the_server_counts(own):
    gets, sets, items = counted(own)
    done = document("bench", *SHORT, *named(own), "--get-ratio", "0.5", "--size", "10")
    now = counted(own)
    # Gets of one key at the same time are one on the wire.
    assert 0.5 * done["get"]["count"] < now[0] - gets <= done["get"]["count"]
    assert done["set"]["count"] == now[1] - sets - 50  # each key is stored once before
    assert now[2] == items
    assert done["all"]["count"] == done["get"]["count"] + done["set"]["count"] > 50
    assert done["all"]["ms_p50"] <= done["all"]["ms_p99"] <= done["all"]["ms_max"]
    assert done["ops_per_second"] == pytest.approx(done["all"]["count"] / done["seconds"], rel=0.01)
    assert (done["get"]["misses"], done["errors"]) == (0, {})
    assert done["load"] == {
        "get_ratio": 0.5,
        "size": 10,
        "tasks": 8,
        "seconds": 0.3,
        "keys": 50,
    }


def test_text(own):
    result = invoke("bench", *SHORT, *named(own))
    assert result.exit_code == 0
    assert "ops/s  1 node, 8 tasks, 100 bytes" in result.stdout
    assert "no errors" in result.stdout
    assert result.stderr == ""


def test_a_bar_that_goes(own):
    with Terminal("bench", *named(own), "--seconds", "1", columns=50) as terminal:
        assert terminal.end() == 0
        assert terminal.text.count(" ops/s ") > 3
        assert "━" in terminal.text


def test_ctrl_c_cleans_up(own):
    items = counted(own)[2]
    process = start("bench", "--seconds", "60", "--keys", "500", *named(own))
    while counted(own)[2] < items + 500:
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert counted(own)[2] == items


def test_what_it_refuses(own):
    large = invoke("bench", *SHORT, *named(own), "--size", "2000000", "--keys", "3")
    assert (large.exit_code, "too large" in large.stderr) == (4, True)
    room = invoke("bench", *named(own), "--keys", "1000000")
    assert (room.exit_code, "--force" in room.stderr) == (2, True)
    dead = invoke("bench", *SHORT, "-s", "127.0.0.1:1")
    assert (dead.exit_code, "refused" in dead.stderr) == (3, True)
    assert counted(own)[2] == 0


def test_a_node_that_dies_is_counted():
    with memcached() as server, memcached() as other:
        process = start("bench", "--seconds", "1.5", *named(server, other), "--json")
        while counted(server)[0] < 100:
            pass
        server.kill()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert '"NodeUnavailableError"' in out
    assert "were not deleted" in err


@pytest.mark.driver_independent
def test_quantiles():
    times = Latencies()
    assert times.quantile(0.5) is None
    for microseconds in range(1, 1001):
        times.add(microseconds / 1e6 + 1e-9)
    assert [times.quantile(part) for part in (0.5, 0.99, 0.999, 1.0)] == [0.5, 0.99, 0.999, 1.0]
    times.add(2.0005)
    assert times.quantile(1.0) == 2000.0
    assert (times + times).count == 2002
