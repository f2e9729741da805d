"""docs/design/faults.md names a test for each fault: they are all there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TABLE = (ROOT / "docs" / "design" / "faults.md").read_text()
ROWS = [*range(1, 52)]
"""Those of the catalogue that came first; others are numbered by the part that they are about."""


def test_each_row_has_a_test():
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", TABLE, re.MULTILINE)
    numbers = [int(number) for number, _ in rows]
    assert numbers[: len(ROWS)] == ROWS
    assert numbers == sorted(set(numbers))
    assert [number for number, row in rows if "::" not in row] == []


def test_each_test_is_there():
    named = re.findall(r"`([\w/]+\.(?:py|rs))::(\w+)`", TABLE)
    assert len(named) >= len(ROWS)
    missing = []
    for file, test in named:
        path = ROOT / file if file.startswith("src/") else ROOT / "tests" / file
        if not re.search(rf"\b(def|fn) {test}\(", path.read_text()):
            missing.append(f"{file}::{test}")
    assert missing == []
