"""What an exception means to a script: an exit code, and one line on stderr."""

import click

from .._errors import (
    CommandError,
    EmcacheError,
    InvalidKeyError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
)
from ._output import printable
from ._streams import OutputError, code_of_lost

OK = 0
NEGATIVE = 1
USAGE = 2
NODE = 3
SERVER = 4
INTERRUPTED = 130


_OPTIONS = {
    "ssl_extra_ca": "--ca",
    "ssl_certfile": "--cert",
    "ssl_keyfile": "--key",
    "ssl_server_hostname": "--server-name",
    "ssl_verify=False": "--no-verify",
    "ssl=True": "--tls",
}


WANTS_LOGIN = "give --username, and the password in EMCACHE_PASSWORD or --password-file"


class ServerLacksError(CommandError):
    """The server does not have, or does not allow, what a command needs."""


def code_of(error: BaseException) -> int | None:
    """Give the exit code of an exception; None: it is a fault of this program."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort() if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            return INTERRUPTED
        case NotFoundCommandError() | NotStoredStorageCommandError() | click.Abort():
            return NEGATIVE
        case CommandError():
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


def text_of(error: BaseException) -> str:
    """Say what happened in one line."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and not isinstance(error, EmcacheError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, NotFoundCommandError):
        return "the key does not exist"
    if isinstance(error, NotStoredStorageCommandError):
        return "not stored: the key exists (--add), or does not (--replace)"
    text = _with_options(printable(str(error))) or type(error).__name__
    if isinstance(error, CommandError) and error._reason == "unauthenticated":
        text += f": {WANTS_LOGIN}"
    return text


def _with_options(text: str) -> str:
    """Name options of the command line in place of arguments of the client."""
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text


def exit_code_of(error: BaseException) -> int:
    """Say what happened on stderr, and give the exit code."""
    if isinstance(error, OutputError):
        return code_of_lost(error)
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
