"""Which module of the package may import which, and that no import is circular."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "emcache"

pytestmark = pytest.mark.driver_independent

# The layers from the bottom up: a module imports only modules of its own layer and of lower ones.
LAYERS = [
    {"_emcache", "_errors", "_address", "_checks", "_types", "_lazy", "_hints", "_failures"}
    | {"_kinds", "_memcached", "_values"},
    {
        "default_values",
        "_item",
        "_options",
        "_lifecycle",
        "_snapshots",
        "_node_log",
        "_pool_metrics",
        "_results",
        "_meta",
        "_router",
    },
    {"connection_pool", "_counters", "_fallbacks", "_node_queries", "_meta_commands"},
    {"_cluster", "metrics", "discovery", "_routing", "_migration", "_failover"},
    {"_events", "_client"},
    {"_create", "_client_options", "_url"},
    # The import paths of 1.3.3.
    {"base", "client", "client_errors", "cluster", "autobatching", "node", "protocol", "timeout"}
    | {"version"},
    {"cache", "sync"},
    {"contrib"},
    {"testing", "cli"},
]
# These read `__init__` as a program would.
PROGRAMS = {"__main__", "testing.plugin"}


def modules() -> dict[str, Path]:
    """All modules by their name within the package, packages by the name of their folder."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
NAMES = {*MODULES, "_emcache"} - {""}


def imported(name: str, path: Path) -> set[str]:
    """All modules that a module imports, also in functions and for type checkers."""
    is_package = path.name == "__init__.py"
    package = name.split(".") if is_package else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "emcache"}
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        parts = package[: len(package) - (node.level - 1)] + (node.module or "").split(".")
        base = ".".join(part for part in parts if part)
        for alias in node.names:
            inner = f"{base}.{alias.name}".strip(".")
            found.add(inner if inner in NAMES else base)
    return found


IMPORTS = {name: imported(name, path) for name, path in MODULES.items() if name}


def layer(name: str) -> int:
    top = name.split(".")[0]
    return next(number for number, names in enumerate(LAYERS) if top in names)


def test_imports_are_found():
    assert "_errors" in IMPORTS["_counters"]
    assert "_memcached.codecs" in IMPORTS["cache._presets_python"]
    # In a function, and for type checkers.
    assert "_counters" in IMPORTS["_client"]
    assert "discovery._watcher" in IMPORTS["_client"]


def test_every_module_has_a_layer():
    known = set().union(*LAYERS)
    assert {name.split(".")[0] for name in NAMES} - {"__main__"} == known


@pytest.mark.parametrize("name", sorted(IMPORTS.keys() - PROGRAMS))
def test_a_module_imports_only_lower_layers(name):
    above = {other for other in IMPORTS[name] if layer(other) > layer(name)}
    assert above == set()


@pytest.mark.parametrize("name", sorted(IMPORTS.keys() - PROGRAMS))
def test_no_module_imports_the_package(name):
    """That would be a circle, because the package imports all of them."""
    assert not {other for other in IMPORTS[name] if other.split(".")[0] in ("", "emcache")}


def test_no_import_is_circular():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_command_line_and_tests_need_their_libraries():
    """The client does not import its tools."""
    for name, others in IMPORTS.items():
        if name.split(".")[0] not in ("cli", "testing", "__main__"):
            assert not {o for o in others if o.split(".")[0] in ("cli", "testing")}, name
        if name.split(".")[0] not in ("contrib", "cli"):
            assert not {other for other in others if other.split(".")[0] == "contrib"}, name
