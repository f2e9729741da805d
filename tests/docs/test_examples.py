"""Every example of the documentation runs as it stands, on real servers."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from support.memcached import free_port, memcached
from support.pages import ROOT, here, pages, ports, runnable

pytestmark = pytest.mark.driver_independent

PAGES = pages()
RUNNER = ROOT / "tests/support/run_page.py"
SHIM = ROOT / "tests/support/bin"

MAY_NOT_RUN = 6
"""Examples that cannot run by their nature. It is meant to be hard to raise."""


@pytest.fixture(scope="module")
def nodes():
    """Servers for the ports 11211, 11212, ... of the examples."""
    with contextlib.ExitStack() as stack:
        yield {str(11211 + i): stack.enter_context(memcached("-m", "64")) for i in range(3)}


def places(found, nodes):
    """Where the ports of a page lead to: the test's servers, or those that the page starts."""
    if any("memcached -" in block.code for block in found if block.language == "sh"):
        return {port: free_port() for port in ports(found) or ["11211"]}
    for node in nodes.values():
        node.ask(b"flush_all\r\n")
    return {port: nodes[port].port for port in ports(found)}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_runs(page, nodes, tmp_path):
    found = [block for block in runnable(page) if block.reason is None]
    where = places(found, nodes)
    for block in found:
        block.code = here(block.code, where)
        if block.output is not None:
            block.output = here(block.output, where)
    (tmp_path / "blocks.json").write_text(json.dumps([asdict(block) for block in found]))
    tmp_path.chmod(0o755)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(SHIM), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PORT": str(where.get("11211", "")),
        "PYTHONPATH": str(ROOT / "python"),
        "PASSWORD": "correct-horse-battery-staple",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(RUNNER), page.name, "blocks.json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
        )
    finally:
        if (started := tmp_path / "memcached.pid").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(started.read_text()), 9)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_few_are_not_run_and_each_says_why():
    left_out = [block.reason for page in PAGES for block in runnable(page) if block.reason]
    assert len(left_out) <= MAY_NOT_RUN, left_out
