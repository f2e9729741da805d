"""What failed in a suite, for tools/second-attempt."""

import os
from pathlib import Path


def pytest_terminal_summary(terminalreporter):
    """Write down the tests that failed, if tools/second-attempt asks for that."""
    if folder := os.environ.get("EMCACHE_TEST_FAILED"):
        reports = [
            report
            for outcome in ("failed", "error")
            for report in terminalreporter.getreports(outcome)
        ]
        path = Path(folder) / os.environ.get("EMCACHE_DRIVER", "loop")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(sorted({f"{line(report)}\n" for report in reports})))


def line(report):
    """Return the name of a test, marked if its process has crashed, as pytest-xdist says it."""
    is_crash = str(report.longrepr).startswith("worker '")
    return f"crash {report.nodeid}" if is_crash else report.nodeid
