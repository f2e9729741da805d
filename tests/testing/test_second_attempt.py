"""What a second attempt excuses, and what it does not."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import failures

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.driver_independent


def attempt(folder: Path, cwd: Path = ROOT):
    command = [sys.executable, str(ROOT / "tools/second-attempt"), str(folder)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=50)


def write(folder: Path, loop: str = "", thread: str = "") -> None:
    (folder / "loop").write_text(loop)
    (folder / "thread").write_text(thread)


def test_a_test_that_passes_alone_is_named(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import os\n\ndef test_driver():\n    assert os.environ['EMCACHE_DRIVER'] == 'thread'\n"
    )
    write(tmp_path, thread="test_it.py::test_driver\n")
    result = attempt(tmp_path, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED THE SECOND TIME (thread): test_it.py::test_driver\n" in result.stdout


def test_a_test_that_fails_again_is_a_failure(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert False\n")
    write(tmp_path, loop="test_it.py::test_it\n")
    result = attempt(tmp_path, tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith("failed twice with the loop driver\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("crash test_it.py::test_it\n", "a process crashed in test_it.py::test_it: "),
        ("".join(f"test_it.py::test_{n}\n" for n in range(9)), "9 tests failed with the loop "),
        ("", "no test failed, but a suite did"),
    ],
)
def test_what_gets_no_second_attempt(tmp_path, lines, message):
    write(tmp_path, loop=lines)
    result = attempt(tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(message)


def test_a_suite_that_did_not_end(tmp_path):
    (tmp_path / "loop").write_text("test_it.py::test_it\n")
    result = attempt(tmp_path)
    assert result.returncode == 1
    assert result.stderr == "the thread suite did not end\n"


def test_what_a_suite_writes_down(tmp_path, monkeypatch):
    reports = {
        "failed": [
            SimpleNamespace(nodeid="a.py::b[1]", longrepr="x = 'crashed while running'"),
            SimpleNamespace(nodeid="a.py::c", longrepr="worker 'gw0' crashed while running 'c'"),
        ],
        "error": [SimpleNamespace(nodeid="a.py::d", longrepr="fixture")],
    }
    monkeypatch.setenv("EMCACHE_TEST_FAILED", str(tmp_path / "failed"))
    monkeypatch.setenv("EMCACHE_DRIVER", "thread")
    failures.pytest_terminal_summary(SimpleNamespace(getreports=reports.__getitem__))
    assert (tmp_path / "failed/thread").read_text() == "a.py::b[1]\na.py::d\ncrash a.py::c\n"
    assert [path.name for path in (tmp_path / "failed").iterdir()] == ["thread"]
