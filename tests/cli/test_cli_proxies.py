"""The command line at proxies: it says what they are, and what works."""

import pytest

from support.cli import document, invoke, named
from support.memcached import memcached
from support.memcached_proxy import WHY_NOT, has_proxy, memcached_proxy
from support.nutcracker import nutcracker

NOW = ("--seconds", "0")


@pytest.fixture(scope="module")
def proxy():
    with nutcracker() as running:
        yield running


def proxy_finding(told):
    (finding,) = [found for found in told["findings"] if found["check"] == "proxy"]
    return finding


def test_doctor_names_a_healthy_proxy_and_what_it_lacks(proxy):
    told = document("doctor", *NOW, *named(proxy))
    assert told["counts"]["fail"] == 0
    finding = proxy_finding(told)
    assert finding["state"] == "warn"
    assert finding["text"] == "a proxy: it answers get, but not gat, stats"
    assert not any("load" in (found["advice"] or "") for found in told["findings"])


def test_doctor_at_a_proxy_with_a_dead_server():
    with nutcracker() as proxy:
        proxy.servers[0].kill()
        told = document("doctor", *NOW, *named(proxy))
        assert proxy_finding(told)["text"].startswith("a proxy: ")


def test_doctor_at_a_proxy_whose_server_for_version_hangs():
    with nutcracker() as proxy:
        for server in proxy.servers:
            server.pause()
            told = document("doctor", *NOW, *named(proxy), "--timeout", "3")
            assert proxy_finding(told)["text"].startswith("a proxy: it answers get, but not")
            server.resume()


def test_doctor_at_a_server_that_is_no_proxy():
    with memcached() as server:
        checks = {found["check"] for found in document("doctor", *NOW, *named(server))["findings"]}
        assert "version" in checks
        assert "proxy" not in checks


@pytest.mark.skipif(not has_proxy(), reason=WHY_NOT)
def test_doctor_names_memcached_s_own_proxy():
    with memcached_proxy() as proxy:
        told = document("doctor", *NOW, *named(proxy))
        assert told["counts"]["fail"] == 0
        assert proxy_finding(told)["text"].startswith("memcached's own proxy: ")


def test_ping_and_version_work(proxy):
    (node,) = document("ping", *named(proxy))["nodes"]
    assert node["ok"]
    assert node["ms_p50"] > 0
    (node,) = document("version", *named(proxy))["nodes"]
    assert node["ok"]


@pytest.mark.parametrize("command", [("stats",), ("stats", "settings")])
def test_stats_says_what_the_node_is(proxy, command):
    result = invoke(*command, *named(proxy))
    assert result.exit_code == 4
    assert result.stderr == (
        f"emcache: 127.0.0.1:{proxy.port} is a proxy: it answers get, but not stats\n"
    )
    (node,) = document(*command, *named(proxy), code=4)["nodes"]
    assert "is a proxy" in node["error"]
    assert "TLS" not in node["error"]


def test_commands_that_it_does_not_support(proxy):
    """Where memcached's own commands are needed, it says so."""
    result = invoke("ttl", "k", *named(proxy))
    assert (result.exit_code, "does not support meta commands" in result.stderr) == (4, True)
    for command in (("keys",), ("delete", "--prefix", "k", "--yes"), ("watch",), ("hot",)):
        result = invoke(*command, *named(proxy))
        assert result.exit_code == 3
        assert "closed, as proxies do for unsupported commands" in result.stderr


def test_flush_is_refused_by_a_node_that_is_up(proxy):
    result = invoke("flush", "--yes", *named(proxy))
    assert result.exit_code == 4
    assert "up  a proxy: it answers get, but not flush_all" in result.stdout
    assert "down" not in result.stdout


def test_top_shows_it_as_up(proxy):
    told = document("top", "--once", "--interval", "0.3", *named(proxy))
    (node,) = told["nodes"]
    assert node["up"] is True
    assert node["error"] == "a proxy: it answers get, but not stats"
    assert node["ping_ms_p50"] > 0
    assert told["all"]["up"] is True
    result = invoke("top", "--once", "--interval", "0.2", *named(proxy))
    assert result.exit_code == 0
    assert "note='a proxy: it answers get, but not stats'" in result.stdout


def test_bench_runs(proxy):
    told = document("bench", "--seconds", "0.2", "--keys", "50", "--tasks", "4", *named(proxy))
    assert told["all"]["count"] > 0
    assert told["errors"] == {}


def test_a_server_that_answers_nothing_is_no_proxy():
    """What hangs up on everything may want TLS: that is said as before."""
    import socketserver
    import threading

    class Mute(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mute) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = invoke("stats", "-s", f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    assert result.exit_code == 3
    assert "TLS" in result.stderr
    assert "a proxy: it answers" not in result.stderr
