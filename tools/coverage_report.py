"""Reports which lines of the Rust core and of the Python package the tests do not run.

Usage: .venv/bin/python tools/coverage_report.py [arguments of pytest]

The core is built with instrumentation under target/coverage, so the build in .venv stays as it is.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "target" / "coverage"
PROFILES = FOLDER / "profiles"
SITE = FOLDER / "site"
PYTHON_DATA = FOLDER / "python"
WRAPPER = FOLDER / "rustc"
"""Compiles this crate with instrumentation; its dependencies are compiled as always."""
# One profile for each binary, to which every process adds what it ran.
INSTRUMENTED = os.environ | {
    "RUSTC_WORKSPACE_WRAPPER": str(WRAPPER),
    "CARGO_TARGET_DIR": str(FOLDER),
    "LLVM_PROFILE_FILE": str(PROFILES / "%m.profraw"),
}
RUNS = [("loop", []), ("thread", ["-m", "not driver_independent"])]
"""Each driver, with arguments for pytest as the Makefile has them."""

# coverage.py cannot start in a sub-interpreter, and says so on the stderr that this test reads.
UNMEASURED = ["--deselect", "tests/server/test_imports.py::test_a_sub_interpreter_is_refused"]


def output(*command: str | Path) -> str:
    """Run a command for the instrumented build; return what it prints."""
    return subprocess.check_output(command, text=True, cwd=ROOT, env=INSTRUMENTED)


def llvm(name: str) -> str:
    """Find a tool of the LLVM in rustc: other versions cannot read its profiles."""
    own = next(
        Path(output("rustc", "--print", "sysroot").strip()).glob(f"lib/*/*/bin/{name}"), None
    )
    if own:
        return str(own)
    match = re.search(r"LLVM version: (\d+)", output("rustc", "-vV"))
    major = match[1] if match else "?"
    for found in (shutil.which(f"{name}-{major}"), shutil.which(name)):
        if found and f"version {major}." in output(found, "--version"):
            return found
    sys.exit(
        f"{name} of LLVM {major} is needed: `apt-get install llvm-{major}`, "
        "or `rustup component add llvm-tools` where rustup can download"
    )


def rust_tests() -> list[str]:
    """Run the tests of the core; return their binaries."""
    command = ["cargo", "test", "--no-default-features"]
    messages = output(*command, "--no-run", "-q", "--message-format=json").splitlines()
    subprocess.run([*command, "-q"], cwd=ROOT, env=INSTRUMENTED, check=True)
    built = [json.loads(line) for line in messages]
    return [each["executable"] for each in built if each.get("executable")]


def extension() -> str:
    """Build the extension and unpack it, for PYTHONPATH; return its path."""
    shutil.rmtree(SITE, ignore_errors=True)
    wheels = FOLDER / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    maturin = [Path(sys.executable).parent / "maturin", "build", "-q", "--profile", "thin"]
    subprocess.run(
        [*maturin, "-i", sys.executable, "-o", wheels], cwd=ROOT, env=INSTRUMENTED, check=True
    )
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", SITE]
    subprocess.run([*pip, *wheels.glob("*.whl")], check=True)
    (found,) = SITE.glob("emcache/_emcache*.so")
    return str(found)


def python_tests(arguments: list[str]) -> bool:
    """Run the Python tests with both drivers; return whether all passed."""
    passed = True
    for driver, selection in RUNS:
        environment = INSTRUMENTED | {"PYTHONPATH": str(SITE), "EMCACHE_DRIVER": driver}
        command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-q", *UNMEASURED]
        done = subprocess.run(
            [*command, *selection, *arguments], cwd=ROOT, env=environment, check=False
        )
        # 5: the arguments select no test for this driver.
        passed &= done.returncode in (0, 5)
    return passed


def own_lines(path: Path) -> int:
    """Count the lines above the tests of the file."""
    source = path.read_text()
    return source.split("#[cfg(test)]\nmod tests {")[0].count("\n")


def counts(binaries: list[str]) -> dict[Path, dict[int, bool]]:
    """For each file of the core, whether each line with code ran."""
    merged = FOLDER / "core.profdata"
    output(llvm("llvm-profdata"), "merge", "-sparse", *PROFILES.glob("*.profraw"), "-o", merged)
    first, *others = binaries
    objects = [f"--object={binary}" for binary in others]
    text = output(
        llvm("llvm-cov"), "export", "-format=lcov", f"-instr-profile={merged}", first, *objects
    )
    files: dict[Path, dict[int, bool]] = {}
    for record in text.split("end_of_record"):
        name = re.search(r"^SF:(.*)$", record, re.MULTILINE)
        if name is None:
            continue
        path = Path(name[1])
        if not path.is_relative_to(ROOT / "src") or path.name == "tests.rs":
            continue
        last = own_lines(path)
        lines = re.findall(r"^DA:(\d+),(\d+)", record, re.MULTILINE)
        ran = {int(line): count != "0" for line, count in lines if int(line) <= last}
        files[path.relative_to(ROOT)] = ran
    return files


def ranges(ran: dict[int, bool]) -> Iterator[str]:
    """Write lines that did not run as ranges, across lines without code."""
    lines = sorted(ran)
    missed = [line for line in lines if not ran[line]]
    follows = dict(pairwise(lines))
    start = None
    for line in missed:
        start = start or line
        if ran.get(follows.get(line, 0), True):
            yield str(line) if start == line else f"{start}-{line}"
            start = None


def rust_table(files: dict[Path, dict[int, bool]]) -> Iterator[str]:
    """Write a row for each file with lines that did not run, and the total."""
    yield f"{'Rust':<40} lines missed covered"
    for path, ran in sorted(files.items()):
        missed = list(ran.values()).count(False)
        if missed:
            yield f"{row(str(path), len(ran), missed)}  {', '.join(ranges(ran))}"
    every = [each for ran in files.values() for each in ran.values()]
    yield row("total", len(every), every.count(False))


def row(name: str, lines: int, missed: int) -> str:
    """Write one row of the table."""
    return f"{name:<40} {lines:5} {missed:6} {1 - missed / lines:7.1%}"


def main() -> None:
    """Build, run all tests, and write both reports."""
    llvm("llvm-profdata")
    shutil.rmtree(PROFILES, ignore_errors=True)
    PROFILES.mkdir(parents=True)
    WRAPPER.write_text('#!/bin/sh\nexec "$@" -C instrument-coverage\n')
    WRAPPER.chmod(0o755)
    for old in FOLDER.glob(f"{PYTHON_DATA.name}*"):
        old.unlink()
    binaries = [*rust_tests(), extension()]
    passed = python_tests(sys.argv[1:])
    sys.stdout.writelines(f"{line}\n" for line in rust_table(counts(binaries)))
    sys.stdout.flush()
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "-q"], cwd=ROOT, check=True)
    subprocess.run([*coverage, "report"], cwd=ROOT, check=True)
    if not passed:
        sys.exit("some tests failed: what they would have run may be missing above")


if __name__ == "__main__":
    main()
