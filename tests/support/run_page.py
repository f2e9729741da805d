"""Runs the examples of one page in order, as somebody would who reads it; a program of its own.

Reads the blocks as JSON. Python shares one namespace and one event loop, and may have `await` where
it stands, as in `python -m asyncio`. A block that begins with a file's name is that file; tests
among them are run by pytest at the end. Clients that are left open are closed.
"""

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import json
import linecache
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml|txt|ini))\n")


class Page:
    def __init__(self, name: str, runner: asyncio.Runner) -> None:
        self.name = name
        self.runner = runner
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.open: list[Any] = []
        self.tests: list[str] = []

    def run(self, block: dict[str, Any]) -> None:
        code = block["code"]
        if file := _FILE.match(code):
            self.write(file["name"], code)
        elif block["language"] in ("sh", "console"):
            commands = code if block["language"] == "sh" else _commands(code)
            shell(commands)
        elif block["language"] == "pycon":
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            test = doctest.DocTestParser().get_doctest(code, self.names, self.name, None, 0)
            assert not runner.run(test, clear_globs=False).failed
        else:
            self.python(block["line"], code)

    def python(self, line: int, code: str) -> None:
        name = f"{self.name}:{line}"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        compiled = compile(code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if compiled.co_flags & inspect.CO_COROUTINE:
            self.runner.run(eval(compiled, self.names))
        else:
            exec(compiled, self.names)
        # The next block may have one of the same name.
        self.open += [value for value in self.names.values() if _is_open(value)]

    def write(self, name: str, code: str) -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        if path.name.startswith("test_"):
            self.tests.append(name)

    def close(self) -> None:
        for value in self.open:
            closing = value.close()
            if inspect.isawaitable(closing):
                self.runner.run(closing)


def _is_open(value: object) -> bool:
    return hasattr(value, "close") and not inspect.ismodule(value) and not inspect.isclass(value)


def shell(commands: str) -> None:
    done = subprocess.run(["sh", "-eu", "-c", commands], capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, f"{commands}\n{done.stderr}"


def _commands(code: str) -> str:
    return "\n".join(line[2:] for line in code.splitlines() if line.startswith(("$ ", "> ")))


def _check(block: dict[str, Any], printed: str) -> None:
    expected = block["output"]
    if expected is None:
        return
    # As in doctest, `...` stands for anything.
    pattern = r".*".join(re.escape(part) for part in expected.strip().split("..."))
    assert re.fullmatch(pattern, printed.strip(), re.DOTALL), (
        f"line {block['line']} prints\n{printed}\nand not\n{expected}"
    )


def main() -> None:
    name, path = sys.argv[1:]
    sys.path.insert(0, "")
    with asyncio.Runner() as runner:
        page = Page(name, runner)
        for block in json.loads(Path(path).read_text()):
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    page.run(block)
            finally:
                sys.stdout.write(printed.getvalue())
            _check(block, printed.getvalue())
        page.close()
    if page.tests:
        command = [sys.executable, "-m", "pytest", "-q", *page.tests]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
