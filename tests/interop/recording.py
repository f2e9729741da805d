"""Recorded values of the clients of other languages, for machines that do not have them."""

import json
from pathlib import Path

from .exchange import Result
from .neighbours import Neighbour

RECORDED = Path(__file__).with_name("values.json")
LARGEST = 12_000
"""Longer items are not kept; those are the ones that were not compressed."""

ABOUT = (
    "What the real clients stored (memcached 1.6.18): flags and bytes in hexadecimal by the name "
    "of the value, as tools/interop --record keeps it, each once for a preset. neighbours.py has "
    "the values."
)


def record(results: dict[str, tuple[Neighbour, Result]]) -> None:
    """Replace the recordings of the clients that ran, and keep the others."""
    kept = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    kept["about"] = ABOUT
    seen = set()
    for name, (neighbour, result) in results.items():
        if neighbour.language == "python":
            continue  # Those are installed wherever the tests run.
        items = {}
        for value, (flags, data) in result.items.items():
            item = (repr(neighbour.preset()), value, flags, data)
            if item not in seen and len(data) <= LARGEST:
                items[value] = [flags, data.hex()]
            seen.add(item)
        if items:
            kept[name] = {"version": result.version, "items": items}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(each)}" for key, each in kept.items())
    RECORDED.write_text("{\n" + lines + "\n}\n")
