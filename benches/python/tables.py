"""Prints results as Markdown tables for docs/performance.md.

Usage: tables.py results/table-*.json [--rows TEXT]   runs of `make bench-table`, beside each other
       tables.py results/sync-*.json                    a run of `make bench-sync`
       tables.py results/redis.json                   a run of `make bench-compare`
"""

import argparse
import json
from pathlib import Path

MANY = 100
"""Numbers from here on have no decimals."""


def rows_of(data):
    return {(row["work"], row["against"], row["loop"]): row for row in data["rows"]}


def figure(row):
    if row is None:
        return "-"
    if "error" in row:
        return "failed"
    text = f"{row['measured']:.3g}"
    return text if row["reached"] else f"**{text}**"


def targets(runs, text):
    """Runs of `make bench-table`; bold is what was not reached."""
    names = list(dict.fromkeys(name for run in runs for name in run if text in name[0]))
    numbers = range(1, len(runs) + 1)
    print("| work | against | loop | reach |", *(f"run {n} |" for n in numbers))
    print("|---" * (4 + len(runs)) + "|")
    for name in names:
        of_runs = [run.get(name) for run in runs]
        reach = next(row["reach"] for row in of_runs if row is not None)
        work, against, loop = name
        figures = " | ".join(map(figure, of_runs))
        print(f"| {work} | {against} | {loop} | {reach} | {figures} |")


def number(value):
    return f"{value:,.0f}" if value >= MANY else f"{value:.1f}"


def sync(data):
    """A run of `make bench-sync`: bold is where emcache is slower."""
    groups = {}
    for row in data["rows"]:
        groups.setdefault(tuple(row["results"]), []).append(row)
    for clients, rows in groups.items():
        print("\n| operation |", *(f"{client} |" for client in clients))
        print("|---" * (1 + len(clients)) + "|")
        for row in rows:
            of_many = "threads" in row["row"]
            for name, metric in [("gets per second", "rate")] if of_many else METRICS.items():
                title = f"{row['row']}, {name}"
                print(f"| {title} |", *(cell(of, metric) for of in row["results"].values()))


METRICS = {"p50 in us": "p50", "CPU in us": "cpu"}


def cell(result, metric):
    ratio = round(result[f"{metric}_of"], 2)
    slower = ratio < 1 if metric == "rate" else ratio > 1
    if result[f"{metric}_of_middle"] == [1, 1]:
        return f"{number(result[metric])} |"
    text = f"**{ratio:.2f}**" if slower else f"{ratio:.2f}"
    return f"{number(result[metric])} ({text}) |"


def compared(data):
    """A run of `make bench-compare`: of others, how many times better emcache is.

    Each figure is that of the client's best round, which a busy machine disturbs least.
    """
    others = [client for client in data["rows"][0]["results"] if client != "emcache"]
    heads = [f"{client}: {name}" for client in ("emcache", *others) for name in COMPARED]
    print("\n| operation | tasks | loop |", *(f"{head} |" for head in heads))
    print("|---" * (3 + len(heads)) + "|")
    for row in data["rows"]:
        ours = row["results"]["emcache"]
        cells = [number(best(ours, metric)) for metric in COMPARED.values()]
        for client in others:
            theirs = row["results"][client]
            cells += [better(ours, theirs, metric) for metric in COMPARED.values()]
        print(f"| {row['case']} | {row['tasks']} | {row['loop']} |", " | ".join(cells), "|")


COMPARED = {"per s": "ops_per_s", "CPU, us": "cpu_us"}


def best(result, metric):
    low, high = result[f"{metric}_spread"]
    return high if metric == "ops_per_s" else low


def better(ours, theirs, metric):
    if "error" in theirs:
        return "failed"
    times = best(theirs, metric) / best(ours, metric)
    times = 1 / times if metric == "ops_per_s" else times
    return f"{times:.1f}" if times >= 1 else f"**{times:.1f}**"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--rows", default="", help="only those whose work has this text")
    args = parser.parse_args()
    runs = [json.loads(Path(path).read_text()) for path in args.paths]
    if "reach" in runs[0]["rows"][0]:
        targets(list(map(rows_of, runs)), args.rows)
    elif "row" in runs[0]["rows"][0]:
        sync(runs[0])
    else:
        compared(runs[0])


if __name__ == "__main__":
    main()
