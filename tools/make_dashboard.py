"""Writes deploy/grafana/emcache.json, whose panels are listed here.

Usage: python tools/make_dashboard.py
"""

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "deploy/grafana/emcache.json"

_ALL = 'job=~"$job", instance=~"$instance", client=~"$client"'
_NODE = _ALL + ', node=~"$node"'
_FAILURES = "timeout|connection|protocol|unavailable|login|overloaded|closed"


def rate(metric: str, more: str = "", selected: str = _NODE) -> str:
    """Return the rate of a counter for the selected nodes."""
    return f"rate(emcache_{metric}{{{selected}{', ' if more else ''}{more}}}[$__rate_interval])"


def of_caches(metric: str, more: str = "") -> str:
    """Return the rate of a counter of caches."""
    return rate(metric, more, _ALL)


def quantile(q: float, metric: str, by: str, selected: str = _NODE) -> str:
    """Return a quantile of a histogram."""
    buckets = rate(f"{metric}_bucket", selected=selected)
    return f"histogram_quantile({q}, sum by ({by}{', ' if by else ''}le) ({buckets}))"


def ratio(metric: str, part: str, whole: str, by: str = "", selected: str = _NODE) -> str:
    """Return the part of a counter that has certain labels."""
    over, under = rate(metric, part, selected), rate(metric, whole, selected)
    return f"sum by ({by}) ({over}) / (sum by ({by}) ({under}) > 0)"


Panel = dict[str, Any]
Query = tuple[str, str]
"""A PromQL expression, and the legend of its series."""


def stat(title: str, expr: str, unit: str, red: float, worse: str = "above") -> Panel:
    """Return a panel with one number, which is red above or below a value."""
    colors = ("green", "red") if worse == "above" else ("red", "green")
    steps = [{"color": colors[0], "value": None}, {"color": colors[1], "value": red}]
    return {
        "type": "stat",
        "title": title,
        "targets": [(expr, "")],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "size": (4, 4),
    }


