"""doctor: what is wrong, and what to do."""

import contextlib
import time

import pytest

from emcache.cli._differences import NodeReport, check_differences
from emcache.cli._doctor import _any_of
from emcache.cli._finding import fail, ok
from emcache.cli._load_checks import (
    Samples,
    check_balance,
    check_cpu,
    check_hit_ratio,
    check_latency,
    check_memory,
)
from emcache.cli._server_checks import (
    check_clock,
    check_connections,
    check_features,
    check_login,
    check_refused,
)
from emcache.cli._settings import Settings
from emcache.cli._versions import parse, version_findings
from support.cli import Terminal, document, invoke, invoke_beside, named, one_loop
from support.memcached import memcached
from support.sasl import PASSWORD, USER, file_memcached, sasl_memcached
from support.scripted import hold, scripted
from support.tls import certificates, tls_memcached

NOW = ("--seconds", "0")


@pytest.fixture(scope="module")
def made():
    with certificates() as made:
        yield made


def findings(*arguments, code, **variables):
    """By check: the states, and all that is said."""
    answer = document("doctor", *NOW, *arguments, code=code, **variables)
    counts = dict.fromkeys(("ok", "warn", "fail"), 0)
    by_check = {}
    for finding in answer["findings"]:
        counts[finding["state"]] += 1
        assert (finding["advice"] is None) == (finding["state"] == "ok")
        states, texts = by_check.setdefault(finding["check"], ([], []))
        states.append(finding["state"])
        texts.append(f"{finding['text']} -> {finding['advice']}")
    assert answer["counts"] == counts
    assert (counts["fail"] > 0) == (code == 1)
    return {check: (states, "\n".join(texts)) for check, (states, texts) in by_check.items()}


def test_a_healthy_server(server):
    found = findings(*named(server), code=0)
    assert {check for check, (states, _) in found.items() if states == ["ok"]} >= {
        *("connects", "version", "login", "item limit", "connections", "memory", "clock"),
    }
    assert server.stats()["version"] in found["version"][1]
    assert "1.00M" in found["item limit"][1]


def test_lines(server):
    result = invoke("doctor", *NOW, *named(server), "-s", "127.0.0.1:1")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert {len(line) for line in lines} == {4}
    assert lines[-1][:3] == ["fail", "127.0.0.1:1", "connects"]
    assert result.exit_code == 1


@pytest.mark.parametrize("columns", [60, 160])
def test_on_a_terminal(server, columns):
    arguments = ("doctor", *NOW, *named(server), "-s", "127.0.0.1:1")
    with Terminal(*arguments, columns=columns) as terminal:
        assert terminal.end() == 1
        lines = terminal.text.splitlines()
    assert max(map(len, lines)) <= columns
    assert f"127.0.0.1:{server.port}" in lines
    assert any(line.startswith("fail  connects  127.0.0.1: Connection refused") for line in lines)
    assert lines[-1].endswith("1 fail")


@pytest.mark.driver_independent
def test_what_cannot_be_reached():
    _, text = findings("-s", "nowhere.invalid", code=1)["names"]
    assert "nowhere.invalid" in text
    _, text = findings("-s", "unix:/nowhere/sock", code=1)["connects"]
    assert "No such file" in text


def test_every_address_of_a_name(server):
    found = findings("-s", f"localhost:{server.port}", code=0)
    assert "127.0.0.1" in found["names"][1]


@one_loop
async def test_who_accepts_and_says_nothing():
    async with scripted(hold) as silent:
        where = ["-s", f"127.0.0.1:{silent.port}", "--timeout", "0.4"]
        result = await invoke_beside("doctor", *NOW, *where)
        assert (result.exit_code, "fail\t" in result.stdout) == (1, True)
        assert "no reply" in result.stdout
        result = await invoke_beside("doctor", *NOW, *where, "--tls")
        assert "no answer to the handshake -> does it use TLS" in result.stdout


def test_a_server_that_hangs():
    with memcached() as silent:
        silent.pause()
        states, text = findings(*named(silent), "--timeout", "0.3", code=1)["answers"]
    assert (states, "does it hang" in text) == (["fail"], True)


@one_loop
async def test_what_is_no_memcached():
    async def script(connection):
        await connection.line()
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with scripted(script) as server:
        result = await invoke_beside("doctor", *NOW, "-s", f"127.0.0.1:{server.port}")
        assert (result.exit_code, "Is it memcached?" in result.stdout) == (1, True)


