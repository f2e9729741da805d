"""The examples of docs/observability.md run as they stand, but for the port."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SAYS = [
    "get {'hit': 1, 'miss': 1}",
    "__main__.square 1 hits, 1 computed",
    'result="miss"} 1.0',
    '"db.operation.batch.size": 2',
    "cache.get * False\ncache.put * None\n",
    "",
    '"node": "127.0.0.1:1", "reason": "Connection refused (os error 111)"}',
    '"level": "warning", "logger": "emcache", "node": "127.0.0.1:1", "reason": "Connection refused',
]


@pytest.mark.driver_independent
@pytest.mark.parametrize(("example", "says"), list(zip(EXAMPLES, SAYS, strict=True)))
def test_example(server, tmp_path, example, says):
    script = tmp_path / "example.py"
    script.write_text(example.replace("11211", str(server.port)))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"delete user:42\r\n")
        assert sock.recv(64)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.driver_independent
@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("prometheus", "prometheus_client", "prometheus"),
        ("opentelemetry", "opentelemetry", "otel"),
        ("fastapi", "starlette", "fastapi"),
        ("sentry", "sentry_sdk", "sentry"),
    ],
)
def test_a_library_that_is_missing_is_named(module, library, extra):
    program = f"import sys; sys.modules[{library!r}] = None; import emcache.contrib.{module}"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert f"pip install 'emcache[{extra}]'" in done.stderr.splitlines()[-1]
