"""The command line: ``emcache`` and ``python -m emcache``.

It needs click and rich (``pip install 'emcache[cli]'``), which only this package imports.

Exit codes: 0 it worked; 1 a miss, or another no; 2 it was asked wrongly; 3 a node could not be
reached or did not answer; 4 a server answered with an error, or refused the login.
"""

import sys

from ..version import __version__
from . import _streams


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code.

    ``arguments`` are those of the process if None, whose standard streams it then takes over.
    """
    try:
        if arguments is not None:
            return _main(arguments)
        _streams.take_over()
        return _streams.finish(_main(sys.argv[1:]))
    except KeyboardInterrupt:
        # While it was starting, or already ending.
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
