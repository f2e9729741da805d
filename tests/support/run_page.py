"""Runs the examples of one page in order, as somebody would who reads it; a program of its own.

Reads the blocks as JSON. Python shares one namespace and one event loop, and may have `await` where
it stands, as in `python -m asyncio`. A block that begins with a file's name is that file. Tests are
run by pytest at the end; a `conftest.py` is for the first of them. What is left open is closed.
"""

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import json
import linecache
import logging
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

_FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml|txt|ini))\n")


class Page:
    def __init__(self, name: str, runner: asyncio.Runner) -> None:
        self.name = name
        self.runner = runner
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.open: list[Any] = []
        self.tests: list[Path] = []

    def run(self, language: str, line: int, code: str) -> None:
        if language == "sh":
            self.shell(code)
        elif language == "console":
            self.terminal(code)
        elif language == "pycon":
            self.session(code)
        elif file := _FILE.match(code):
            self.write(Path(file["name"]), line, code)
        elif _has_tests(code):
            self.write(Path(f"test_line_{line}.py"), line, code)
        else:
            self.python(line, code)

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

    def shell(self, commands: str, *fine: int) -> None:
        for name, value in re.findall(r"^export (\w+)=(.*)$", commands, re.MULTILINE):
            os.environ[name] = value
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            if re.fullmatch(r"emcache [^|<>&$]*\n", commands):
                code = _emcache(shlex.split(commands)[1:], out, err)
            else:
                code = subprocess.run(
                    ["sh", "-eu", "-c", commands], stdout=out, stderr=err
                ).returncode
            out.seek(0)
            err.seek(0)
            sys.stdout.write(out.read())
            said = err.read()
        assert code in (0, *fine), f"{commands}\n{said}"
        assert "Traceback" not in said, f"{commands}\n{said}"

    def terminal(self, code: str) -> None:
        """Commands after a prompt; what follows them is what they print somewhere else."""
        for command in re.findall(r"^\$ (.*(?:\n> .*)*)", code, re.MULTILINE):
            # 1 is an answer: a miss, nothing to be found.
            self.shell(command.replace("\n> ", "\n") + "\n", 1)

    def session(self, code: str) -> None:
        session = doctest.DocTestParser().get_doctest(code, self.names, self.name, None, 0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        assert not runner.run(session, clear_globs=False).failed

    def write(self, path: Path, line: int, code: str) -> None:
        if path.name == "conftest.py" and self.tests:
            folder = Path(f"under_line_{line}")
            folder.mkdir()
            first = self.tests[0]
            self.tests.append(folder / f"test_with_{first.name}")
            self.tests[-1].write_text(first.read_text())
            path = folder / path
        elif _has_tests(code):
            self.tests.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)

    def close(self) -> None:
        for value in self.open:
            closing = value.close()
            if inspect.isawaitable(closing):
                self.runner.run(closing)

    def test(self) -> None:
        # Packages that are installed tell pytest of it themselves.
        options = ["-q", "-p", "emcache.testing.plugin", "-p", "no:cacheprovider"]
        settings = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function"]
        options += [word for setting in settings for word in ("-o", setting)]
        command = [sys.executable, "-m", "pytest", *options, *map(str, self.tests)]
        subprocess.run(command, check=True)


def _emcache(arguments: list[str], out: IO[str], err: IO[str]) -> int:
    """The command line in a process of its own, without the imports that each would do."""
    from emcache.cli import _app, main  # noqa: F401

    def run() -> None:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.exit(main(arguments))

    sys.__stdout__.flush()
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    return child.exitcode


def _is_open(value: object) -> bool:
    return hasattr(value, "close") and not inspect.ismodule(value) and not inspect.isclass(value)


def _has_tests(code: str) -> bool:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    body = ast.parse(code).body
    return any(isinstance(node, functions) and node.name.startswith("test_") for node in body)


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
    # Servers of a page come and go under clients that are open still.
    logging.getLogger("emcache").addHandler(logging.NullHandler())
    with asyncio.Runner() as runner:
        page = Page(name, runner)
        for block in json.loads(Path(path).read_text()):
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    page.run(block["language"], block["line"], block["code"])
            finally:
                sys.stdout.write(printed.getvalue())
            _check(block, printed.getvalue())
        page.close()
    if page.tests:
        page.test()


if __name__ == "__main__":
    main()
