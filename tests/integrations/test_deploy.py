"""The dashboard and the alerts of deploy/, checked against what the collector exports."""

import asyncio
import json
import re
import runpy
import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import emcache
from emcache.contrib.prometheus import EmcacheCollector
from support.memcached import memcached
from support.pages import ROOT

pytestmark = pytest.mark.driver_independent

RULES = ROOT / "deploy/prometheus/emcache.rules.yml"
TESTS = ROOT / "deploy/prometheus/emcache.rules.test.yml"
DASHBOARD = ROOT / "deploy/grafana/emcache.json"
RUNBOOK = ROOT / "docs/runbook.md"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: apt-get install prometheus)"
)

FROM_PROMETHEUS = {"job", "instance", "alertname", "alertstate", "severity", "le"}
RESULTS = [
    "not_stored",
    "exists",
    "not_found",
    "error",
    "client_error",
    "server_error",
    "timeout",
    "connection",
    "protocol",
    "unavailable",
    "login",
    "overloaded",
    "closed",
    "cancelled",
]


def promtool(*arguments):
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def families():
    """The metrics of a client whose nodes, caches and failover were all used."""

    async def scrape():
        registry = CollectorRegistry()
        collector = EmcacheCollector(loop_lag=True)
        registry.register(collector)
        with memcached() as one, memcached() as other:
            nodes = [one.address, other.address]
            async with emcache.create_client(nodes, timeout=20, failover="next") as client:
                collector.add(client, "default")
                cache = emcache.Cache(client, prefix="shop:", ttl=60)

                @emcache.cached(cache, ttl=60, key="none", store_if=lambda _: False)
                async def none():
                    return 0

                await none()
                await asyncio.gather(*(client.get(b"%d" % number) for number in range(30)))
                await asyncio.sleep(0.25)
                text = generate_latest(registry).decode()
        return list(text_string_to_metric_families(text))

    return asyncio.run(scrape())


@pytest.fixture(scope="module")
def labels(families):
    """The labels of each sample by its name."""
    found = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def used(text):
    """The metrics in PromQL, each with the labels that its selectors have."""
    selector = r"\b(emcache_\w+)\b(?:\{([^}]*)\})?"
    for name, selected in re.findall(selector, text):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", selected))


def check_metrics(text, labels):
    names = set()
    for name, selected in used(text):
        assert name in labels, f"{name} is not exported"
        assert selected <= labels[name] | FROM_PROMETHEUS, name
        names.add(name)
    everywhere = set().union(*labels.values()) | FROM_PROMETHEUS
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", text):
        assert {label.strip() for label in group.split(",") if label.strip()} <= everywhere
    return names


def expressions():
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


# -- alerts --------------------------------------------------------------------------------------


@needs_promtool
def test_promtool_accepts_the_rules_and_their_tests():
    promtool("check", "rules", RULES)
    promtool("test", "rules", TESTS)


def test_the_rules_use_what_is_exported(labels):
    names = check_metrics(re.sub(r"^ *#.*$", "", RULES.read_text(), flags=re.M), labels)
    assert len(names) > 10


def test_each_alert_has_a_test_a_link_and_a_section():
    tests, rules, runbook = TESTS.read_text(), RULES.read_text(), RUNBOOK.read_text()
    assert len(set(ALERTS)) == len(ALERTS) > 10
    sections = re.findall(r"^### (Emcache\w+)$", runbook, re.M)
    assert sections == ALERTS, "in the order of the rules"
    for alert in ALERTS:
        assert f"  - name: {alert}\n" in tests
        assert f"runbook.md#{alert.lower()}\n" in rules
        assert f"[{alert}](#{alert.lower()})" in runbook
    assert rules.count("runbook_url:") == len(ALERTS)


# -- the dashboard -------------------------------------------------------------------------------


def test_the_dashboard_is_what_the_tool_writes():
    made = runpy.run_path(str(ROOT / "tools/make_dashboard.py"))
    assert made["text"]() == DASHBOARD.read_text(), "run tools/make_dashboard.py"


def test_the_dashboard_has_its_shape():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36
    assert {"uid", "title", "time", "templating", "annotations"} <= dashboard.keys()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        x, y, width, height = (panel["gridPos"][name] for name in "xywh")
        assert 0 <= x < x + width <= 24
        cells = {(x + i, y + j) for i in range(width) for j in range(height)}
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    wanted = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__all", "__rate_interval"}
    assert wanted == variables


def test_the_dashboard_uses_all_that_is_exported(families, labels):
    names = check_metrics("\n".join(expr for _, expr in expressions()), labels)
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names}
    assert shown == {family.name for family in families}


@needs_promtool
def test_each_panel_shows_something(families, tmp_path):
    """promtool evaluates each query on what a real client exports."""
    series = []
    for family in families:
        for sample in family.samples:
            more = [{}]
            if sample.name == "emcache_operations_total":
                more += [{"result": result} for result in RESULTS]
            for extra in more:
                labels = {"job": "shop", "instance": "shop-1", **sample.labels, **extra}
                text = ", ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
                series.append({"series": f"{sample.name}{{{text}}}", "values": "0+7x20"})
    tests = []
    for _, expr in expressions():
        expr = expr.replace("$__rate_interval", "5m")
        expr = re.sub(r"\$(job|instance|client|node)\b", ".*", expr)
        shown = [{"labels": "{}", "value": 1}]
        query = f"count(({expr}) >= 0) > bool 0"
        tests.append({"expr": query, "eval_time": "15m", "exp_samples": shown})
    assert len(tests) > 30
    group = {"interval": "1m", "input_series": series, "promql_expr_test": tests}
    unique = {entry["series"]: entry for entry in series}
    group["input_series"] = list(unique.values())
    file = tmp_path / "panels.json"  # YAML includes JSON
    file.write_text(json.dumps({"evaluation_interval": "1m", "tests": [group]}))
    promtool("test", "rules", file)
