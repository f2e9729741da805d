"""Count the cost of core operations: instructions (with callgrind) and heap allocations.

Counts are repeatable where times are not, so a regression shows on any machine: the check fails if
a case needs 10 % more than counts.txt says. Usage: counts.py [--update]
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASELINE = Path(__file__).parent / "counts.txt"
TOLERANCE = 1.1
FEW, MANY = 100, 300
HEAD = """\
# Per operation, in steady state: what the core needs (counts.py, counts.rs).
# `make counts` checks, `make counts-update` rewrites. Counted with {rustc}
# instructions  allocations  operation
"""


def build():
    """Return the path of the program that runs the cases."""
    command = ["cargo", "bench", "-q", "--no-default-features", "--no-run", "--bench", "counts"]
    command.append("--message-format=json")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    messages = map(json.loads, done.stdout.splitlines())
    made = [message["executable"] for message in messages if message.get("executable")]
    return made[-1]


def output_of(*command, **more):
    """Run a command. No case takes long, so a timeout means that it hangs."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done


def cases(program):
    return output_of(program).stdout.splitlines()


def allocations_of(program, case):
    each, made = map(int, output_of(program, case, str(MANY)).stdout.split())
    return made / MANY / each


def allocations(program):
    """Return the counts of each case, per operation."""
    return {case: allocations_of(program, case) for case in cases(program)}


def collected(program, case, times):
    """Return the instructions of a whole process, and the operations of one run."""
    valgrind = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    done = output_of(*valgrind, program, case, str(times))
    (count,) = [line for line in done.stderr.splitlines() if "Collected :" in line]
    return int(count.split()[-1]), int(done.stdout.split()[0])


def instructions_of(program, case):
    """Return the difference between two run counts, so that startup and exit do not matter."""
    (few, each), (many, _) = (collected(program, case, times) for times in (FEW, MANY))
    return (many - few) / (MANY - FEW) / each


def measure():
    program = build()
    names = cases(program)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        instructions = threads.map(lambda case: instructions_of(program, case), names)
        return {
            case: (count, allocations_of(program, case))
            for case, count in zip(names, instructions, strict=True)
        }


def read_baseline():
    counts = {}
    for line in BASELINE.read_text().splitlines():
        if not line.startswith("#"):
            instructions, allocations, case = line.split(maxsplit=2)
            counts[case] = float(instructions), float(allocations)
    return counts


def write_baseline(counts):
    lines = [f"{count:14.1f} {made:12.3f}  {case}\n" for case, (count, made) in counts.items()]
    rustc = output_of("rustc", "--version").stdout.strip()
    BASELINE.write_text(HEAD.format(rustc=rustc) + "".join(lines))


def verdict(now, before):
    """Return the report line of a case, and whether it got worse."""
    if before is None:
        return "not in counts.txt", True
    # Below half an allocation per thousand operations counts as zero.
    if now[0] > before[0] * TOLERANCE or now[1] > before[1] * TOLERANCE + 0.0005:
        return "worse", True
    if now[0] * TOLERANCE < before[0] or now[1] * TOLERANCE < before[1] - 0.0005:
        return "better: make counts-update", False
    return "", False


def main():
    counts = measure()
    if "--update" in sys.argv:
        write_baseline(counts)
    baseline = read_baseline()
    print("instructions   (before)  allocations  (before)  operation")
    is_worse = False
    for case, now in counts.items():
        before = baseline.get(case)
        text, worse = verdict(now, before)
        is_worse |= worse
        was = before or (float("nan"), float("nan"))
        print(f"{now[0]:12.1f} {was[0]:10.1f} {now[1]:12.3f} {was[1]:9.3f}  {case}  {text}")
    for case in baseline.keys() - counts.keys():
        print(f"{case}: in counts.txt, and not counted any more")
        is_worse = True
    if is_worse:
        compiler = BASELINE.read_text().splitlines()[1].split("Counted with ")[-1]
        sys.exit(f"More than a tenth above benches/counts.txt (counted with {compiler}).")


if __name__ == "__main__":
    main()
