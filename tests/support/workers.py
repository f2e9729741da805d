"""Several processes that share servers: programs that run side by side and may be killed."""

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator

from .isolated import PRELUDE


class Worker:
    """One process; it prints lines and reads lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """Return the next line that the process prints; fail if it ended instead."""
        line = await self._process.stdout.readline()
        if not line:
            raise AssertionError((await self._process.stderr.read()).decode())
        return line.decode().rstrip("\n")

    async def rest(self) -> list[str]:
        """Wait for the end of the process; return the lines that were not read."""
        out, err = await self._process.communicate()
        assert self._process.returncode == 0, err.decode()
        return out.decode().splitlines()

    async def say(self, text: str = "") -> None:
        """Write a line to the process's standard input."""
        self._process.stdin.write(text.encode() + b"\n")
        await self._process.stdin.drain()

    async def kill(self) -> None:
        """End the process at once, by SIGKILL."""
        self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def workers(
    count: int, program: str, port: int, *arguments: str
) -> AsyncIterator[list[Worker]]:
    """Run `count` processes of one program; `PRELUDE` says what it finds, `sys.argv[3:]` the rest.

    `hear()` in the program waits for a line of `say()`.
    """
    hear = "\nasync def hear():\n    return (await asyncio.to_thread(sys.stdin.readline)).strip()\n"
    source = PRELUDE + hear + textwrap.dedent(program)
    command = [sys.executable, "-u", "-c", source, "asyncio", str(port), *arguments]
    pipe = subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(count)
    ]
    try:
        yield [Worker(process) for process in processes]
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()
