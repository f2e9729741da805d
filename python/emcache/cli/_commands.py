"""Base classes of commands: shared connection options, and exit codes."""

import asyncio
import contextlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec

import click
from click.core import ParameterSource

from ._exit_codes import code_of, exit_code_of, text_of
from ._output import Output
from ._settings import DEFAULT_SERVER, Settings
from ._streams import OutputError

P = ParamSpec("P")
_ENVIRONMENT = """Environment variables work as well: EMCACHE_SERVERS, EMCACHE_CA and so on. The
password is in EMCACHE_PASSWORD or a file, never an argument."""
_NEGATIVE_NUMBER = re.compile("-[0-9]+")
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


SECTIONS = {
    "Servers": ("ping", "doctor", "top", "stats", "hot", "watch", "version", "flush", "bench"),
    "Items": ("get", "set", "delete", "touch", "ttl", "incr", "decr", "keys", "node-for"),
}
"""The commands in the help."""


class Options(dict[str, Any]):
    """The connection options, collected before and after the command."""

    def take(self, ctx: click.Context, name: str, value: Any) -> None:
        """Store an option; the command line takes precedence over the environment."""
        source = ctx.get_parameter_source(name)
        if source is ParameterSource.COMMANDLINE:
            typed = self.setdefault("typed", set())
            if name == "servers" and name in typed:
                value = (*self[name], *value)
            typed.add(name)
            self[name] = value
        elif source is ParameterSource.ENVIRONMENT:
            self.setdefault(name, value)

    def settings(self) -> Settings:
        """Return the options with their defaults."""
        return Settings(**{name: value for name, value in self.items() if name != "typed"})


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if parameter.name is not None:
        ctx.ensure_object(Options).take(ctx, parameter.name, value)


class Shared(click.Option):
    """An option for all commands, which the group and each command have.

    Args:
        declarations: as for click.
        variable: the environment variable.
        is_folded: whether only ``--help-connection`` shows it.
        options: as for click.
    """

    def __init__(
        self,
        *declarations: str,
        variable: str | None = None,
        is_folded: bool = True,
        **options: Any,
    ) -> None:
        self.is_folded = is_folded
        super().__init__(
            declarations,
            callback=_remember,
            expose_value=False,
            envvar=variable,
            **options,
        )


