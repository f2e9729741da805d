"""The page about the command line: what it shows to be typed works, in that order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import COMMAND, environment, invoke, named
from support.memcached import memcached

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
SERVERS = "EMCACHE_SERVERS"
QUICKER = {"--seconds 2": "--seconds 0.2", "top --once": "top --once --interval 0.2"}


def blocks():
    return re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def shape(line):
    """A line without what differs from one run to the next."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\S+", "TIME", line)
    line = re.sub(r"(?<=memcached )[\d.]+ lacks.*|(?<= )\d+\.\d+\.\d+\S*$", "VERSION", line)
    return re.sub(r" +", " ", re.sub(r"\d[\d.,]*[KMGs]?", "0", line))


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Something like a shell: with the command, and two servers that have one item each."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "emcache"
    command.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    with memcached() as a, memcached() as b:
        by_name = {"11211": str(a.port), "11212": str(b.port)}
        variables = environment(**{SERVERS: named(a, b)[1]})
        variables["PATH"] = f"{folder}:{Path(sys.executable).parent}:{variables['PATH']}"

        def run(line):
            for slow, quick in QUICKER.items():
                line = line.replace(slow, quick)
            if re.search("[|>]", line):
                done = subprocess.run(
                    ["bash", "-c", line], env=variables, capture_output=True, text=True, timeout=40
                )
                assert "Traceback" not in done.stderr
                code, text = done.returncode, done.stdout
            else:
                result = invoke(*shlex.split(line)[1:], EMCACHE_SERVERS=variables[SERVERS])
                code, text = result.exit_code, result.stdout
            for name, port in by_name.items():
                text = text.replace(port, name)
            return code, text

        yield run


def store(shell):
    for item in ("picture x", "visits 1", "user:42 x --exptime 2h"):
        shell(f"emcache set {item}")


def test_what_is_typed(shell):
    """Every command ends well, and what it prints looks as the page has it."""
    store(shell)
    for block in blocks():
        parts = re.split(r"^\$ (.*)\n", block, flags=re.M)[1:]
        for line, printed in zip(parts[::2], parts[1::2], strict=True):
            if line.startswith("emcache keys"):
                store(shell)
            code, text = shell(line)
            assert code == 0, line
            if "top" in line or "stats" in line or "node-for" in line:
                # What there is depends on the ports, and so on where keys are.
                assert text.startswith(("1", "2", "user"))
            elif "keys" in line:
                assert sorted(map(shape, text.splitlines())) == sorted(
                    map(shape, printed.splitlines())
                )
            else:
                expected = [shape(one) for one in printed.splitlines() if one != "..."]
                assert [shape(one) for one in text.splitlines()][: len(expected)] == expected, line
