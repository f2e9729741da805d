"""examples/fastapi_app.py over HTTP: in this process, and by uvicorn."""

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from support.memcached import free_port, memcached

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setenv("EMCACHE_TIMEOUT", "30")


@pytest_asyncio.fixture
async def app(monkeypatch):
    """The application in its lifespan, and its server."""
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fastapi_app", module)
    spec.loader.exec_module(module)
    with memcached() as server:
        monkeypatch.setenv("EMCACHE_SERVERS", f"127.0.0.1:{server.port}")
        async with module.app.router.lifespan_context(module.app):
            yield module.app, server
        assert module.app.state.memcached.closed


@pytest_asyncio.fixture
async def http(app):
    transport = httpx.ASGITransport(app[0])
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        yield http


async def test_requests_share_the_client(app, http):
    answers = [await http.get("/squares/7") for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"number": 7, "square": 49}] * 2
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "hit"]
    answers = await asyncio.gather(*(http.get("/squares/7") for _ in range(50)))
    assert {answer.headers["x-cache"] for answer in answers} == {"hit"}
    # That of the start, that of the question, and the client's.
    assert int(app[1].stats()["total_connections"]) <= 5


async def test_readiness_and_a_cache_that_is_down(app, http):
    answer = await http.get("/ready")
    assert answer.status_code == 200
    assert next(iter(answer.json().values())).startswith("1.")
    app[1].kill()
    answer = await http.get("/ready")
    assert answer.status_code == 503
    assert f"127.0.0.1:{app[1].port}" in answer.text
    answer = await http.get("/squares/8")
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "miss")


def test_the_example_runs():
    command = [sys.executable, "-W", "error", str(EXAMPLES / "fastapi_app.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["/squares/12", "200", "miss"],
        ["/squares/12", "200", "hit"],
        ["/ready", "200", "-"],
    ]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_uvicorn(server, loop):
    port = free_port()
    command = [sys.executable, "-X", "dev", "-m", "uvicorn", "--app-dir", str(EXAMPLES)]
    command += ["--port", str(port), "--loop", loop, "--no-access-log", "fastapi_app:app"]
    environment = os.environ | {"EMCACHE_SERVERS": f"127.0.0.1:{server.port}"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            transport = httpx.HTTPTransport(retries=0)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport) as http:
                wait_for(http)
                number = time.time_ns() % 1_000_000_007
                seen = [http.get(f"/squares/{number}").headers["x-cache"] for _ in range(3)]
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=20)
    assert seen == ["miss", "hit", "hit"]
    assert "Application shutdown complete" in said
    assert "unclosed" not in said


def wait_for(http):
    deadline = time.monotonic() + 20
    while True:
        try:
            assert http.get("/ready").status_code == 200
        except httpx.TransportError:
            assert time.monotonic() < deadline, "uvicorn did not start"
            time.sleep(0.02)
        else:
            return