def shared_options() -> list[click.Option]:
    """Return the options that all commands share."""
    file = click.Path(exists=True, dir_okay=False)
    return [
        Shared(
            *("--servers", "-s"),
            multiple=True,
            metavar="ADDRESS[,...]",
            variable="EMCACHE_SERVERS",
            is_folded=False,
            help="host:port, [ipv6]:port or unix:/path; may be repeated. "
            f"[default: {DEFAULT_SERVER}]",
        ),
        Shared(
            "--discovery",
            metavar="HOST:PORT",
            variable="EMCACHE_DISCOVERY",
            help="Ask this configuration endpoint (AWS, GCP) for the nodes.",
        ),
        Shared(
            "--routing",
            metavar="RULE",
            variable="EMCACHE_ROUTING",
            help="The rule that decides which node gets which key. [default: emcache]",
        ),
        Shared(
            "--weights",
            metavar="ADDRESS=N[,...]",
            variable="EMCACHE_WEIGHTS",
            help="Weights of nodes, for rules that have weights.",
        ),
        Shared(
            "--failover",
            metavar="next|gutter:ADDRESS[,...]",
            variable="EMCACHE_FAILOVER",
            help="Where keys go whose node is down: as in your program. [default: nowhere]",
        ),
        Shared("--tls/--no-tls", default=None, variable="EMCACHE_TLS", help="Connect with TLS."),
        Shared("--ca", type=file, variable="EMCACHE_CA", help="Trust these CAs, too."),
        Shared("--cert", type=file, variable="EMCACHE_CERT", help="The client's certificate."),
        Shared(
            "--key",
            "tls_key",
            type=file,
            variable="EMCACHE_KEY",
            help="Its key, if not in --cert.",
        ),
        Shared("--no-verify", is_flag=True, help="Accept any certificate. For diagnosis only."),
        Shared(
            "--server-name",
            metavar="NAME",
            variable="EMCACHE_SERVER_NAME",
            help="The name that certificates must match.",
        ),
        Shared("--username", metavar="NAME", variable="EMCACHE_USERNAME", help="Log in."),
        Shared(
            "--password-file",
            type=file,
            variable="EMCACHE_PASSWORD_FILE",
            help="A file with the password.",
        ),
        Shared(
            "--auth",
            type=click.Choice(["ascii", "sasl"]),
            variable="EMCACHE_AUTH",
            help="Kind of login: memcached -Y, or -S. [default: ascii]",
        ),
        Shared(
            "--timeout",
            type=click.FloatRange(0, 3600, min_open=True),
            metavar="SECONDS",
            variable="EMCACHE_TIMEOUT",
            help="For each answer, with its connection. [default: 2]",
        ),
        Shared("--json", is_flag=True, is_folded=False, help="Print one JSON document."),
        click.Option(
            ["--help-connection"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_connection_options,
            help="Show the options for discovery, routing, TLS, login and timeouts.",
        ),
    ]


def _print_connection_options(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    formatter = ctx.make_formatter()
    with formatter.section("Connection options, before or after the command"):
        formatter.write_dl(_records(ctx, lambda parameter: isinstance(parameter, Shared)))
    formatter.write_paragraph()
    formatter.write_text(_ENVIRONMENT)
    click.echo(formatter.getvalue().rstrip("\n"))
    ctx.exit()


def _records(
    ctx: click.Context, wanted: Callable[[click.Parameter], bool]
) -> list[tuple[str, str]]:
    records = [
        parameter.get_help_record(ctx)
        for parameter in ctx.command.get_params(ctx)
        if not isinstance(parameter, click.Argument) and wanted(parameter)
    ]
    return [record for record in records if record is not None]


def _write_options(ctx: click.Context, formatter: click.HelpFormatter) -> None:
    with formatter.section("Options"):
        formatter.write_dl(
            _records(ctx, lambda parameter: not getattr(parameter, "is_folded", False))
        )


class Command(click.Command):
    """A command with the shared options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += shared_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``-1`` as an argument, because no option is a digit."""
        ctx.ignore_unknown_options = any(_NEGATIVE_NUMBER.fullmatch(arg) for arg in args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first."""
        _write_options(ctx, formatter)


class Group(click.Group):
    """All commands; their exceptions become one line and an exit code."""

    command_class = Command

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += shared_options()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, by topic, before the options."""
        for title, names in SECTIONS.items():
            with formatter.section(title):
                commands = [self.commands[name] for name in names]
                formatter.write_dl(
                    [(each.name or "", each.get_short_help_str(60)) for each in commands]
                )
        _write_options(ctx, formatter)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command, and exit with its code."""
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except BaseException as error:
            code = exit_code_of(error)
        raise SystemExit(code or 0)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt code that blocks the loop, which asyncio does not do."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


Body = Callable[Concatenate[Settings, Output, P], Coroutine[Any, Any, int | None]]


def runs(body: Body[P]) -> Callable[P, int]:
    """Convert a coroutine function that takes settings and output to a command.

    The function returns the exit code, or None for 0.
    """

    def command(*args: P.args, **options: P.kwargs) -> int:
        settings = click.get_current_context().ensure_object(Options).settings()
        output = Output(settings.json)
        try:
            code = asyncio.run(body(settings, output, *args, **options)) or 0
            sys.stdout.flush()
        except Exception as error:
            if not isinstance(error, OutputError):
                _print_json_error(output, error)
            raise
        return code

    command.__name__ = body.__name__
    command.__doc__ = body.__doc__
    return command


def _print_json_error(output: Output, error: Exception) -> None:
    """Print an error as the JSON document, unless a document was printed."""
    if output.as_json and not output.has_document and (code := code_of(error)) is not None:
        node = getattr(error, "node", None)
        what = {"type": type(error).__name__, "message": text_of(error), "node": node}
        output.document({"error": {**what, "exit_code": code}})
