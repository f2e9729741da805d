"""Remakes the figures of docs/performance.md from the results. Usage: report.py FOLDER [--png]

results/curves.json and results/breakdown.json are made by `make bench-data`.
"""

import argparse
import json
from pathlib import Path

import plots

RESULTS = Path(__file__).parent / "results"
LOOPS = ("asyncio", "uvloop")
LEFT_OUT = {"emcache one command per call"}
PIECES = list(plots.PIECES)


def read(name):
    path = RESULTS / name
    return json.loads(path.read_text())["rows"] if path.exists() else []


def results_of(rows, loop):
    """(tasks, client, result) of what was measured under the loop."""
    for row in rows:
        if row["loop"] != loop or row["case"] != "get":
            continue
        for client, result in row["results"].items():
            if "error" not in result and client not in LEFT_OUT:
                yield row["tasks"], client, result


def curves_of(rows, loop, metric):
    """By client the points of all that was measured with more than one number of tasks."""
    curves = {}
    for tasks, client, result in results_of(rows, loop):
        curves.setdefault(client, []).append((tasks, result[metric]))
    return {client: sorted(points) for client, points in curves.items() if len(points) > 1}


def throughput(rows):
    made, axes = plots.figure(1, 2, (11, 4))
    for panel, loop in zip(axes[0], LOOPS, strict=True):
        plots.against_tasks(panel, curves_of(rows, loop, "ops_per_s"), "gets per second")
        panel.set_title(f"{loop}: throughput, more is better")
        panel.set_xlabel("concurrent tasks")
    return made


def latency(rows):
    made, axes = plots.figure(2, 2, (11, 7.6))
    for line, metric, title in [(0, "p50_us", "median latency"), (1, "p99_us", "99th percentile")]:
        for panel, loop in zip(axes[line], LOOPS, strict=True):
            plots.against_tasks(panel, curves_of(rows, loop, metric), "us")
            panel.set_title(f"{loop}: {title}, less is better")
            panel.set_xlabel("concurrent tasks")
    return made


def distribution(rows):
    made, axes = plots.figure(1, 2, (11, 4))
    for panel, loop in zip(axes[0], LOOPS, strict=True):
        quantiles = {
            client: result["quantiles_us"]
            for tasks, client, result in results_of(rows, loop)
            if tasks == 32 and "quantiles_us" in result
        }
        plots.distribution(panel, quantiles)
        panel.set_title(f"{loop}: latency of a get, 32 tasks")
    return made


def cpu(rows):
    made, axes = plots.figure(2, 3, (12, 5.6))
    for line, loop in zip(axes, LOOPS, strict=True):
        for panel, wanted in zip(line, (1, 32, 256), strict=True):
            figures = {
                client: result["cpu_us"]
                for tasks, client, result in results_of(rows, loop)
                if tasks == wanted
            }
            plots.bars(panel, figures, "CPU of the client per get, us")
            panel.set_title(f"{loop}, {wanted} task{'s' * (wanted > 1)}")
    return made


def breakdown(rows):
    counts = sorted({row["tasks"] for row in rows})
    made, axes = plots.figure(len(counts), 1, (10, 1.75 * len(counts) + 0.6))
    for panel, tasks in zip(axes[:, 0], counts, strict=True):
        bars = [
            (f"{plots.name(row['client'])}, {row['loop']}", row["us_per_op"])
            for row in rows
            if row["tasks"] == tasks
        ]
        plots.stacked(panel, bars)
        panel.set_title(f"{tasks} task{'s' * (tasks > 1)}: CPU per get, us")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--png", action="store_true")
    args = parser.parse_args()
    kind = "png" if args.png else "svg"
    args.folder.mkdir(parents=True, exist_ok=True)
    for make, data in [
        (throughput, "curves.json"),
        (latency, "curves.json"),
        (distribution, "curves.json"),
        (cpu, "curves.json"),
        (breakdown, "breakdown.json"),
    ]:
        if rows := read(data):
            plots.save(make(rows), args.folder, make.__name__, kind)
            print(args.folder / f"{make.__name__}.{kind}")
        else:
            print(f"no {data}: run `make bench-data`")


if __name__ == "__main__":
    main()