def test_good_certificates(made):
    with tls_memcached(made.good) as server:
        where = ["-s", f"localhost:{server.port}"]
        found = findings(*where, "--ca", str(made.ca.file), code=0)
        # They end in a day.
        assert found["certificate"][0] == found["ca"][0] == ["warn"]
        assert "for localhost, 127.0.0.1, by ca, expires in" in found["certificate"][1]
        assert "TLSv1.3" in found["tls"][1]
        states, text = findings(*where, "--no-verify", code=0)["certificate"]
        assert (states, "not verified" in text, "by ca" in text) == (["warn"] * 2, True, True)
        states, text = findings(*where, "--tls", code=1)["certificate"]
        assert (states, "--ca" in text, "by ca" in text) == (["fail"], True, True)
        trusting = [*where, "--ca", str(made.ca.file), "--server-name", "other.example"]
        assert "other.example" in findings(*trusting, code=1)["certificate"][1]
        # Not asked for, and so not spoken.
        assert "--tls" in findings(*where, code=1)["answers"][1]


@pytest.mark.parametrize(
    ("identity", "check", "says"),
    [
        ("expired", "certificate", "has expired: it is for localhost, 127.0.0.1, by ca, until"),
        ("self_signed", "certificate", "by nobody's"),
        ("wrong_host", "certificate", "memcached.example"),
        ("no_san", "certificate", "--server-name"),
        ("v1", "certificate", ""),
    ],
)
def test_bad_certificates(made, identity, check, says):
    with tls_memcached(getattr(made, identity)) as server:
        where = ["-s", f"localhost:{server.port}", "--ca", str(made.ca.file)]
        states, text = findings(*where, code=1)[check]
        assert (states[0], says in text) == ("fail", True), text


def test_client_certificates(made):
    with tls_memcached(made.good, client_ca=made.ca.file, client=made.client) as server:
        where = ["-s", f"localhost:{server.port}", "--ca", str(made.ca.file)]
        assert "--cert" in findings(*where, code=1)["tls"][1]
        mine = ["--cert", str(made.client.certificate), "--key", str(made.client.key)]
        assert findings(*where, *mine, code=0)["login"][0] == ["ok"]


def test_tls_to_a_server_without(server):
    states, text = findings(*named(server), "--tls", "--no-verify", code=1)["tls"]
    assert (states, "does it use TLS" in text) == (["fail"], True)


@pytest.mark.parametrize("kind", [file_memcached, sasl_memcached])
def test_logins(kind):
    with kind() as server:
        here = [*named(server), "--username", USER, "--auth", server.login.get("auth", "ascii")]
        states, text = findings(*here, code=0, EMCACHE_PASSWORD=PASSWORD)["login"]
        assert (states, "in clear" in text) == (["ok", "warn"], True)
        states, text = findings(*here, code=1, EMCACHE_PASSWORD="wrong.one")["login"]
        assert (states, "wrong.one" in text) == (["fail"], False)
    with kind() as server:
        answer = invoke("doctor", *NOW, *named(server), "--timeout", "0.5")
        assert (answer.exit_code, "--username" in answer.stdout) == (1, True)


def test_nodes_that_differ(server):
    with memcached("-I", "2m") as other:
        states, text = findings(*named(server, other), code=0)["item limit"]
        assert states == ["ok", "ok", "warn"]
        assert f"nodes differ in item_size_max: 1.00M on 127.0.0.1:{server.port}; 2.00M" in text
        assert "the same -I" in text


def test_a_server_that_is_full_of_connections():
    with memcached("-c", "64", "-t", "1") as server:
        with contextlib.ExitStack() as stack:
            for _ in range(55):
                sock = stack.enter_context(server.connect())
                sock.sendall(b"version\r\n")
                sock.recv(100)
            states, text = findings(*named(server), code=1)["connections"]
        assert (states, "raise -c" in text) == (["fail"], True)


@one_loop
async def test_a_hosted_service_that_tells_little():
    async def script(connection):
        while line := await connection.line():
            known = {b"version": b"VERSION 1.6.22\r\n", b"stats": b"STAT uptime 5\r\nEND\r\n"}
            await connection.send(known.get(line, b"ERROR\r\n"))

    async with scripted(script) as server:
        result = await invoke_beside("doctor", *NOW, "-s", f"127.0.0.1:{server.port}")
        assert result.exit_code == 0
        assert "warn\t" in result.stdout
        assert "does not answer stats settings," in result.stdout


@pytest.mark.driver_independent
def test_one_address_of_a_name_will_do():
    good, bad = (
        ok("connects", "127.0.0.1 in 1 ms"),
        fail("connects", "::1: refused", "start it"),
    )
    assert [finding.state for finding in _any_of([good, bad])] == ["ok", "warn"]
    assert [finding.state for finding in _any_of([bad, bad])] == ["fail", "fail"]


