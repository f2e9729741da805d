"""The command line: ``emcache`` and ``python -m emcache``.

It needs click and rich (``pip install 'emcache[cli]'``); only this package imports them.

Exit codes: 0 success; 1 a miss or another negative reply; 2 a usage error; 3 a node was unreachable
or did not answer; 4 a server answered with an error, or refused the login.
"""

import sys

from ..version import __version__
from . import _streams


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    With None the arguments are those of the process, and its standard streams are replaced.
    """
    try:
        if arguments is not None:
            return _main(arguments)
        _streams.take_over()
        return _streams.finish(_main(sys.argv[1:]))
    except KeyboardInterrupt:
        # During the start, or at the end.
        return 130


def _main(given: list[str]) -> int:
    if given in (["--version"], ["-V"]):
        sys.stdout.write(f"emcache {__version__}\n")
        return 0
    try:
        import click as _click  # noqa: F401
        import rich as _rich  # noqa: F401
    except ImportError as error:
        sys.stderr.write(
            f"emcache: the command line needs the module {error.name}: pip install 'emcache[cli]'\n"
        )
        return 2
    from ._app import run

    return run(given)


__all__ = ["main"]