def graph(title: str, unit: str, text: str, *queries: Query, stack: bool = False) -> Panel:
    """Return a panel with series over time."""
    custom = {"fillOpacity": 10, "showPoints": "never"}
    if stack:
        custom["stacking"] = {"mode": "normal"}
    return {
        "type": "timeseries",
        "title": title,
        "description": text,
        "targets": list(queries),
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "table", "placement": "right", "calcs": ["mean", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "size": (12, 8),
    }


ROWS: dict[str, list[Panel]] = {
    "Overview": [
        stat("Nodes down", f"count(min by (node) (emcache_node_up{{{_NODE}}}) == 0) or vector(0)",
             "none", 1),
        stat("Calls that fail", ratio("operations_total", f'result=~"{_FAILURES}"', ""),
             "percentunit", 0.01),
        stat("Hit ratio", ratio("operations_total", 'result="hit"', 'result=~"hit|miss"'),
             "percentunit", 0.5, "below"),
        stat("Operations", f"sum({rate('operations_total')})", "ops", 1e9),
        stat("p99", quantile(0.99, "operation_duration_seconds", ""), "s", 0.05),
        stat("Event loop lag, p99", quantile(0.99, "event_loop_lag_seconds", "", _ALL), "s", 0.1),
    ],
    "Requests": [
        graph("Operations", "ops", "By memcached's name of the command. Retrievals count per key.",
              (f"sum by (op) ({rate('operations_total')})", "{{op}}"), stack=True),
        graph("Failures", "ops", "Calls without an answer of the server, by result and node.",
              (f"""sum by (result, node) ({rate('operations_total', f'result=~"{_FAILURES}"')})""",
               "{{result}} {{node}}"),
              (f"""sum by (result, node) ({rate('operations_total', 'result=~".*error"')})""",
               "{{result}} {{node}}")),
        graph("Hit ratio", "percentunit", "Hits of all lookups, by node.",
              (ratio("operations_total", 'result="hit"', 'result=~"hit|miss"', "node"),
               "{{node}}")),
        graph("Other results", "ops", "Negative replies, and calls that were cancelled.",
              (f"""sum by (op, result) ({rate('operations_total',
                  'result=~"not_stored|exists|not_found|cancelled"')})""", "{{op}} {{result}}")),
    ],
    "Time": [
        graph("Time of a call", "s", "From the call to its reply. Includes the event loop's lag.",
              (quantile(0.5, "operation_duration_seconds", "node"), "p50 {{node}}"),
              (quantile(0.99, "operation_duration_seconds", "node"), "p99 {{node}}")),
        graph("Event loop lag", "s", "How late the program runs what is ready. If it is as high as "
              "the time of a call, the program is busy and the servers are not slow. Needs "
              "EmcacheCollector(loop_lag=True).",
              (quantile(0.5, "event_loop_lag_seconds", "instance", _ALL), "p50 {{instance}}"),
              (quantile(0.99, "event_loop_lag_seconds", "instance", _ALL), "p99 {{instance}}")),
        graph("p99 by command", "s", "From the call to its reply.",
              (quantile(0.99, "operation_duration_seconds", "op"), "{{op}}")),
        graph("Mean time by node", "s", "The node that is slower than the others is the slow one.",
              (f"sum by (node) ({rate('operation_duration_seconds_sum')})"
               f" / (sum by (node) ({rate('operation_duration_seconds_count')}) > 0)", "{{node}}")),
        graph("Age of the metrics", "s", "Above 0, the event loop did not answer a scrape in time.",
              (f"max by (instance) (emcache_snapshot_age_seconds{{{_ALL}}})", "{{instance}}")),
        graph("Timeouts and retries", "ops", "Requests without a reply in time; retried reads.",
              (f"sum by (node) ({rate('timeouts_total')})", "timeouts {{node}}"),
              (f"sum by (node) ({rate('retries_total')})", "retries {{node}}")),
    ],
    "Nodes and connections": [
        graph("Processes that see a node up", "percentunit", "1: all of them.",
              (f"avg by (node) (emcache_node_up{{{_NODE}}})", "{{node}}")),
        graph("Connections", "none", "Open connections of all processes, by state.",
              (f"sum by (node, state) (emcache_connections{{{_NODE}}})", "{{node}} {{state}}")),
        graph("Lost and failed connections", "ops", "Reconnects, failed attempts, invalid replies.",
              (f"sum by (node) ({rate('reconnects_total')})", "reconnects {{node}}"),
              (f"sum by (node) ({rate('failed_connects_total')})", "failed connects {{node}}"),
              (f"sum by (node) ({rate('protocol_errors_total')})", "protocol errors {{node}}")),
        graph("Requests that wait", "none", "For a connection; for a reply; replies for no caller.",
              (f"sum by (node) (emcache_queue_length{{{_NODE}}})", "queue {{node}}"),
              (f"sum by (node) (emcache_requests_in_flight{{{_NODE}}})", "in flight {{node}}"),
              (f"sum by (node) (emcache_abandoned_replies{{{_NODE}}})", "abandoned {{node}}")),
        graph("Network", "Bps", "Bytes before TLS.",
              (f"sum by (node, direction) ({rate('bytes_total')})", "{{node}} {{direction}}")),
        graph("Failover", "none", "Requests at substitutes, outdated keys, deletes and flushes.",
              (f"sum by (kind) ({rate('failover_requests_total', selected=_ALL)})",
               "{{kind}}s at substitutes per second"),
              (f"max(emcache_failover_outdated_keys{{{_ALL}}})", "outdated keys"),
              (f"sum({rate('failover_deleted_total', selected=_ALL)})", "deletes per second"),
              (f"sum({rate('failover_flushes_total', selected=_ALL)})", "flushes per second")),
    ],
    "Caches and cached functions": [
        graph("Lookups", "ops", "By result.",
              (f"sum by (cache, result) ({of_caches('cache_lookups_total')})",
               "{{cache}} {{result}}"), stack=True),
        graph("Hit ratio", "percentunit", "Of each cache or cached function.",
              (ratio("cache_lookups_total", 'result!="miss"', "", "cache", _ALL), "{{cache}}")),
        graph("Computations", "ops", "By cause; and callers that waited for one of another.",
              (f"sum by (cache, cause) ({of_caches('cache_computations_total')})",
               "{{cache}} {{cause}}"),
              (f"sum by (cache) ({of_caches('cache_waits_total')})", "{{cache}} waits")),
        graph("Time of a computation", "s", "The mean.",
              (f"sum by (cache) ({of_caches('cache_computation_seconds_total')})"
               f" / (sum by (cache) ({of_caches('cache_computations_total')}) > 0)", "{{cache}}")),
        graph("Values not stored", "ops", "By reason.",
              (f"sum by (cache, reason) ({of_caches('cache_not_stored_total')})",
               "{{cache}} {{reason}}")),
    ],
}  # fmt: skip


def variable(name: str, metric: str) -> dict[str, Any]:
    """Return a variable with the values of a label."""
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def panels() -> list[dict[str, Any]]:
    """Return the panels with their places, in rows of 24 columns."""
    found: list[dict[str, Any]] = []
    x = y = height = 0
    for row, members in ROWS.items():
        y += height
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        found.append({"id": len(found) + 1, "type": "row", "title": row, "gridPos": place})
        x, y, height = 0, y + 1, 0
        for member in members:
            width, tall = member["size"]
            if x + width > 24:
                x, y, height = 0, y + height, 0
            found.append(finished(member, len(found) + 1, {"x": x, "y": y, "w": width, "h": tall}))
            x, height = x + width, max(height, tall)
    return found


def finished(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """Return a panel as Grafana stores it."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"refId": chr(ord("A") + at), "datasource": source, "expr": expr, "legendFormat": legend}
        for at, (expr, legend) in enumerate(panel["targets"])
    ]
    kept = {name: value for name, value in panel.items() if name != "size"}
    return {"id": number, **kept, "datasource": source, "targets": targets, "gridPos": place}


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    metric = "emcache_node_up"
    alerts = {
        "name": "Alerts",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Emcache.*", alertstate="firing", job=~"$job"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{node}} {{instance}} {{cache}}",
    }
    return {
        "uid": "emcache",
        "title": "emcache",
        "description": "Memcached, as the clients of emcache see it.",
        "tags": ["memcached", "emcache"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": [alerts]},
        "links": [
            {
                "title": "Runbook",
                "type": "link",
                "url": "https://github.com/emcache/emcache/blob/main/docs/runbook.md",
                "targetBlank": True,
            }
        ],
        "templating": {
            "list": [source, *(variable(n, metric) for n in ("job", "instance", "client", "node"))]
        },
        "panels": panels(),
    }


def text() -> str:
    """Return the contents of the file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text())