def states_of(*lists):
    return [finding.state for found in lists for finding in found]


@pytest.mark.driver_independent
def test_clocks():
    now = time.time()
    for apart, state in [(0, "ok"), (1.4, "ok"), (-5, "warn"), (30, "warn"), (-3600, "fail")]:
        (finding,) = check_clock({"time": str(int(now + apart))}, int(now) + 0.5)
        assert finding.state == state, finding
    assert "3600 s behind" in finding.text
    assert check_clock({}, now) == []


@pytest.mark.driver_independent
def test_connections():
    full = {"curr_connections": "100", "max_connections": "100", "uptime": "5"}
    assert states_of(check_connections(full)) == ["fail"]
    assert states_of(check_connections(full | {"curr_connections": "81"})) == ["warn"]
    before = full | {"curr_connections": "8", "listen_disabled_num": "3"}
    assert states_of(check_connections(before)) == ["ok", "warn"]
    assert states_of(check_connections({})) == ["ok"]


@pytest.mark.driver_independent
def test_memory():
    stats = {"bytes": "900", "limit_maxbytes": "1000", "total_items": "1000", "uptime": "9"}
    assert states_of(check_memory(Samples(stats, stats, 0), {})) == ["ok"]
    few = stats | {"evictions": "5"}
    assert states_of(check_memory(Samples(few, few, 0), {})) == ["ok"]
    many = stats | {"evictions": "500", "evicted_unfetched": "100"}
    items = {"items:1:evicted": "3", "items:1:evicted_time": "40", "items:2:evicted_time": "0"}
    (finding,) = check_memory(Samples(stats, many, 10.0), items)
    assert finding.state == "warn"
    assert "90%" in finding.text
    assert "500 evicted of 1000 stored in 9s, 20% of them never read" in finding.text
    assert "50 per second at present; the last ones were unused for 40s" in finding.text
    assert "use more memory (-m)" in finding.advice
    (finding,) = check_memory(Samples(many, many | {"bytes": "100"}, 1.0), {})
    assert (finding.state, "items of other sizes" in finding.advice) == ("warn", True)
    refused = {"store_too_large": "1", "store_no_memory": "2"}
    assert states_of(check_refused(refused)) == ["warn", "warn"]


@pytest.mark.driver_independent
def test_latency():
    assert check_latency([]) == []
    assert states_of(check_latency([0.2, 0.3, 50.0])) == ["ok"]
    assert states_of(check_latency([0.2, 0.3, 500.0])) == ["warn"]
    (finding,) = check_latency([7.0, 8.0, 9.0])
    assert (finding.state, "zone" in finding.advice) == ("warn", True)
    assert "8.00 ms, at most 9.00 ms (3 pings)" in finding.text


def gets(hits, misses, uptime=10_000):
    return {"get_hits": str(hits), "get_misses": str(misses), "uptime": str(uptime)}


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("before", "after", "state", "says"),
    [
        (gets(0, 0), gets(0, 0), "ok", "no gets yet"),
        (gets(0, 9), gets(0, 9), "ok", "0.0% of 9 gets"),
        (gets(90, 10), gets(980, 20), "ok", "98.0% of 1000 gets, 98.9% at present"),
        (gets(100, 900), gets(110, 990), "warn", "emcache watch --misses"),
        (gets(9000, 100), gets(9010, 300), "warn", "it has fallen"),
        (gets(100, 900, 30), gets(110, 990, 31), "warn", "started 31s ago, so it is still filling"),
    ],
)
def test_hit_ratios(before, after, state, says):
    (finding,) = check_hit_ratio(Samples(before, after, 1.0))
    assert finding.state == state
    assert says in f"{finding.text} {finding.advice}"


@pytest.mark.driver_independent
def test_cpu():
    idle = {"rusage_user": "1.0", "rusage_system": "1.0"}
    busy = {"rusage_user": "8.0", "rusage_system": "3.0"}
    threads = {"num_threads": "4"}
    assert states_of(check_cpu(Samples(idle, idle, 2.5), threads)) == ["ok"]
    (finding,) = check_cpu(Samples(idle, busy, 2.5), threads)
    assert (finding.state, finding.text) == ("warn", "90% of 4 threads")
    # Without a measurement, or from a server that does not report it.
    assert check_cpu(Samples(idle, busy, 0.0), threads) == []
    assert (
        check_cpu(Samples(idle, {}, 2.5), threads) == check_cpu(Samples(idle, busy, 2.5), {}) == []
    )


