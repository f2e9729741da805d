"""doctor: finds problems of the nodes, and suggests solutions."""

import asyncio
import dataclasses
import os
import time

import click
from rich.table import Table
from rich.text import Text

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._errors import AuthenticationError, EmcacheError
from ..connection_pool import ConnectionPool
from ..discovery._config_endpoint import ConfigDiscovery, NoDiscoveryError
from ..discovery._dns import resolve
from ._commands import Command, runs
from ._differences import NodeReport, check_differences
from ._doctor_queries import ask
from ._exit_codes import NEGATIVE, WANTS_LOGIN, text_of
from ._finding import Finding, fail, ok, warn
from ._output import Output, printable
from ._server_checks import MORE_CONNECTIONS, check_all, check_load
from ._settings import Settings, node_name
from ._tls_check import check_tls
from ._versions import parse, version_findings

WARNED = 5
"""The exit code of ``--strict`` if there are warnings, but no failures."""
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor", cls=Command)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600),
    default=1.0,
    show_default=True,
    help="How long to measure latency, hit ratio, evictions and CPU.",
)
@click.option("--problems", is_flag=True, help="Print only warnings and failures.")
@click.option("--strict", is_flag=True, help=f"Exit with {WARNED} if there are warnings only.")
@runs
async def doctor(
    settings: Settings, output: Output, seconds: float, problems: bool, strict: bool
) -> int:
    """Find problems, and suggest what to do.

    Checks names, connections, TLS, login, limits, latency, hit ratio, memory, CPU, clock, version
    and options of every node. Each line is ok, warn or fail. The exit code is 1 if one failed.
    """
    addresses = settings.addresses()
    # A client refuses invalid options and files before anything is sent.
    async with await settings.client_of(addresses, min_connections=0):
        pass
    findings = []
    if settings.discovery is not None:
        about, addresses = await _discovered(settings, addresses)
        findings.append(about)
    reports = await asyncio.gather(*(_node(settings, node, seconds) for node in addresses))
    for report in reports:
        findings += [dataclasses.replace(each, node=report.name) for each in report.findings]
    findings += check_differences(list(reports))
    counts = _count(findings)
    shown = [finding for finding in findings if finding.state != "ok" or not problems]
    if output.as_json:
        output.document({"findings": [each.fields() for each in shown], "counts": counts})
    elif output.is_terminal:
        _for_people(output, shown, counts)
    else:
        _for_pipes(shown)
    if counts["fail"]:
        return NEGATIVE
    return WARNED if strict and counts["warn"] else 0


async def _discovered(
    settings: Settings, endpoints: list[Address]
) -> tuple[Finding, list[Address]]:
    """Ask the configuration endpoint for its nodes; without a list it is the only node."""

    def pool(address: Address) -> ConnectionPool:
        return ConnectionPool(
            address,
            max_connections=1,
            min_connections=0,
            connection_timeout=settings.timeout * 0.9,
            timeout=settings.timeout,
            **settings.security(),
        )

    try:
        topology = await ConfigDiscovery(endpoints, pool, settings.timeout).discover()
    except NoDiscoveryError:
        text = "the endpoint has no list of nodes; it is checked as a node"
        return warn("discovery", text, "use --servers with its address"), endpoints
    except (EmcacheError, OSError, ValueError) as error:
        text = printable(str(error)) or type(error).__name__
        return fail("discovery", text, "see the checks of the endpoint below"), endpoints
    nodes = [node.address for node in topology.nodes]
    names = ", ".join(map(node_name, nodes))
    return ok("discovery", f"version {topology.version}, {len(nodes)} nodes: {names}"), nodes


async def _node(settings: Settings, address: Address, seconds: float) -> NodeReport:
    """Run the checks of one node, up to one that makes the others useless."""
    report = NodeReport(node_name(address), await _reachable(settings, address))
    if settings.uses_tls and not report.has_failed:
        report.findings += await check_tls(settings, address)
    if not report.has_failed:
        await _query(settings, address, seconds, report)
    return report


async def _reachable(settings: Settings, address: Address) -> list[Finding]:
    match address:
        case MemcachedUnixSocketPath(path):
            return [await _connect(settings, node_name(address), path)]
        case MemcachedHostAddress(host, port):
            try:
                async with asyncio.timeout(settings.timeout):
                    ips = await resolve(host, port)
            except (OSError, UnicodeError) as error:
                text = f"{host}: {getattr(error, 'strerror', None) or 'no answer in time'}"
                return [fail("names", text, "is the name right? Does its DNS server answer?")]
            names = []
            if ips != [host]:
                names = [ok("names", f"{host} is {', '.join(ips)}")]
            tried = [await _connect(settings, f"{ip}", (ip, port)) for ip in ips]
            return names + _any_of(tried)


