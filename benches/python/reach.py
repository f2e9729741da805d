"""Run the table of performance targets, and report which rows are reached.

Each round makes every run that a row needs, once; runs that several rows need are shared.
"""

import argparse
import sys
import time
from pathlib import Path

import extras
from runs import Runner, about, finish, is_good, medians, summarise, write
from targets import in_rounds, of_idle

from servers import Servers

RESULTS = Path(__file__).parent / "results"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", default="", help="only those whose title has one of these, separated by ;"
    )
    parser.add_argument("--loops", default="asyncio,uvloop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument("--server-threads", type=int, default=2)
    parser.add_argument("--peers", required=True, help="python of the peers' environment")
    parser.add_argument("--no-extras", action="store_true", help="only what runs in rounds")
    parser.add_argument("--json", default="", help="default: a file with the time in its name")
    return parser.parse_args()


def is_chosen(args, title, loop="asyncio"):
    wanted = args.rows.lower().split(";")
    return loop in args.loops.split(",") and any(part in title.lower() for part in wanted)


def installed(runner, rows):
    return [row for row in rows if all(runner.has(run.client) for run in (row.ours, *row.others))]


def runs_of(rows):
    """Do every run once, with compared runs next to each other."""
    return list(dict.fromkeys(run for row in rows for run in (row.ours, *row.others)))


def measure(runner, rows, rounds):
    results = {run: [] for run in runs_of(rows)}
    started = time.monotonic()
    for number in range(1, rounds + 1):
        for run, result in results.items():
            result.append(runner.once(run))
            if not is_good(result[-1]):
                print(f"{run}: {result[-1]['error']}", file=sys.stderr)
        passed = time.monotonic() - started
        print(f"round {number} of {rounds}, {passed:.0f} s", file=sys.stderr, flush=True)
    return results


def measure_idle(runner, rows):
    """Do all idle runs at once, because sleeping processes do not disturb each other."""
    processes = {run: runner.start(run) for run in runs_of(rows)}
    return {run: [finish(process)] for run, process in processes.items()}


def figures(row, results):
    """The row's figure in each round that went well for all of its runs."""
    for round_results in zip(*(results[run] for run in (row.ours, *row.others)), strict=True):
        if all(map(is_good, round_results)):
            ours, *others = round_results
            yield row.of(ours, others)


def judge(row, results):
    """The row with the figure of the medians, and the lowest and the highest of the rounds."""
    line = {"work": row.work, "against": row.against, "loop": row.ours.loop, "reach": row.reach}
    summaries = [summarise(results[run]) for run in (row.ours, *row.others)]
    failed = [summary["error"] for summary in summaries if "error" in summary]
    if failed:
        return line | {"error": failed[0], "reached": None}
    ours, *others = map(medians, summaries)
    figure = row.of(ours, others)
    each = sorted(figures(row, results))
    line |= {"measured": figure, "unit": row.unit, "lowest": each[0], "highest": each[-1]}
    # A run with one lost reply has failed, and its rows are not reached.
    lost = sum(summary["failed"] for summary in summaries[:1])
    return line | {"failed_runs": lost, "reached": row.is_reached(figure) and not lost}


def markdown(lines):
    yield "| work | against | loop | reach | measured (lowest to highest round) | reached |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        head = f"| {line['work']} | {line['against']} | {line['loop']} | {line['reach']} "
        if "error" in line:
            yield f"{head}| failed: {line['error']} | |"
            continue
        figure = f"{line['measured']:.2f}{line['unit']}"
        spread = f" ({line['lowest']:.2f} to {line['highest']:.2f})" if "lowest" in line else ""
        lost = f", {line['failed_runs']} runs failed" if line.get("failed_runs") else ""
        yield f"{head}| {figure}{spread}{lost} | {'yes' if line['reached'] else '**no**'} |"


def keep(args, lines, results):
    name = time.strftime("table-%Y%m%dT%H%M%SZ.json", time.gmtime())
    path = Path(args.json) if args.json else RESULTS / name
    runs = [vars(run) | {"results": summarise(made)} for run, made in results.items()]
    made = {
        "about": about(args.rounds, args.seconds, args.server_threads),
        "rows": lines,
        "runs": runs,
    }
    write(path, made)
    print(f"written to {path}", file=sys.stderr)


def main():
    args = arguments()
    lines, results = [], {}
    with Servers(args.server_threads) as servers:
        runner = Runner(servers, args.peers, args.seconds)
        rows = [row for row in in_rounds() if is_chosen(args, row.title, row.ours.loop)]
        for row in rows:
            if row not in installed(runner, [row]):
                print(f"not measured, as it is not installed: {row.title}", file=sys.stderr)
        rows = installed(runner, rows)
        results |= measure(runner, rows, args.rounds)
        idle = [row for row in of_idle() if is_chosen(args, row.title)]
        results |= measure_idle(runner, idle)
        lines += [judge(row, results) for row in rows + idle]
        if not args.no_extras:
            lines += [line for line in extras.lines(runner) if is_chosen(args, line["work"])]
    keep(args, lines, results)
    print("\n".join(markdown(lines)))
    reached = sum(line["reached"] is True for line in lines)
    print(f"\n{reached} of {len(lines)} rows reached")


if __name__ == "__main__":
    main()