@pytest.mark.driver_independent
def test_a_node_with_most_of_the_gets():
    assert check_balance({"a": 100_000.0}) == []
    assert check_balance({"a": 900.0, "b": 800.0, "c": 700.0}) == []
    assert check_balance({"a": 90.0, "b": 0.0, "c": 0.0}) == []
    (finding,) = check_balance({"a": 9000.0, "b": 500.0, "c": 500.0})
    assert (finding.state, "emcache hot -s a" in finding.advice) == ("warn", True)


@pytest.mark.driver_independent
def test_options_that_differ():
    def report(name, version="1.6.18", **settings):
        return NodeReport(
            name, [], version, {"maxbytes": "67108864", "num_threads": "4"} | settings
        )

    assert check_differences([report("a"), report("b"), NodeReport("dead", [])]) == []
    found = check_differences([report("a"), report("b", maxbytes="1048576"), report("c", "1.6.9")])
    assert [(each.state, each.check) for each in found] == [
        ("warn", "version"),
        ("warn", "options"),
    ]
    assert found[0].text == "nodes differ: 1.6.18 on a, b; 1.6.9 on c"
    assert found[1].text == "nodes differ in maxbytes: 64.0M on a, c; 1.00M on b"
    assert "-m, or give clients weights" in found[1].advice


def test_the_exit_code_of_warnings(server):
    with memcached("-I", "2m") as other:
        both = named(server, other)
        assert invoke("doctor", *NOW, *both).exit_code == 0
        assert invoke("doctor", *NOW, "--strict", *both).exit_code == 5
        assert invoke("doctor", *NOW, "--strict", *both, "-s", "127.0.0.1:1").exit_code == 1
        lines = invoke("doctor", *NOW, "--problems", *both).stdout.splitlines()
        assert lines
        assert all(line.startswith("warn\t") for line in lines)
        answer = document("doctor", *NOW, "--problems", *both)
        assert len(answer["findings"]) == len(lines) < answer["counts"]["ok"]


def test_it_measures_for_some_seconds(server):
    found = findings(*named(server), code=0)
    assert "cpu" not in found
    assert "20 pings" in found["latency"][1]
    checks = {
        f["check"] for f in document("doctor", "--seconds", "0.2", *named(server))["findings"]
    }
    assert checks >= {"latency", "hit ratio", "memory", "cpu"}


@pytest.mark.driver_independent
def test_what_is_turned_on_and_off():
    assert check_features({"udpport": "0", "cas_enabled": "yes"}) == []
    off = {"udpport": "11211", "cas_enabled": "no", "flush_enabled": "no", "dump_enabled": "no"}
    assert states_of(check_features(off)) == ["warn", "warn", "ok", "ok"]
    open_to_all = {"inter": "NULL", "auth_enabled_ascii": "no"}
    assert states_of(check_login(open_to_all, Settings())) == ["warn"]
    assert states_of(check_login({"inter": "127.0.0.1"}, Settings())) == ["ok"]
    socket = open_to_all | {"domain_socket": "/run/sock"}
    assert states_of(check_login(socket, Settings())) == ["ok"]
    wants = open_to_all | {"ssl_enabled": "yes", "ssl_verify_mode": "2"}
    assert states_of(check_login(wants, Settings())) == ["ok"]


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("text", "states", "says"),
    [
        ("1.6.45", ["ok"], ""),
        ("1.6.18", ["ok"], "lacks ms s"),
        ("1.6.6-elasticache", ["ok"], "base64"),
        ("1.6.2", ["ok", "fail"], "CVE-2020-22570"),
        ("1.6.1", ["ok", "fail", "fail"], "CVE-2020-10931"),
        ("1.6.12", ["ok", "warn"], "long get lines"),
        ("1.5.16", ["ok", "warn"], "no meta commands"),
        ("1.4.33", ["warn", "warn"], "gat"),
        ("1.4.5", ["warn", "fail"], "metadump"),
        ("mcrouter 1.0", ["warn"], "proxy"),
        (None, ["warn"], "proxy"),
    ],
)
def test_versions(text, states, says):
    found = version_findings(text, {})
    assert [finding.state for finding in found] == states
    assert says in "\n".join(f"{finding.text} {finding.advice}" for finding in found)


@pytest.mark.driver_independent
def test_a_proxy_in_the_server():
    (_, proxy) = version_findings("1.6.21", {"proxy_enabled": "yes"})
    assert (proxy.state, "1.6.22" in proxy.advice) == ("fail", True)
    assert len(version_findings("1.6.22", {"proxy_enabled": "yes"})) == 1
    assert parse("VERSION") is None
