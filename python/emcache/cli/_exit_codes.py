"""Exit codes of exceptions, and their one line on stderr."""

import click

from .._errors import (
    CommandError,
    EmcacheError,
    InvalidKeyError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    UnsupportedError,
)
from ._output import printable
from ._streams import OutputError, code_of_output_error

OK = 0
NEGATIVE = 1
USAGE = 2
NODE = 3
SERVER = 4
INTERRUPTED = 130

WANTS_LOGIN = "use --username, with the password in EMCACHE_PASSWORD or --password-file"


class ServerLacksError(CommandError):
    """The server does not support, or does not allow, a command."""


def code_of(error: BaseException) -> int | None:
    """Return the exit code of an exception; None for a bug of this program."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort() if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return INTERRUPTED
        case NotFoundCommandError() | NotStoredStorageCommandError() | click.Abort():
            return NEGATIVE
        case CommandError() | UnsupportedError():
            return SERVER
        case InvalidKeyError() | click.ClickException():
            return USAGE
        case EmcacheError() | ConnectionError() | TimeoutError():
            return NODE
        case OSError() | ValueError():
            return USAGE
        case KeyboardInterrupt():
            return INTERRUPTED
    return None


def text_of(error: BaseException, *, with_advice: bool = True) -> str:
    """Return what happened in one line."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and not isinstance(error, EmcacheError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, NotFoundCommandError):
        return "the key does not exist"
    if isinstance(error, NotStoredStorageCommandError):
        return "not stored: the key exists (--add), or does not (--replace)"
    text = printable(getattr(error, "_cli_text", None) or str(error)) or type(error).__name__
    if with_advice and isinstance(error, CommandError) and error._reason == "unauthenticated":
        text += f": {WANTS_LOGIN}"
    return text


def short_text_of(error: EmcacheError) -> str:
    """Return what happened, for a line that begins with the node and "down"."""
    return text_of(error) if error._down_because is None else printable(error._down_because)


def exit_code_of(error: BaseException) -> int:
    """Print what happened to stderr, and return the exit code."""
    if isinstance(error, OutputError):
        return code_of_output_error(error)
    code = code_of(error)
    if code is None:
        raise error
    match error:
        case click.exceptions.Exit():
            pass
        case KeyboardInterrupt() | click.Abort():
            click.echo("interrupted" if code == INTERRUPTED else "not done", err=True)
        case click.UsageError():
            error.show()
        case _:
            click.echo(f"emcache: {text_of(error)}", err=True)
    return code
