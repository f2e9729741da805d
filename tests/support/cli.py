"""The command line, in this process or as one of its own."""

import asyncio
import functools
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Coroutine
from fcntl import ioctl
from typing import Any

from click.testing import CliRunner, Result

from emcache.cli._app import app

COMMAND = [sys.executable, "-W", "error", "-m", "emcache"]
LINES = 40
"""The height of each terminal: what is said outside, in a variable, would win otherwise."""


def environment(**variables: str) -> dict[str, str]:
    """That of the tests, without what is meant for the command line."""
    outer = {name: value for name, value in os.environ.items() if name != "EMCACHE_SERVERS"}
    return outer | variables


def named(*servers: Any) -> list[str]:
    """Options for servers of the tests."""
    addresses = [server.address for server in servers]
    return [
        "-s",
        ",".join(getattr(a, "path", f"127.0.0.1:{getattr(a, 'port', 0)}") for a in addresses),
    ]


def invoke(*arguments: str, input: bytes | None = None, **variables: str) -> Result:  # noqa: A002
    """Run it in this process."""
    cleared = {"EMCACHE_SERVERS": None, "EMCACHE_PASSWORD": None}
    result = CliRunner().invoke(app, arguments, input=input, env=cleared | variables)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def invoke_beside(*arguments: str, **variables: str) -> Result:
    """Run it while this loop goes on."""
    return await asyncio.to_thread(invoke, *arguments, **variables)


def one_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own, and so once: the command line has its own loop anyway."""

    @functools.wraps(test)
    def run_it(*arguments: Any, **options: Any) -> None:
        asyncio.run(test(*arguments, **options))

    return run_it


def document(*arguments: str, code: int = 0, **variables: str) -> Any:
    """Run it with --json, and give the document."""
    result = invoke(*arguments, "--json", **variables)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def _default_signals() -> None:
    # Whoever runs the tests in the background may have it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start it as a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    return subprocess.Popen(
        [*COMMAND, *arguments], text=True, preexec_fn=_default_signals, **options
    )


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own."""
    process = start(*arguments, **options)
    try:
        out, err = process.communicate(timeout=40)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Terminal:
    """It on a terminal of its own, as wide as is said."""

    def __init__(self, *arguments: str, columns: int = 120, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        self.theirs = theirs
        self.before = termios.tcgetattr(theirs)
        size = {"LINES": str(LINES), "COLUMNS": str(columns)}
        variables = {"TERM": "xterm"} | size | variables
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**variables),
            start_new_session=True,
            preexec_fn=lambda: (_default_signals(), ioctl(0, termios.TIOCSCTTY, 0)),
        )
        self.raw = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self.theirs)

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    @property
    def text(self) -> str:
        """What was written since the last `forget`, without what moves and colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    def forget(self) -> None:
        self.raw = b""

    def until(self, condition: Callable[[str], object], seconds: float = 20.0) -> str:
        """Read until what was written is as it should be."""
        deadline = time.monotonic() + seconds
        while not condition(self.text):
            assert time.monotonic() < deadline, f"in vain: {self.text!r}"
            self._read()
        return self.text

    def _read(self) -> None:
        if select.select([self._ours], [], [], 0.05)[0]:
            self.raw += os.read(self._ours, 65536)

    def end(self, press: bytes = b"") -> int:
        """Wait for its end, and give the exit code.

        Keys are pressed again and again: a Ctrl-C just before Python reads a line is not heard.
        """
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.text!r}"
            if press:
                self.press(press)
            for _ in range(20 if press else 1):
                if self.process.poll() is None:
                    self._read()
        while select.select([self._ours], [], [], 0)[0]:
            self._read()
        return self.process.returncode
