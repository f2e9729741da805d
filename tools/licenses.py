"""Write THIRD-PARTY-LICENSES: the licences of the crates that are linked into the wheels.

Of several to choose from it is MIT's where there is one. `--check` compares instead of writing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "THIRD-PARTY-LICENSES"
HEAD = """The wheels of emcache contain these Rust crates, under these licences.
Made by tools/licenses.py from what their sources say.
"""


def metadata() -> dict[str, Any]:
    """Return what cargo knows of all crates of Cargo.lock."""
    command = ["cargo", "metadata", "--format-version=1", "--locked"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    known: dict[str, Any] = json.loads(done.stdout)
    return known


def linked(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the packages that the library is made of, on all systems together."""
    nodes = {node["id"]: node for node in known["resolve"]["nodes"]}
    packages = {package["id"]: package for package in known["packages"]}
    wanted, found = [known["resolve"]["root"]], set()
    while wanted:
        for dependency in nodes[wanted.pop()]["deps"]:
            name = dependency["pkg"]
            kinds = [kind["kind"] for kind in dependency["dep_kinds"]]
            if None in kinds and name not in found and not is_macro(packages[name]):
                found.add(name)
                wanted.append(name)
    return sorted(
        (packages[name] for name in found),
        key=lambda package: (package["name"], package["version"]),
    )


def is_macro(package: dict[str, Any]) -> bool:
    """Procedural macros run in the compiler and leave nothing of themselves."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def texts(package: dict[str, Any]) -> list[str]:
    """Return the texts of the licence that is chosen, and notices."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE"))
    )
    chosen = [path for path in files if "MIT" in path.name.upper()]
    is_choice = " OR " in package["license"] or "/" in package["license"]
    return [path.read_text().strip() for path in (chosen if is_choice and chosen else files)]


def listing() -> str:
    """Return the whole file; a text that several crates have is there once."""
    crates: dict[str, list[str]] = {}
    for package in linked(metadata()):
        found = texts(package) or [f"(no text in its sources) {package['license']}"]
        name = f"{package['name']} {package['version']} ({package['license']})"
        crates.setdefault("\n\n".join(found), []).append(name)
    rule = "\n" + "=" * 80 + "\n"
    parts = ("\n".join(names) + "\n\n" + text + "\n" for text, names in crates.items())
    return HEAD + rule + rule.join(parts)


def main() -> None:
    """Write the file, or say that it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    made = listing()
    if not parser.parse_args().check:
        TARGET.write_text(made)
    elif TARGET.read_text() != made:
        sys.exit(f"{TARGET.name} is not that of Cargo.lock: run tools/licenses.py")


if __name__ == "__main__":
    main()
