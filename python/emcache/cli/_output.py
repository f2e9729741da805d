"""Output: text for terminals, raw bytes for pipes, JSON for programs."""

import base64
import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


def printable(text: str) -> str:
    """Escape characters that could control a terminal; keys and values are not trusted."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def bytes_text(data: bytes) -> str:
    """Return bytes as text, with hex escapes for invalid UTF-8."""
    return printable(data.decode("utf-8", "backslashreplace"))


def bytes_fields(name: str, data: bytes | None) -> dict[str, str | None]:
    """Return the JSON of bytes: the text, and its encoding, ``utf-8`` or ``base64``."""
    if data is None:
        return {name: None, f"{name}_encoding": None}
    try:
        return {name: data.decode(), f"{name}_encoding": "utf-8"}
    except UnicodeDecodeError:
        return {name: base64.b64encode(data).decode(), f"{name}_encoding": "base64"}


def json_text(document: Any, indent: int | None = None) -> str:
    """Return JSON, in ASCII if the output is not UTF-8."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(document, ensure_ascii=not is_utf8, indent=indent)


class Output:
    """The output of a command.

    Args:
        as_json: print one JSON document and nothing else.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False)
        self.has_document = False
        """Whether the JSON document was printed."""

    @property
    def is_terminal(self) -> bool:
        """Whether stdout is a terminal."""
        return sys.stdout.isatty()

    def document(self, document: Any) -> None:
        """Print the JSON document."""
        self.has_document = True
        click.echo(json_text(document, indent=2 if self.is_terminal else None))

    def line(self, text: str, style: str = "") -> None:
        """Print one line."""
        self.console.print(Text(text, style), soft_wrap=True)

    def table(self, table: Table) -> None:
        """Print a table, at most as wide as the terminal."""
        self.console.print(table)

    def raw(self, data: bytes) -> None:
        """Print bytes unchanged."""
        stream = sys.stdout.buffer
        stream.write(data)
        stream.flush()


def plain_table(*headers: str) -> Table:
    """Return a table without borders; columns with ``>`` in their header are right-aligned."""
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
