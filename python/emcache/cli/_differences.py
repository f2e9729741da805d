"""Checks of `doctor` that compare the nodes of a cluster."""

from dataclasses import dataclass, field

from ._finding import Finding, warn
from ._load_checks import Samples, check_balance
from ._output import printable
from ._units import size

OPTIONS = {
    "maxbytes": "-m",
    "item_size_max": "-I",
    "maxconns": "-c",
    "num_threads": "-t",
    "growth_factor": "-f",
    "evictions": "-M",
    "cas_enabled": "-C",
    "flush_enabled": "-F",
    "dump_enabled": "-X",
    "idle_timeout": "-o idle_timeout",
    "slab_chunk_max": "-o slab_chunk_max",
    "lru_crawler": "-o lru_crawler",
    "lru_segmented": "-o lru_segmented",
    "ssl_enabled": "-Z",
    "auth_enabled_ascii": "-Y",
    "auth_enabled_sasl": "-S",
    "hash_algorithm": "-o hash_algorithm",
}
"""The settings that should be the same on all nodes, with the option of the server."""
_BYTES = {"maxbytes", "item_size_max", "slab_chunk_max"}


@dataclass
class NodeReport:
    """The findings of one node, and what is compared with other nodes."""

    name: str
    findings: list[Finding]
    version: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    samples: Samples | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a check of the node failed."""
        return any(finding.state == "fail" for finding in self.findings)


def check_differences(reports: list[NodeReport]) -> list[Finding]:
    """Return warnings about differences between the nodes that answered."""
    findings = []
    versions = {report.name: report.version for report in reports if report.version}
    if text := _different(versions):
        findings.append(warn("version", f"nodes differ: {text}", "use the same on all nodes"))
    for name, option in OPTIONS.items():
        values = {r.name: _value(name, r.settings[name]) for r in reports if name in r.settings}
        if text := _different(values):
            check = "item limit" if name == "item_size_max" else "options"
            advice = f"start all nodes with the same {option}"
            if name == "maxbytes":
                advice += ", or give clients weights"
            findings.append(warn(check, f"nodes differ in {name}: {text}", advice))
    rates = {
        r.name: r.samples.rate("get_hits", "get_misses") for r in reports if r.samples is not None
    }
    return findings + check_balance(rates)


def _value(name: str, text: str) -> str:
    return size(int(text)) if name in _BYTES and text.isdigit() else printable(text)


def _different(values: dict[str, str]) -> str | None:
    """Return which nodes have which value; None if all have the same."""
    nodes: dict[str, list[str]] = {}
    for node, value in values.items():
        nodes.setdefault(value, []).append(node)
    if len(nodes) < 2:
        return None
    return "; ".join(f"{value} on {', '.join(names)}" for value, names in nodes.items())
