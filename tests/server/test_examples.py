"""The examples run, and say what they should."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *args):
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    # What they show about failures, the log of nodes says too.
    assert [line for line in done.stderr.splitlines() if not line.startswith("node ")] == []
    return done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("basic.py", "visits: 42"),
        ("cas.py", "5 members after"),
        ("many.py", "1000 of 1000 items, from 3 nodes"),
        ("discovery.py", "moved to the new node: True"),
        ("pool.py", "found: 20 of 21"),
        ("tls.py", "hello over TLS"),
        ("tls.py", "without the CA: the server's certificate is not trusted"),
        ("kubernetes.py", "hello, pods"),
        ("proxy.py", "100 of 100 items"),
        ("login.py", "hello, app"),
        ("login.py", "refused: "),
        ("sasl.py", "hello over SASL"),
        ("sasl.py", "refused: "),
    ],
)
def test_example(name, says):
    assert says in run(name)


def test_basic_on_a_server_that_runs(server):
    assert "visits: 42" in run("basic.py", f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("name", ["proxy.py", "kubernetes.py"])
def test_what_is_named(server, name):
    assert "hello" in run(name, f"localhost:{server.port}")
