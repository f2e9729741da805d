"""What is printed: text for people, raw bytes for pipes, JSON for programs."""

import base64
import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


def printable(text: str) -> str:
    """Escape what could act on a terminal: keys and values come from anybody."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def bytes_text(data: bytes) -> str:
    """Show bytes to people; those that are no text as hex escapes."""
    return printable(data.decode("utf-8", "backslashreplace"))


def bytes_fields(name: str, data: bytes | None) -> dict[str, str | None]:
    """Give bytes as JSON has them: the text, and whether it is ``utf-8`` or ``base64``."""
    if data is None:
        return {name: None, f"{name}_encoding": None}
    try:
        return {name: data.decode(), f"{name}_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {name: base64.b64encode(data).decode(), f"{name}_encoding": "base64"}


def json_text(document: Any, indent: int | None = None) -> str:
    """Write JSON, in ASCII where the output knows no more."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(document, ensure_ascii=not is_utf8, indent=indent)


class Output:
    """Where a command prints.

    Args:
        as_json: print one JSON document and nothing else.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False)
        self._is_told = False

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it."""
        return sys.stdout.isatty()

    def document(self, document: Any) -> None:
        """Print the JSON document."""
        self._is_told = True
        click.echo(json_text(document, indent=2 if self.is_terminal else None))

    def line(self, text: str, style: str = "") -> None:
        """Print one line."""
        self.console.print(Text(text, style), soft_wrap=True)

    def table(self, table: Table) -> None:
        """Print a table, as wide as the terminal at most."""
        self.console.print(table)

    def raw(self, data: bytes) -> None:
        """Print bytes as they are."""
        stream = sys.stdout.buffer
        stream.write(data)
        stream.flush()

    def failure(self, error: Exception) -> None:
        """Give an error as the JSON document, if there was none yet."""
        from ._exits import code_of, text_of

        if self.as_json and not self._is_told and (code := code_of(error)) is not None:
            node = getattr(error, "node", None)
            what = {"type": type(error).__name__, "message": text_of(error), "node": node}
            self.document({"error": {**what, "exit_code": code}})


def plain_table(*headers: str) -> Table:
    """Make a table without frames; headers that begin with ``>`` are of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for header in headers:
        is_number = header.startswith(">")
        table.add_column(
            header.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    return table
