"""Standard streams that are closed, full, or read by nobody."""

import os
import subprocess

import pytest

from support.cli import COMMAND, environment, named
from support.memcached import free_port

COMMANDS = {
    "ping": (["ping"], 0),
    "ping as JSON": (["ping", "--json"], 0),
    "stats": (["stats"], 0),
    "keys": (["keys"], 0),
    "keys as JSON": (["keys", "--json"], 0),
    "get": (["get", "streams:k"], 0),
    "a miss": (["get", "streams:missing"], 1),
    "incr": (["incr", "streams:n"], 0),
    "doctor": (["doctor"], 0),
    "top": (["top", "--once", "--interval", "0.1"], 0),
    "bench": (["bench", "--seconds", "0.1"], 0),
    "help": (["--help"], 0),
    "the version alone": (["--version"], 0),
    "an unknown command": (["nope"], 2),
    "a dead node": (["ping"], 3),
}
# The client is the same whatever drives it.
pytestmark = pytest.mark.driver_independent

# What prints nothing to stdout does not notice what is wrong with it.
SILENT = {"a miss", "an unknown command"}


@pytest.fixture(params=COMMANDS)
def command(request, server):
    server.command(b"set streams:k 0 0 1\r\nx\r\n")
    server.command(b"set streams:n 0 0 1\r\n1\r\n")
    arguments, code = COMMANDS[request.param]
    where = ["-s", f"127.0.0.1:{free_port()}"] if request.param == "a dead node" else named(server)
    takes_servers = not arguments[0].startswith("-")
    return request.param, [*COMMAND, *arguments, *(where if takes_servers else [])], code


def run(command, redirections):
    """Run it in a shell, which closes and redirects."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *command],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=40,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed(command, closed):
    name, arguments, code = command
    done = run(arguments, closed)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if ">&-" in closed.replace("2>&-", "") and name not in SILENT:
        assert done.stdout == ""


def test_a_full_disk(command):
    name, arguments, code = command
    done = run(arguments, ">/dev/full")
    if name in SILENT:
        assert done.returncode == code
        return
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "emcache: writing the output failed: No space left on device"
    )
    assert "Traceback" not in done.stderr


def test_messages_that_cannot_be_written(command):
    _, arguments, code = command
    done = run(arguments, "2>/dev/full")
    assert (done.returncode, done.stderr) == (code, "")


def test_nobody_reads(command):
    name, arguments, code = command
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            arguments,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=40,
            check=False,
        )
    finally:
        os.close(writer)
    if name in SILENT:
        assert done.returncode == code
    else:
        assert (done.returncode, done.stderr) == (141, "")


def test_a_value_from_a_closed_stdin_is_not_taken_for_an_empty_one(server):
    server.command(b"set streams:k 0 0 1\r\nx\r\n")
    done = run([*COMMAND, "set", "streams:k", "-", *named(server)], "<&-")
    assert done.returncode == 2
    assert "stdin cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert b"\r\nx\r\n" in server.command(b"get streams:k\r\n")
