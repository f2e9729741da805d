"""Every example of the documentation runs as it stands, on real servers."""

import ast
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import emcache
from support.memcached import free_port, memcached
from support.pages import ROOT, Block, here, pages, ports, runnable

# Where the package is that is tested: in the checkout, or installed.
PACKAGES = str(Path(emcache.__file__).parents[1])

pytestmark = pytest.mark.driver_independent

PAGES = pages()
RUNNER = ROOT / "tests/support/run_page.py"
SHIMS = ROOT / "tests/support/bin"

NEEDS = {"from-pylibmc.md": "pylibmc"}
"""Libraries that have no wheel for each Python."""

MAY_NOT_RUN = 6
"""Examples that cannot run by their nature. It is meant to be hard to raise."""


@pytest.fixture(scope="module")
def nodes():
    """Servers for the ports 11211, 11212, ... of the examples."""
    with contextlib.ExitStack() as stack:
        yield {str(11211 + i): stack.enter_context(memcached("-m", "64")) for i in range(3)}


def starts_servers(found):
    return any("memcached -" in block.code for block in found if block.language == "sh")


def places(found, nodes):
    """Where the ports of a page lead to: the test's servers, or those that the page starts."""
    if starts_servers(found):
        return {port: free_port() for port in ["11211", *ports(found)]}
    for node in nodes.values():
        node.flush()
    return {port: node.port for port, node in nodes.items()}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_runs(page, nodes, tmp_path):
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    found = [block for block in runnable(page) if block.reason is None]
    where = places(found, nodes)
    for block in found:
        block.code = here(block.code, where)
        if block.output is not None:
            block.output = here(block.output, where)
    tmp_path.chmod(0o755)
    shims = [SHIMS / "background", SHIMS] if starts_servers(found) else [SHIMS]
    try:
        done = run(page.name, found, tmp_path, where["11211"], shims)
    finally:
        if (started := tmp_path / "memcached.pid").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(started.read_text()), signal.SIGKILL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def run(name, found, folder, port=0, shims=()):
    (folder / "blocks.json").write_text(json.dumps([asdict(block) for block in found]))
    path = [*map(str, shims), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(path),
        "PORT": str(port),
        "EMCACHE_SERVERS": f"127.0.0.1:{port}",
        "PYTHONPATH": PACKAGES,
        "PASSWORD": "correct-horse-battery-staple",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", str(RUNNER), name, "blocks.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="it reads a pipe line by line since 3.13")
def test_the_start_may_be_pasted_into_a_prompt(nodes):
    """There a blank line ends what is indented, and what has a value shows it."""
    found = runnable(ROOT / "docs/start.md")
    rest = [block for block in found if block.language == "python"][1:]
    where = places(rest, nodes)
    text = "\n".join(here(block.code, where) for block in rest)
    done = subprocess.run(
        [sys.executable, "-m", "asyncio"],
        input=text,
        env=os.environ | {"PYTHONPATH": PACKAGES},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "Error" not in done.stderr, done.stderr
    assert "Task" not in done.stdout
    printed = [line for block in rest for line in (block.output or "").splitlines()]
    assert len(printed) > 5
    for line in printed:
        assert here(line, where) in done.stdout


@pytest.mark.parametrize("name", ["start", "caching-patterns"])
def test_a_blank_line_ends_what_is_indented(name):
    """So that the examples of pages that name the prompt may be pasted there."""
    for block in runnable(ROOT / f"docs/{name}.md"):
        if block.language != "python" or block.code.startswith("# "):
            continue
        lines = block.code.splitlines()
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
        body = compile(block.code, name, "exec", flags).body
        for statement, following in itertools.pairwise(body):
            if hasattr(statement, "body"):
                between = lines[statement.end_lineno : following.lineno - 1]
                assert "" in between, (name, block.line + statement.end_lineno)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (Block(1, "python", "1 / 0\n"), "ZeroDivisionError"),
        (Block(1, "python", "print(1)\n", output="2\n"), "prints"),
        (Block(1, "sh", "echo no >&2; exit 1\n"), "no"),
        (Block(1, "pycon", ">>> 1 + 1\n3\n"), "Expected"),
        (Block(1, "python", "# test_app.py\ndef test_it():\n    assert False\n"), "test_it"),
        (Block(1, "python", "import asyncio\nawait asyncio.sleep(0)\nawait 1\n"), "TypeError"),
    ],
)
def test_what_is_wrong_is_noticed(block, says, tmp_path):
    done = run("page.md", [block], tmp_path)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr


def test_few_are_not_run_and_each_says_why():
    left_out = [block.reason for page in PAGES for block in runnable(page) if block.reason]
    assert len(left_out) <= MAY_NOT_RUN, left_out
