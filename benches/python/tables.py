"""Puts runs of `make bench-table` beside each other, as a Markdown table.

Usage: tables.py results/table-*.json [--rows TEXT]
"""

import argparse
import json
from pathlib import Path


def rows_of(path):
    found = {}
    for row in json.loads(Path(path).read_text())["rows"]:
        found[row["work"], row["against"], row["loop"]] = row
    return found


def figure(row):
    if row is None:
        return "-"
    if "error" in row:
        return "failed"
    text = f"{row['measured']:.3g}"
    return text if row["reached"] else f"**{text}**"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--rows", default="", help="only those whose work has this text")
    args = parser.parse_args()
    runs = [rows_of(path) for path in args.paths]
    names = list(dict.fromkeys(name for run in runs for name in run if args.rows in name[0]))
    numbers = range(1, len(runs) + 1)
    print("| work | against | loop | reach |", *(f"run {n} |" for n in numbers))
    print("|---" * (4 + len(runs)) + "|")
    for name in names:
        of_runs = [run.get(name) for run in runs]
        reach = next(row["reach"] for row in of_runs if row is not None)
        work, against, loop = name
        figures = " | ".join(map(figure, of_runs))
        print(f"| {work} | {against} | {loop} | {reach} | {figures} |")


if __name__ == "__main__":
    main()
