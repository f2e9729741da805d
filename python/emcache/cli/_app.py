"""The command group, with all commands by name."""

import logging
from typing import Any

import click

from ..version import __version__
from . import _bench, _doctor, _hot, _items, _keys, _node_for, _nodes, _stats, _top, _watch
from ._commands import CONTEXT, Group

EPILOG = """Exit codes: 0 success; 1 a miss or another negative reply; 2 a usage error; 3 a node was
unreachable or did not answer; 4 a server answered with an error, or refused the login."""


@click.group(cls=Group, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(
    __version__, "--version", "-V", prog_name="emcache", message="%(prog)s %(version)s"
)
def app() -> None:
    """Inspect memcached servers; read and write items.

    Connection options may be given before or after the command.
    """


for module in (_nodes, _node_for, _stats, _items, _keys, _top, _hot, _watch, _bench, _doctor):
    for command in module.COMMANDS:
        app.add_command(command)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    # Each command reports its own errors.
    logging.getLogger("emcache").addHandler(logging.NullHandler())
    try:
        app.main(arguments, prog_name="emcache")
    except SystemExit as end:
        code: Any = end.code
        return int(code or 0)
    return 0
