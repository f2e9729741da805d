"""The figure of the README: gets per second of one process. Usage: bars.py FILE.svg

It needs no package. Its colours read on white and on black, and its text at 390 pixels.
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results/curves.json"
LOOP, TASKS = "asyncio", 256
CLIENTS = {
    "emcache": "emcache 2",
    "emcache 1.3.3 autobatching": "emcache 1.3.3, autobatching",
    "emcache 1.3.3": "emcache 1.3.3",
    "aiomcache": "aiomcache",
    "memcachio": "memcachio",
}
WIDTH, LINE, TOP, BAR, FULL = 440, 42, 46, 16, 340
TEXT, OURS, OTHERS = "#6e7781", "#2f7de1", "#9aa4b0"


def gets_per_second() -> dict[str, float]:
    rows = json.loads(RESULTS.read_text())["rows"]
    [row] = (r for r in rows if (r["case"], r["loop"], r["tasks"]) == ("get", LOOP, TASKS))
    return {client: row["results"][client]["ops_per_s"] for client in CLIENTS}


def figure() -> str:
    found = gets_per_second()
    most = max(found.values())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {TOP + LINE * len(found)}"'
        ' font-family="system-ui, sans-serif" font-size="14" role="img">',
        f"<title>Gets per second of one process, {TASKS} tasks</title>",
        f'<text x="0" y="16" fill="{TEXT}" font-weight="600">gets per second, one process,'
        f" {TASKS} tasks, {LOOP}</text>",
    ]
    for i, (client, value) in enumerate(found.items()):
        y, width = TOP + LINE * i, max(2, round(FULL * value / most))
        colour = OURS if client == "emcache" else OTHERS
        number = f"{round(value, -3):,.0f}"
        lines += [
            f'<text x="0" y="{y}" fill="{TEXT}">{CLIENTS[client]}</text>',
            f'<rect x="0" y="{y + 6}" width="{width}" height="{BAR}" rx="2" fill="{colour}"/>',
            f'<text x="{width + 8}" y="{y + 19}" fill="{TEXT}" font-weight="600">{number}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(figure())