def _any_of(tried: list[Finding]) -> list[Finding]:
    """Downgrade failed addresses of a name to warnings if another address works."""
    if all(finding.state == "fail" for finding in tried):
        return tried
    return [
        warn("connects", finding.text, "clients try the name's other addresses; or fix its DNS")
        if finding.state == "fail"
        else finding
        for finding in tried
    ]


async def _connect(settings: Settings, name: str, where: str | tuple[str, int]) -> Finding:
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(settings.timeout):
            if isinstance(where, str):
                _, writer = await asyncio.open_unix_connection(where)
            else:
                _, writer = await asyncio.open_connection(*where)
    except TimeoutError:
        text = f"{name}: no answer within {settings.timeout:g} s"
        return fail("connects", text, "a firewall, or a route; is the address right?")
    except OSError as error:
        text = f"{name}: {_os_text(error)}"
        return fail("connects", text, "is it running, and listening there (-l, -p, -s)?")
    milliseconds = (time.perf_counter() - begin) * 1000
    writer.transport.abort()
    return ok("connects", f"{name} in {milliseconds:.1f} ms")


def _os_text(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


async def _query(settings: Settings, address: Address, seconds: float, report: NodeReport) -> None:
    """Check version, statistics and settings."""
    async with await settings.client_of([address]) as client:
        try:
            found = await ask(client, address, seconds)
        except AuthenticationError as error:
            advice = "username, password, --auth, the server's users?"
            report.findings.append(fail("login", text_of(error), advice))
            return
        except EmcacheError as error:
            report.findings.append(_no_answer(settings, error))
            return
    is_proxy, of_proxy = _proxy(found.version, found.stats, found.has_gat)
    if not is_proxy:
        report.version, report.settings = found.version, found.settings
    report.samples = found.samples
    report.findings += [
        *of_proxy,
        *(version_findings(found.version, found.settings) if found.stats or not is_proxy else []),
        *check_all(found.stats, found.settings, settings, found.asked_at),
        *check_load(found),
        *([] if is_proxy and not found.stats else _unchecked(found.stats, found.settings)),
    ]


def _proxy(version: str | None, stats: dict[str, str], has_gat: bool) -> tuple[bool, list[Finding]]:
    """Return whether the node is a proxy, and a finding with the commands that it lacks."""
    if any(name.startswith("proxy_") for name in stats):
        text = "memcached's own proxy: these checks are of the proxy, not of its servers"
        return True, [warn("proxy", text, "check its servers too: --servers with their addresses")]
    supported = {"gat": has_gat, "stats": bool(stats), "version": version is not None}
    missing = [name for name, is_supported in supported.items() if not is_supported]
    if not missing or (parse(version) is not None and has_gat):
        return False, []
    text = f"a proxy: it answers get, but not {', '.join(missing)}"
    advice = "emcache works with it, see docs/clusters.md; ask its servers for their stats"
    return True, [warn("proxy", text, advice)]


def _unchecked(stats: dict[str, str], server: dict[str, str]) -> list[Finding]:
    replies = {"stats": stats, "stats settings": server}
    missing = [name for name, reply in replies.items() if not reply]
    if not missing:
        return []
    text = f"the server does not answer {' and '.join(missing)}, so some checks were skipped"
    return [warn("limits", text, "is it a proxy or a hosted service? See its own console")]


def _no_answer(settings: Settings, error: EmcacheError) -> Finding:
    text = text_of(error, with_advice=False)
    match error._reason:
        case "unauthenticated":
            return fail("login", text, WANTS_LOGIN)
        case "tls":
            return fail("tls", text, "see docs/security.md")
        case "too_many_connections":
            return fail("connections", text, MORE_CONNECTIONS)
    if settings.uses_tls:
        advice = "does it need a login (--username)? Is it memcached?"
    else:
        advice = "does it need TLS (--tls)? A login (--username, --auth sasl)? Is it memcached?"
    if error._reason == "timeout":
        advice = f"does it hang (stopped, swapping, overloaded)? If it never worked: {advice}"
    return fail("answers", text, advice)


def _count(findings: list[Finding]) -> dict[str, int]:
    return {state: sum(f.state == state for f in findings) for state in ("ok", "warn", "fail")}


def _for_pipes(findings: list[Finding]) -> None:
    for finding in findings:
        text = finding.text if finding.advice is None else f"{finding.text} -> {finding.advice}"
        click.echo("\t".join((finding.state, finding.node or "all", finding.check, text)))


def _for_people(output: Output, findings: list[Finding], counts: dict[str, int]) -> None:
    for node in dict.fromkeys(finding.node for finding in findings):
        output.line(node or "all nodes", "bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=4)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            if finding.node == node:
                text = Text(finding.text)
                if finding.advice is not None:
                    text.append(f"\n-> {finding.advice}", "dim")
                state = Text(finding.state, _STYLES[finding.state])
                table.add_row(state, finding.check, text)
        output.table(table)
        output.line("")
    output.line(", ".join(f"{number} {state}" for state, number in counts.items()))


COMMANDS = [doctor]
